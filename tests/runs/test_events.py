"""The event chain: what was written stays as it was written, or it shows."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import RecordError
from runbook_lib.params.secrets import SecretValue
from runbook_lib.runs import events
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from pathlib import Path

_WRITER = """
import sys
from pathlib import Path
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.redaction import Redactor
log = EventLog(Path(sys.argv[1]), Redactor())
for number in range(100):
    log.append("finding", writer=sys.argv[2], number=number)
"""


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """Return a log with one known secret."""
    return EventLog(tmp_path / "events.jsonl", Redactor([SecretValue("hunter2hunter2")]))


def _filled(log: EventLog) -> list[bytes]:
    for number in range(5):
        log.append("finding", number=number, text="Grüße \u2028 \x85")
    return log.path.read_bytes().splitlines(keepends=True)


def test_a_chain_reads_back_as_written(log: EventLog) -> None:
    """A chain reads back as written."""
    written = [log.append("run_start", who="lead"), log.append("command", argv=("a", "b"), kind="x", bad="\udcff")]
    assert events.read(log.path) == written
    assert [event.seq for event in written] == [1, 2]
    assert [event.prev for event in written] == ["", written[0].hash]
    assert written[1].data == {"argv": ["a", "b"], "kind": "x", "bad": "\udcff"}
    assert events.verify(log.path) == ""


def test_a_surrogate_pair_does_not_break_the_chain(log: EventLog) -> None:
    """A surrogate pair does not break the chain."""
    log.append("finding", text="\ud83d" + "\ude00")
    assert events.verify(log.path) == ""


def test_secrets_do_not_reach_the_file(log: EventLog) -> None:
    """Secrets do not reach the file."""
    event = log.append("command", argv=["curl", "-u", "root:hunter2hunter2"])
    assert event.data["argv"][2] == "root:***"
    assert b"hunter2" not in log.path.read_bytes()


def test_nothing_written_is_not_a_chain_that_holds(tmp_path: Path) -> None:
    """Nothing written is not a chain that holds."""
    path = tmp_path / "events.jsonl"
    assert events.read(path) == []
    assert "no events" in events.verify(path)
    path.touch()
    assert "no events" in events.verify(path)


@pytest.mark.parametrize("line", range(5))
def test_a_changed_line_is_named(log: EventLog, line: int) -> None:
    """A changed line is named."""
    lines = _filled(log)
    lines[line] = lines[line].replace(b'"number":%d' % line, b'"number":9')
    log.path.write_bytes(b"".join(lines))
    assert events.verify(log.path).startswith(f"events.jsonl line {line + 1}: was changed")


def test_another_spelling_is_a_change(log: EventLog) -> None:
    """Another spelling is a change."""
    lines = _filled(log)
    lines[2] = lines[2].replace(b'"seq":3', b'"seq": 3')
    log.path.write_bytes(b"".join(lines))
    assert events.verify(log.path).startswith("events.jsonl line 3: was changed")


def test_a_key_given_twice_is_a_change(log: EventLog) -> None:
    """A key given twice is a change."""
    lines = _filled(log)
    lines[2] = lines[2].replace(b'{"number":2', b'{"number":7,"number":2')
    log.path.write_bytes(b"".join(lines))
    assert events.verify(log.path).startswith("events.jsonl line 3: was changed")


@pytest.mark.parametrize("line", range(4))
def test_a_removed_line_is_named(log: EventLog, line: int) -> None:
    """A removed line is named."""
    lines = _filled(log)
    del lines[line]
    log.path.write_bytes(b"".join(lines))
    assert events.verify(log.path).startswith(f"events.jsonl line {line + 1}: expected event {line + 1}")


def test_moved_lines_are_named(log: EventLog) -> None:
    """Moved lines are named."""
    lines = _filled(log)
    lines[1], lines[2] = lines[2], lines[1]
    log.path.write_bytes(b"".join(lines))
    assert events.verify(log.path).startswith("events.jsonl line 2: expected event 2, seen event 3")


def test_an_added_line_is_named(log: EventLog, tmp_path: Path) -> None:
    """An added line is named."""
    lines = _filled(log)
    other = EventLog(tmp_path / "other.jsonl", Redactor())
    for _ in range(3):
        other.append("approval", who="nobody")
    # its sequence number and its own hash are right, only what it follows is not
    lines[2] = other.path.read_bytes().splitlines(keepends=True)[2]
    log.path.write_bytes(b"".join(lines))
    assert events.verify(log.path).startswith("events.jsonl line 3: follows")
    log.path.write_bytes(b"".join([*lines[:2], lines[1], *lines[2:]]))
    assert events.verify(log.path).startswith("events.jsonl line 3: expected event 3, seen event 2")


@pytest.mark.parametrize("text", [b"\n", b"[]\n", b"{}\n", b"\xff\n", b"\0\0\n"])
def test_a_line_that_is_no_event_is_named(log: EventLog, text: bytes) -> None:
    """A line that is no event is named."""
    lines = _filled(log)
    log.path.write_bytes(b"".join([*lines[:3], text, *lines[3:]]))
    assert events.verify(log.path).startswith("events.jsonl line 4: is no")
    with pytest.raises(RecordError, match="line 4"):
        events.read(log.path)


def test_nothing_is_appended_to_a_changed_end(log: EventLog) -> None:
    """Nothing is appended to a changed end."""
    lines = _filled(log)
    lines[4] = lines[4].replace(b'"number":4', b'"number":9')
    log.path.write_bytes(b"".join(lines))
    with pytest.raises(RecordError, match="was changed"):
        log.append("finding")
    assert log.path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("first", [True, False])
def test_a_line_torn_at_any_byte_is_moved_aside(tmp_path: Path, *, first: bool) -> None:
    """A line torn at any byte is moved aside."""
    log = EventLog(tmp_path / "events.jsonl", Redactor())
    if not first:
        log.append("run_start")
    whole = log.path.read_bytes() if not first else b""
    log.append("finding", text="é")
    line = log.path.read_bytes()[len(whole) :]
    for cut in range(1, len(line)):
        (tmp_path / "events.torn").unlink(missing_ok=True)
        log.path.write_bytes(whole + line[:cut])
        assert "incomplete" in events.verify(log.path)
        assert len(events.read(log.path)) == (0 if first else 1)
        log.append("measure", cut=cut)
        assert events.verify(log.path) == ""
        repaired, appended = events.read(log.path)[-2:]
        assert (repaired.kind, repaired.data["bytes"]) == ("chain_repaired", cut)
        assert (appended.kind, appended.data) == ("measure", {"cut": cut})
        assert (tmp_path / "events.torn").read_bytes() == line[:cut] + b"\n"


def test_a_torn_line_longer_than_its_repair_leaves_no_rest(log: EventLog) -> None:
    """A torn line longer than its repair leaves no rest."""
    _filled(log)
    with log.path.open("ab") as file:
        file.write(b"x" * 100_000)
    log.append("measure")
    assert events.verify(log.path) == ""
    assert [event.kind for event in events.read(log.path)][-2:] == ["chain_repaired", "measure"]


def test_a_repair_cut_at_any_byte_is_repaired_again(tmp_path: Path) -> None:
    """A repair cut at any byte is repaired again."""
    log = EventLog(tmp_path / "events.jsonl", Redactor())
    kept = log.append("run_start")
    before = log.path.read_bytes()
    torn = before[:-1] * 4  # longer than the line that says so
    log.path.write_bytes(before + torn)
    log.append("resume")
    repair = log.path.read_bytes().removeprefix(before).splitlines(keepends=True)[0]
    assert len(repair) < len(torn)
    for cut in range(len(repair) + 1):
        log.path.write_bytes(before + repair[:cut] + torn[cut:])
        assert events.read(log.path)[0] == kept
        log.append("resume")
        chain = events.read(log.path)
        assert events.verify(log.path) == ""
        assert [event.kind for event in chain[:2]] == ["run_start", "chain_repaired"]
        assert chain[-1].kind == "resume"


def test_an_incomplete_line_does_not_excuse_a_changed_one(log: EventLog) -> None:
    """An incomplete line does not excuse a changed one."""
    lines = _filled(log)
    lines[1] = lines[1].replace(b'"number":1', b'"number":9')
    log.path.write_bytes(b"".join([*lines, b'{"da']))
    assert events.verify(log.path, torn_ok=True).startswith("events.jsonl line 2: was changed")
    assert events.verify(log.path).startswith("events.jsonl line 2: was changed")


def test_processes_and_threads_share_one_chain(log: EventLog) -> None:
    """Processes and threads share one chain."""
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, str(log.path), name]) for name in ("a", "b")]
    threads = [threading.Thread(target=lambda: [log.append("plan") for _ in range(20)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.wait(timeout=50) for writer in writers] == [0, 0]
    chain = events.read(log.path)
    assert events.verify(log.path) == ""
    assert len(chain) == 240
    for name in ("a", "b"):
        numbers = [event.data["number"] for event in chain if event.data.get("writer") == name]
        assert numbers == list(range(100))
