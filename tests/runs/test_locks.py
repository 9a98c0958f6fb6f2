"""The apply locks as people meet them: who, why, since when, dead or alive, and the command that breaks one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import LockHeld
from runbook_lib.remote import SeenLock
from runbook_lib.runs import events, locks
from runbook_lib.runs.locks import explain, holder_state, local_lock, myself, release_left
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from pathlib import Path

_HOLD = """
import sys
from pathlib import Path
from runbook_lib.runs.locks import local_lock
with local_lock(Path(sys.argv[1]), "run-7", "stage network", ""):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_local_lock_says_who_holds_it_and_ends_with_its_process(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(LockHeld, match=rf"process {holder.pid}, stage network, since .*run run-7") as caught,
            local_lock(tmp_path, "run-8", "stage gateway", "runbook status p.yaml"),
        ):
            pass
        assert caught.value.next_command == "runbook status p.yaml"
        holder.kill()
    with local_lock(tmp_path, "run-8", "stage gateway", ""):
        pass
    assert not (tmp_path / "apply.json").exists()


def test_a_holder_of_this_machine_is_dead_or_alive_and_any_other_unknown() -> None:
    me = myself("run-7", "stage network")
    assert holder_state(me) == "alive"
    assert holder_state(replace(me, start=me.start + 1)) == "dead", "the pid was given to another process"
    assert holder_state(replace(me, pid=2**22 + 7)) == "dead"
    assert holder_state(replace(me, machine="elsewhere")) == "unknown"
    assert holder_state(replace(me, namespace="pid:[1]")) == "unknown"
    assert holder_state(replace(me, boot="before")) == "unknown"


def test_a_lock_is_explained() -> None:
    owner = replace(myself("run-7", "stage network"), owner="ann@laptop", pid=os.getpid())
    said = explain(SeenLock("node1", owner, 12, 100))
    assert "node1: ann@laptop holds the apply lock: stage network; taken 12 s ago, holds for 100 s more" in said
    assert "is at work" in said
    assert "(token run-7)" in said
    dead = explain(SeenLock("node1", replace(owner, start=1), 12, -5))
    assert "EXPIRED 5 s ago" in dead
    assert "is dead" in dead
    assert "without a readable expiry" in explain(SeenLock("node1", owner, 12, None))


def test_a_resumed_run_gives_back_what_its_dead_processes_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only locks with the run's own token whose process is dead; each is recorded."""
    dead = replace(myself("run-7", "stage service"), start=1)
    seen = [
        SeenLock("node1", dead, 30, 900),
        SeenLock("node2", replace(dead, token="run-6"), 30, 900),
        SeenLock("node3", myself("run-7", "stage service"), 30, 900),
    ]
    given_back: list[tuple[str, str]] = []
    monkeypatch.setattr(locks, "find_locks", lambda _: (seen, {}))
    monkeypatch.setattr(locks, "release", lambda host, _work, token: given_back.append((host, token)))
    cluster: Any = SimpleNamespace(
        targets=[SimpleNamespace(name=f"node{number}") for number in (1, 2, 3)],
        connected=lambda target: target.name,
        paths_of=lambda _: SimpleNamespace(work="/work"),
    )
    log = events.EventLog(tmp_path / "events.jsonl", Redactor())
    release_left(cluster, log, "run-7")
    assert given_back == [("node1", "run-7")]
    assert [(event.kind, event.data["hosts"]) for event in events.read(tmp_path / "events.jsonl")] == [
        ("lock_released", ["node1"])
    ]
