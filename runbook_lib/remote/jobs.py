"""Detached jobs: long programs that survive a dropped connection, and that a second start attaches to.

A job's directory is <work>/jobs/<name>-<digest of argv>/ with
  argv.json   what runs
  pid         pid and start time (field 22 of /proc/PID/stat): together they name one process, a pid alone does not;
              and which start it was
  log         what it prints, both streams; log.old is that of the run before
  exit        its exit code, written atomically at its end
  lock        held only while a start looks and starts
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from runbook_lib.errors import CommandFailed, CommandTimeout, UsageError
from runbook_lib.model import Capture, Job, canonical_json
from runbook_lib.remote.run import run_script

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.remote.host import Host

_TIMEOUT_S = 30.0
_TAIL_BYTES = 64 << 10
_TAIL_LINES = 40
_DIGEST_DIGITS = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROGRESS = re.compile(r"^PROGRESS (\d+(?:\.\d+)?) (\d+(?:\.\d+)?) (\S+)\s*$", re.MULTILINE)

# state: sets `state` to running, ended or lost, from the files in the current directory. The exit file is looked
# at again after the process is found gone: it may have ended in between.
_STATE = r"""
alive() {
  [ -s pid ] || return 1
  read -r pid start x <pid
  { read -r s <"/proc/$pid/stat"; } 2>/dev/null || return 1
  s=${s##*) }; set -- $s
  [ "$1" != Z ] && [ "$1" != X ] && [ "${20}" = "$start" ]
}
look() {
  code=-
  if [ -f exit ]; then read -r code <exit; state=ended
  elif alive; then state=running
  elif [ -f exit ]; then read -r code <exit; state=ended
  else state=lost; fi
}
"""

# The runner traps TERM, so that it lives to write the exit code when its session is told to stop; a trapped (not
# ignored) signal is back to its default in the program itself.
_RUNNER = r"""
attempt=$1; shift
trap : TERM HUP INT
read -r s <"/proc/$$/stat"; s=${s##*) }
start=$(set -- $s; echo "${20}")
echo "$$ $start $attempt" >pid.new && mv -f pid.new pid || exit 1
"$@"
echo "$?" >exit.new && mv -f exit.new exit
"""

# flock, for it is let go when its holder dies. The job must not inherit the lock (9>&-).
_START = (
    r"""
umask 077
dir=$1 restart=$2 attempt=$3 json=$4 runner=$5; shift 5
mkdir -p "$dir" && cd "$dir" || exit 73
exec 9>>lock
flock -w 10 9 || { echo "another start of this job does not end" >&2; exit 75; }
"""
    + _STATE
    + r"""
look
if [ "$state" = running ]; then echo attached; exit 0; fi
if [ -n "$attempt" ] && [ -s pid ] && read -r x x begun x <pid && [ "$begun" = "$attempt" ]; then
  echo attached; exit 0
fi
if [ "$state" = ended ] && [ "$code" = 0 ] && [ "$restart" = 0 ]; then echo finished; exit 0; fi
rm -f exit pid
[ ! -f log ] || mv -f log log.old
printf '%s\n' "$json" >argv.json && : >log || exit 74
setsid sh -c "$runner" job "$attempt" "$@" </dev/null >>log 2>&1 9>&- &
n=0
while [ ! -s pid ] && [ ! -f exit ]; do
  n=$((n + 1)); [ "$n" -lt 500 ] || { echo "the job did not start within 5 s" >&2; exit 75; }
  sleep 0.01
done
echo started
"""
)

_STATUS = (
    r"""
cd "$1" 2>/dev/null || exit 66
"""
    + _STATE
    + r"""
look
printf '%s %s\n' "$state" "$code"
tail -c "$2" log 2>/dev/null
exit 0
"""
)

# Every process of the job's own session, also those in other groups; found by session number, never by name.
_STOP = (
    r"""
cd "$1" 2>/dev/null || exit 66
"""
    + _STATE
    + r"""
reap() {
  left=
  for f in /proc/[0-9]*/stat; do
    { read -r s <"$f"; } 2>/dev/null || continue
    one=${f#/proc/}; s=${s##*) }; set -- "$1" $s
    [ "$5" = "$pid" ] && [ "$2" != Z ] || continue
    left=1; kill "-$1" "${one%/stat}" 2>/dev/null
  done
}
look
[ "$state" = running ] || exit 0
reap TERM
n=0
while [ "$n" -lt "$2" ]; do sleep 0.1; reap 0; [ -n "$left" ] || break; n=$((n + 1)); done
if [ -n "$left" ]; then
  reap KILL
  sleep 0.1
  [ -f exit ] || { echo 137 >exit.new && mv -f exit.new exit; }
fi
"""
)


class JobState(StrEnum):
    """What is known of a job. `lost`: it is gone without an exit code (killed, or the host was rebooted)."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Progress:
    """The last line `PROGRESS <done> <total> <unit>` of the log."""

    done: float
    total: float
    unit: str


@dataclass(frozen=True, slots=True)
class JobHandle:
    """A job on a host. attached: it was running, or had ended well, before this start."""

    host: str
    name: str
    directory: str
    attached: bool = False


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands. Only DONE is success; RUNNING after a wait means that the wait's deadline passed."""

    state: JobState
    exit_code: int | None
    log_tail: str
    progress: Progress | None

    @property
    def ok(self) -> bool:
        """Whether the job ended with 0."""
        return self.state is JobState.DONE


def job_directory(job: Job, work_dir: str) -> str:
    """Return the job's directory on the host. Raises UsageError on a name that is no plain file name."""
    if not _NAME.fullmatch(job.name):
        raise UsageError(f"a job's name has letters, digits, dot, dash and underscore only, not {job.name!r}")
    digest = hashlib.sha256(canonical_json(list(job.argv)).encode()).hexdigest()[:_DIGEST_DIGITS]
    return f"{work_dir}/jobs/{job.name}-{digest}"


def start_job(host: Host, job: Job, work_dir: str, *, restart: bool = False, attempt: str = "") -> JobHandle:
    """Start the job, or attach to the same one: running, or ended with 0 (restart runs that again).

    A job that failed or was lost is started anew. attempt: a name for this start, hexadecimal; to a job that was begun
    under it, a start that is made again attaches, however that job stands by now. Raises CommandFailed when the host
    cannot start it.
    """
    directory = job_directory(job, work_dir)
    arguments = (directory, str(int(restart)), attempt, canonical_json(list(job.argv)), _RUNNER, *job.argv)
    result = run_script(host, "job-start", _START, arguments, _TIMEOUT_S, told=(directory, *job.argv)).as_text()
    _check(host, result, f"cannot start job {job.name}", directory)
    return JobHandle(host.target.name, job.name, directory, attached=result.stdout.strip() != "started")


def job_status(host: Host, handle: JobHandle) -> JobStatus:
    """Look at the job once. Raises CommandFailed when its directory is gone."""
    arguments = (handle.directory, str(_TAIL_BYTES))
    result = run_script(host, "job-status", _STATUS, arguments, _TIMEOUT_S, max_output=_TAIL_BYTES + 1024).as_text()
    _check(host, result, f"cannot look at job {handle.name}", handle.directory)
    header, _, log = result.stdout.partition("\n")
    word, code = header.split()
    exit_code = int(code) if code.isdigit() else None
    ended = JobState.DONE if exit_code == 0 else JobState.FAILED
    state = ended if word == "ended" else JobState(word)
    steps = _PROGRESS.findall(log)
    progress = Progress(float(steps[-1][0]), float(steps[-1][1]), steps[-1][2]) if steps else None
    return JobStatus(state, exit_code, "\n".join(log.splitlines()[-_TAIL_LINES:]), progress)


def wait_job(
    host: Host,
    handle: JobHandle,
    *,
    deadline_s: float,
    poll_s: float = 2.0,
    on_progress: Callable[[JobStatus], None] | None = None,
) -> JobStatus:
    """Look every poll_s until the job is over or deadline_s has passed, and return how it then stands.

    The job is left alone at the deadline: its state is then RUNNING, and the caller decides. on_progress is called
    with each look. A lost connection raises HostUnreachable; the job goes on, and start_job attaches to it again.
    """
    end = time.monotonic() + deadline_s
    while True:
        status = job_status(host, handle)
        if on_progress is not None:
            on_progress(status)
        left_s = end - time.monotonic()
        if status.state is not JobState.RUNNING or left_s <= 0:
            return status
        time.sleep(min(poll_s, left_s))


def stop_job(host: Host, handle: JobHandle, *, grace_s: float = 5.0) -> JobStatus:
    """Stop the job's whole session: TERM, and KILL after grace_s. Returns how it then stands.

    Nothing is signalled unless pid and start time are those recorded: a pid may belong to somebody else by now.
    """
    arguments = (handle.directory, str(max(1, round(grace_s * 10))))
    result = run_script(host, "job-stop", _STOP, arguments, grace_s + _TIMEOUT_S).as_text()
    _check(host, result, f"cannot stop job {handle.name}", handle.directory)
    return job_status(host, handle)


def _check(host: Host, result: Capture, what: str, directory: str) -> None:
    if result.ok:
        return
    next_command = f"{host.target.ssh_command} ls -l {directory}"
    if result.timed_out:
        raise CommandTimeout(host.target.name, f"{what}: no answer in time", next_command=next_command)
    said = result.stderr.strip() or f"{directory} cannot be entered"
    raise CommandFailed(host.target.name, f"{what}: {said}", next_command=next_command)
