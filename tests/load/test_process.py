"""The load process: result, failures, death of the caller; the sweep and the command line on top of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import LoadError, UsageError
from runbook_lib.load.__main__ import main
from runbook_lib.load.process import run_point
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.sweep import level_spec, run_sweep

if TYPE_CHECKING:
    from runbook_lib.load.client import Progress
    from runbook_lib.load.point import Point
    from tests.load.conftest import Mock, Serve


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


def test_a_sweep_warms_up_as_wide_as_each_point(serve: Serve) -> None:
    """Two requests per client at every level, plus one each before."""
    mock = serve()
    seen: list[Point] = []
    points = run_sweep(_spec(mock.url), [1, 3], seen.append)
    assert points == seen
    assert [(point.concurrency, point.requests, point.ok) for point in points] == [(1, 2, True), (3, 6, True)]
    assert len(mock.bodies) == (1 + 2) + (3 + 6)


def test_levels_keep_the_requests_per_client() -> None:
    """And each level its own raw file."""
    spec = level_spec(_spec("http://h", raw_file="raw", seed=5), 7)
    assert spec.seed != level_spec(_spec("http://h", seed=5), 8).seed
    assert (spec.concurrency, spec.requests, spec.warmup_requests, spec.raw_file) == (7, 14, 7, "raw.c7")


@pytest.mark.parametrize("levels", [[], [2, 2], [0]])
def test_bad_levels_are_refused_before_the_first_load(levels: list[int]) -> None:
    """Nothing is sent."""
    with pytest.raises(UsageError):
        run_sweep(_spec("http://127.0.0.1:1"), levels)


def _arguments(mock: Mock, *more: str) -> list[str]:
    return [
        "--url", mock.url, "--model", "m", "--concurrency", "2", "--requests", "4", "--input-tokens", "16",
        "--output-tokens", "3", "--max-lateness-ms", "1e6", *more,
    ]  # fmt: skip


def test_the_command_line_prints_one_object(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that fails gives exit 1 and says why, with the next command."""
    code = main(_arguments(serve(manner="http_500"), "--json"))
    out = json.loads(capsys.readouterr().out)
    assert (code, out["ok"]) == (1, False)
    assert "4 x http_500" in out["failures"][0]["message"]
    assert out["failures"][0]["next"].endswith("/v1/models")
    assert out["points"][0]["errors"] == {"http_500": 4}


def test_bad_usage_is_two(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Also on stdout, as an object."""
    assert main(_arguments(serve(), "--api-key-env", "NO_SUCH_VARIABLE")) == 2
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main([*_arguments(serve()), "--requests", "1"]) == 2
