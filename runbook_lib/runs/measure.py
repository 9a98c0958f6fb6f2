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
        events.append("measure", stage="benchmark", point=point)
        points.append(point)
    folder.write_json(folder.path / "benchmark-points.json", points)
    return points
