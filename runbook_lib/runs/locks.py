"""Who may change a cluster now: a lock on this machine that dies with its process, and one on every host.

The host locks carry the run's id as their token: a resumed run gives back what its dead processes left. Nobody
else's lock is broken by itself; the message explains it and says the exact command that breaks it on purpose.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from runbook_lib.errors import LockHeld, RecordError, RunbookError
from runbook_lib.remote import LOCK_KEY, LockOwner, fan_out, lock_answer, lock_section, look_at_lock, release
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import atomic_write
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.who import operator, process_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook_lib.model import Section
    from runbook_lib.remote import SeenLock, Target
    from runbook_lib.runs.cluster import Cluster
    from runbook_lib.stages import Probes

SLACK_S = 600  # beyond the deadlines of the plan's own actions
_DEADLINE_S = 60.0
_FREE_MESSAGE = "no longer applying"


@contextlib.contextmanager
def local_lock(folder: Path, run_id: str, reason: str, next_command: str) -> Iterator[None]:
    """Hold the cluster's apply lock on this machine; the kernel ends it with this process, however that ends.

    Raises LockHeld, saying who holds it, why and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, note = folder / "apply.lock", folder / "apply.json"
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=False)
    try:
        lock.acquire()
    except Timeout:
        raise LockHeld(
            f"another apply to this cluster is under way on this machine: {_noted(note)}", next_command=next_command
        ) from None
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        said = {"owner": operator(), "pid": os.getpid(), "run": run_id, "reason": reason, "since": since}
        atomic_write(note, json.dumps(said).encode())
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _noted(note: Path) -> str:
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        return f"{said['owner']}, process {said['pid']}, {said['reason']}, since {said['since']} (run {said['run']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has just begun or is about to end"


class HostLocks:
    """The apply locks of one stage of one run on all hosts."""

    def __init__(self, cluster: Cluster, events: EventLog, run_id: str, reason: str, params: str) -> None:
        self._cluster = cluster
        self._events = events
        self._reason = reason
        self._params = params
        self._owner = myself(run_id, reason)
        self._held: list[str] = []
        self._doubtful: list[str] = []  # hosts whose answer was lost: the lock may lie there

    def section(self, work_dir: str, ttl_s: int) -> Section:
        """Return the probe section that takes a host's lock, for ttl_s seconds."""
        return lock_section(work_dir, self._owner, ttl_s)

    def taken(self, probes: Probes) -> None:
        """Read what the lock sections gave. Raises LockHeld after giving back what we got, else records it."""
        held: list[SeenLock] = []
        missing: list[str] = []
        retaken: list[SeenLock] = []
        problems: list[RunbookError] = []
        for name, seen in probes.items():
            if seen.error:
                self._doubtful += [name] if seen.asked_s is not None else []
                continue
            try:
                answer = lock_answer(name, seen.get(LOCK_KEY))
            except RunbookError as error:
                self._doubtful.append(name)
                problems.append(error)
                continue
            if answer.missing:
                missing.append(name)
            elif answer.taken:
                self._held.append(name)
                retaken += [answer.before] if answer.before else []
            elif answer.before:
                held.append(answer.before)
        if held or problems:
            self.release()
            raise self._refused(held) if held else problems[0]
        for lock in retaken:
            self._events.append(
                "lock_taken_over", host=lock.host, of=lock.owner, age_s=lock.age_s, why="the same run held it before"
            )
        self._events.append(
            "lock_taken", hosts=list(self._held), without_work_folder=missing, reason=self._reason, token=self.token
        )

    @property
    def token(self) -> str:
        """The token of our locks: the run's id."""
        return self._owner.token

    def _refused(self, held: list[SeenLock]) -> LockHeld:
        first = held[0]
        dead = holder_state(first.owner) == "dead" or (first.expires_in_s is not None and first.expires_in_s <= 0)
        words = "\n".join(explain(lock) for lock in held)
        breaking = f"runbook unlock {self._params} --host {first.host} --token {first.owner.token}"
        if not dead:
            words += (
                f"\n  once {first.owner.owner} says that nothing is being applied, it can be broken with: {breaking}"
            )
        return LockHeld(words, next_command=breaking if dead else f"runbook status {self._params}")

    def release(self, *, gone_is_fine: bool = False) -> None:
        """Give back what we hold. Raises RecordError when somebody broke it meanwhile; a lost host is recorded.

        gone_is_fine: the work folder was taken away under the lock, as planned.
        """
        names, self._held = self._held, []
        doubtful, self._doubtful = self._doubtful, []
        if not names and not doubtful:
            return
        targets = [target for target in self._cluster.targets if target.name in {*names, *doubtful}]
        results = fan_out(targets, self._release_one, deadline_s=_DEADLINE_S)
        names += [name for name in doubtful if not isinstance(results[name].error, RecordError)]  # it lay there, or may
        left = {name: results[name].error for name in names if results[name].error is not None}
        broken = [error for error in left.values() if isinstance(error, RecordError)]
        lost = {name: str(error) for name, error in left.items() if not isinstance(error, RecordError)}
        if lost:
            self._events.append("lock_left", hosts=lost, token=self.token)
        self._events.append("lock_released", hosts=[name for name in names if name not in left])
        if broken and not gone_is_fine:
            self._events.append("lock_lost", problems=[str(error) for error in broken])
            raise RecordError(
                "\n".join(str(error) for error in broken) + "\n  changes of two operators may have mixed",
                next_command=f"runbook check {self._params}",
            )

    def _release_one(self, target: Target) -> None:
        release(self._cluster.connected(target), self._cluster.paths_of(target.name).work, self.token)


def explain(lock: SeenLock) -> str:
    """Say whose lock it is, why, how old, until when, and whether its process still lives."""
    owner = lock.owner
    words = f"{lock.host}: {owner.owner} holds the apply lock: {owner.reason}; taken {lock.age_s} s ago"
    if lock.expires_in_s is None:
        words += ", without a readable expiry"
    elif lock.expires_in_s <= 0:
        words += f", EXPIRED {-lock.expires_in_s} s ago"
    else:
        words += f", holds for {lock.expires_in_s} s more"
    state = holder_state(owner)
    if state == "dead":
        words += f"; its process {owner.pid} on this machine is dead, so it is {_FREE_MESSAGE}"
    elif state == "alive":
        words += f"; its process {owner.pid} on this machine is at work"
    return f"{words} (token {owner.token})"


def holder_state(owner: LockOwner) -> str:
    """Return `alive` or `dead` for a process of this machine since this boot, `unknown` for any other."""
    here = myself("", "")
    if (owner.machine, owner.boot, owner.namespace) != (here.machine, here.boot, here.namespace) or not owner.pid:
        return "unknown"
    return "alive" if owner.start and process_start(owner.pid) == owner.start else "dead"


def myself(run_id: str, reason: str) -> LockOwner:
    """Return what names this process as the holder of a lock of that run."""
    pid = os.getpid()
    return LockOwner(
        operator(),
        reason,
        run_id,
        machine=socket.gethostname(),
        boot=_read("/proc/sys/kernel/random/boot_id"),
        namespace=_link("/proc/self/ns/pid"),
        pid=pid,
        start=process_start(pid),
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def find_locks(cluster: Cluster) -> tuple[list[SeenLock], dict[str, str]]:
    """Return the locks on all hosts, and why a host could not be looked at."""

    def look(target: Target) -> SeenLock | None:
        host = cluster.connected(target)
        return look_at_lock(host, cluster.paths_of(target.name).work)

    results = fan_out(cluster.targets, look, deadline_s=_DEADLINE_S)
    locks = [result.value for result in results.values() if result.value is not None]
    return locks, {name: str(result.error) for name, result in results.items() if result.error is not None}


def release_left(cluster: Cluster, events: EventLog, run_id: str) -> None:
    """Give back the locks that a dead process of this run left: a stage that still holds takes none again."""
    locks, _ = find_locks(cluster)
    for lock in locks:
        if lock.owner.token == run_id and holder_state(lock.owner) != "alive":
            target = next(each for each in cluster.targets if each.name == lock.host)
            release(cluster.connected(target), cluster.paths_of(lock.host).work, run_id)
            events.append("lock_released", hosts=[lock.host], of=lock.owner, why="a dead process of this run left it")


def break_lock(cluster: Cluster, lock: SeenLock, why: str) -> None:
    """Break somebody's lock on purpose, and record who did it, and whose it was. Raises RecordError when it is gone.

    The record is `locks.jsonl` beside the cluster's runs, a chain like theirs: breaking belongs to no run.
    """
    chain = EventLog(cluster.root / "outputs" / cluster.params.cluster.name / "locks.jsonl", Redactor())
    target = next(each for each in cluster.targets if each.name == lock.host)
    host = cluster.connected(target)
    chain.append("lock_break", by=operator(), why=why, lock=lock_json(lock))
    release(host, cluster.paths_of(lock.host).work, lock.owner.token)
    chain.append("lock_broken", by=operator(), host=lock.host, token=lock.owner.token)


def lock_json(lock: SeenLock) -> dict[str, Any]:
    """Return a lock as `runbook unlock --json` prints it."""
    return {
        "host": lock.host,
        "owner": lock.owner.owner,
        "reason": lock.owner.reason,
        "token": lock.owner.token,
        "age_s": lock.age_s,
        "expires_in_s": lock.expires_in_s,
        "holder": holder_state(lock.owner),
    }
