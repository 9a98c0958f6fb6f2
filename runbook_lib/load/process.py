"""Run one point in a process of its own, so that whatever the caller does cannot delay the load.

Safe inside a Jupyter kernel: no fork of the kernel's threads (posix_spawn), no event loop, no signal handler.
The child holds the read end of a pipe; when the caller dies, even by SIGKILL, the pipe closes and the child
ends. The spec goes through that pipe, so an API key never stands in a process list.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runbook_lib
from runbook_lib.errors import LoadError
from runbook_lib.load.client import CONNECTS_AT_ONCE, Progress
from runbook_lib.load.point import Point

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.spec import PointSpec

_READ = 64 * 1024
_STARTUP_S = 60.0
_STDERR_KEPT = 4000
_POLL_MS = 500


def run_point(spec: PointSpec, *, on_progress: Callable[[Progress], None] | None = None) -> Point:
    """Measure one point in a new process and return it.

    on_progress is called in this thread, about twice a second. Raises LoadError when the load could not be
    made; an interrupt or an exception of the callback stops the child before it goes on.
    """
    pid, to_child, from_child, errors = _spawn()
    inbox = _Inbox(on_progress)
    reaped = False
    try:
        with contextlib.suppress(BrokenPipeError):  # a child that died at once says why on stderr
            _write_all(to_child, (json.dumps(spec.to_json()) + "\n").encode())
        _listen(inbox, from_child, errors, _deadline_s(spec))
        code = _wait(pid)
        reaped = True
    finally:
        for fd in (to_child, from_child, errors):
            os.close(fd)
        if not reaped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait(pid)
    if inbox.failure is not None:
        raise LoadError(str(inbox.failure["message"]), next_command=str(inbox.failure["next"]))
    if inbox.point is None:
        talk = inbox.talk.decode(errors="replace").strip()
        raise LoadError(f"the load process ended with exit code {code} and no result: {talk}")
    return inbox.point


def _spawn() -> tuple[int, int, int, int]:
    """Start the child; return its pid, our ends of its stdin, stdout and stderr."""
    ends = [*os.pipe(), *os.pipe(), *os.pipe()]
    stdin_read, stdin_write, stdout_read, stdout_write, stderr_read, stderr_write = ends
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    root = Path(runbook_lib.__file__).resolve().parent.parent
    if root.name != "site-packages":  # a checkout: the child must find the same one
        environment["PYTHONPATH"] = os.pathsep.join(
            part for part in (str(root), os.environ.get("PYTHONPATH", "")) if part
        )
    try:
        pid = os.posix_spawn(
            sys.executable,
            # -P: a stray numpy.py in the notebook's folder must not be imported
            [sys.executable, "-P", "-m", "runbook_lib.load", "--worker"],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin_read, 0),
                (os.POSIX_SPAWN_DUP2, stdout_write, 1),
                (os.POSIX_SPAWN_DUP2, stderr_write, 2),
            ],
            setpgroup=0,  # an interrupt of the kernel's group reaches the caller, who stops the child
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
        )
    except OSError as error:
        for fd in (stdin_write, stdout_read, stderr_read):
            os.close(fd)
        raise LoadError(f"the load process cannot be started: {error}") from error
    finally:
        for fd in (stdin_read, stdout_write, stderr_write):
            os.close(fd)
    return pid, stdin_write, stdout_read, stderr_read


class _Inbox:
    """What the child said so far."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self.point: Point | None = None
        self.failure: dict[str, Any] | None = None
        self.talk = b""
        self._on_progress = on_progress
        self._tail = b""

    def take(self, data: bytes) -> None:
        """Take a piece of the child's stdout: JSON lines."""
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "point" in message:
                self.point = Point.from_json(message["point"])
            elif "error" in message:
                self.failure = message["error"]
            elif self._on_progress is not None:
                self._on_progress(Progress(**message["progress"]))


def _listen(inbox: _Inbox, stdout: int, stderr: int, deadline_s: float) -> None:
    """Read both pipes to their ends. Raises LoadError at the deadline."""
    poll = select.poll()
    for fd in (stdout, stderr):
        poll.register(fd, select.POLLIN)
    still_open = {stdout, stderr}
    end = time.monotonic() + deadline_s
    while still_open:
        if time.monotonic() > end:
            raise LoadError(f"the load process gave no result within {deadline_s:.0f} s and was stopped")
        for fd, _ in poll.poll(_POLL_MS):
            data = os.read(fd, _READ)
            if not data:
                poll.unregister(fd)
                still_open.discard(fd)
            elif fd == stderr:
                inbox.talk = (inbox.talk + data)[-_STDERR_KEPT:]
            else:
                inbox.take(data)


def _deadline_s(spec: PointSpec) -> float:
    """Every request ends by its own timeout; this is when the last one must have."""
    waves = -(-spec.requests // spec.concurrency) + -(-spec.warmup_requests // spec.concurrency)
    opening_s = spec.connect_timeout_s * -(-spec.concurrency // CONNECTS_AT_ONCE)
    return _STARTUP_S + opening_s + waves * (spec.timeout_s + spec.connect_timeout_s)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _wait(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # somebody else reaped it
        return -1
