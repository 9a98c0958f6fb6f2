"""Run folders: outputs/<cluster>/<run_id>/ with the chain, the notebooks and the results of one run."""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError, UsageError
from runbook_lib.model import Verdict, to_json
from runbook_lib.runs import events

if TYPE_CHECKING:
    from runbook_lib.runs.redaction import Redactor

RUNNING = "running"
INTERRUPTED = "interrupted"

_RUN_ID = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{4}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# The kernel counts a process's start in ticks since boot, the chain has milliseconds of a clock that is stepped.
_START_SLACK_S = 2.0


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on the disk. Its state is read from the events, never from the metadata of notebooks."""

    path: Path

    @property
    def run_id(self) -> str:
        """The UTC time at which the run began, and four hex digits."""
        return self.path.name

    @property
    def events(self) -> Path:
        """The file of the event chain."""
        return self.path / "events.jsonl"

    def stage_json(self, stage: str) -> Path:
        """Return the path of a stage's results."""
        return self.path / f"{_name(stage, 'stage')}.json"

    def notebook(self, stage: str) -> Path:
        """Return the path of a stage's executed notebook."""
        return self.path / f"{_name(stage, 'stage')}.ipynb"

    def write_json(self, path: Path, value: Any, redactor: Redactor | None = None) -> None:  # noqa: ANN401 - see to_json
        """Write a value as JSON, atomically and redacted. Raises RecordError when the file cannot be written."""
        plain = redactor.data(value) if redactor else to_json(value)
        text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
        atomic_write(self.path / path, text.encode("utf-8", "backslashreplace") + b"\n")

    def closed(self) -> bool:
        """Whether the run has ended, and was not resumed since. Raises RecordError on events that cannot be read."""
        kinds = [event.kind for event in events.read(self.events) if event.kind in {"run_end", "resume"}]
        return kinds[-1:] == ["run_end"]

    def status(self) -> dict[str, str]:
        """Return the state of each stage that was started, in the order of their first start.

        A state is the verdict of the last `stage_end`, "running", or "interrupted" when the process that wrote
        the last `stage_start` is gone. When the chain does not hold, every stage is "unknown".
        """
        chain = events.read(self.events)
        broken = bool(chain) and events.verify(self.events, torn_ok=True) != ""
        states: dict[str, str] = {}
        for event in chain:
            stage = event.data.get("stage")
            if not isinstance(stage, str):
                continue
            if event.kind == "stage_start":
                states[stage] = RUNNING if _writer_lives(event) else INTERRUPTED
            elif event.kind == "stage_end":
                states[stage] = _verdict(event.data.get("verdict"))
            elif event.kind == "interrupted":
                states[stage] = INTERRUPTED
        return dict.fromkeys(states, str(Verdict.UNKNOWN)) if broken else states


def new_run(outputs: Path, cluster: str) -> RunFolder:
    """Make the folder of a new run. Raises RecordError when that cannot be done."""
    parent = outputs / _name(cluster, "cluster")
    path = parent / f"{_next_stamp(all_runs(outputs, cluster))}Z-{secrets.token_hex(2)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        raise RecordError(f"{path} cannot be made: {error.strerror}") from error
    return RunFolder(path)


def _next_stamp(runs: list[RunFolder]) -> str:
    """Return the time now, or just after the newest run when the clock was set back: the ids are the runs' order."""
    now = datetime.now(UTC)
    if runs:
        newest = datetime.strptime(f"{runs[-1].run_id.partition('-')[0]}+0000", "%Y%m%dT%H%M%S.%fZ%z")
        now = max(now, newest + timedelta(milliseconds=1))
    return now.strftime("%Y%m%dT%H%M%S.%f")[:-3]


def open_run(outputs: Path, cluster: str) -> RunFolder | None:
    """Return the newest run when it has not ended, else None: a run that others came after is not joined any more.

    Raises RecordError on unreadable events.
    """
    run = latest_run(outputs, cluster)
    return run if run is not None and not run.closed() else None


def latest_run(outputs: Path, cluster: str) -> RunFolder | None:
    """Return the newest run, ended or not."""
    return next(reversed(all_runs(outputs, cluster)), None)


def all_runs(outputs: Path, cluster: str) -> list[RunFolder]:
    """Return the runs of a cluster, oldest first."""
    parent = outputs / _name(cluster, "cluster")
    if not parent.is_dir():
        return []
    return [RunFolder(path) for path in sorted(parent.iterdir()) if _RUN_ID.fullmatch(path.name) and path.is_dir()]


def atomic_write(path: Path, content: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old content or the new. Raises RecordError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RecordError(f"{path} cannot be written: {error.strerror}") from error


def process_lives(pid: int, since: datetime) -> bool:
    """Whether the process that had this pid at `since` still runs: it is no zombie and did not start later."""
    if not _exists(pid):
        return False
    try:
        # the name of the program stands in parentheses and may hold blanks and parentheses itself
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        # just gone, or its start cannot be seen (no /proc, or one that hides other users' processes)
        return _exists(pid)
    age_s = uptime_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    event_age_s = (datetime.now(UTC) - since).total_seconds()
    return fields[0] not in {"Z", "X"} and age_s >= event_age_s - _START_SLACK_S


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _writer_lives(event: events.Event) -> bool:
    try:
        since = datetime.fromisoformat(event.time)
    except ValueError:
        return False
    return since.tzinfo is not None and event.pid > 0 and process_lives(event.pid, since)


def _verdict(value: object) -> str:
    return str(value) if value in set(Verdict) else str(Verdict.UNKNOWN)


def _name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name!r} cannot name a file; right would be letters, digits, '.', '_' and '-'")
    return name
