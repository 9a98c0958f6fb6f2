"""Detached jobs: they outlive us, are found again, and are stopped by pid and start time only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import CommandFailed, UsageError
from runbook_lib.model import Job
from runbook_lib.remote import (
    Host,
    JobHandle,
    JobState,
    JobStatus,
    Target,
    job_directory,
    job_status,
    start_job,
    stop_job,
    wait_job,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def shell(text: str, name: str = "job") -> Job:
    """Return a job that runs shell text."""
    return Job(name, ("sh", "-c", text), deadline_s=10)


def finish(host: Host, handle: JobHandle) -> JobStatus:
    """Wait for the end."""
    return wait_job(host, handle, deadline_s=8, poll_s=0.05)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """Return a work directory whose jobs are killed afterwards."""
    folder = tmp_path / "work dir"
    folder.mkdir()
    yield folder
    for file in folder.glob("jobs/*/pid"):
        try:
            os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_job_runs_to_its_end(host: Host, work: Path) -> None:
    """Exit code, log of both streams, what ran, and nothing that others can read."""
    handle = start_job(host, shell("echo out; echo err >&2"), str(work))
    assert not handle.attached
    status = finish(host, handle)
    assert (status.state, status.exit_code, status.ok) == (JobState.DONE, 0, True)
    assert sorted(status.log_tail.split()) == ["err", "out"]
    folder = Path(handle.directory)
    assert json.loads((folder / "argv.json").read_text()) == ["sh", "-c", "echo out; echo err >&2"]
    assert folder.stat().st_mode & 0o077 == 0


def test_failed_job(host: Host, work: Path) -> None:
    """It is told from success, and a second start runs it anew, with the old log kept."""
    job = shell("echo attempt; exit 3")
    first = start_job(host, job, str(work))
    status = finish(host, first)
    assert (status.state, status.exit_code, status.ok) == (JobState.FAILED, 3, False)
    again = start_job(host, job, str(work))
    assert not again.attached
    assert finish(host, again).log_tail == "attempt"
    assert (Path(again.directory) / "log.old").read_text() == "attempt\n"


def test_missing_program(host: Host, work: Path) -> None:
    """It is a failed job whose log says why."""
    status = finish(host, start_job(host, Job("x", ("no-such-program",), 5), str(work)))
    assert (status.state, status.exit_code) == (JobState.FAILED, 127)
    assert "no-such-program" in status.log_tail


def test_job_survives_a_dropped_connection_and_is_found_again(target: Target, work: Path) -> None:
    """A second start of the same words attaches, of other words does not."""
    job = shell(f"while [ ! -e '{work}/go' ]; do sleep 0.02; done; echo end")
    with Host(target) as host:
        first = start_job(host, job, str(work))
        host.transport.sock.shutdown(2)
    with Host(target) as host:
        assert job_status(host, first).state is JobState.RUNNING
        second = start_job(host, job, str(work))
        assert second.attached
        assert second.directory == first.directory
        other = start_job(host, shell("true"), str(work))
        assert not other.attached
        (work / "go").touch()
        assert finish(host, second).log_tail == "end"


def test_finished_job_is_run_again_only_when_asked(host: Host, work: Path) -> None:
    """A re-run of a stage does not repeat a download that is done."""
    job = shell(f"echo run >>'{work}/runs'")
    finish(host, start_job(host, job, str(work)))
    second = start_job(host, job, str(work))
    assert second.attached
    assert finish(host, second).ok
    assert (work / "runs").read_text() == "run\n"
    assert not start_job(host, job, str(work), restart=True).attached
    assert finish(host, second).ok
    assert (work / "runs").read_text() == "run\nrun\n"


def test_two_starts_at_once_run_it_once(target: Target, work: Path) -> None:
    """Two operators, or two cells, press start at the same moment."""
    from runbook_lib.remote import fan_out  # noqa: PLC0415 - only this test needs it

    job = shell(f"echo run >>'{work}/runs'; sleep 0.5")

    class Twin:
        def __init__(self, name: str) -> None:
            self.name = name

    def start(_: Twin) -> JobHandle:
        with Host(target) as host:
            return start_job(host, job, str(work))

    results = fan_out([Twin(str(n)) for n in range(4)], start, deadline_s=10)
    handles = [result.unwrap() for result in results.values()]
    assert sorted(handle.attached for handle in handles) == [False, True, True, True]
    with Host(target) as host:
        assert finish(host, handles[0]).ok
    assert (work / "runs").read_text() == "run\n"


def test_progress(host: Host, work: Path) -> None:
    """The last progress line counts; each look is reported."""
    text = f"echo PROGRESS 1 4 GiB; while [ ! -e '{work}/go' ]; do sleep 0.02; done; echo PROGRESS 4 4 GiB"
    handle = start_job(host, shell(text), str(work))
    seen: list[float] = []

    def look(status: JobStatus) -> None:
        if status.progress:
            seen.append(status.progress.done)
            assert (status.progress.total, status.progress.unit) == (4, "GiB")
        (work / "go").touch()

    status = wait_job(host, handle, deadline_s=8, poll_s=0.05, on_progress=look)
    assert status.ok
    assert seen[-1] == 4


def test_deadline_leaves_the_job_running(host: Host, work: Path) -> None:
    """Running is not done, and the job is not harmed by our impatience."""
    handle = start_job(host, shell("sleep 60"), str(work))
    status = wait_job(host, handle, deadline_s=0.2, poll_s=0.05)
    assert (status.state, status.ok) == (JobState.RUNNING, False)
    assert job_status(host, handle).state is JobState.RUNNING


def test_lost_job(host: Host, work: Path, eventually: Callable[[object], bool]) -> None:
    """A killed runner leaves no exit code; a start runs the job anew."""
    job = shell("sleep 60")
    handle = start_job(host, job, str(work))
    pid = int((Path(handle.directory) / "pid").read_text().split()[0])
    os.killpg(pid, signal.SIGKILL)
    assert eventually(lambda: job_status(host, handle).state is JobState.LOST)
    assert job_status(host, handle).exit_code is None
    assert not start_job(host, job, str(work)).attached


def test_pid_of_somebody_else_is_not_ours(host: Host, work: Path) -> None:
    """A pid that was given to another process: the job is lost, and stop signals nobody."""
    handle = start_job(host, shell("sleep 60"), str(work))
    file = Path(handle.directory) / "pid"
    os.killpg(int(file.read_text().split()[0]), signal.SIGKILL)
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        file.write_text(f"{innocent.pid} 12345\n")
        assert job_status(host, handle).state is JobState.LOST
        assert stop_job(host, handle, grace_s=0.2).state is JobState.LOST
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
        file.unlink()


def test_zombie_is_not_alive(host: Host, work: Path) -> None:
    """Where pid 1 does not reap, as in a container, a dead job keeps its pid."""
    handle = start_job(host, shell("true"), str(work))
    finish(host, handle)
    folder = Path(handle.directory)
    child = subprocess.Popen(["true"])
    stat = Path(f"/proc/{child.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    start = stat.read_text().rpartition(")")[2].split()[19]
    (folder / "exit").unlink()
    (folder / "pid").write_text(f"{child.pid} {start}\n")
    assert job_status(host, handle).state is JobState.LOST
    child.wait()
    (folder / "pid").unlink()


def test_stop_asks_first(host: Host, work: Path) -> None:
    """TERM lets a program clean up; its exit code is recorded."""
    text = f"trap 'touch \"{work}/cleaned\"; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    handle = start_job(host, shell(text), str(work))
    while job_status(host, handle).log_tail != "up":
        time.sleep(0.02)
    status = stop_job(host, handle)
    assert (status.state, status.exit_code) == (JobState.FAILED, 9)
    assert (work / "cleaned").exists()


def test_stop_kills_what_does_not_listen(
    host: Host, work: Path, gone: Callable[[Path], bool], eventually: Callable[[object], bool]
) -> None:
    """The whole session goes, also a child in a group of its own."""
    child = f"trap '' TERM; echo $$ >'{work}/child'; sleep 60"
    handle = start_job(host, Job("j", ("timeout", "60", "sh", "-c", child), 10), str(work))
    assert eventually(lambda: (work / "child").exists() and (work / "child").read_text())
    status = stop_job(host, handle, grace_s=0.3)
    assert status.state is JobState.FAILED
    assert eventually(lambda: gone(work / "child"))
    assert gone(Path(handle.directory) / "pid")


def test_bad_names_and_gone_directories(host: Host, work: Path) -> None:
    """A name is a file name; a job whose directory is gone has no state to guess."""
    for name in ("", "../x", "a b", "-x"):
        with pytest.raises(UsageError):
            job_directory(shell("true", name), str(work))
    with pytest.raises(CommandFailed, match="cannot be entered"):
        job_status(host, JobHandle("hostA", "x", str(work / "missing")))


def test_a_start_that_is_made_again_attaches_to_what_it_began(host: Host, work: Path) -> None:
    """However that ended meanwhile; another start runs it anew."""
    job = shell("echo once; exit 3")
    status = finish(host, start_job(host, job, str(work), restart=True, attempt="0a"))
    assert status.exit_code == 3
    again = start_job(host, job, str(work), restart=True, attempt="0a")
    assert again.attached
    assert finish(host, again).log_tail == "once"
    assert not (Path(again.directory) / "log.old").exists()
    assert not start_job(host, job, str(work), restart=True, attempt="0b").attached
    long = shell("sleep 30")
    handle = start_job(host, long, str(work), restart=True, attempt="0c")
    os.killpg(int((Path(handle.directory) / "pid").read_text().split()[0]), signal.SIGKILL)
    handle = start_job(host, long, str(work), restart=True, attempt="0c")
    assert handle.attached
    assert finish(host, handle).state is JobState.LOST
