"""The apply lock: keeps two operators from changing one host at the same time. Reading takes no lock."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import CommandFailed, LockHeld, RecordError
from runbook_lib.remote.run import run_script

if TYPE_CHECKING:
    from runbook_lib.remote.host import Host

_TIMEOUT_S = 15.0
_NO_WORK, _HELD = 66, 75

# All times are the host's own: the clocks of two operators need not agree.
_ACQUIRE = r"""
work=$1 ttl=$2 token=$3 rest=$4 lock=$1/lock
[ -d "$work" ] || { echo "the work directory $work does not exist" >&2; exit 66; }
umask 077
now=$(date +%s)
write() {
  printf '{"taken_at":%s,"expires_at":%s,%s\n' "$now" "$((now + ttl))" "$rest" >"$lock/new" &&
  mv -f "$lock/new" "$lock/info.json"
}
if said=$(mkdir "$lock" 2>&1); then write || { rm -rf "$lock"; exit 74; }; exit 0; fi
[ -d "$lock" ] || { echo "$said" >&2; exit 73; }
case $(cat "$lock/info.json" 2>/dev/null) in *"\"token\":\"$token\""*) write; exit;; esac
printf '%s %s\n' "$now" "$(stat -c %Y "$lock")"
cat "$lock/info.json" 2>/dev/null
exit 75
"""

# The lock is moved away before it is removed, so that nobody ever sees half of it.
_RELEASE = r"""
lock=$1/lock token=$2
[ -d "$lock" ] || { echo "it is gone" >&2; exit 66; }
case $(cat "$lock/info.json" 2>/dev/null) in
  *"\"token\":\"$token\""*) mv -T "$lock" "$lock.$token" && rm -rf "$lock.$token";;
  *) echo "somebody else holds it now" >&2; exit 75;;
esac
"""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that we hold on one host. Whoever knows the token may take it again and release it."""

    host: str
    work_dir: str
    token: str


def acquire(  # noqa: PLR0913 - four of them are the words on the lock
    host: Host, work_dir: str, *, owner: str, reason: str, ttl_s: int, token: str = ""
) -> Lock:
    """Take the host's apply lock, for ttl_s seconds at most by promise: an expired lock is not broken by itself.

    token: that of a lock that this run already holds, to take it again (a resumed run) and move its expiry.
    Raises LockHeld (who, why, since when, and what to do), CommandFailed when work_dir is missing.
    """
    token = token or secrets.token_hex(16)
    body = json.dumps({"owner": owner, "reason": reason, "token": token}, separators=(",", ":"))
    arguments = (work_dir, str(int(ttl_s)), token, body[1:])
    result = run_script(host, "lock", _ACQUIRE, arguments, _TIMEOUT_S).as_text()
    if result.exit_code == _HELD:
        raise _held(host, work_dir, result.stdout)
    if not result.ok:
        said = result.stderr.strip() or ("no answer in time" if result.timed_out else "it printed nothing")
        raise CommandFailed(
            host.target.name,
            f"cannot take the lock in {work_dir}: {said}",
            next_command=f"{host.target.ssh_command} ls -ld {work_dir}",
        )
    return Lock(host.target.name, work_dir, token)


def release(host: Host, lock: Lock) -> None:
    """Give the lock back. Raises RecordError when it is no longer ours: somebody broke it while we worked."""
    result = run_script(host, "unlock", _RELEASE, (lock.work_dir, lock.token), _TIMEOUT_S).as_text()
    if not result.ok:
        raise RecordError(
            f"{host.target.name}: the lock in {lock.work_dir} could not be released: "
            f"{result.stderr.strip() or 'no answer'}. Changes of two operators may have mixed",
            next_command="runbook check PARAMS",
        )


def _held(host: Host, work_dir: str, printed: str) -> LockHeld:
    times, _, text = printed.partition("\n")
    now, made = (int(word) for word in times.split())
    info = _info(text)
    age_s = now - int(info.get("taken_at", made))
    who = info.get("owner", "somebody unknown (the lock has no readable owner)")
    why = info.get("reason", "unknown")
    expires_at = info.get("expires_at")
    break_it = f"{host.target.ssh_command} rm -r {work_dir}/lock"
    message = f"{host.target.name}: {who} is applying: {why}; taken {age_s} s ago"
    if isinstance(expires_at, int) and expires_at <= now:
        return LockHeld(
            f"{message}, EXPIRED {now - expires_at} s ago. When {who} confirms that nothing runs, break it",
            next_command=break_it,
        )
    if isinstance(expires_at, int):
        return LockHeld(f"{message}, holds for {expires_at - now} s more", next_command="runbook status")
    return LockHeld(f"{message}, without a readable expiry. When nobody is applying, break it", next_command=break_it)


def _info(text: str) -> dict[str, Any]:
    try:
        info = json.loads(text)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}
