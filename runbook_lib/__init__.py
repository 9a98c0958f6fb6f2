"""Runbook for deploying DeepSeek-R1/V3 with MindIE on Ascend 910B clusters.

Rooms, from the ground up: errors, model, params/ascend/capacity, remote/load, stages, views, runs, ui, cli.
`twin` stands apart: it is the emulated cluster to rehearse on.
"""

import sys

__version__ = "0.1.0"

# jsonschema takes this package, where it is installed, to judge IRIs, and importing it builds a grammar for 1.4 to 3 s.
# nbformat imports jsonschema in every command and every kernel, and no schema that is used here has an IRI in it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None is how Python spells "not here"
