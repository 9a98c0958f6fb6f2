"""Run one command on a host: bounded linear capture, a timeout that kills on the host, a report to the observer."""

from __future__ import annotations

import contextlib
import hashlib
import math
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import paramiko

from runbook_lib.errors import CommandFailed, HostUnreachable
from runbook_lib.model import Capture
from runbook_lib.remote.wrapper import KILL_AFTER_S, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.remote.target import Target

MAX_OUTPUT = 1 << 20

#: The answer may be late by this much before the connection counts as dead.
_GRACE_S = 10.0
#: Slowest link that we wait for while input is sent.
_SLOW_LINK_BYTES_PER_S = 200_000
#: A dying transport closes its channels this long before it says that it is dead.
_SETTLE_S = 0.3
#: More than this before the start mark is no greeting of a login shell.
_MAX_PREAMBLE = 1 << 16
_CHUNK = 1 << 22
_POLL_S = 1.0

#: Exit codes of `timeout` when it had to act: after TERM, and after KILL.
TIMEOUT_CODES = frozenset({124, 137})


class Observer(Protocol):
    """Told of every remote command: host, argv, exit code, seconds, digest of the output (see output_digest)."""

    def __call__(
        self,
        host: str,
        argv: Sequence[str],
        exit_code: int | None,
        duration_s: float,
        output_digest_sha256: str,
        /,
    ) -> None:
        """Take note of one command."""


class Session(Protocol):
    """What this module needs of a host: where it is, its open transport, and who is told."""

    target: Target
    observer: Observer | None

    @property
    def transport(self) -> paramiko.Transport:
        """The open transport; raises HostUnreachable when there is none."""


@dataclass(frozen=True, slots=True)
class RawCapture:
    """What a command printed, as bytes. `lost` says why the connection broke ("" when it did not)."""

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    timed_out: bool
    digest: str
    duration_s: float
    lost: str = ""

    def as_text(self) -> Capture:
        """Return it as text; bytes that are no UTF-8 are shown as escapes, so that nothing is dropped."""
        return Capture(decode(self.stdout), decode(self.stderr), self.exit_code, self.timed_out)


def decode(data: bytes) -> str:
    """Turn output into text that survives JSON."""
    return data.decode("utf-8", "backslashreplace")


def output_digest(stdout_sha256: str, stderr_sha256: str) -> str:
    """Name all that a command printed, also what was cut: sha256 of the two hex digests, one after the other."""
    return hashlib.sha256((stdout_sha256 + stderr_sha256).encode()).hexdigest()


class _Stream:
    """One output stream between the wrapper's marks: keeps at most `limit` bytes of it, hashes all of it.

    Linear: of each chunk, only the few bytes that could begin the end mark are looked at again.
    """

    def __init__(self, mark: str, limit: int) -> None:
        self._start = f"{mark}\n".encode()
        self._end = f"{mark}=end=".encode()
        self._limit = limit
        self._chunks: list[bytes] = []
        self._kept = 0
        self._held = b""
        self.started = False
        self.total = 0
        self.hash = hashlib.sha256()
        self.exit_code: int | None = None

    @property
    def preamble(self) -> bytes:
        """What came instead of the start mark."""
        return b"" if self.started else self._held

    def feed(self, data: bytes) -> None:
        """Take the next bytes; what comes after the end mark is not the command's."""
        if self.exit_code is not None:
            return
        data = self._held + data
        if not self.started:
            _, found, rest = data.partition(self._start)
            if not found:
                self._held = data[-_MAX_PREAMBLE:]
                return
            self.started, data = True, rest
        at = data.find(self._end)
        if at < 0:
            at = max(0, len(data) - len(self._end) + 1)
        else:
            code, newline, _ = data[at + len(self._end) :].partition(b"\n")
            self.exit_code = int(code) if newline else None
        self._held = data[at:]
        self._take(data[:at])

    def finish(self) -> None:
        """Take what was held back when the stream ended without its end mark."""
        if self.started and self.exit_code is None:
            self._take(self._held)

    def _take(self, data: bytes) -> None:
        self.total += len(data)
        self.hash.update(data)
        if self._kept < self._limit:
            part = data[: self._limit - self._kept]
            self._chunks.append(part)
            self._kept += len(part)

    def value(self) -> bytes:
        return b"".join(self._chunks)

    def note(self, name: str) -> str:
        if self.total <= self._limit:
            return ""
        return f"[runbook: {name} cut, the first {self._limit} of {self.total} bytes are kept]\n"


def execute(  # noqa: PLR0913 - how one command is run
    session: Session,
    argv: Sequence[str],
    timeout_s: float,
    *,
    stdin: bytes = b"",
    max_output: int = MAX_OUTPUT,
    keep_partial: bool = False,
) -> RawCapture:
    """Run argv on the host and wait for its end; the observer is not told (see `run`).

    A command that overruns `timeout_s` is killed on the host with its whole session: timed_out, exit code None.
    keep_partial: return what came until the connection broke, with `lost` set, instead of raising.
    Raises HostUnreachable when the connection breaks (the command is then killed too, at its own timeout at the
    latest), CommandFailed when it could not be started at all.
    """
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"a timeout is a positive number of seconds, not {timeout_s}")
    mark = secrets.token_hex(16)
    command = wrap(session.target, argv, mark=mark, timeout_s=timeout_s, stdin_size=len(stdin))
    out, err = _Stream(mark, max_output), _Stream(mark, max_output)
    hard_s = timeout_s + KILL_AFTER_S + _GRACE_S + len(stdin) / _SLOW_LINK_BYTES_PER_S
    begin = time.monotonic()
    try:
        lost = _talk(session.transport, command, stdin, (out, err), hard_s)
    except (OSError, EOFError, paramiko.SSHException) as error:
        lost = f"connection lost: {error or type(error).__name__}"
    duration_s = time.monotonic() - begin
    out.finish()
    err.finish()
    code = out.exit_code
    if lost and not keep_partial:
        raise HostUnreachable(
            session.target.name,
            f"{lost} while running `{_shown(argv)}`; it is killed on the host "
            f"{timeout_s:g} s after its start at the latest",
            next_command=f"{session.target.ssh_command} true",
        )
    if not lost and not out.started:
        raise _not_started(session.target, out, err)
    timed_out = code in TIMEOUT_CODES and duration_s >= timeout_s
    notes = out.note("stdout") + err.note("stderr")
    if code is None and not lost:
        notes += "[runbook: the host reported no exit code; the command was killed from outside]\n"
    return RawCapture(
        stdout=out.value(),
        stderr=err.value() + notes.encode(),
        exit_code=None if timed_out else code,
        timed_out=timed_out,
        digest=output_digest(out.hash.hexdigest(), err.hash.hexdigest()),
        duration_s=duration_s,
        lost=lost,
    )


def run(  # noqa: PLR0913 - how one command is run
    session: Session,
    argv: Sequence[str],
    timeout_s: float,
    *,
    stdin: bytes = b"",
    max_output: int = MAX_OUTPUT,
    told: Sequence[str] | None = None,
) -> RawCapture:
    """Run one command as `execute` does, and tell the observer, also when the connection breaks.

    told: what the observer is told instead of argv, for a script of ours whose text would drown the record
    """
    words = tuple(argv if told is None else told)
    begin = time.monotonic()
    try:
        result = execute(session, argv, timeout_s, stdin=stdin, max_output=max_output)
    except BaseException:
        if session.observer:
            session.observer(session.target.name, words, None, time.monotonic() - begin, "")
        raise
    if session.observer:
        session.observer(session.target.name, words, result.exit_code, result.duration_s, result.digest)
    return result


def _shown(argv: Sequence[str]) -> str:
    """Return what a person is told of a command: a script of ours by its name."""
    ours = len(argv) > 3 and argv[3].startswith("runbook:")  # noqa: PLR2004 - see run_script
    return argv[3] if ours else " ".join(argv)[:200]


def run_script(  # noqa: PLR0913 - how one script is run
    session: Session,
    name: str,
    script: str,
    arguments: Sequence[str],
    timeout_s: float,
    *,
    stdin: bytes = b"",
    max_output: int = MAX_OUTPUT,
    told: Sequence[str] | None = None,
) -> RawCapture:
    """Run one of our own sh scripts; the observer is told ("runbook:NAME", *arguments), or *told instead of them."""
    return run(
        session,
        ("sh", "-c", script, f"runbook:{name}", *arguments),
        timeout_s,
        stdin=stdin,
        max_output=max_output,
        told=(f"runbook:{name}", *(arguments if told is None else told)),
    )


def _talk(
    transport: paramiko.Transport,
    command: str,
    stdin: bytes,
    streams: tuple[_Stream, _Stream],
    hard_s: float,
) -> str:
    """Hold one exec session; return why it broke ("" when it did not)."""
    channel = transport.open_session()
    overdue = threading.Event()

    def give_up() -> None:
        overdue.set()
        _close(channel)

    # paramiko waits without limit for the answer to an exec request, so a timer must break the channel
    watchdog = threading.Timer(hard_s, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        channel.exec_command(command)
        # stdin stays open until the command has ended: it is the lifeline of the wrapper
        channel.sendall(stdin)
        _drain(channel, *streams)
    except (OSError, EOFError, paramiko.SSHException):
        if not overdue.is_set():
            raise
    finally:
        watchdog.cancel()
        _close(channel)
    if streams[0].exit_code is not None:
        return ""
    if overdue.is_set():
        return f"no answer within {hard_s:.0f} s"
    transport.join(_SETTLE_S)
    return "" if transport.is_active() else "connection lost"


def _close(channel: paramiko.Channel) -> None:
    """Close our end, which ends the wrapper's lifeline; a dead connection has done so already."""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.close()


class _Wakeup(threading.Event):
    """Set by paramiko when something came on either stream.

    paramiko also clears it, per stream, and could so lose what came on the other stream at that moment; here only
    the reader clears it.
    """

    def clear(self) -> None:
        """Ignore paramiko's wish."""

    def rearm(self) -> None:
        """Wait for news from now on."""
        super().clear()


def _drain(channel: paramiko.Channel, out: _Stream, err: _Stream) -> None:
    """Read both streams up to their end marks, or to the end of the channel."""
    wakeup = _Wakeup()
    channel.in_buffer.set_event(wakeup)
    channel.in_stderr_buffer.set_event(wakeup)
    while out.exit_code is None or err.exit_code is None:
        wakeup.rearm()
        # looked at before reading: data that came earlier than the end is then never missed
        at_end = channel.eof_received or channel.closed
        moved = False
        while channel.recv_ready():
            out.feed(channel.recv(_CHUNK))
            moved = True
        while channel.recv_stderr_ready():
            err.feed(channel.recv_stderr(_CHUNK))
            moved = True
        if at_end:
            return
        if not moved:
            wakeup.wait(_POLL_S)


def _not_started(target: Target, out: _Stream, err: _Stream) -> CommandFailed:
    said = decode((err.preamble.strip() or out.preamble.strip())[-500:]) or "nothing"
    if target.become == "sudo":
        return CommandFailed(
            target.name,
            f"become is sudo, but `sudo -n` is refused to user {target.user}; the host says: {said}",
            next_command=f"{target.ssh_command} sudo -n true   (needs a NOPASSWD rule for {target.user})",
        )
    return CommandFailed(
        target.name,
        f"the login shell of user {target.user} does not run commands; the host says: {said}",
        next_command=f"{target.ssh_command} true",
    )
