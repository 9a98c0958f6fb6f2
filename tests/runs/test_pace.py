"""Speed and time left of a job, told from its progress lines."""

from __future__ import annotations

from runbook_lib.remote import JobState, JobStatus
from runbook_lib.remote.jobs import Progress
from runbook_lib.runs.pace import Pace, duration


def test_speed_is_that_of_the_last_seconds_and_a_stall_is_said() -> None:
    """A transfer that stops must not look as if it went on."""
    now = [0.0]
    pace = Pace(lambda: now[0])

    def at(seconds: float, done: float) -> str:
        now[0] = seconds
        return pace.say(JobStatus(JobState.RUNNING, None, "", Progress(done, 10e9, "bytes")))

    assert at(0, 0) == "0.0 MB of 10.0 GB"
    assert at(10, 1e9) == "1.0 GB of 10.0 GB, 100.0 MB/s, 1 min 30 s left"
    assert at(30, 3e9) == "3.0 GB of 10.0 GB, 100.0 MB/s, 1 min 10 s left"
    assert at(49, 3e9).startswith("3.0 GB of 10.0 GB, ")
    assert "stalled for" in at(70, 3e9)
    assert at(71, 10e9) == "10.0 GB of 10.0 GB"


def test_a_job_that_goes_on_with_all_its_bytes_says_what_it_does() -> None:
    """Else "all of all" would be shown for as long as other hosts take."""
    pace = Pace(afterwards="serves the others")

    def at(done: float) -> str:
        return pace.say(JobStatus(JobState.RUNNING, None, "", Progress(done, 10e9, "bytes")))

    assert at(9e9) == "9.0 GB of 10.0 GB"
    assert at(10e9) == "10.0 GB of 10.0 GB, serves the others"


def test_a_job_without_progress_has_no_pace() -> None:
    """Then the change's own words are shown."""
    assert Pace().say(JobStatus(JobState.RUNNING, None, "hello", None)) == ""


def test_durations() -> None:
    """One unit, or two."""
    assert [duration(5), duration(65), duration(7260)] == ["5 s", "1 min 5 s", "2 h 1 min"]
