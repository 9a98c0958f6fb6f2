"""docs/json.md shows the shapes that the program prints, neither more nor less."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from runbook_lib.cli.audit import cluster_json
from runbook_lib.model import Change, Command, Finding, Plan, Subject, from_json
from runbook_lib.remote import LockOwner, SeenLock
from runbook_lib.runs.audit import ClusterAudit, Holds, Problem, RunAudit
from runbook_lib.runs.drift import Drift, Drifted
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.history import Made
from runbook_lib.runs.locks import lock_json
from runbook_lib.runs.rollback import WAITS, UndoOptions, UndoOutcome, outcome_json
from runbook_lib.runs.runner import RunOutcome
from runbook_lib.runs.undo import Reverse
from runbook_lib.twin.fault_list import Fault
from runbook_lib.twin.lifecycle import KnownTwin, TwinHost, TwinStatus
from runbook_lib.views.compare import Comparison, Difference, Measured, Side

DOC = Path(__file__).resolve().parents[2] / "docs" / "json.md"
SECTION = re.compile(r"^(?:## |\*\*)([\w, ]+?)(?:\*\*.*)?$", re.MULTILINE)
RECORDED = ("name", "verdict", "digest", "waits_for", "error", "findings", "changes", "seconds")


def shown() -> dict[str, Any]:
    """Return the example below each heading, or below each part named in bold."""
    parts = SECTION.split(DOC.read_text(encoding="utf-8"))
    blocks = {
        name: re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {name: json.loads(found[0]) for name, found in blocks.items() if found}


def names(kind: Any) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {each.name for each in fields(kind)}


def test_every_command_is_described() -> None:
    """Each command with `--json` has a valid example; so have its parts and errors."""
    assert set(shown()) == {
        "finding",
        "change",
        "run, plan, demo",
        "batch",
        "check",
        "status",
        "rollback, teardown",
        "unlock",
        "report",
        "compare",
        "audit sign",
        "audit verify",
        "bench",
        "bench report",
        "bench tune",
        "params validate",
        "twin up, down, status, inject, clear, hands, reboot",
        "twin list",
        "twin faults",
        "parse",
        "capacity",
        "Errors",
    }


def test_finding_and_change() -> None:
    """A finding has the fields of the model; a change those that are recorded, and its state."""
    assert isinstance(from_json(Finding, shown()["finding"]), Finding)
    assert set(shown()["finding"]) == names(Finding)
    assert set(shown()["change"]) == {"subject", "summary", "before", "after", "state"}
    assert set(shown()["change"]) - {"state"} <= names(Change)
    assert set(shown()["change"]["subject"]) == names(Subject)


def test_undo_and_locks() -> None:
    """What rollback, teardown and unlock print has the keys of the examples."""
    item = Made("run", "network", 0, "", Change(Subject("node1"), "s", "a", "b", Command(("x",))), "done")
    reverse = Reverse(Plan("rollback", (item.change,)), kept=((item, "why"),), skipped=((item, "why"),))
    printed = outcome_json(UndoOutcome(UndoOptions("rollback", "run", "p.yaml"), reverse, WAITS))
    example = shown()["rollback, teardown"]
    assert list(printed) == list(example)
    for name in ("kept", "skipped", "failures"):
        assert list(printed[name][0]) == list(example[name][0])
    lock = lock_json(SeenLock("node2", LockOwner("ann", "why", "token"), 1, None))
    assert list(lock) == list(shown()["unlock"]["locks"][0])


def test_run(tmp_path: Path) -> None:
    """The object of a run has the keys of RunOutcome, in each stage too."""
    stage: dict[str, Any] = dict.fromkeys(RECORDED) | {"findings": [], "error": "", "verdict": "ok"}
    printed = RunOutcome(RunFolder(tmp_path), "apply", [stage]).to_json()
    example = shown()["run, plan, demo"]

    assert list(example) == list(printed)
    assert list(example["stages"][0]) == list(printed["stages"][0])


def test_twin() -> None:
    """The objects of the twin have the fields of its status and of a fault."""
    status = shown()["twin up, down, status, inject, clear, hands, reboot"]

    assert set(status) == {"ok", "failures"} | names(TwinStatus)
    assert set(status["hosts"][0]) == names(TwinHost)
    assert set(shown()["twin faults"]["faults"][0]) == names(Fault)
    assert set(shown()["twin list"]["twins"][0]) == names(KnownTwin)


def test_records(tmp_path: Path) -> None:
    """The objects of compare, check and audit have the keys of what is printed."""
    side = Side(run_id="", cluster="", mode="", started="", outcome="", record="")
    printed = Comparison(side, side, benchmark=[Measured(1, "in_flight", 1.0, 2.0)]).to_json()
    example = shown()["compare"]
    assert set(example) == {"ok", "failures", "html"} | set(printed)
    assert set(example["a"]) == set(printed["a"])
    assert set(example["benchmark"][0]) == set(printed["benchmark"][0])
    assert set(example["facts"][0]) == names(Difference)

    drift = shown()["check"]["drift"]
    assert set(drift) == set(Drift().to_json())
    assert set(drift["changed"][0]) == names(Drifted)

    problem = Problem(Holds.FAIL, "")
    audit = ClusterAudit("c", [RunAudit(RunFolder(tmp_path), [problem])], [problem])
    said = cluster_json(audit)
    example = shown()["audit verify"]
    assert list(example) == list(said)
    for part in ("runs", "failures"):
        assert list(example[part][0]) == list(said[part][0])
    assert set(example["anchor"]) == set(said["anchor"])
