"""The apply lock: one operator at a time, and an answer that lets the other one act."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import CommandFailed, RecordError
from runbook_lib.model import Capture, ProbeScript
from runbook_lib.remote import (
    LOCK_KEY,
    Host,
    LockOwner,
    Target,
    fan_out,
    lock_answer,
    lock_section,
    look_at_lock,
    release,
)
from runbook_lib.remote.locks import UNREADABLE

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.remote.locks import LockAnswer


def owner(name: str = "ann@laptop", run: str = "run-7") -> LockOwner:
    return LockOwner(name, 'network "run 7"', run, machine="laptop", boot="b", namespace="n", pid=7, start=8)


def take(host: Host, work: Path, who: LockOwner | None = None, ttl_s: int = 600) -> LockAnswer:
    """Take the lock as a probe does."""
    section = lock_section(str(work), who or owner(), ttl_s)
    return lock_answer("hostA", host.probe(ProbeScript((section,)))[LOCK_KEY])


def test_second_one_is_told_who_and_why(host: Host, tmp_path: Path) -> None:
    """And can take it after the release."""
    assert take(host, tmp_path).taken
    answer = take(host, tmp_path, owner("bob", "run-8"))
    assert not answer.taken
    assert answer.before is not None
    assert answer.before.owner == owner()
    assert 0 <= answer.before.age_s < 60
    assert answer.before.expires_in_s is not None
    assert 500 < answer.before.expires_in_s <= 600
    release(host, str(tmp_path), "run-7")
    assert list(tmp_path.iterdir()) == []
    assert look_at_lock(host, str(tmp_path)) is None
    assert take(host, tmp_path, owner("bob", "run-8")).taken


def test_own_lock_can_be_taken_again(host: Host, tmp_path: Path) -> None:
    """A resumed run has the same token: its expiry moves, and the predecessor is told."""
    dead = owner("ann@laptop")
    assert take(host, tmp_path, dead, ttl_s=10).before is None
    info = tmp_path / "lock" / "info.json"
    before = json.loads(info.read_text())["expires_at"]
    answer = take(host, tmp_path, owner("ann again"), ttl_s=1000)
    assert answer.taken
    assert answer.before is not None
    assert answer.before.owner == dead
    assert json.loads(info.read_text())["expires_at"] > before
    assert look_at_lock(host, str(tmp_path)).owner.owner == "ann again"  # type: ignore[union-attr]  # it is there


def test_expired_lock_is_still_a_lock(host: Host, tmp_path: Path) -> None:
    """It is not broken behind its owner's back."""
    take(host, tmp_path, ttl_s=-5)
    answer = take(host, tmp_path, owner("bob", "run-8"))
    assert not answer.taken
    assert answer.before is not None
    assert answer.before.expires_in_s is not None
    assert answer.before.expires_in_s <= -5


@pytest.mark.parametrize("content", ["", "{broken", "[]", '{"taken_at":"x","expires_at":"y"}'])
def test_lock_without_owner(host: Host, tmp_path: Path, content: str) -> None:
    """A lock that cannot be read is a lock as well, and can be broken on purpose."""
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "info.json").write_text(content)
    answer = take(host, tmp_path)
    assert not answer.taken
    assert answer.before is not None
    assert "somebody unknown" in answer.before.owner.owner
    assert answer.before.owner.token == UNREADABLE
    with pytest.raises(RecordError, match="somebody else"):
        release(host, str(tmp_path), "run-7")
    release(host, str(tmp_path), UNREADABLE)
    assert take(host, tmp_path).taken
    with pytest.raises(RecordError, match="somebody else"):
        release(host, str(tmp_path), UNREADABLE)


def test_a_lock_is_made_aside_and_moved_in_place(host: Host, tmp_path: Path) -> None:
    """So a host that goes down while it is made leaves nothing that holds; the next one sweeps it up."""
    (tmp_path / ".runbook.lock.4711").mkdir()
    (tmp_path / "lock").mkdir()
    assert take(host, tmp_path).taken
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert json.loads((tmp_path / "lock" / "info.json").read_text())["token"] == "run-7"


def test_broken_lock_is_noticed_at_release(host: Host, tmp_path: Path) -> None:
    """Somebody broke ours and took it: we must not remove theirs, and the record must say so."""
    take(host, tmp_path)
    release(host, str(tmp_path), "run-7")
    with pytest.raises(RecordError, match="it is gone"):
        release(host, str(tmp_path), "run-7")
    take(host, tmp_path, owner("bob", "run-8"))
    with pytest.raises(RecordError, match="somebody else holds it"):
        release(host, str(tmp_path), "run-7")
    assert (tmp_path / "lock").is_dir()


def test_missing_work_directory(host: Host, tmp_path: Path) -> None:
    """It is a planned change; before it there is nothing to lock, which is not having the lock."""
    answer = take(host, tmp_path / "missing")
    assert answer.missing
    assert not answer.taken
    for capture in (Capture(exit_code=74, stderr="disk full"), Capture(timed_out=True), Capture()):
        with pytest.raises(CommandFailed, match="cannot take the apply lock"):
            lock_answer("hostA", capture)


def test_temp_dirs_of_cut_uploads_go_under_the_lock(host: Host, tmp_path: Path) -> None:
    """Nobody else uploads then; what is not ours stays."""
    for name in (".runbook.AbCd1234", "service/.runbook.XyZ", "service/config.json", ".other"):
        (tmp_path / name).mkdir(parents=True)
    assert take(host, tmp_path).taken
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir())
    assert left == [".other", "lock", "service", "service/config.json"]


def test_of_many_at_once_one_wins(target: Target, tmp_path: Path) -> None:
    """The host decides, by its mkdir."""

    class Operator:
        def __init__(self, name: str) -> None:
            self.name = name

    def work(operator: Operator) -> bool:
        with Host(target) as host:
            return take(host, tmp_path, owner(operator.name, operator.name)).taken

    begin = time.monotonic()
    results = fan_out([Operator(f"op{n}") for n in range(6)], work, deadline_s=10)
    assert time.monotonic() - begin < 10
    assert sorted(result.unwrap() for result in results.values()) == [False] * 5 + [True]
