"""Put text files in place on a host, and read them."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from runbook_lib.errors import CommandFailed, CommandTimeout, UsageError
from runbook_lib.remote.run import decode, run, run_script

if TYPE_CHECKING:
    from runbook_lib.model import Upload
    from runbook_lib.remote.run import RawCapture, Session

_UPLOAD_TIMEOUT_S = 120.0
_READ_TIMEOUT_S = 30.0
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")

# A link is followed, so that it stays one. The temp dir stands beside the target: a move within one file system is
# atomic. Owner and mode are set before the move, so nobody ever sees the file without them. A TERM comes twice, as in
# a probe.
_UPLOAD = r"""
path=$(readlink -m -- "$1") || exit 1
mode=$2 owner=$3 want=$4 dir=${path%/*}
dir=${dir:-/}
[ -d "$dir" ] || { echo "the directory $dir does not exist" >&2; exit 66; }
[ ! -d "$path" ] || { echo "$path is a directory" >&2; exit 66; }
umask 077
tmp=$dir/.runbook.$$
trap 'rm -rf "$tmp"' EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM
mkdir "$tmp" || exit 73
cat >"$tmp/new" || exit 74
have=$(sha256sum <"$tmp/new") || exit 74
[ "${have%% *}" = "$want" ] || { echo "the content arrived with another sha256: ${have%% *}" >&2; exit 74; }
[ -z "$owner" ] || chown -- "$owner" "$tmp/new" || exit 77
chmod -- "$mode" "$tmp/new" || exit 77
sync "$tmp/new" 2>/dev/null
trap "" HUP INT TERM
mv -fT -- "$tmp/new" "$path"
"""


def upload(session: Session, item: Upload) -> None:
    """Write the file atomically with its owner and mode; its directory must exist.

    Raises UsageError on a relative path or a malformed owner, CommandFailed when the host cannot do it (nothing is
    changed then), CommandTimeout, HostUnreachable.
    """
    content = item.content.encode()
    if not item.path.startswith("/") or item.path.endswith("/"):
        raise UsageError(f"an upload needs the absolute path of a file, not {item.path!r}")
    if item.owner and not _OWNER.fullmatch(item.owner):
        raise UsageError(f"an owner is spelled user:group, not {item.owner!r}")
    digest = hashlib.sha256(content).hexdigest()
    arguments = (item.path, f"{item.mode:04o}", item.owner, digest)
    result = run_script(session, "upload", _UPLOAD, arguments, _UPLOAD_TIMEOUT_S, stdin=content)
    _check(session, result, f"cannot write {item.path}", f"ls -ld {item.path.rpartition('/')[0] or '/'}")


def read_file(session: Session, path: str, *, max_bytes: int = 1 << 20) -> bytes:
    """Return a file's bytes. Raises CommandFailed when it cannot be read or is larger than max_bytes."""
    result = run(
        session,
        ("head", "-c", str(max_bytes + 1), "--", path),
        _READ_TIMEOUT_S,
        max_output=max_bytes + 1,
    )
    _check(session, result, f"cannot read {path}", f"ls -l {path}")
    if len(result.stdout) > max_bytes:
        raise CommandFailed(
            session.target.name,
            f"{path} is larger than the {max_bytes} bytes that are expected of it",
            next_command=f"{session.target.ssh_command} ls -l {path}",
        )
    return result.stdout


def _check(session: Session, result: RawCapture, what: str, look: str) -> None:
    if result.exit_code == 0:
        return
    next_command = f"{session.target.ssh_command} {look}"
    if result.timed_out:
        raise CommandTimeout(session.target.name, f"{what}: no end in time", next_command=next_command)
    said = decode(result.stderr).strip() or f"exit code {result.exit_code}"
    raise CommandFailed(session.target.name, f"{what}: {said}", next_command=next_command)
