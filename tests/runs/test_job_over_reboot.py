"""A job of a stage outlives lost connections and reboots; one that somebody killed is not started again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import HostUnreachable, RunbookError, StageFailed
from runbook_lib.model import Change, Job, Subject, Upload
from runbook_lib.params import HostPaths, load_params, project_root
from runbook_lib.remote import JobHandle, JobState
from runbook_lib.remote.jobs import JobStatus, Progress
from runbook_lib.remote.scope import CancelScope, current_scope
from runbook_lib.runs import cluster as module

if TYPE_CHECKING:
    from pathlib import Path

DONE, LOST = JobStatus(JobState.DONE, 0, "", None), JobStatus(JobState.LOST, None, "cut", None)
GONE = HostUnreachable("node1", "the connection was lost")
JOB = Change(Subject("node1"), "download", "nothing", "all", Job("weights", ("true",), 60.0), irreversible="kept")
TOKEN = Change(
    Subject("node1"), "bring", "none", "/t", Upload("/t", "", mode=0o600, secret="generated:t"), irreversible="gone"
)


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a cluster whose one host answers what `answers` says, and what was started and uploaded there."""
    params = load_params(project_root() / "params" / "example-2x8-direct.yaml")
    known = tmp_path / "outputs" / params.cluster.name / "known_hosts"
    known.parent.mkdir(parents=True)
    known.touch()
    made = SimpleNamespace(started=[], attempts=[], lost_starts=[], uploads=[], answers=[], said=[])
    target = SimpleNamespace(name="node1")
    host: Any = SimpleNamespace(target=target, open=lambda: None, upload=made.uploads.append)

    def wait(*_: object, on_progress: Any, **__: object) -> JobStatus:
        while True:
            answer = made.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, JobStatus)
            on_progress(answer)
            if answer.state is not JobState.RUNNING:
                return answer

    def start(_host: object, job: Job, _work: str, *, restart: bool = False, attempt: str = "") -> JobHandle:
        made.started.append(restart)
        made.attempts.append(attempt)
        if made.lost_starts:
            raise made.lost_starts.pop()
        return JobHandle("node1", job.name, "/work/jobs/weights-1")

    monkeypatch.setattr(module, "wait_job", wait)
    monkeypatch.setattr(module, "start_job", start)
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    made.cluster = module.Cluster(params, tmp_path)
    made.cluster.targets = [target]
    made.cluster._paths["node1"] = HostPaths.of(params)
    monkeypatch.setattr(made.cluster, "connected", lambda _target: host)
    made.signs = module.Signs()
    made.apply = lambda change: made.cluster.apply(
        change, lambda _host, _share, text: made.said.append(text), made.signs
    )
    return made


def test_a_job_that_a_reboot_ended_goes_on(bed: SimpleNamespace) -> None:
    """The connection drops twice, the job is gone: its token is brought once more and it is started again."""
    bed.apply(TOKEN)
    bed.answers = [GONE, GONE, LOST, DONE]
    bed.apply(JOB)
    assert len(bed.started) == 2
    assert [each.path for each in bed.uploads] == ["/t", "/t"]
    assert bed.uploads[0].content == bed.uploads[1].content != ""
    assert sum("no connection" in text for text in bed.said) == 2


def test_a_job_that_went_on_is_not_started_twice(bed: SimpleNamespace) -> None:
    """A dropped connection alone ends nothing."""
    bed.answers = [GONE, DONE]
    bed.apply(JOB)
    assert len(bed.started) == 1


def test_a_start_that_was_lost_is_made_again(bed: SimpleNamespace) -> None:
    """Otherwise the other hosts' downloads wait half an hour for a peer that never began."""
    bed.lost_starts, bed.answers = [GONE, GONE], [DONE]
    bed.apply(JOB)
    assert bed.started == [True, True, True]
    assert sum("no connection" in text for text in bed.said) == 2
    assert len(set(bed.attempts)) == 1, "else it would not attach to what the first start began"


def test_a_reboot_at_the_start_does_not_lose_the_token(bed: SimpleNamespace) -> None:
    """The first start had read and removed it; what it began is lost."""
    bed.apply(TOKEN)
    bed.lost_starts, bed.answers = [GONE], [LOST, DONE]
    bed.apply(JOB)
    assert len(bed.started) == 3
    assert [each.path for each in bed.uploads] == ["/t", "/t"]


def test_nobody_starts_a_job_once_its_stage_is_over(bed: SimpleNamespace) -> None:
    """The stage's deadline breaks the connections; another thread may have connected the host again."""
    scope = CancelScope()
    before = current_scope.set(scope)

    def cut() -> None:
        scope.cancel()
        raise GONE

    host = bed.cluster.connected(None)
    try:
        host.open = cut
        with pytest.raises(HostUnreachable, match="the connection was lost"):
            bed.apply(JOB)
        host.open = lambda: None
        with pytest.raises(HostUnreachable, match="nobody waits"):
            bed.apply(JOB)
    finally:
        current_scope.reset(before)
    assert bed.started == bed.said == []


def test_nobody_waits_for_a_host_whose_change_failed(bed: SimpleNamespace) -> None:
    """Not once this host has everything; what still loads, and what has ended, is followed to its end."""
    bed.signs.failed.set()
    some, whole = Progress(1, 2, "bytes"), Progress(2, 2, "bytes")
    download = replace(JOB, action=Job("weights", ("true",), 60.0, afterwards="it waits"))
    bed.answers = [JobStatus(JobState.RUNNING, None, "", some), JobStatus(JobState.DONE, 0, "", whole)]
    bed.apply(download)
    bed.answers = [JobStatus(JobState.RUNNING, None, "", whole)]
    with pytest.raises(RunbookError, match="the job goes on"):
        bed.apply(download)


def test_a_job_that_somebody_killed_stays_dead(bed: SimpleNamespace) -> None:
    """Nobody lost the host: whoever ended the job meant it."""
    bed.answers = [LOST]
    with pytest.raises(StageFailed, match="the job is lost"):
        bed.apply(JOB)
    assert len(bed.started) == 1


def test_a_service_that_a_reboot_ended_is_not_started_again(bed: SimpleNamespace) -> None:
    """Why it died is the question; only its own start is made again when it was lost."""
    bed.lost_starts, bed.answers = [GONE], [GONE, LOST]
    with pytest.raises(StageFailed, match="the job is lost"):
        bed.apply(replace(JOB, action=Job("daemon", ("true",), 60.0, wait=False)))
    assert len(bed.started) == 2


def test_a_host_that_stays_away_is_given_up(bed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """After BACK_S the error of the connection is the stage's."""
    monkeypatch.setattr(module, "BACK_S", -1.0)
    bed.answers = [GONE, DONE]
    with pytest.raises(HostUnreachable):
        bed.apply(JOB)
