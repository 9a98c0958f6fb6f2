"""The shell text that every remote command runs in.

What it adds to a bare exec: a start mark on both streams (so that what a login shell prints first is not taken for
output, and a refused `sudo` is told from a failed command), an end mark with the exit code (so that a child that
keeps the output open is not waited for), an own session for the command, a timeout that kills the whole session on
the host, and a lifeline: our side keeps stdin open, and when it breaks the command is killed.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.remote.target import Target

#: Linux takes at most 128 KiB in one argument, and sshd hands our text to the login shell as one.
MAX_COMMAND_BYTES = 120_000

#: Seconds between TERM and KILL.
KILL_AFTER_S = 2

#: A non-login shell has none of these in its PATH; hccn_tool and npu-smi live there.
EXTRA_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/Ascend/driver/tools"

ENVIRONMENT = f'LC_ALL=C; PATH="$PATH:{EXTRA_PATH}"; export LC_ALL PATH'

# Exit codes 124 and 137 are those of `timeout`; 143 is that of a command that got our TERM. Then whatever is left
# of the session is killed: `timeout` itself leaves grandchildren that ignore TERM, or moved to another group.
# Stdin goes through an unlinked file: a command never starts on half of its input. Whoever hangs up while the file is
# made is heard a moment later, as the end of the input.
_WRAPPER = (
    r"""
mark=$1 limit=$2 grace=$3 size=$4; shift 4
printf "%s\n" "$mark"; printf "%s\n" "$mark" >&2
"""
    + ENVIRONMENT
    + r"""
finish() { printf "%s=end=%s\n" "$mark" "$1"; printf "%s=end=%s\n" "$mark" "$1" >&5; exit "$1"; }
exec 3<&0 </dev/null 5>&2
if [ "$size" -gt 0 ]; then
  trap "" HUP INT TERM
  f=$(mktemp /dev/shm/.runbook.XXXXXXXX 2>/dev/null) || f=$(mktemp) || finish 125
  trap 'rm -f "$f"; exit 129' HUP INT TERM
  if head -c "$size" <&3 >"$f" && [ "$(wc -c <"$f")" -eq "$size" ]; then exec 4<"$f"; rm -f "$f"
  else rm -f "$f"; echo "runbook: the input did not arrive whole" >&2; finish 125; fi
  trap - HUP INT TERM
else exec 4</dev/null; fi
reap() {
  for f in /proc/[0-9]*/stat; do
    { read -r s <"$f"; } 2>/dev/null || continue
    n=${f#/proc/}; s=${s##*) }; set -- "$1" $s
    [ "$5" = "$p" ] && kill "-$1" "${n%/stat}"
  done
}
setsid timeout -k "$grace" "$limit" "$@" <&4 3<&- 4<&- 5>&- &
p=$!
( trap "" TERM HUP; read -r x <&3; trap "" USR1; reap TERM; sleep 1; reap KILL ) >/dev/null 2>&1 4<&- 5>&- &
w=$!
{ wait "$p"; } 2>/dev/null; rc=$?
exec 2>/dev/null
kill -USR1 "$w"
case $rc in 124|137|143) reap KILL;; esac
finish "$rc"
"""
)


def wrap(target: Target, argv: Sequence[str], *, mark: str, timeout_s: float, stdin_size: int) -> str:
    """Return the one string to exec on the host. Every word of argv is quoted.

    Raises ValueError when there is no command, or when the command is too long for one exec.
    """
    if not argv:
        raise ValueError("a command needs at least one word")
    become = ["sudo", "-n", "--"] if target.become == "sudo" else []
    settings = [mark, f"{max(timeout_s, 0.001):.3f}", str(KILL_AFTER_S), str(stdin_size)]
    words = [*become, "sh", "-c", _WRAPPER, "runbook", *settings, *argv]
    command = "exec " + shlex.join(words)
    if "\0" in command:
        raise ValueError("a command cannot hold a NUL character")
    if len(command.encode()) > MAX_COMMAND_BYTES:
        raise ValueError(f"the command is longer than {MAX_COMMAND_BYTES} bytes; upload a file instead")
    return command
