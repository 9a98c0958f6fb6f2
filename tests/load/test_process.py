"""The load process: result, failures, death of the caller; several processes for one load."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import LoadError
from runbook_lib.load.process import run_point
from runbook_lib.load.spec import PointSpec

if TYPE_CHECKING:
    from runbook_lib.load.client import Progress
    from runbook_lib.load.point import Point
    from tests.load.conftest import Serve


def _spec(url: str, **changes: Any) -> PointSpec:
    return PointSpec(
        **{
            "url": url, "model": "m", "concurrency": 2, "requests": 4, "input_tokens": 32, "output_tokens": 4,
            "timeout_s": 20.0, "max_lateness_ms": 1e6, "min_delivered": 0.01, **changes,
        }
    )  # fmt: skip


def _children() -> set[str]:
    """Process ids of our direct children, zombies too."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split())


def test_a_point_from_a_process_of_its_own(serve: Serve) -> None:
    """Also from inside a running event loop, as in a Jupyter kernel."""
    mock = serve()
    seen: list[Progress] = []

    async def inside_a_loop() -> Point:
        return run_point(_spec(mock.url, api_key="k"), on_progress=seen.append)

    before = _children()
    point = asyncio.run(inside_a_loop())
    assert point.ok, point.reason
    assert (point.requests, point.output_tokens) == (4, 4.0)
    assert point.ttft_ms is not None
    assert seen[-1].total == 4
    assert "Bearer k" in mock.heads[0]
    assert _children() <= before


def test_failures_cross_the_process_border() -> None:
    """With their next command."""
    with pytest.raises(LoadError, match="cannot be resolved") as caught:
        run_point(_spec("http://no-such-host.invalid"))
    assert "getent" in caught.value.next_command


def test_a_child_that_dies_is_told(serve: Serve) -> None:
    """A spec that the child cannot take makes it end with a traceback, which is shown."""
    with pytest.raises(LoadError, match=r"exit code 1 and no result(.|\n)*Traceback"):
        run_point(_spec(serve().url, seed="no number"))


def test_two_processes_share_one_load(serve: Serve) -> None:
    """They begin together; the point is computed from the raw times of both, and no prompt occurs twice."""
    mock = serve(ttft_s=0.1)
    point = run_point(_spec(mock.url, concurrency=5, requests=11, warmup_requests=5, processes=2))
    assert point.ok, point.reason
    assert (point.requests, point.succeeded, point.processes) == (11, 11, 2)
    assert mock.most_running == 5
    assert len(set(mock.prompts)) == len(mock.prompts) == 16


def test_a_failure_of_one_part_is_told() -> None:
    """And stops the others."""
    before = _children()
    with pytest.raises(LoadError, match="cannot be resolved"):
        run_point(_spec("http://no-such-host.invalid", processes=2))
    assert _children() <= before


def test_a_callback_that_raises_stops_the_child(serve: Serve) -> None:
    """As an interrupt does."""
    before = _children()

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_point(_spec(serve(manner="silent").url), on_progress=stop)
    assert _children() <= before


def test_the_child_dies_with_its_caller(serve: Serve) -> None:
    """Even when the caller is killed without a chance to clean up."""
    mock = serve(manner="silent")
    script = (
        "import sys; from runbook_lib.load.process import run_point; from runbook_lib.load.spec import PointSpec;"
        "run_point(PointSpec(sys.argv[1], 'm', 2, 2, 16, 4), on_progress=lambda p: None)"
    )
    with subprocess.Popen([sys.executable, "-c", script, mock.url]) as caller:
        _wait_until(lambda: mock.running == 2)
        listing = Path(f"/proc/{caller.pid}/task/{caller.pid}/children")
        (child,) = listing.read_text(encoding="ascii").split()
        caller.send_signal(signal.SIGKILL)
    _wait_until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(pid: str) -> bool:
    """Whether it has ended and only waits for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait_until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
