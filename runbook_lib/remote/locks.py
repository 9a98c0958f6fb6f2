"""The apply lock on a host: keeps two operators from changing it at the same time. Reading takes no lock.

Taking it is one section at the head of the probe that precedes an apply, so it costs no round trip, and the facts
are read under it. It is a directory <work>/lock with info.json; whoever knows its token may take it again and
release it. It is never broken by itself, also not when it has expired.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import CommandFailed, RecordError
from runbook_lib.model import Section
from runbook_lib.remote.run import run_script

if TYPE_CHECKING:
    from runbook_lib.model import Capture
    from runbook_lib.remote.host import Host

LOCK_KEY = "runbook.lock"
#: The token of a lock whose own cannot be read: half made, or of another program.
UNREADABLE = "unreadable"
_TIMEOUT_S = 15.0
_NO_WORK, _HELD = 66, 75

# All times are the host's own: the clocks of two operators need not agree. The lock is made aside, whole, and moved in
# place, so that a power loss never leaves one without an owner; a directory is moved over an empty one at most. Under
# the lock nobody else uploads, so temp dirs of uploads that were cut off can go.
_ACQUIRE = r"""
work=$1 ttl=$2 token=$3 rest=$4 lock=$1/lock mine=$1/.runbook.lock.$$
[ -d "$work" ] || { echo "the work directory $work does not exist" >&2; exit 66; }
umask 077
now=$(date +%s)
write() {
  printf '{"taken_at":%s,"expires_at":%s,%s\n' "$now" "$((now + ttl))" "$rest" >"$1/new" &&
  { sync "$1/new" 2>/dev/null; mv -f "$1/new" "$1/info.json"; }
}
clean() { rm -rf "$work"/.runbook.?* "$work"/*/.runbook.?*; }
if said=$({ mkdir "$mine" && write "$mine" && mv -T "$mine" "$lock"; } 2>&1); then clean; exit 0; fi
rm -rf "$mine"
[ -d "$lock" ] || { echo "$said" >&2; exit 73; } # else somebody was first, and has cleaned up ours as well
old=$(cat "$lock/info.json" 2>/dev/null)
printf '%s %s\n%s\n' "$now" "$(stat -c %Y "$lock")" "$old"
case $old in *"\"token\":\"$token\""*) write "$lock" && clean && exit 0; exit 74;; esac
exit 75
"""

# The lock is moved away before it is removed, so that nobody ever sees half of it.
_RELEASE = r"""
lock=$1/lock token=$2
[ -d "$lock" ] || { echo "it is gone" >&2; exit 66; }
old=$(cat "$lock/info.json" 2>/dev/null)
case $old in
  *"\"token\":\"$token\""*) ;;
  *"\"token\":\""*) echo "somebody else holds it now" >&2; exit 75;;
  *) [ "$token" = unreadable ] || { echo "somebody else holds it now" >&2; exit 75; };;
esac
gone=$1/.runbook.gone.$$
mv -T "$lock" "$gone" && rm -rf "$gone" && printf '%s\n' "$old"
"""

_LOOK = r"""
lock=$1/lock
[ -d "$lock" ] || exit 66
printf '%s %s\n' "$(date +%s)" "$(stat -c %Y "$lock")"
cat "$lock/info.json" 2>/dev/null
exit 0
"""


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who holds a lock: the words for people, and what tells whether its process still lives.

    token: the id of the run; machine, boot, namespace, pid, start: name one process (see runs.locks)
    """

    owner: str
    reason: str
    token: str
    machine: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class SeenLock:
    """A lock as it lies on a host. `expires_in_s` is None when its expiry cannot be read."""

    host: str
    owner: LockOwner
    age_s: int
    expires_in_s: int | None


@dataclass(frozen=True, slots=True)
class LockAnswer:
    """What an attempt to take the lock gave.

    taken: we hold it; before: the lock that lies there and is not ours, or that we took again; missing: the host has
    no work directory, so there is nothing to lock yet.
    """

    taken: bool = False
    missing: bool = False
    before: SeenLock | None = field(default=None)


def lock_section(work_dir: str, owner: LockOwner, ttl_s: int) -> Section:
    """Return the probe section that takes the lock, or takes it again when it has our token, for ttl_s seconds."""
    body = json.dumps(asdict(owner), separators=(",", ":"))
    argv = ("sh", "-c", _ACQUIRE, "runbook:lock", work_dir, str(int(ttl_s)), owner.token, body[1:])
    return Section(LOCK_KEY, argv, _TIMEOUT_S)


def lock_answer(host: str, capture: Capture) -> LockAnswer:
    """Read what that section printed. Raises CommandFailed when it cannot be told whether we hold the lock."""
    if capture.exit_code == _NO_WORK:
        return LockAnswer(missing=True)
    if capture.exit_code in {0, _HELD}:
        before = _seen(host, capture.stdout) if capture.stdout.strip() else None
        return LockAnswer(taken=capture.ok, before=before)
    said = capture.stderr.strip() or ("no answer in time" if capture.timed_out else "it printed nothing")
    raise CommandFailed(host, f"cannot take the apply lock: {said}")


def look_at_lock(host: Host, work_dir: str) -> SeenLock | None:
    """Return the lock that lies on a host, None when there is none."""
    result = run_script(host, "look-at-lock", _LOOK, (work_dir,), _TIMEOUT_S).as_text()
    return _seen(host.target.name, result.stdout) if result.ok else None


def release(host: Host, work_dir: str, token: str) -> None:
    """Give the lock back, or break the one with this token. Raises RecordError when it is not there any more."""
    result = run_script(host, "unlock", _RELEASE, (work_dir, token), _TIMEOUT_S).as_text()
    if not result.ok:
        raise RecordError(
            f"{host.target.name}: the lock in {work_dir} could not be released: {result.stderr.strip() or 'no answer'}"
        )


def _seen(host: str, printed: str) -> SeenLock:
    times, _, text = printed.partition("\n")
    now, made = (int(word) for word in times.split())
    info = _info(text)
    expires_at = info.get("expires_at")
    taken_at = info.get("taken_at")
    owner = LockOwner(
        owner=_word(info, "owner") or "somebody unknown (the lock has no readable owner)",
        reason=_word(info, "reason") or "unknown",
        token=_word(info, "token") or UNREADABLE,
        machine=_word(info, "machine"),
        boot=_word(info, "boot"),
        namespace=_word(info, "namespace"),
        pid=_number(info, "pid"),
        start=_number(info, "start"),
    )
    age_s = now - (taken_at if isinstance(taken_at, int) else made)
    return SeenLock(host, owner, age_s, expires_at - now if isinstance(expires_at, int) else None)


def _word(info: dict[str, Any], name: str) -> str:
    value = info.get(name)
    return value if isinstance(value, str) else ""


def _number(info: dict[str, Any], name: str) -> int:
    value = info.get(name)
    return value if isinstance(value, int) else 0


def _info(text: str) -> dict[str, Any]:
    try:
        info = json.loads(text)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}
