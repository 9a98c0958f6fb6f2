"""Load generator for OpenAI-compatible chat completions: points, campaigns of them, and what they say.

`process.run_point` measures in processes of its own, `bench.Bench` also finds points on disk, `answers.answers` reads
them. Imports nothing at once: the load process starts fast and stays small.
"""
