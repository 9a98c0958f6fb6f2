"""Container: the MindIE image on every host, and one container made from params and facts."""

from __future__ import annotations

from runbook_lib.stages.container.check import check
from runbook_lib.stages.container.facts import NAME, ContainerFacts, HostFacts, facts
from runbook_lib.stages.container.plan import plan, waits_for
from runbook_lib.stages.container.probe import probe
from runbook_lib.stages.container.wanted import MARKER, Wanted, differences, shm_wanted, wanted

__all__ = [
    "MARKER",
    "NAME",
    "ContainerFacts",
    "HostFacts",
    "Wanted",
    "check",
    "differences",
    "facts",
    "plan",
    "probe",
    "shm_wanted",
    "waits_for",
    "wanted",
]
