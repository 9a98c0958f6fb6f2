"""Service: config.json, rank table and environment on every host; the daemons; real answers."""

from __future__ import annotations

from runbook_lib.stages.service.check import check
from runbook_lib.stages.service.facts import NAME, HostFacts, Listener, ServiceFacts, facts
from runbook_lib.stages.service.plan import plan, waits_for
from runbook_lib.stages.service.probe import base_url, http_section, probe, ready_section
from runbook_lib.stages.service.rules import config_problems
from runbook_lib.stages.service.wanted import wanted_config, wanted_environment, wanted_files

__all__ = [
    "NAME",
    "HostFacts",
    "Listener",
    "ServiceFacts",
    "base_url",
    "check",
    "config_problems",
    "facts",
    "http_section",
    "plan",
    "probe",
    "ready_section",
    "waits_for",
    "wanted_config",
    "wanted_environment",
    "wanted_files",
]
