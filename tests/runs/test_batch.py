"""Batches: bounded, side by side, nobody stopped by another's failure, everybody stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from runbook_lib.errors import TwinDown, UsageError
from runbook_lib.runs import batch
from runbook_lib.runs.batch import run_batch
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.notebook import execute_notebook
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.runner import RunOptions, RunOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[RunOptions, Callable[[str], None]], RunOutcome]

PROJECT = Path(__file__).resolve().parents[2]
FILES = ["params/demo.yaml", "params/twin-2x8-direct.yaml", "params/twin-4x8-switch.yaml"]


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the project's folder, and without a preloaded process: nothing here needs one."""
    monkeypatch.setenv("RUNBOOK_HOME", str(PROJECT))
    monkeypatch.setattr(batch, "preloaded", threading.Lock)


def _stage(name: str, verdict: str) -> dict[str, Any]:
    finding = {"code": "X", "subject": {}, "verdict": verdict, "seen": "s", "expected": "e", "next_command": "n"}
    made = {"name": name, "verdict": verdict, "digest": "", "waits_for": [], "error": "", "findings": [finding]}
    return made | {"changes": [], "seconds": 1.0, "plan_ok": True}


def _outcome(options: RunOptions, verdict: str = "ok") -> RunOutcome:
    return RunOutcome(RunFolder(Path("outputs") / Path(options.params).stem), "observe", [_stage("network", verdict)])


def _batch(monkeypatch: pytest.MonkeyPatch, run: Run, jobs: int = 0, files: list[str] | None = None) -> Any:
    monkeypatch.setattr(batch, "run", run)
    said: list[str] = []
    outcome = run_batch([RunOptions(each, "observe", only=("network",)) for each in files or FILES], said.append, jobs)
    return outcome, said


def test_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is ok when every run is; every line that is said names its cluster."""

    def run(options: RunOptions, say: Callable[[str], None]) -> RunOutcome:
        say("begins")
        return _outcome(options)

    outcome, said = _batch(monkeypatch, run)
    assert outcome.ok
    assert outcome.to_json()["ok"] is True
    doc = (PROJECT / "docs" / "json.md").read_text(encoding="utf-8").split("## batch")[1].split("```json\n")[1]
    example = json.loads(doc.split("```")[0])
    assert example.keys() == outcome.to_json().keys()
    assert example["clusters"][0].keys() == outcome.to_json()["clusters"][0].keys()
    assert [each["stages"] for each in outcome.to_json()["clusters"]] == [{"network": "ok"}] * 3
    assert {line.partition(":")[0] for line in said} == {"demo", "twin-2x8-direct", "twin-4x8-switch"}


def test_side_by_side_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time are two at a time, no more and no less."""
    both = threading.Barrier(2)
    at_once: list[int] = []
    running = 0
    lock = threading.Lock()

    def run(options: RunOptions, _say: Callable[[str], None]) -> RunOutcome:
        nonlocal running
        with lock:
            running += 1
            at_once.append(running)
        if options.params != FILES[2]:
            both.wait(10)
        with lock:
            running -= 1
        return _outcome(options)

    outcome, _ = _batch(monkeypatch, run, jobs=2)
    assert outcome.ok
    assert max(at_once) == 2


def test_a_failure_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that is down and a defect are failures of their clusters; the third runs, and what it finds is listed."""

    def run(options: RunOptions, _say: Callable[[str], None]) -> RunOutcome:
        if options.params == FILES[0]:
            raise TwinDown("the twin of demo is not up", next_command="runbook twin up params/demo.yaml")
        if options.params == FILES[1]:
            raise ZeroDivisionError("by what")
        return _outcome(options, "fail")

    outcome, _ = _batch(monkeypatch, run, jobs=1)
    assert not outcome.ok
    data = outcome.to_json()
    assert [each["error"] for each in data["clusters"]] == [
        "the twin of demo is not up",
        "ZeroDivisionError: by what",
        "",
    ]
    assert [each["stages"]["network"] for each in data["clusters"]] == ["-", "-", "fail"]
    assert [(each["cluster"], each["seen"]) for each in data["failures"]][2:] == [("twin-4x8-switch", "s")]
    assert data["failures"][0]["next_command"] == "runbook twin up params/demo.yaml"
    table = outcome.table().splitlines()
    assert table[0].split() == ["cluster", "network", "seconds"]
    assert [line.split()[:2] for line in table[1:]] == [
        ["demo", "-"],
        ["twin-2x8-direct", "-"],
        ["twin-4x8-switch", "fail"],
    ]
    assert all("not ok" in line for line in table[1:])


def test_one_ok_run_makes_no_ok_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one cluster lacks, the batch lacks."""
    outcome, _ = _batch(
        monkeypatch, lambda options, _: _outcome(options, "unknown" if options.params == FILES[1] else "ok")
    )
    assert [each.ok for each in outcome.runs] == [True, False, True]
    assert not outcome.ok


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster twice, nobody, and a negative number are refused before anything begins."""

    def run(_options: RunOptions, _say: Callable[[str], None]) -> RunOutcome:
        raise AssertionError("nothing may begin")

    with pytest.raises(UsageError, match="both of the cluster demo"):
        _batch(monkeypatch, run, files=[FILES[0], FILES[0]])
    with pytest.raises(UsageError, match="no params"):
        run_batch([], lambda _: None)
    with pytest.raises(UsageError, match="--jobs -1"):
        _batch(monkeypatch, run, jobs=-1)


def test_a_signal_stops_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SIGTERM ends the notebooks that run, in order, and the next cluster is not begun."""
    cell = "import time, pathlib\ntry:\n    time.sleep(60)\nfinally:\n    pathlib.Path('released').touch()"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])  # type: ignore[no-untyped-call]  # untyped
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "source.ipynb")  # type: ignore[no-untyped-call]  # untyped
    begun = threading.Semaphore(0)

    def run(options: RunOptions, _say: Callable[[str], None]) -> RunOutcome:
        folder = tmp_path / Path(options.params).stem
        folder.mkdir()

        def on_cell(_index: int, _total: int, status: str) -> None:
            if status == "running":
                begun.release()

        result = execute_notebook(
            tmp_path / "source.ipynb",
            folder / "target.ipynb",
            {},
            deadline_s=60,
            redactor=Redactor(),
            cwd=folder,
            on_cell=on_cell,
        )
        outcome = _outcome(options)
        outcome.stopped_by = f"{result.status} {result.stopped_by}"
        return outcome

    def stop() -> None:
        begun.acquire(timeout=30)
        begun.acquire(timeout=30)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=stop)
    stopper.start()
    outcome, _ = _batch(monkeypatch, run, jobs=2)
    stopper.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert outcome.stopped_by == "SIGTERM"
    assert not outcome.ok
    assert [each.outcome and each.outcome.stopped_by for each in outcome.runs] == ["interrupted SIGTERM"] * 2 + [None]
    assert outcome.runs[2].error == "not begun: SIGTERM was received"
    assert len(list(tmp_path.glob("*/released"))) == 2
