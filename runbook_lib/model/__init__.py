"""Findings, changes, plans, verdicts: the pure data that every stage speaks in."""

from runbook_lib.model.change import Change, Command, Job, Plan, Risk, Upload
from runbook_lib.model.finding import Finding, Subject, Verdict, worst
from runbook_lib.model.probe import Capture, ProbeScript, Section
from runbook_lib.model.serialize import canonical_json, from_json, to_json

__all__ = [
    "Capture",
    "Change",
    "Command",
    "Finding",
    "Job",
    "Plan",
    "ProbeScript",
    "Risk",
    "Section",
    "Subject",
    "Upload",
    "Verdict",
    "canonical_json",
    "from_json",
    "to_json",
    "worst",
]
