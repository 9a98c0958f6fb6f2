"""Host keys: fetch what a host shows, and pin what the user has agreed to."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import paramiko

from runbook_lib.errors import HostUnreachable
from runbook_lib.remote.connection import HardenedConnection, make_socket

if TYPE_CHECKING:
    from runbook_lib.remote.target import Target

_LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HostKey:
    """The public key that a host shows; `fingerprint` is spelled as `ssh-keygen -l` does: SHA256:..."""

    type: str
    base64: str

    @property
    def fingerprint(self) -> str:
        """The sha256 of the key, to compare with what the host's administrator says."""
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def fetch_host_key(target: Target) -> HostKey:
    """Return the key that the host shows now, without logging in. It proves nothing until a person compared it.

    A jump host must be trusted already. Raises HostUnreachable, and the jump host's own errors.
    """
    jump = HardenedConnection(target.jump) if target.jump else None
    transport = None
    try:
        if jump is None:
            sock = make_socket(target)
        else:
            jump.open()
            sock = jump.transport.open_channel(
                "direct-tcpip", (target.address, target.port), ("", 0), timeout=target.connect_timeout_s
            )
        try:
            transport = paramiko.Transport(sock)
            transport.banner_timeout = target.connect_timeout_s
            transport.start_client(timeout=target.connect_timeout_s)
            key = transport.get_remote_server_key()
        finally:
            if transport is not None:
                transport.close()
            sock.close()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise HostUnreachable(
            target.name,
            f"no host key from {target.address}:{target.port}: {error or type(error).__name__}",
            next_command=f"ssh-keyscan -p {target.port} {target.address}",
        ) from error
    finally:
        if jump is not None:
            jump.close()
    return HostKey(key.get_name(), key.get_base64())


def pinned(known_hosts_path: str | Path, target: Target) -> list[HostKey]:
    """Return the keys that are pinned for this host; [] when there are none."""
    return [
        HostKey(words[1], words[2])
        for words in map(str.split, _lines(Path(known_hosts_path)))
        if _is_for(words, target)
    ]


def pin(known_hosts_path: str | Path, target: Target, key: HostKey) -> None:
    """Make `key` the only one that is accepted for this host; lines of other hosts stay as they are.

    Written atomically under a file lock, mode 0600. Call it only after the user agreed to the fingerprint.
    """
    path = Path(known_hosts_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S):
        kept = [line for line in _lines(path) if not _is_for(line.split(), target)]
        text = "\n".join([*kept, f"{target.host_key_name} {key.type} {key.base64}", ""])
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _is_for(words: list[str], target: Target) -> bool:
    return len(words) > 2 and target.host_key_name in words[0].split(",")  # noqa: PLR2004 - name, type, key
