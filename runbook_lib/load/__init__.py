"""Load generator for OpenAI-compatible chat completions: one point, a sweep, its knee.

`run_point` and `run_sweep` measure in a process of their own; `knee` reads a sweep. Imports nothing at once:
the load process starts fast.
"""
