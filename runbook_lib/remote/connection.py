"""One SSH connection, hardened.

As it comes, fabric accepts any host key, reads the user's ssh_config, and leaves Nagle's algorithm on, which
costs 46 ms per small command against 5 ms (measured). Here unknown keys are refused, only the cluster's pinned
known_hosts is read, and the socket is made before the handshake.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fabric
import paramiko
import tenacity
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from runbook_lib.errors import AuthenticationFailed, HostError, HostKeyRejected, HostUnreachable

if TYPE_CHECKING:
    from runbook_lib.remote.target import Target

# without a handler, Python prints paramiko's tracebacks to stderr from its threads, and they land in any cell
logging.getLogger("paramiko").addHandler(logging.NullHandler())

KEEPALIVE_S = 10
DEAD_PEER_MS = 30_000
_TRIES = 4
_PINNED_LOCK = threading.Lock()


class _UnknownHostKey(paramiko.SSHException):
    """The host's key is not in the pinned file."""

    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__("unknown host key")
        self.key = key


class _DroppedEarly(HostUnreachable):
    """The server took the connection and dropped it before its banner: it may be busy, another try is worth it."""


class _Reject(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, _client: paramiko.SSHClient, _hostname: str, key: paramiko.PKey) -> None:
        raise _UnknownHostKey(key)


class HardenedConnection(fabric.Connection):  # type: ignore[misc]  # fabric publishes no types
    """A fabric connection that checks the pinned key and raises our errors.

    `open` raises HostUnreachable, HostKeyRejected or AuthenticationFailed; the jump host's own errors carry
    the jump host's name.
    """

    # fabric keeps unknown attributes in its config unless the class has them
    target: Any = None
    sock: Any = None

    def __init__(self, target: Target) -> None:
        self.target = target
        gateway = HardenedConnection(target.jump) if target.jump else False
        config = fabric.Config(
            lazy=True,  # no /etc/fabric.*, no ~/.fabric.*, no ssh_config
            overrides={"load_ssh_configs": False, "forward_agent": False, "gateway": None},
        )
        super().__init__(
            target.address,
            user=target.user,
            port=target.port,
            config=config,
            gateway=gateway,
            connect_timeout=max(1, round(target.connect_timeout_s)),
            connect_kwargs={
                "allow_agent": target.key_file is None,
                "look_for_keys": target.key_file is None,
                "banner_timeout": target.connect_timeout_s,
                "auth_timeout": target.connect_timeout_s,
                "channel_timeout": target.connect_timeout_s,
            },
        )

    def open(self) -> None:
        """Connect and log in. A server that drops us before its banner (MaxStartups) is tried again."""
        if self.is_connected:
            return
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_DroppedEarly),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=2),
            stop=tenacity.stop_after_attempt(_TRIES) | tenacity.stop_after_delay(self.target.connect_timeout_s),
            reraise=True,
        ):
            with attempt:
                self._open_once()

    def _open_once(self) -> None:
        target: Target = self.target
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(_Reject())
        self._load_pinned_keys()
        if target.key_file is not None:
            self.connect_kwargs["pkey"] = _private_key(target, target.key_file)
        try:
            self.sock = self._make_socket()
            self.connect_kwargs["sock"] = self.sock
            super().open()
        except BaseException as error:
            self.break_off()
            if isinstance(error, (OSError, EOFError, paramiko.SSHException)):
                raise _translate(target, error) from error
            raise
        finally:
            self.connect_kwargs.pop("sock", None)
            self.connect_kwargs.pop("pkey", None)
        self.transport.set_keepalive(KEEPALIVE_S)

    def open_gateway(self) -> Any:  # noqa: ANN401 - a paramiko channel, handed through to fabric
        """Return the channel that was opened through the jump host; fabric would wait an hour for one."""
        return self.sock

    def close(self) -> None:
        """Close this connection and the jump host's, whatever their state."""
        super().close()
        self.break_off()

    def break_off(self) -> None:
        """Drop the connection at once; threads that wait for it wake up with an error."""
        if self.sock is not None:
            if isinstance(self.sock, socket.socket):
                with contextlib.suppress(OSError):  # it was never connected, or the peer was first
                    self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.close()
        self.client.close()
        if self.gateway:
            self.gateway.break_off()

    def _make_socket(self) -> Any:  # noqa: ANN401 - a socket or a paramiko channel
        target: Target = self.target
        if not self.gateway:
            return make_socket(target)
        self.gateway.open()
        return self.gateway.transport.open_channel(
            "direct-tcpip", (target.address, target.port), ("", 0), timeout=target.connect_timeout_s
        )

    def _load_pinned_keys(self) -> None:
        target: Target = self.target
        try:
            pinned = pinned_keys(target.known_hosts).lookup(target.host_key_name)
        except FileNotFoundError:
            return  # nothing is pinned yet: the key is refused as unknown, with its fingerprint
        except (OSError, UnicodeDecodeError, ValueError, paramiko.hostkeys.InvalidHostKey) as error:
            raise HostKeyRejected(
                target.name,
                f"the pinned host keys in {target.known_hosts} cannot be read: {error}",
                next_command="runbook trust PARAMS",
            ) from error
        for kind, key in (pinned or {}).items():
            self.client.get_host_keys().add(target.host_key_name, kind, key)


def pinned_keys(path: str) -> paramiko.HostKeys:
    """Return what a known_hosts file pins, read once for as long as it stays as it is. Raises what `load` raises.

    To load it, paramiko compares each line with all before it, and all hosts of a cluster share the file.
    """
    with _PINNED_LOCK:
        seen = Path(path).stat()
        return _pinned_keys(path, (seen.st_ino, seen.st_size, seen.st_ctime_ns))


@lru_cache(maxsize=4)
def _pinned_keys(path: str, _version: tuple[int, int, int]) -> paramiko.HostKeys:
    keys = paramiko.HostKeys()
    keys.load(path)
    return keys


def make_socket(target: Target) -> socket.socket:
    """Return a connected TCP socket that sends small packets at once and notices a dead peer. Raises OSError."""
    sock = socket.create_connection((target.address, target.port), timeout=target.connect_timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_MS)
    return sock


def _private_key(target: Target, key_file: str) -> paramiko.PKey:
    # paramiko's own search tries each key class in turn and reports the last class's parse error
    try:
        try:
            return paramiko.PKey.from_path(key_file)
        except paramiko.PasswordRequiredException:
            raise
        except paramiko.SSHException:
            return _rewritten_key(Path(key_file).expanduser().read_bytes())
    except FileNotFoundError as error:
        problem, command = "does not exist", "runbook params validate PARAMS"
        cause: Exception = error
    except (TypeError, paramiko.PasswordRequiredException) as error:
        problem = "is locked with a passphrase; leave key_file out to use the agent"
        command, cause = f"ssh-add {key_file}", error
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        problem = f"is no readable ed25519, ecdsa or rsa key: {error}"
        command, cause = f"ssh-keygen -y -f {key_file}", error
    raise AuthenticationFailed(target.name, f"private key {key_file} {problem}", next_command=command) from cause


def _rewritten_key(data: bytes) -> paramiko.PKey:
    """Read an RSA or ECDSA key through the older PEM form. Raises ValueError, TypeError, or an SSHException.

    paramiko 5.1 takes the end of an OpenSSH key file without comment for padding of length 0 and drops all of it.
    """
    loaded = serialization.load_ssh_private_key(data, None)
    if not isinstance(loaded, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        raise ValueError(f"unexpected kind {type(loaded).__name__}")  # noqa: TRY004 - as for any unreadable key
    pem = loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    kind = paramiko.RSAKey if isinstance(loaded, rsa.RSAPrivateKey) else paramiko.ECDSAKey
    return kind.from_private_key(io.StringIO(pem.decode()))


def _translate(target: Target, error: Exception) -> HostError:  # noqa: PLR0911 - one answer for each cause
    """Turn what paramiko and the socket raise into our errors, most exact cause first."""
    where = f"{target.address}:{target.port}"
    if isinstance(error, _UnknownHostKey):
        return HostKeyRejected(
            target.name,
            f"the host key of {where} is not pinned in {target.known_hosts}; "
            f"seen {error.key.get_name()} {error.key.fingerprint}",
            next_command="runbook trust PARAMS",
        )
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyRejected(
            target.name,
            f"the host key of {where} has CHANGED: expected {error.expected_key.fingerprint} "
            f"({target.known_hosts}), seen {error.key.fingerprint}. Either the host was installed anew or "
            "somebody stands in between; ask its administrator before trusting it",
            next_command="runbook trust PARAMS",
        )
    if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
        key = target.key_file or "the agent and the default keys"
        return AuthenticationFailed(
            target.name,
            f"{where} refused user {target.user} with {key}: {error}",
            next_command=f"ssh-copy-id -i {target.key_file or 'KEY'}.pub -p {target.port} "
            f"{target.user}@{target.address}",
        )
    next_command = f"{target.ssh_command} true"
    if isinstance(error, paramiko.ChannelException):
        jump = target.jump.name if target.jump else "the jump host"
        return HostUnreachable(target.name, f"{jump} cannot reach {where}: {error.text}", next_command=next_command)
    if isinstance(error, ConnectionRefusedError):
        reason = f"{where} refused the connection: is sshd running on that port?"
        return HostUnreachable(target.name, reason, next_command=next_command)
    if isinstance(error, socket.gaierror):
        return HostUnreachable(target.name, f"the name {target.address} does not resolve", next_command=next_command)
    if isinstance(error, TimeoutError):
        reason = f"no answer from {where} within {target.connect_timeout_s:g} s"
        return HostUnreachable(target.name, reason, next_command=next_command)
    reason = f"no SSH session with {where}: {error or type(error).__name__}"
    dropped = isinstance(error, (ConnectionResetError, EOFError)) or "protocol banner" in str(error)
    return (_DroppedEarly if dropped else HostUnreachable)(target.name, reason, next_command=next_command)
