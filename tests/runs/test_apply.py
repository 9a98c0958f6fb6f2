"""What becomes of a plan's changes when one of them does not end."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from runbook_lib.model import Change, Command, Plan, Subject
from runbook_lib.runs import apply as module

if TYPE_CHECKING:
    import pytest


def test_a_change_that_does_not_end_is_not_called_unreached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline comes: one is done, one was begun, one was never reached; and the record has its start."""
    monkeypatch.setattr(module, "_SLACK_S", 0.1)
    changes = tuple(
        Change(Subject("node1"), f"change {number}", "a", "b", Command(("true",), timeout_s=0.1), irreversible="no")
        for number in range(3)
    )
    over, log = threading.Event(), list[tuple[str, Any]]()

    def apply(change: Change, *_: object) -> None:
        if change is changes[1]:
            over.wait(20)

    cluster: Any = SimpleNamespace(targets=[SimpleNamespace(name="node1")], apply=apply)
    events: Any = SimpleNamespace(append=lambda kind, **more: log.append((kind, more.get("index"))))
    states, problem = module.apply_plan(cluster, Plan("network", changes), events, lambda *_: None, threading.Event())
    assert states == [module.DONE, module.BEGUN, module.NOT_REACHED]
    assert "no end within its deadline" in problem
    assert log == [("change_start", 0), ("change_end", 0), ("change_start", 1)]
    over.set()
