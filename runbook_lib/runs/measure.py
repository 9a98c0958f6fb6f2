"""Measuring the service: the sweep of the params, by the load generator's own process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook_lib.load.process import run_point
from runbook_lib.load.spec import PointSpec

if TYPE_CHECKING:
    from runbook_lib.params import Params
    from runbook_lib.runs.events import EventLog
    from runbook_lib.runs.folder import RunFolder

# Kernel time stamps keep a late client from falsifying TTFT and ITL; lateness only delays the next request. 50 ms is
# far below a TTFT of seconds; the tighter bound of the load generator is for servers that answer in milliseconds.
MAX_LATENESS_MS = 50.0


_TIMES = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "decode_ms", "lpct_ms", "client_lateness_ms")
_RATES = ("output_tokens_per_s", "requests_per_s", "tokens_per_s_per_client", "generation_tokens_per_s_per_client")


def in_twin_time(point: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return a point in the twin's clock, which runs `factor` times as fast as ours: times grow, rates shrink.

    The raw requests beside it stay in wall time.
    """
    scaled = dict(point, duration_s=point["duration_s"] * factor)
    for name in _TIMES:
        if point[name] is not None:
            scaled[name] = {part: value * factor for part, value in point[name].items()}
    for name in _RATES:
        if point[name] is not None:
            scaled[name] = point[name] / factor
    return scaled


def clock_note(params: Params) -> str:
    """Say whose clock the numbers are in; "" for real hosts."""
    if params.twin is None:
        return ""
    return (
        f"Measured on the twin, whose clock runs {params.twin.time_factor:g} times as fast as ours. Times and rates "
        "are given in its clock; the raw requests in the run folder are in wall time. "
        "They say nothing about real hardware."
    )


def sweep(params: Params, folder: RunFolder, events: EventLog) -> list[dict[str, Any]]:
    """Measure every level; write and return the points in their JSON form. Raises LoadError."""
    benchmark = params.benchmark
    spec = PointSpec(
        url=f"http://{params.master.service_ip}:{params.service.port}",
        model=params.model.name,
        concurrency=max(benchmark.concurrency),
        requests=max(benchmark.requests_per_level, *benchmark.concurrency),
        input_tokens=benchmark.input_tokens,
        output_tokens=benchmark.output_tokens,
        timeout_s=benchmark.request_timeout_s,
        max_lateness_ms=MAX_LATENESS_MS,
    )

    points = []
    for level in benchmark.concurrency:
        # the same number of requests at every level, as in the published curve: ramp and drain are part of it
        requests = max(benchmark.requests_per_level, level)
        raw = str(folder.path / f"benchmark-c{level}.jsonl")
        point = run_point(
            replace(spec, concurrency=level, requests=requests, warmup_requests=level, raw_file=raw)
        ).to_json()
        if params.twin is not None:
            point = in_twin_time(point, params.twin.time_factor)
        events.append("measure", stage="benchmark", point=point)
        points.append(point)
    folder.write_json(folder.path / "benchmark-points.json", points)
    return points
