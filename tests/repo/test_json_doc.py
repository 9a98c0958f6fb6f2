"""docs/json.md shows the shapes that the program prints, neither more nor less."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from runbook_lib.model import Change, Finding, Subject, from_json
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.runner import RunOutcome
from runbook_lib.twin.fault_list import Fault
from runbook_lib.twin.lifecycle import TwinHost, TwinStatus

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
        "check",
        "status",
        "params validate",
        "twin up, status, inject, clear, reboot",
        "twin faults",
        "Errors",
    }


def test_finding_and_change() -> None:
    """A finding has the fields of the model; a change those that are recorded, and its state."""
    assert isinstance(from_json(Finding, shown()["finding"]), Finding)
    assert set(shown()["finding"]) == names(Finding)
    assert set(shown()["change"]) == {"subject", "summary", "before", "after", "state"}
    assert set(shown()["change"]) - {"state"} <= names(Change)
    assert set(shown()["change"]["subject"]) == names(Subject)


def test_run(tmp_path: Path) -> None:
    """The object of a run has the keys of RunOutcome, in each stage too."""
    stage: dict[str, Any] = dict.fromkeys(RECORDED) | {"findings": [], "error": "", "verdict": "ok"}
    printed = RunOutcome(RunFolder(tmp_path), "apply", [stage]).to_json()
    example = shown()["run, plan, demo"]

    assert list(example) == list(printed)
    assert list(example["stages"][0]) == list(printed["stages"][0])


def test_twin() -> None:
    """The objects of the twin have the fields of its status and of a fault."""
    status = shown()["twin up, status, inject, clear, reboot"]

    assert set(status) == {"ok", "failures"} | names(TwinStatus)
    assert set(status["hosts"][0]) == names(TwinHost)
    assert set(shown()["twin faults"]["faults"][0]) == names(Fault)
