"""Host keys: what is shown, and what is pinned."""

from __future__ import annotations

import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import HostUnreachable
from runbook_lib.remote import HostKey, Target, fetch_host_key, pin, pinned

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = HostKey("ssh-ed25519", "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
TARGET = Target("hostA", "10.0.0.1", 2222, "root", None, "known_hosts")


def test_fingerprint_is_that_of_ssh_keygen(server: Any) -> None:
    """People compare it with what the host's administrator reads out."""
    public = Path(server.target.key_file).with_name("host_key.pub")
    shown = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True)
    assert server.key.fingerprint == shown.stdout.split()[1]
    assert server.key.base64 == public.read_text().split()[1]


def test_fetch_from_nowhere(target: Target, unused: Callable[[], int]) -> None:
    """No answer is an error with the host's name."""
    with pytest.raises(HostUnreachable, match="hostA: no host key"):
        fetch_host_key(replace(target, port=unused()))


@pytest.fixture
def unused() -> Callable[[], int]:
    """Return a function that finds a port where nobody listens."""
    import socket  # noqa: PLC0415 - nothing else here needs it

    def find() -> int:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
            return port

    return find


def test_pin_replaces_only_this_host(tmp_path: Path) -> None:
    """Other lines, comments included, stay; other ports of the same address are other hosts."""
    path = tmp_path / "deep" / "known_hosts"
    path.parent.mkdir()
    others = "# ours\n[10.0.0.1]:2223 ssh-ed25519 AAAA\n10.0.0.1 ssh-ed25519 BBBB"
    path.write_text(f"{others}\n[10.0.0.1]:2222 ssh-rsa CCCC\n")
    pin(path, TARGET, OLD)
    assert path.read_text() == f"{others}\n[10.0.0.1]:2222 {OLD.type} {OLD.base64}\n"
    assert pinned(path, TARGET) == [OLD]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_standard_port_is_not_bracketed(tmp_path: Path) -> None:
    """As OpenSSH spells it."""
    path = tmp_path / "known_hosts"
    pin(path, replace(TARGET, port=22), OLD)
    assert path.read_text().startswith("10.0.0.1 ssh-ed25519 ")
    assert pinned(path, TARGET) == []
