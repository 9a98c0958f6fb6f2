"""Run folders and manifests: state comes from the events, and what is not vouched for shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import RecordError, UsageError
from runbook_lib.params.secrets import SecretValue
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder, latest_run, new_run, open_run, process_lives
from runbook_lib.runs.manifest import verify_manifest, write_manifest
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from pathlib import Path

_STARTS_A_STAGE = """
import sys
from pathlib import Path
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.redaction import Redactor
EventLog(Path(sys.argv[1]), Redactor()).append("stage_start", stage="network")
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Return the folder of a new run."""
    return new_run(tmp_path, "twin")


def _log(run: RunFolder) -> EventLog:
    return EventLog(run.events, Redactor())


def test_a_clock_that_was_set_back_does_not_change_the_order(tmp_path: Path) -> None:
    """A clock that was set back does not change the order."""
    (tmp_path / "twin" / "29991231T235959.999Z-ffff").mkdir(parents=True)
    runs = [new_run(tmp_path, "twin").run_id for _ in range(3)]
    assert runs == sorted(runs)
    assert runs[0].startswith("30000101T000000.000Z-")


def test_a_new_run_is_the_open_one_until_it_ends(tmp_path: Path) -> None:
    """A new run is the open one until it ends."""
    assert open_run(tmp_path, "twin") is None
    assert latest_run(tmp_path, "twin") is None
    (tmp_path / "twin" / ".twin").mkdir(parents=True)
    old, new = new_run(tmp_path, "twin"), new_run(tmp_path, "twin")
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{4}", new.run_id)
    newest = max(old, new, key=lambda each: each.run_id)
    other = min(old, new, key=lambda each: each.run_id)
    assert open_run(tmp_path, "twin") == latest_run(tmp_path, "twin") == newest
    _log(newest).append("run_end", ok=True)
    assert open_run(tmp_path, "twin") is None, "an older run that never ended is not joined"
    assert latest_run(tmp_path, "twin") == newest
    _log(newest).append("resume")
    assert open_run(tmp_path, "twin") == newest
    assert not other.closed()


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b"])
def test_names_stay_within_the_outputs(tmp_path: Path, run: RunFolder, name: str) -> None:
    """Names stay within the outputs."""
    with pytest.raises(UsageError):
        new_run(tmp_path, name)
    with pytest.raises(UsageError):
        run.notebook(name)


def test_json_is_written_as_a_whole_and_redacted(run: RunFolder) -> None:
    """Json is written as a whole and redacted."""
    path = run.stage_json("network")
    run.write_json(path, {"b": "hunter2hunter2", "a": 1}, Redactor([SecretValue("hunter2hunter2")]))
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1, "b": "***"}
    assert [each.name for each in run.path.iterdir()] == ["network.json"]
    with pytest.raises(RecordError):
        run.write_json(run.path / "no" / "folder.json", {})


def test_the_last_event_of_a_stage_is_its_state(run: RunFolder) -> None:
    """The last event of a stage is its state."""
    log = _log(run)
    assert run.status() == {}
    log.append("run_start")
    log.append("stage_start", stage="preflight")
    assert run.status() == {"preflight": "running"}
    log.append("stage_end", stage="preflight", verdict="fail")
    log.append("stage_start", stage="network")
    log.append("stage_end", stage="network", verdict="ok")
    log.append("stage_start", stage="preflight")
    log.append("interrupted", stage="preflight")
    log.append("stage_end", stage="gateway", verdict="splendid")
    log.append("stage_end", stage="weights")
    assert run.status() == {
        "preflight": "interrupted",
        "network": "ok",
        "gateway": "unknown",
        "weights": "unknown",
    }


def test_a_stage_is_interrupted_once_its_writer_is_gone(run: RunFolder) -> None:
    """A stage is interrupted once its writer is gone."""
    writer = subprocess.Popen(
        [sys.executable, "-c", _STARTS_A_STAGE, str(run.events)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"started\n"
        assert run.status() == {"network": "running"}
        writer.kill()
    assert run.status() == {"network": "interrupted"}


def test_a_zombie_and_a_later_owner_of_the_pid_are_not_the_writer() -> None:
    """A zombie and a later owner of the pid are not the writer."""
    now = datetime.now(UTC)
    assert process_lives(os.getpid(), now)
    assert not process_lives(os.getpid(), now - timedelta(days=4000))
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process_lives(child.pid, datetime.now(UTC))


def test_no_verdict_is_taken_from_a_changed_chain(run: RunFolder) -> None:
    """No verdict is taken from a changed chain."""
    log = _log(run)
    log.append("stage_end", stage="network", verdict="fail")
    log.append("stage_end", stage="gateway", verdict="ok")
    run.events.write_bytes(run.events.read_bytes().replace(b'"fail"', b'"ok"'))
    assert run.status() == {"network": "unknown", "gateway": "unknown"}


def test_a_torn_line_does_not_hide_the_verdicts_before_it(run: RunFolder) -> None:
    """A torn line does not hide the verdicts before it."""
    _log(run).append("stage_end", stage="network", verdict="fail")
    with run.events.open("ab") as file:
        file.write(b'{"data":')
    assert run.status() == {"network": "fail"}


def _recorded(run: RunFolder) -> RunFolder:
    _log(run).append("run_start")
    _log(run).append("run_end", ok=True)
    run.write_json(run.stage_json("network"), {"verdict": "ok"})
    (run.path / "figures").mkdir()
    (run.path / "figures" / "knee.png").write_bytes(b"png")
    write_manifest(run)
    return run


def test_a_manifest_vouches_for_what_is_there(run: RunFolder) -> None:
    """A manifest vouches for what is there."""
    assert verify_manifest(run) == "manifest.json: is missing"
    manifest = json.loads(write_manifest(_recorded(run)).read_bytes())
    assert sorted(manifest["files"]) == ["events.jsonl", "figures/knee.png", "network.json"]
    assert manifest["chain"]["events"] == 2
    assert manifest["versions"]["packages"]["papermill"]
    assert verify_manifest(run) == ""
    (run.path / "manifest.json.sig").write_text("signature")
    assert verify_manifest(run) == ""


def test_each_difference_from_the_manifest_is_named(run: RunFolder) -> None:
    """Each difference from the manifest is named."""
    result = _recorded(run).stage_json("network")
    good = result.read_bytes()
    result.write_bytes(good.replace(b"ok", b"fail"))
    assert verify_manifest(run).startswith("network.json: was changed")
    result.unlink()
    assert verify_manifest(run) == "network.json: is missing"
    result.symlink_to("/dev/null")
    assert verify_manifest(run).startswith("network.json: is no regular file")
    result.unlink()
    result.write_bytes(good)
    assert verify_manifest(run) == ""
    (run.path / "figures" / "new.lock").touch()
    assert verify_manifest(run) == "figures/new.lock: was added after the manifest was written"


def test_events_after_or_missing_from_the_manifest_are_named(run: RunFolder) -> None:
    """Events after or missing from the manifest are named."""
    content = _recorded(run).events.read_bytes()
    _log(run).append("approval", who="late")
    assert verify_manifest(run).startswith("events.jsonl: expected 2 events")
    run.events.write_bytes(content.splitlines(keepends=True)[0])
    assert verify_manifest(run).startswith("events.jsonl: expected 2 events")
    run.events.write_bytes(content.replace(b"true", b"null"))
    assert verify_manifest(run).startswith("events.jsonl line 2: was changed")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "run_id": "x", "files": [], "chain": {}}'])
def test_a_manifest_that_cannot_be_read_is_not_ok(run: RunFolder, text: str) -> None:
    """A manifest that cannot be read is not ok."""
    (_recorded(run).path / "manifest.json").write_text(text)
    assert verify_manifest(run).startswith("manifest.json: cannot be read")


def test_a_manifest_of_another_run_is_not_ok(run: RunFolder, tmp_path: Path) -> None:
    """A manifest of another run is not ok."""
    moved = tmp_path / "twin" / "20260101T000000.000Z-0000"
    _recorded(run).path.rename(moved)
    assert "belongs to the run" in verify_manifest(RunFolder(moved))


def test_no_manifest_over_a_chain_that_does_not_hold(run: RunFolder) -> None:
    """No manifest over a chain that does not hold."""
    with pytest.raises(RecordError, match="no events"):
        write_manifest(run)
