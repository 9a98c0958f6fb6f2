"""One client connection: non-blocking TCP or TLS, with the kernel's receive time of every read."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from runbook_lib.errors import LoadError

if TYPE_CHECKING:
    from runbook_lib.load.prompts import Endpoint
    from runbook_lib.load.tls import Tls

# Linux SO_TIMESTAMPNS (and SCM_TIMESTAMPNS, the same number) of asm-generic/socket.h: x86-64 and aarch64.
SO_TIMESTAMPNS = 35
TIMESPEC = struct.Struct("qq")
READ = 1 * 1024
ANCILLARY = 64
_BILLION = 1_000_000_000


class Closed(Exception):  # noqa: N818 - not a failure by itself: the peer ended the connection
    """The peer closed the connection; `reset` when it did so rudely."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


def resolve(target: Endpoint) -> tuple[int, tuple[object, ...]]:
    """Return address family and socket address, looked up once. Raises LoadError."""
    try:
        infos = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoadError(
            f"{target.host} cannot be resolved: {error}", next_command=f"getent ahosts {target.host}"
        ) from error
    family, _, _, _, address = infos[0]
    return family, address


def stamp_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Return the kernel's wall-clock receive time in ns, 0 when there is none."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(value) >= TIMESPEC.size:
            seconds, nanoseconds = TIMESPEC.unpack_from(value)
            return int(seconds) * _BILLION + int(nanoseconds)
    return 0


class Wire:
    """One connection from its connect on.

    started: the TCP connection stands; secured: so does TLS, or none is wanted
    receive: the socket's own recvmsg where nothing is encrypted, for the loop's short way; else None
    """

    def __init__(self, family: int, address: tuple[object, ...], tls: Tls | None = None) -> None:
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self._socket.fileno()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # reads without a stamp are counted, so nothing is hidden
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._pending: memoryview | bytes = b""
        self._tls = tls
        self.started = False
        self.receive = self._socket.recvmsg if tls is None else None
        code = self._socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.close()
            raise OSError(code, os.strerror(code))

    def connected(self) -> None:
        """Finish the connect; raises the OSError of a failed one. Starts the TLS handshake."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self.started = True
        self.handshake()

    @property
    def secured(self) -> bool:
        """Whether the TLS handshake is over, or none is wanted."""
        return self._tls is None or self._tls.secured

    def handshake(self) -> None:
        """Go one step on in the TLS handshake; `secured` tells its end. Raises ssl.SSLError."""
        if self._tls is None:
            return
        try:
            self._tls.handshake()
        finally:
            self._flush_tls()

    def _flush_tls(self) -> None:
        data = self._tls.outgoing() if self._tls is not None else b""
        if data:
            self._pending = bytes(self._pending) + data
            self.flush()

    def prepare(self, data: bytes) -> None:
        """Make `data` ready to be sent, encrypted where needed: all work that can be done before the stamp."""
        if self._tls is not None:
            data = self._tls.seal(data)
        self._pending = memoryview(data)

    def flush(self) -> None:
        """Send what is pending, as far as the kernel takes it. Raises Closed."""
        while self._pending:
            try:
                sent = self._socket.send(self._pending)
            except BlockingIOError:
                return
            except OSError as error:
                raise Closed(reset=True) from error
            # a view of what is sent would keep all of it
            self._pending = self._pending[sent:] if sent < len(self._pending) else b""

    @property
    def wants_write(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._pending)

    def read(self) -> tuple[bytes, int]:
        """Return what arrived and the kernel's wall-clock time of it in ns (0: no stamp). Raises Closed.

        No bytes means nothing to read yet.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(READ, ANCILLARY)
        except BlockingIOError:
            return b"", 0
        except OSError as error:
            raise Closed(reset=True) from error
        if not data:
            raise Closed(reset=False)
        stamp = stamp_of(ancillary)
        if self._tls is None:
            return data, stamp
        try:
            plain = self._tls.take(data)
        finally:
            self._flush_tls()
        if self._tls.ended and not plain:
            raise Closed(reset=self._tls.ended == "broken")
        return plain, stamp

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._socket.close()
