"""Connecting: whose key is accepted, and what each failure is called."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from runbook_lib.errors import AuthenticationFailed, HostError, HostKeyRejected, HostUnreachable
from runbook_lib.remote import Host, Target, fetch_host_key, pin, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator


def refusal(target: Target) -> HostError:
    """Return the error of a connection that must not come about."""
    with pytest.raises(HostError) as caught, Host(target):
        pass
    assert caught.value.host == target.name
    assert caught.value.next_command
    return caught.value


def unpinned(target: Target, tmp_path: Path) -> Target:
    """Return the target with an empty known_hosts."""
    return replace(target, known_hosts=str(tmp_path / "known_hosts"))


@pytest.fixture
def nowhere(tmp_path: Path) -> Target:
    """Return a target with a good key, for what fails before any real server is asked."""
    key = tmp_path / "key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    return Target("hostA", "127.0.0.1", 1, "anybody", str(key), str(tmp_path / "known_hosts"))


@pytest.fixture
def stub() -> Iterator[Any]:
    """Return a function that starts a server that greets each connection with some bytes, and counts them."""
    with contextlib.ExitStack() as stack:

        def start(greeting: bytes | None) -> tuple[int, list[int]]:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            seen: list[int] = []

            def serve() -> None:
                with contextlib.ExitStack() as open_ones:
                    while True:
                        try:
                            peer = open_ones.enter_context(listener.accept()[0])
                        except OSError:
                            return
                        seen.append(1)
                        if greeting is None:
                            continue  # keep it open, say nothing
                        peer.sendall(greeting)
                        peer.close()

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            port: int = listener.getsockname()[1]
            return port, seen

        yield start


def test_unknown_key_is_rejected(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its fingerprint, and although the user's own known_hosts has it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    pin(tmp_path / ".ssh" / "known_hosts", server.target, server.key)
    error = refusal(unpinned(server.target, tmp_path))
    assert isinstance(error, HostKeyRejected)
    assert server.key.fingerprint in str(error)
    assert "runbook trust PARAMS" in error.next_command


def test_changed_key_is_rejected(server: Any, tmp_path: Path) -> None:
    """Both fingerprints are shown, also when the pinned key is of another type."""
    for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"):
        other = asyncssh.generate_private_key(kind).export_public_key().decode().split()
        target = unpinned(server.target, tmp_path)
        Path(target.known_hosts).write_text(f"[127.0.0.1]:{target.port} {other[0]} {other[1]}\n")
        error = refusal(target)
        assert isinstance(error, HostKeyRejected)
        assert "CHANGED" in str(error)
        assert server.key.fingerprint in str(error)
        assert pinned(target.known_hosts, target)[0].fingerprint in str(error)


def test_a_pinned_file_is_read_again_when_it_changes(server: Any, tmp_path: Path) -> None:
    """The keys are kept from one connection to the next only for as long as the file is the same."""
    target = unpinned(server.target, tmp_path)
    file = Path(target.known_hosts)
    pin(file, target, server.key)
    good = file.read_text()
    other = asyncssh.generate_private_key(server.key.type).export_public_key().decode().split()
    bad = f"{target.host_key_name} {other[0]} {other[1]}\n"
    assert len(good) == len(bad), "the size does not tell them apart"
    for _ in range(2):
        file.write_text(good)
        with Host(target) as host:
            assert host.run(["true"], 5).ok
        file.write_text(bad)
        assert "CHANGED" in str(refusal(target))
    file.unlink()
    assert "not pinned" in str(refusal(target))


def test_key_of_another_port_does_not_count(server: Any, tmp_path: Path) -> None:
    """A pinned key belongs to one address and port."""
    target = unpinned(server.target, tmp_path)
    pin(target.known_hosts, replace(target, port=22), server.key)
    assert isinstance(refusal(target), HostKeyRejected)


def test_unreadable_known_hosts_is_no_trust(server: Any, tmp_path: Path) -> None:
    """A damaged file is not an empty one."""
    target = unpinned(server.target, tmp_path)
    Path(target.known_hosts).write_bytes(b"\xff\xfe host ssh-ed25519 AAAA\n")
    error = refusal(target)
    assert isinstance(error, HostKeyRejected)
    assert "cannot be read" in str(error)


@pytest.mark.parametrize("key", ["user_rsa", "user_ecdsa"])
def test_other_kinds_of_user_keys(server: Any, key: str) -> None:
    """Besides ed25519, which all other tests use."""
    path = Path(server.target.key_file).with_name(key)
    with Host(replace(server.target, key_file=str(path))) as host:
        assert host.run(["true"], 5).ok


@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp521"])
def test_other_kinds_of_host_keys(start_server: Any, kind: str, tmp_path: Path) -> None:
    """Each is fetched, pinned and accepted."""
    target = start_server(tmp_path, kind)
    key = fetch_host_key(target)
    assert key.type == kind
    pin(target.known_hosts, target, key)
    with Host(target) as host:
        assert host.run(["true"], 5).ok


def test_wrong_key_is_refused(target: Target, tmp_path: Path) -> None:
    """The message names user and key, and the command that would install it."""
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "stranger"))
    error = refusal(replace(target, key_file=str(tmp_path / "stranger")))
    assert isinstance(error, AuthenticationFailed)
    assert f"user {target.user}" in str(error)
    assert "ssh-copy-id" in error.next_command


def test_key_files_that_cannot_be_used(nowhere: Target, tmp_path: Path) -> None:
    """Missing, locked and not a key: each says what it is."""
    locked = tmp_path / "locked"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(locked), passphrase="secret", rounds=60)
    (tmp_path / "text").write_text("no key\n")
    for name, words in (("missing", "does not exist"), ("locked", "passphrase"), ("text", "no readable")):
        error = refusal(replace(nowhere, key_file=str(tmp_path / name)))
        assert isinstance(error, AuthenticationFailed)
        assert words in str(error)


def test_nobody_listens(nowhere: Target) -> None:
    """A closed port is not a closed host."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    error = refusal(replace(nowhere, port=port))
    assert isinstance(error, HostUnreachable)
    assert "refused the connection" in str(error)


def test_name_does_not_resolve(nowhere: Target) -> None:
    """A spelling mistake in params is told from a dead host."""
    error = refusal(replace(nowhere, address="no-such-host.invalid"))
    assert isinstance(error, HostUnreachable)
    assert "does not resolve" in str(error)


def test_silent_server(nowhere: Target, stub: Any) -> None:
    """A port that takes connections and says nothing is given up after one timeout, not tried again."""
    port, seen = stub(None)
    error = refusal(replace(nowhere, port=port, connect_timeout_s=0.5))
    assert isinstance(error, HostUnreachable)
    assert len(seen) == 1


def test_busy_server_is_tried_again(nowhere: Target, stub: Any) -> None:
    """That is how sshd answers beyond MaxStartups."""
    port, seen = stub(b"")
    assert isinstance(refusal(replace(nowhere, port=port)), HostUnreachable)
    assert len(seen) == 4


def test_no_ssh_server(nowhere: Target, stub: Any) -> None:
    """Something else listens there."""
    port, _ = stub(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(refusal(replace(nowhere, port=port, connect_timeout_s=0.5)), HostUnreachable)


def test_small_packets_are_sent_at_once(host: Host) -> None:
    """The cause of 46 ms per command, measured."""
    sock = host.transport.sock
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_jump_host(target: Target) -> None:
    """A connection goes through another one; here both ends are the same server."""
    with Host(replace(target, name="hostB", jump=replace(target, name="jump"))) as host:
        assert host.run(["echo", "through"], 5).stdout == "through\n"
        assert fetch_host_key(host.target).type.startswith(("ssh", "ecdsa"))


def test_jump_host_is_held_to_the_same_rules(target: Target, tmp_path: Path) -> None:
    """Its key must be pinned as well, and its errors bear its name."""
    jump = replace(unpinned(target, tmp_path), name="jump")
    with pytest.raises(HostKeyRejected, match="jump: "), Host(replace(target, jump=jump)):
        pass


def test_host_behind_jump_is_down(target: Target) -> None:
    """The jump host works, the host behind it does not: the latter is blamed."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    error = refusal(replace(target, name="hostB", port=port, jump=replace(target, name="jump")))
    assert isinstance(error, HostUnreachable)
    assert "jump cannot reach" in str(error)


def test_closed_host_says_so(target: Target) -> None:
    """Use after close is an error with the host's name; closing twice is none."""
    with Host(target) as host:
        pass
    host.close()
    with pytest.raises(HostUnreachable, match="hostA: the connection is closed"):
        host.run(["true"], 5)
