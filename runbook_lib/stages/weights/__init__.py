"""Weights: real, verified files on every host, readable by the service, the same everywhere."""

from __future__ import annotations

from runbook_lib.stages.weights.check import check
from runbook_lib.stages.weights.facts import NAME, WeightsFacts, facts
from runbook_lib.stages.weights.plan import plan
from runbook_lib.stages.weights.probe import VERIFY_DEADLINE_S, probe, state_file, verify_job
from runbook_lib.stages.weights.state import lacking, tree_digest, waits_for

__all__ = [
    "NAME",
    "VERIFY_DEADLINE_S",
    "WeightsFacts",
    "check",
    "facts",
    "lacking",
    "plan",
    "probe",
    "state_file",
    "tree_digest",
    "verify_job",
    "waits_for",
]
