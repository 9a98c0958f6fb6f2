"""One client connection: non-blocking TCP or TLS, with the kernel's receive time of every read."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from runbook_lib.errors import LoadError

if TYPE_CHECKING:
    from runbook_lib.load.prompts import Endpoint

# Linux SO_TIMESTAMPNS (and SCM_TIMESTAMPNS, the same number) of asm-generic/socket.h: x86-64 and aarch64.
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_READ = 32 * 1024
_BUFFER = bytearray(_READ)
_VIEW = memoryview(_BUFFER)
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


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a verifying TLS context. Raises LoadError when the CA file cannot be read."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise LoadError(
            f"CA file {ca_file}: {error}", next_command=f"openssl x509 -in {ca_file} -noout -subject"
        ) from error


class Wire:
    """One connection from its connect on.

    started: the TCP connection stands; secured: so does TLS, or none is wanted.
    """

    def __init__(
        self,
        family: int,
        address: tuple[object, ...],
        *,
        context: ssl.SSLContext | None = None,
        server_name: str = "",
    ) -> None:
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.fd = self._socket.fileno()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # reads without a stamp are counted, so nothing is hidden
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._pending: memoryview | bytes = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name) if context else None
        self.secured = context is None
        self.started = False
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

    def handshake(self) -> None:
        """Go one step on in the TLS handshake; `secured` tells its end. Raises ssl.SSLError."""
        if self._tls is None:
            return
        try:
            self._tls.do_handshake()
            self.secured = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self._flush_tls()

    def _flush_tls(self) -> None:
        data = self._outgoing.read()
        if data:
            self._pending = bytes(self._pending) + data
            self.flush()

    def prepare(self, data: bytes) -> None:
        """Make `data` ready to be sent, encrypted where needed: all work that can be done before the stamp."""
        if self._tls is not None:
            self._tls.write(data)
            data = self._outgoing.read()
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
            self._pending = self._pending[sent:]

    @property
    def wants_write(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._pending)

    def read(self) -> tuple[memoryview | bytes, int]:
        """Return what arrived and the kernel's wall-clock time of it in ns (0: no stamp). Raises Closed.

        The bytes are valid until the next read of any connection; none means nothing to read yet.
        """
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([_BUFFER], 64)
        except BlockingIOError:
            return b"", 0
        except OSError as error:
            raise Closed(reset=True) from error
        if not size:
            raise Closed(reset=False)
        stamp = 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(value) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                stamp = seconds * _BILLION + nanoseconds
        if self._tls is None:
            return _VIEW[:size], stamp
        self._incoming.write(_VIEW[:size])
        return self._decrypt(), stamp

    def _decrypt(self) -> bytes:
        if self._tls is None or not self.secured:
            self.handshake()
            if self._tls is None or not self.secured:
                return b""
        plain: list[bytes] = []
        while True:
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                if plain:
                    break
                raise Closed(reset=not isinstance(error, ssl.SSLZeroReturnError)) from error
            if not data:
                break
            plain.append(data)
        self._flush_tls()
        return b"".join(plain)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        self._socket.close()
