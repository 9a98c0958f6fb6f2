"""The faults of the service as data: complete, carried out by a deed each, and told by words that are no accident."""

from __future__ import annotations

import re

import pytest

from runbook_lib.ascend.catalogue import codes
from runbook_lib.twin.fault_deeds import DEEDS
from runbook_lib.twin.fault_list import FAULTS
from runbook_lib.twin.service_faults import DATA

KEYS = {
    "what", "shell", "touches", "mend", "container", "image", "signal", "look", "known", "on", "start", "load", "says",
    "after", "reports", "skip", "remedy",
}  # fmt: skip
STAGES = {"preflight", "network", "gateway", "weights", "container", "service"}


def test_there_are_enough_and_all_can_be_injected() -> None:
    """At least the number that the project promises, each known to `runbook twin inject` and to a deed."""
    assert len(DATA) >= 40
    assert set(DATA) <= set(FAULTS)
    assert {FAULTS[name].deed for name in DATA} <= set(DEEDS)


@pytest.mark.parametrize("name", list(DATA))
def test_every_fault_is_complete(name: str) -> None:
    """It breaks something in one way, names stages and codes that exist, and what the daemon says."""
    fault = DATA[name]
    assert set(fault) <= KEYS
    assert sum(key in fault for key in ("shell", "container", "image", "signal")) == 1
    assert ("shell" in fault) == ("touches" in fault)
    assert set(fault["look"]) <= STAGES
    reported = [
        code for part in (fault["reports"], fault.get("after", {})) for each in part for code in each.split("/")
    ]
    assert set(reported) <= set(codes())
    assert "says" in fault or "after" in fault or fault.get("start") == "none" or fault.get("known") == "after"
    re.compile(fault.get("says", ""))


def test_what_can_be_known_before_is_reported_before() -> None:
    """Only what happens to a running service is left for later."""
    assert {name for name, fault in DATA.items() if fault.get("known") == "after"} == {
        "service-slave-lost",
        "service-hangs",
    }
