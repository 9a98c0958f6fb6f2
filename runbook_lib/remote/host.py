"""A host: one connection for one stage, and what can be done through it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from runbook_lib.errors import CommandFailed, CommandTimeout, HostUnreachable
from runbook_lib.remote import files
from runbook_lib.remote import probe as probing
from runbook_lib.remote import run as running
from runbook_lib.remote.connection import HardenedConnection
from runbook_lib.remote.run import MAX_OUTPUT
from runbook_lib.remote.scope import current_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import paramiko

    from runbook_lib.model import Capture, ProbeScript, Upload
    from runbook_lib.remote.run import Observer
    from runbook_lib.remote.target import Target


class Host:
    """A context manager around one hardened connection.

    observer: told of every command (see run.Observer); what it raises stops the work
    mask: takes the secrets out of what commands print; `read_file` gives bytes as they are
    """

    def __init__(
        self, target: Target, observer: Observer | None = None, mask: Callable[[str], str] | None = None
    ) -> None:
        self.target = target
        self.observer = observer
        self._mask = mask
        self._connection: HardenedConnection | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect and log in. Raises HostUnreachable, HostKeyRejected, AuthenticationFailed."""
        if self._connection is not None and self._connection.is_connected:
            return
        self.close()
        connection = HardenedConnection(self.target)
        self._connection = connection
        scope = current_scope.get()
        if scope is not None:
            scope.add(connection.break_off)
        connection.open()
        if scope is not None and scope.cancelled:
            self.close()
            raise HostUnreachable(self.target.name, "cancelled while connecting")

    def close(self) -> None:
        """Close the connection, whatever its state."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        scope = current_scope.get()
        if scope is not None:
            scope.discard(connection.break_off)
        connection.close()

    @property
    def transport(self) -> paramiko.Transport:
        """The open transport; raises HostUnreachable when there is none."""
        if self._connection is None or not self._connection.is_connected:
            raise HostUnreachable(
                self.target.name,
                "the connection is closed or was lost",
                next_command=f"{self.target.ssh_command} true",
            )
        transport: paramiko.Transport = self._connection.transport
        return transport

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: bytes = b"",
        max_output: int = MAX_OUTPUT,
    ) -> Capture:
        """Run one command, quoted word by word; any exit code is a result.

        Beyond timeout_s it is killed on the host with its session: timed_out, exit code None. Each stream is cut at
        max_output bytes, and stderr then says so. Raises HostUnreachable, CommandFailed when it cannot be started.
        """
        return self._masked(running.run(self, argv, timeout_s, stdin=stdin, max_output=max_output).as_text())

    def check(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: bytes = b"",
        max_output: int = MAX_OUTPUT,
    ) -> Capture:
        """Run one command that must end with 0. Raises CommandTimeout or CommandFailed, with what it printed."""
        result = self.run(argv, timeout_s, stdin=stdin, max_output=max_output)
        words = " ".join(argv)[:200]
        if result.timed_out:
            reason = f"`{words}` did not end within {timeout_s:g} s and was killed"
            raise CommandTimeout(self.target.name, reason, next_command=self.target.ssh_command)
        if not result.ok:
            said = (result.stderr.strip() or result.stdout.strip())[-1000:] or "it printed nothing"
            reason = f"`{words}` ended with {result.exit_code}: {said}"
            raise CommandFailed(self.target.name, reason, next_command=self.target.ssh_command)
        return result

    def probe(self, script: ProbeScript) -> dict[str, Capture]:
        """Run the read-only commands of a probe in one round trip; see remote.probe."""
        return {key: self._masked(capture) for key, capture in probing.probe(self, script).items()}

    def _masked(self, capture: Capture) -> Capture:
        if self._mask is None:
            return capture
        return replace(capture, stdout=self._mask(capture.stdout), stderr=self._mask(capture.stderr))

    def upload(self, item: Upload) -> None:
        """Put a text file in place, atomically, with owner and mode; see remote.files."""
        files.upload(self, item)

    def read_file(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """Return a file's bytes; see remote.files."""
        return files.read_file(self, path, max_bytes=max_bytes)
