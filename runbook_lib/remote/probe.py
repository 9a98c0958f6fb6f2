"""Run the read-only commands of one host in one round trip.

The script goes to `sh` on stdin. Each section has its own timeout and group, writes to its own files of a private temp
dir (a command that outlives its section writes nothing into the next), and is sent as `header, stdout, header, stderr,
header` with a random nonce in each header, so that binary output, a missing last newline or frame-like text cannot
shift a frame. A tool that hangs, even in the kernel, loses its own section only.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.model import Capture
from runbook_lib.remote.run import TIMEOUT_CODES, RawCapture, decode, execute, output_digest
from runbook_lib.remote.wrapper import ENVIRONMENT

if TYPE_CHECKING:
    from runbook_lib.model import ProbeScript, Section
    from runbook_lib.remote.run import Session


#: Each stream of a section is cut at this many bytes.
MAX_SECTION_OUTPUT = 1 << 20

_KILL_AFTER_S = 1
#: /proc/uptime counts hundredths of a second.
_CLOCK_STEP_S = 0.02

# /dev/shm first: a full disk must not turn into empty output. PIPE is trapped because our side may be gone. The name
# of the temp dir is known before it is made, and what cleans up cannot be interrupted: `timeout` passes a TERM on to
# all of its group, so it comes twice, and to the `rm` as well.
_HEAD = (
    ENVIRONMENT
    + r"""
umask 077
p= d=
clean() {
  [ -z "$p" ] || { kill -s KILL -- "-$p" "$p"; wait "$p"; } 2>/dev/null
  [ -z "$d" ] || rm -rf "$d"
}
trap clean EXIT
trap 'trap "" HUP INT TERM PIPE; exit 1' HUP INT TERM PIPE
for t in /dev/shm "${TMPDIR:-/tmp}" /run /var/tmp; do
  d=$t/.runbook.$D
  mkdir "$d" 2>/dev/null || { rmdir "$d" 2>/dev/null; d=; continue; }
  { echo probe >"$d/o"; } 2>/dev/null && [ -s "$d/o" ] && break
  rm -rf "$d"; d=
done
[ -n "$d" ] || { echo "runbook: no temp dir can be written on this host" >&2; exit 73; }
hung=
section() {
  i=$1 t=$2 u=$3 w=$4 why=; shift 4
  case " $hung " in *" $u "*) why="an earlier command of $u hung";; esac
  case " - $hung " in *" $w "*) ;; *) why="no command of $w hung";; esac
  if [ -n "$why" ]; then
    printf '%s begin %s -1 0 0\n%s middle %s\n' "$N" "$i" "$N" "$i" || exit 1
    printf 'not run: %s\n%s end %s\n' "$why" "$N" "$i"
    return
  fi
  read -r a x </proc/uptime
  timeout -k 1 "$t" "$@" >"$d/o$i" 2>"$d/e$i" </dev/null &
  p=$!
  { wait "$p"; } 2>/dev/null; r=$?
  read -r b x </proc/uptime
  case $r in 124|137) kill -s KILL -- "-$p" 2>/dev/null; [ "$u" = - ] || hung="$hung $u";; esac
  p=
  printf '%s begin %s %s %s %s\n' "$N" "$i" "$r" "$a" "$b" || exit 1
  [ ! -s "$d/o$i" ] || head -c "$M" "$d/o$i" || exit 1
  printf '%s middle %s\n' "$N" "$i"
  [ ! -s "$d/e$i" ] || head -c "$M" "$d/e$i" || exit 1
  printf '%s end %s\n' "$N" "$i"
  true >"$d/o$i" 2>"$d/e$i"
}
"""
)


@dataclass(frozen=True, slots=True)
class _Frame:
    stdout: bytes
    stderr: bytes
    code: int
    duration_s: float

    @property
    def not_run(self) -> bool:
        return self.code < 0


def probe(session: Session, script: ProbeScript) -> dict[str, Capture]:
    """Run all sections, one after the other, and return what each one printed.

    A section that overran its timeout has timed_out=True and no exit code; what was not run (see Section) has no exit
    code either, and the observer is not told of it. When the connection breaks, the sections that already came are
    kept and the others have no exit code, with the reason in stderr. Raises ValueError on a key that occurs twice or
    an `if_hung` that is no unit of an earlier section, HostUnreachable when there is no connection at all.
    """
    sections = script.sections
    if len({section.key for section in sections}) != len(sections):
        raise ValueError("two sections of one probe have the same key")
    units = {""}
    for section in sections:
        if section.if_hung not in units:
            raise ValueError("a section stands in for a unit that none before it has")
        units.add(section.unit)
    if not sections:
        return {}
    nonce = secrets.token_hex(16)
    limit_s = sum(section.timeout_s + _KILL_AFTER_S + 1 for section in sections) + 5
    raw = execute(
        session,
        ("sh",),
        limit_s,
        stdin=compile_script(sections, nonce).encode(),
        max_output=(2 * MAX_SECTION_OUTPUT + 4096) * len(sections),
        keep_partial=True,
    )
    result = {}
    position = 0
    for index, section in enumerate(sections):
        frame, position = _find(raw.stdout, nonce, index, position)
        result[section.key] = _capture(section, frame, raw)
        if session.observer and not (frame and frame.not_run):
            session.observer(
                session.target.name,
                section.argv,
                result[section.key].exit_code,
                frame.duration_s if frame else 0.0,
                _digest(frame) if frame else "",
            )
    return result


def compile_script(sections: tuple[Section, ...], nonce: str) -> str:
    """Return the POSIX sh script of a probe."""
    calls = [
        f"section {index} {max(each.timeout_s, 0.001):.3f} "
        + shlex.join((each.unit or "-", each.if_hung or "-", *each.argv))
        for index, each in enumerate(sections)
    ]
    # not the nonce itself: others on the host can read the name
    name = hashlib.sha256(nonce.encode()).hexdigest()[:16]
    settings = f"N={nonce} D={name} M={MAX_SECTION_OUTPUT + 1}"
    return "\n".join([settings, _HEAD.strip(), *calls, 'trap "" HUP INT TERM PIPE', ""])


def _find(data: bytes, nonce: str, index: int, start: int) -> tuple[_Frame | None, int]:
    """Return a section's frame, None unless all of it came, and where the next one may begin."""
    begin, middle, end = (f"{nonce} {word} {index}".encode() for word in ("begin", "middle", "end"))
    at = data.find(begin + b" ", start)
    body = data.find(b"\n", at) + 1
    half = data.find(middle + b"\n", body)
    stop = data.find(end + b"\n", half)
    if min(at, half, stop) < 0 or body == 0:
        return None, start
    code, start_s, end_s = data[at + len(begin) : body].split()
    frame = _Frame(
        stdout=data[body:half],
        stderr=data[half + len(middle) + 1 : stop],
        code=int(code),
        duration_s=max(0.0, float(end_s) - float(start_s)),
    )
    return frame, stop + len(end) + 1


def _capture(section: Section, frame: _Frame | None, raw: RawCapture) -> Capture:
    if frame is None:
        why = raw.lost or decode(raw.stderr).strip() or "the probe ended before this command"
        return Capture(stderr=f"runbook: no result: {why}", lost=bool(raw.lost))
    if frame.not_run:
        return Capture(stderr=f"runbook: {decode(frame.stderr)}")
    timed_out = frame.code in TIMEOUT_CODES and frame.duration_s >= section.timeout_s - _CLOCK_STEP_S
    return Capture(
        stdout=decode(frame.stdout[:MAX_SECTION_OUTPUT]),
        stderr=decode(frame.stderr[:MAX_SECTION_OUTPUT]) + _cut_notes(frame),
        exit_code=None if timed_out else frame.code,
        timed_out=timed_out,
    )


def _cut_notes(frame: _Frame) -> str:
    cut = [
        name for name, data in (("stdout", frame.stdout), ("stderr", frame.stderr)) if len(data) > MAX_SECTION_OUTPUT
    ]
    return "".join(f"[runbook: {name} cut after {MAX_SECTION_OUTPUT} bytes]\n" for name in cut)


def _digest(frame: _Frame) -> str:
    return output_digest(hashlib.sha256(frame.stdout).hexdigest(), hashlib.sha256(frame.stderr).hexdigest())
