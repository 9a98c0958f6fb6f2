"""The event chain of a run: append-only lines, each of which carries the hash of the one before.

One line is the canonical JSON of {seq, time, kind, pid, data, prev, hash}; `hash` is the sha256 of the same
object without `hash`. A chain shows changed, removed, moved and added lines; that its newest lines are missing
shows only against a head that is kept elsewhere (manifest, hosts).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from runbook_lib.errors import RecordError
from runbook_lib.model import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.runs.redaction import Redactor

# An append holds the lock for one write and one fsync; somebody who holds it this long is stuck.
_LOCK_TIMEOUT_S = 60.0
_TAIL_BLOCK_BYTES = 65536
_FIELDS = {"seq", "time", "kind", "pid", "data", "prev", "hash"}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the chain. `time` is UTC in ISO form with milliseconds; `prev` is "" in the first line."""

    seq: int
    time: str
    kind: str
    pid: int
    data: dict[str, Any]
    prev: str
    hash: str


class EventLog:
    """Appends to one chain; any number of threads and processes may do so at the same time."""

    def __init__(self, path: Path, redactor: Redactor) -> None:
        self.path = path
        self._redactor = redactor

    def append(self, kind: str, /, **data: Any) -> Event:  # noqa: ANN401 - anything that has a JSON form
        """Record one event, redacted, and return it once it is on the disk.

        Raises RecordError when the chain cannot be locked, written, or does not hold at its end.
        """
        # the round trip makes the recorded value equal to the one that a reader gets
        clean = json.loads(_encode(self._redactor.data(data)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock_path(self.path), timeout=_LOCK_TIMEOUT_S):
                return self._append_locked(self._redactor.text(kind), clean)
        except Timeout as error:
            raise RecordError(
                f"{self.path} is locked by another process for more than {_LOCK_TIMEOUT_S:.0f} s",
                next_command=f"fuser {lock_path(self.path)}",
            ) from error
        except OSError as error:
            raise RecordError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def _append_locked(self, kind: str, data: dict[str, Any]) -> Event:
        new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            last, end, torn = _tail(handle, self.path)
            if torn:
                last, end = self._repair(handle, last, end, torn)
            event = _make(last, kind, data)
            _write(handle, event, end)
        finally:
            os.close(handle)
        if new:
            _sync_folder(self.path.parent)
        return event

    def _repair(self, handle: int, last: Event | None, end: int, torn: bytes) -> tuple[Event, int]:
        """Move an incomplete last line to events.torn. The event that says so is written over its bytes.

        Whenever this is cut short, an incomplete last line is left again, so no repair goes unsaid.
        """
        aside = self.path.with_suffix(".torn")
        with aside.open("ab") as file:
            file.write(torn + b"\n")
            file.flush()
            os.fsync(file.fileno())
        event = _make(
            last,
            "chain_repaired",
            {"moved_to": aside.name, "bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()},
        )
        end = _write(handle, event, end)
        os.ftruncate(handle, end)
        os.fsync(handle)
        return event, end


def read(path: Path) -> list[Event]:
    """Return all complete events; none when there is no file yet. An incomplete last line is left out.

    Raises RecordError naming the line that is no event. Hashes are the business of `verify`.
    """
    lines, _ = _lines(path)
    return [_parse(line, path, number) for number, line in enumerate(lines, 1)]


def verify(path: Path, *, torn_ok: bool = False) -> str:
    """Return "" when the chain holds, else the first thing that does not, naming its line.

    torn_ok: an incomplete last line, which says nothing about the lines before it, is let pass.
    """
    try:
        lines, torn = _lines(path)
        if not lines and (torn_ok or not torn):
            return f"{path.name}: there are no events"
        last: Event | None = None
        for number, line in enumerate(lines, 1):
            event = _parse(line, path, number)
            problem = _problem(event, line, last)
            if problem:
                return f"{path.name} line {number}: {problem}"
            last = event
    except RecordError as error:
        return error.message
    if torn and not torn_ok:
        return (
            f"{path.name} line {len(lines) + 1}: incomplete ({len(torn)} bytes), its writer was cut short; "
            "the next append moves it to events.torn"
        )
    return ""


def lock_path(path: Path) -> Path:
    """Return the lock file of a chain; it is no part of the record."""
    return path.with_name(f"{path.name}.lock")


def _problem(event: Event, line: bytes, last: Event | None) -> str:
    if _hash(event) != event.hash:
        return f"was changed: its content has the hash {_hash(event)[:12]}, it claims {event.hash[:12]}"
    if _line(event) != line:
        return "was changed: it is not spelled as the recorder writes"
    expected_seq = last.seq + 1 if last else 1
    if event.seq != expected_seq:
        return f"expected event {expected_seq}, seen event {event.seq}: lines were removed, added or moved"
    expected_prev = last.hash if last else ""
    if event.prev != expected_prev:
        return f"follows {event.prev[:12]!r}, but the line before is {expected_prev[:12]!r}"
    return ""


def _encode(value: Any) -> bytes:  # noqa: ANN401 - see canonical_json
    # undecodable bytes of remote output arrive as lone surrogates; the backslash form is valid JSON for them
    return canonical_json(value).encode("utf-8", "backslashreplace")


def _hash(event: Event) -> str:
    content = asdict(event)
    del content["hash"]
    return hashlib.sha256(_encode(content)).hexdigest()


def _line(event: Event) -> bytes:
    return _encode(asdict(event))


def _make(last: Event | None, kind: str, data: dict[str, Any]) -> Event:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    seq, prev = (last.seq + 1, last.hash) if last else (1, "")
    unsigned = Event(seq, time, kind, os.getpid(), data, prev, "")
    return Event(seq, time, kind, unsigned.pid, data, prev, _hash(unsigned))


def _write(handle: int, event: Event, at: int) -> int:
    """Write one line at a position and return the position after it, both in bytes."""
    line = _line(event) + b"\n"
    done = 0
    while done < len(line):
        done += os.pwrite(handle, line[done:], at + done)
    os.fsync(handle)
    return at + len(line)


def _tail(handle: int, path: Path) -> tuple[Event | None, int, bytes]:
    """Return the last complete event, the position in bytes after it, and an incomplete line that follows."""
    size = os.fstat(handle).st_size
    start, buffer = size, b""
    while start > 0 and buffer.count(b"\n") < 2:  # noqa: PLR2004 - the end of the last line and of the one before
        step = min(_TAIL_BLOCK_BYTES, start)
        start -= step
        buffer = os.pread(handle, step, start) + buffer
    complete, newline, torn = buffer.rpartition(b"\n")
    end = size - len(torn)
    if not newline:
        return None, end, torn
    last = _parse(complete.rpartition(b"\n")[2], path, None)
    if _hash(last) != last.hash:
        raise RecordError(
            f"{path}: the last line was changed after it was written, so nothing can be chained to it",
            next_command="move that run's folder away and keep it, then start a new run",
        )
    return last, end, torn


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], b""
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    *lines, torn = content.split(b"\n")
    return lines, torn


def _parse(line: bytes, path: Path, number: int | None) -> Event:
    where = f"{path.name} line {number}" if number else f"{path.name}, last line"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{where}: is no JSON") from error
    if not isinstance(value, dict) or set(value) != _FIELDS:
        raise RecordError(f"{where}: is no event; right would be the fields {', '.join(sorted(_FIELDS))}")
    strings = all(isinstance(value[name], str) for name in ("time", "kind", "prev", "hash"))
    integers = all(isinstance(value[name], int) for name in ("seq", "pid"))
    if not strings or not integers or not isinstance(value["data"], dict):
        raise RecordError(f"{where}: is no event; a field has the wrong type")
    return Event(**value)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
