"""The connections of a load's clients on one epoll: begun, secured, watched for what is due on them, closed."""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

from runbook_lib.errors import LoadError
from runbook_lib.load import machine, prompts, sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.slot import Slot
    from runbook_lib.load.spec import PointSpec
    from runbook_lib.load.tls import Tls

_BILLION = 1_000_000_000


class ConnectFailed(Exception):  # noqa: N818 - the end of one connection, not of the load
    """A connection could not be had: `kind` is its class of error, `detail` what was said."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


class Connections:
    """Connections to one service. Raises LoadError when its name or its CA file is of no use.

    connecting: slots whose connection is not ready, with the time until which it may take; oldest first
    """

    def __init__(self, spec: PointSpec) -> None:
        self._target = prompts.endpoint(spec.url)
        self._new_tls = _tls_maker(spec.ca_file, self._target.host) if self._target.scheme == "https" else None
        self._family, self._address = sockets.resolve(self._target)
        self._timeout_s = spec.connect_timeout_s
        self.epoll = select.epoll()
        self._by_fd: dict[int, Slot] = {}
        self.connecting: dict[Slot, int] = {}

    def slot_of(self, fd: int) -> Slot | None:
        """Return whose connection this is."""
        return self._by_fd.get(fd)

    def begin(self, slot: Slot) -> None:
        """Begin to connect. Raises ConnectFailed."""
        slot.opened_ns = time.monotonic_ns()
        try:
            tls = self._new_tls() if self._new_tls is not None else None
            slot.wire = sockets.Wire(self._family, self._address, tls)
        except OSError as error:
            raise ConnectFailed(*machine.connect_error(error)) from error
        self._by_fd[slot.wire.fd] = slot
        self.epoll.register(slot.wire.fd, select.EPOLLIN | select.EPOLLOUT)
        slot.ready, slot.writing = False, True
        self.connecting[slot] = slot.opened_ns + int(self._timeout_s * _BILLION)

    def go_on(self, slot: Slot, wire: sockets.Wire) -> None:
        """Take the next step to a ready connection. Raises ConnectFailed, and LoadError for a certificate refused."""
        try:
            if not wire.started:
                wire.connected()
            else:
                wire.read()  # the server's part of the TLS handshake; it can carry no answer yet
                wire.flush()
        except OSError as error:
            if distrust := getattr(error, "verify_message", ""):  # an ssl.SSLCertVerificationError
                raise LoadError(
                    f"{self._target.authority}: its certificate is not trusted: {distrust}",
                    next_command="name the CA file that signed the service's certificate (ca_file)",
                ) from error
            raise ConnectFailed(*machine.connect_error(error)) from error
        except sockets.Closed as error:
            raise ConnectFailed("cut", "connection closed before it was ready") from error
        if wire.secured:
            slot.ready = True
            self.connecting.pop(slot, None)

    def overdue(self, now_ns: int) -> list[Slot]:
        """Return the slots that wait for a connection longer than they may."""
        return [slot for slot, until_ns in self.connecting.items() if until_ns <= now_ns]

    def watch(self, slot: Slot) -> None:
        """Wait for room to send only while something is to be sent."""
        wire = slot.wire
        if wire is None or (not slot.ready and not wire.started):
            return
        wanted = wire.wants_write
        if wanted != slot.writing:
            slot.writing = wanted
            self.epoll.modify(wire.fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def drop(self, slot: Slot) -> None:
        """Close a slot's connection, if it has one."""
        self.connecting.pop(slot, None)
        wire, slot.wire, slot.ready = slot.wire, None, False
        if wire is not None:
            self._by_fd.pop(wire.fd, None)
            with contextlib.suppress(OSError, ValueError):
                self.epoll.unregister(wire.fd)
            wire.close()


def _tls_maker(ca_file: str, server_name: str) -> Callable[[], Tls]:
    from runbook_lib.load import tls  # noqa: PLC0415 - only https needs it

    using = tls.context(ca_file)
    return lambda: tls.Tls(using, server_name)
