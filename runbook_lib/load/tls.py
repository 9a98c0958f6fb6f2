"""TLS for one connection, in memory: bytes in, bytes out. A module of its own: most loads need no TLS, nor its 5 MB."""

from __future__ import annotations

import ssl

from runbook_lib.errors import LoadError

_READ = 16 * 1024


def context(ca_file: str) -> ssl.SSLContext:
    """Return a verifying TLS context. Raises LoadError when the CA file cannot be read."""
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise LoadError(
            f"CA file {ca_file}: {error}", next_command=f"openssl x509 -in {ca_file} -noout -subject"
        ) from error


class Tls:
    """One session. `secured`: the handshake is over; `ended`: the peer closed the session."""

    def __init__(self, using: ssl.SSLContext, server_name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = using.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        self.secured = False
        self.ended = ""  # "", "closed", "broken"

    def handshake(self) -> None:
        """Go one step on. Raises ssl.SSLError, which is an OSError."""
        try:
            self._session.do_handshake()
            self.secured = True
        except ssl.SSLWantReadError:
            pass

    def outgoing(self) -> bytes:
        """Return what is to be sent."""
        return self._outgoing.read()

    def seal(self, data: bytes) -> bytes:
        """Return data as it goes over the wire."""
        self._session.write(data)
        return self._outgoing.read()

    def take(self, data: bytes) -> bytes:
        """Take bytes from the wire and return the plain ones among them, none as long as the handshake lasts.

        Raises ssl.SSLError from the handshake; a session that ends later is told by `ended`.
        """
        self._incoming.write(data)
        if not self.secured:
            self.handshake()
        plain: list[bytes] = []
        while self.secured and not self.ended:
            try:
                piece = self._session.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                self.ended = "closed" if isinstance(error, ssl.SSLZeroReturnError) else "broken"
                break
            if not piece:
                break
            plain.append(piece)
        return b"".join(plain)
