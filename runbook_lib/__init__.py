"""Runbook for deploying DeepSeek-R1/V3 with MindIE on Ascend 910B clusters.

Rooms, from the ground up: errors, model, params/ascend/capacity, remote/load, stages, views, runs, ui, cli.
`twin` stands apart: it is the emulated cluster to rehearse on.
"""

__version__ = "0.1.0"
