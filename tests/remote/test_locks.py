"""The apply lock: one operator at a time, and a message that lets the other one act."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import CommandFailed, LockHeld, RecordError
from runbook_lib.remote import Host, Target, acquire, fan_out, release

if TYPE_CHECKING:
    from pathlib import Path


def take(host: Host, work: Path, owner: str = "ann@laptop", token: str = "", ttl_s: int = 600) -> str:
    """Take the lock and return its token."""
    return acquire(host, str(work), owner=owner, reason='network "run 7"', ttl_s=ttl_s, token=token).token


def test_second_one_is_told_who_and_why(host: Host, tmp_path: Path) -> None:
    """And can take it after the release."""
    lock = acquire(host, str(tmp_path), owner="ann@laptop", reason='network "run 7"', ttl_s=600)
    with pytest.raises(LockHeld, match=r'hostA: ann@laptop is applying: network "run 7"; taken \d+ s ago, holds'):
        take(host, tmp_path, "bob")
    release(host, lock)
    assert list(tmp_path.iterdir()) == []
    take(host, tmp_path, "bob")


def test_own_lock_can_be_taken_again(host: Host, tmp_path: Path) -> None:
    """A resumed run knows its token; its expiry moves."""
    token = take(host, tmp_path, ttl_s=10)
    info = tmp_path / "lock" / "info.json"
    before = json.loads(info.read_text())["expires_at"]
    assert take(host, tmp_path, token=token, ttl_s=1000) == token
    assert json.loads(info.read_text())["expires_at"] > before
    with pytest.raises(LockHeld):
        take(host, tmp_path, token="0" * 32)


def test_expired_lock_is_still_a_lock(host: Host, tmp_path: Path) -> None:
    """It is not broken behind its owner's back; the message says how to break it."""
    take(host, tmp_path, ttl_s=-5)
    with pytest.raises(LockHeld, match=r"EXPIRED \d+ s ago") as caught:
        take(host, tmp_path, "bob")
    assert f"rm -r {tmp_path}/lock" in caught.value.next_command


def test_lock_without_owner(host: Host, tmp_path: Path) -> None:
    """Half a lock, of a host that went down in between, is a lock as well."""
    (tmp_path / "lock").mkdir()
    with pytest.raises(LockHeld, match="somebody unknown"):
        take(host, tmp_path)
    (tmp_path / "lock" / "info.json").write_text("{broken")
    with pytest.raises(LockHeld, match="without a readable expiry"):
        take(host, tmp_path)


def test_broken_lock_is_noticed_at_release(host: Host, tmp_path: Path) -> None:
    """Somebody broke ours and took it: we must not remove theirs, and the record must say so."""
    lock = acquire(host, str(tmp_path), owner="ann", reason="x", ttl_s=5)
    (tmp_path / "lock" / "info.json").unlink()
    (tmp_path / "lock").rmdir()
    with pytest.raises(RecordError, match="it is gone"):
        release(host, lock)
    take(host, tmp_path, "bob")
    with pytest.raises(RecordError, match="somebody else holds it"):
        release(host, lock)
    assert (tmp_path / "lock").is_dir()


def test_missing_work_directory(host: Host, tmp_path: Path) -> None:
    """It is a planned change, and not being able to lock is not having the lock."""
    with pytest.raises(CommandFailed, match="does not exist"):
        take(host, tmp_path / "missing")


def test_of_many_at_once_one_wins(target: Target, tmp_path: Path) -> None:
    """The host decides, by its mkdir."""

    class Operator:
        def __init__(self, name: str) -> None:
            self.name = name

    def work(operator: Operator) -> str:
        with Host(target) as host:
            return take(host, tmp_path, operator.name)

    begin = time.monotonic()
    results = fan_out([Operator(f"op{n}") for n in range(6)], work, deadline_s=10)
    assert time.monotonic() - begin < 10
    assert sum(result.ok for result in results.values()) == 1
    assert sum(isinstance(result.error, LockHeld) for result in results.values()) == 5
