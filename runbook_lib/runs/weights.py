"""Weights beside a run: hash them all again on every host, and look at a transfer that is under way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import HostError
from runbook_lib.remote import JobState, fan_out, job_status, start_job, wait_job
from runbook_lib.remote.jobs import JobHandle
from runbook_lib.runs.pace import Pace, size
from runbook_lib.stages import weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.remote import JobStatus, Target
    from runbook_lib.runs.cluster import Cluster

    Say = Callable[[str], None]

_POLL_S = 1.0
_SLACK_S = 120.0
_RESULT = "RESULT "


@dataclass(slots=True)
class Verified:
    """What hashing a host's weights showed. `wrong` holds (file, what); `error` says why there is no result."""

    host: str
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    program: str = ""
    wrong: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether every file was hashed and is what it was when it came."""
        return not self.error and not self.wrong and self.files > 0

    @property
    def line(self) -> str:
        """The result as one line."""
        if self.error:
            return f"{self.host}: unknown: {self.error}"
        said = f"{self.files} files, {size(self.bytes)} in {self.seconds:.1f} s ({self.program})"
        if not self.wrong:
            return f"{self.host}: ok: {said}, every sha256 as when it came"
        return "\n".join([f"{self.host}: fail: {said}", *(f"  {file} {what}" for file, what in self.wrong)])


def verify(cluster: Cluster, say: Say) -> list[Verified]:
    """Hash every file on all hosts side by side, as a detached job that a second call attaches to."""

    def on_host(target: Target) -> Verified:
        host = cluster.connected(target)
        paths = cluster.paths_of(target.name)
        job = weights.verify_job(paths)
        handle = start_job(host, job, paths.work, restart=True)
        pace, last = Pace(), [""]

        def look(status: JobStatus) -> None:
            line = pace.say(status)
            if line and line != last[0]:
                last[0] = line
                say(f"{target.name}: {line}")

        status = wait_job(host, handle, deadline_s=job.deadline_s, poll_s=_POLL_S, on_progress=look)
        return _read(target.name, status)

    deadline_s = weights.VERIFY_DEADLINE_S + _SLACK_S
    results = fan_out(cluster.targets, on_host, deadline_s=deadline_s)
    return [_or_error(name, result.value, result.error) for name, result in results.items()]


def _or_error(name: str, value: Verified | None, error: BaseException | None) -> Verified:
    if value is not None:
        return value
    if error is not None and not isinstance(error, HostError):
        raise error
    return Verified(name, error=str(error))


def _read(name: str, status: JobStatus) -> Verified:
    line = next((line for line in reversed(status.log_tail.splitlines()) if line.startswith(_RESULT)), "")
    if not line or status.state not in {JobState.DONE, JobState.FAILED}:
        tail = status.log_tail.strip()[-200:]
        return Verified(name, error=f"the job is {status.state.value}; its log ends with: {tail or 'nothing'}")
    said: dict[str, Any] = json.loads(line.removeprefix(_RESULT))
    wrong = [(str(file), str(what)) for file, what in said["wrong"]]
    if status.state is JobState.FAILED and not wrong:
        return Verified(name, error="the job failed without naming a file")
    return Verified(name, said["files"], said["bytes"], said["seconds"], said["with"], wrong)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A download on a host: `state` is a JobState word, or "none"."""

    host: str
    state: str
    done: float = 0.0
    total: float = 0.0
    last: str = ""


def transfers(cluster: Cluster) -> list[Transfer]:
    """Look at the newest download of every host, whoever started it."""

    def on_host(target: Target) -> Transfer:
        host = cluster.connected(target)
        work = cluster.paths_of(target.name).work
        newest = host.run(
            ("sh", "-c", 'ls -1td -- "$1"/jobs/weights-[0-9a-f]* 2>/dev/null | head -n 1', "sh", work), 15.0
        )
        directory = newest.stdout.strip()
        if not directory:
            return Transfer(target.name, "none")
        status = job_status(host, JobHandle(target.name, "weights", directory))
        step = status.progress
        lines = [line for line in status.log_tail.splitlines() if not line.startswith("PROGRESS")]
        last = lines[-1] if lines else ""
        if step is None:
            return Transfer(target.name, status.state.value, last=last)
        return Transfer(target.name, status.state.value, step.done, step.total, last)

    results = fan_out(cluster.targets, on_host, deadline_s=60.0)
    found = []
    for name, result in results.items():
        if result.error is not None and not isinstance(result.error, HostError):
            raise result.error
        found.append(result.value or Transfer(name, "unknown", last=str(result.error)))
    return found
