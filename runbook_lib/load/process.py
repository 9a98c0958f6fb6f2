"""Run one point in processes of its own, so that whatever the caller does cannot delay the load.

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
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import runbook_lib
from runbook_lib.errors import LoadError
from runbook_lib.load.client import CONNECTS_AT_ONCE, Progress
from runbook_lib.load.point import Point
from runbook_lib.load.record import Trace
from runbook_lib.load.worker import conclude, new_seed, write_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runbook_lib.load.spec import PointSpec

_READ = 64 * 1024
_STARTUP_S = 60.0
_STDERR_KEPT = 4000
_POLL_MS = 500
_LONGEST_TRACE_S = 86400.0


def run_point(spec: PointSpec, *, on_progress: Callable[[Progress], None] | None = None) -> Point:
    """Measure one point in `spec.processes` new processes and return it.

    on_progress is called in this thread, about twice a second. Raises LoadError when the load could not be
    made; an interrupt or an exception of the callback stops the children before it goes on.
    """
    if spec.processes > 1:
        return _run_parts(spec, on_progress)
    inbox = _Inbox(on_progress)
    with _children([{"spec": spec.to_json()}]) as (child,):
        _listen([(child, inbox)], _deadline_s(spec))
        child.wait()
    inbox.raise_failure()
    if inbox.point is None:
        raise LoadError(f"the load process ended with exit code {child.code} and no result: {inbox.said}")
    return inbox.point


def _run_parts(spec: PointSpec, on_progress: Callable[[Progress], None] | None) -> Point:
    """Share the load, begin together, and compute one point from the raw times of all."""
    if spec.raw_file:
        write_raw(Path(spec.raw_file), [])
    seed = new_seed(spec)
    with TemporaryDirectory(prefix="runbook-load-") as folder:
        files = [Path(folder) / str(part) for part in range(spec.processes)]
        inboxes = [_Inbox(on_progress) for _ in files]
        messages = [
            {"spec": spec.to_json(), "seed": seed, "part": part, "file": str(file)} for part, file in enumerate(files)
        ]
        with _children(messages) as children:
            pairs = list(zip(children, inboxes, strict=True))
            _listen(pairs, _deadline_s(spec), until_ready=True)
            for child in children:
                child.say({"go": True})
            _listen(pairs, _deadline_s(spec))
            for child in children:
                child.wait()
        for child, inbox in pairs:
            inbox.raise_failure()
            if not inbox.done:
                raise LoadError(f"a load process ended with exit code {child.code} and no result: {inbox.said}")
        parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    traces = [Trace.unpack(part["trace"]) for part in parts]
    warmup = [record for part in parts for record in Trace.unpack(part["warmup"]).records]
    return conclude(spec, Trace.merged(traces), warmup)


class _Child:
    """One load process: its pid and our ends of its pipes."""

    def __init__(self) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = _spawn()
        self.code: int | None = None

    def say(self, message: dict[str, Any]) -> None:
        """Send one line; a child that died at once says why on stderr."""
        with contextlib.suppress(BrokenPipeError):
            _write_all(self.stdin, (json.dumps(message) + "\n").encode())

    def wait(self) -> None:
        """Wait for its end."""
        self.code = _wait(self.pid)

    def close(self) -> None:
        """Close our ends, and stop it if it still runs."""
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()


@contextlib.contextmanager
def _children(messages: Sequence[dict[str, Any]]) -> Iterator[list[_Child]]:
    """Start one process for each message; none is left at the end."""
    with contextlib.ExitStack() as stack:
        children = []
        for message in messages:
            child = _Child()
            stack.callback(child.close)
            child.say(message)
            children.append(child)
        yield children


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
            [sys.executable, "-P", "-m", "runbook_lib.load"],
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
    """What a child said so far."""

    def __init__(self, on_progress: Callable[[Progress], None] | None) -> None:
        self.point: Point | None = None
        self.ready = self.done = False
        self._failure: dict[str, Any] | None = None
        self._talk = b""
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
                self._failure = message["error"]
            elif "progress" in message:
                if self._on_progress is not None:
                    self._on_progress(Progress(**message["progress"]))
            else:
                self.ready = self.ready or "ready" in message
                self.done = self.done or "done" in message

    def hear(self, data: bytes) -> None:
        """Take a piece of the child's stderr."""
        self._talk = (self._talk + data)[-_STDERR_KEPT:]

    @property
    def said(self) -> str:
        """The end of its stderr."""
        return self._talk.decode(errors="replace").strip()

    def raise_failure(self) -> None:
        """Raise the LoadError that the child ended with, if it did."""
        if self._failure is not None:
            raise LoadError(str(self._failure["message"]), next_command=str(self._failure["next"]))


def _listen(pairs: Sequence[tuple[_Child, _Inbox]], deadline_s: float, *, until_ready: bool = False) -> None:
    """Read all pipes to their ends, or until every child is ready or over. Raises LoadError at the deadline."""
    poll = select.poll()
    readers: dict[int, Callable[[bytes], None]] = {}
    for child, inbox in pairs:
        readers |= {child.stdout: inbox.take, child.stderr: inbox.hear}
    for fd in readers:
        poll.register(fd, select.POLLIN)
    end = time.monotonic() + deadline_s
    while readers:
        if until_ready and all(inbox.ready or child.stdout not in readers for child, inbox in pairs):
            return
        if time.monotonic() > end:
            raise LoadError(f"the load process gave no result within {deadline_s:.0f} s and was stopped")
        for fd, _ in poll.poll(_POLL_MS):
            data = os.read(fd, _READ)
            if data:
                readers[fd](data)
            else:
                poll.unregister(fd)
                del readers[fd]


def _deadline_s(spec: PointSpec) -> float:
    """Every request ends by its own timeout; this is when the last one must have."""
    waves = -(-spec.requests // spec.concurrency) + -(-spec.warmup_requests // spec.concurrency)
    opening_s = spec.connect_timeout_s * -(-spec.concurrency // CONNECTS_AT_ONCE)
    each_s = spec.timeout_s + spec.connect_timeout_s
    if spec.duration_s:
        waves, opening_s = 2, opening_s + spec.duration_s
    elif spec.open_loop:
        opening_s += spec.requests / spec.rate_per_s if spec.rate_per_s else _LONGEST_TRACE_S / spec.trace_speed
    return _STARTUP_S + opening_s + waves * each_s


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _wait(pid: int) -> int:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # somebody else reaped it
        return -1
