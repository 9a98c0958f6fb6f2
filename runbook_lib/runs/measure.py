"""Measuring the service of a cluster: the sweep of the params, with the server's and the cards' numbers beside it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runbook_lib.load.campaign import Campaign
from runbook_lib.load.point import Point
from runbook_lib.load.process import run_point
from runbook_lib.load.scrape import Scraper
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.store import Store, Stored, point_key
from runbook_lib.model import canonical_json
from runbook_lib.params import project_root, resolve_path
from runbook_lib.runs.cards import CardSampler
from runbook_lib.runs.cluster import targets
from runbook_lib.stages.service import base_url

if TYPE_CHECKING:
    from runbook_lib.params import Params
    from runbook_lib.runs.events import EventLog
    from runbook_lib.runs.folder import RunFolder

# Kernel time stamps keep a late client from falsifying TTFT and ITL; lateness only delays the next request. 50 ms is
# far below a TTFT of seconds; the tighter bound of the load generator is for servers that answer in milliseconds.
MAX_LATENESS_MS = 50.0
FOLDER = "benchmark"

_TIMES = (
    "ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "decode_ms", "lpct_ms", "client_lateness_ms", "send_delay_ms",
    "first_content_ms",
)  # fmt: skip
_RATES = (
    "output_tokens_per_s", "requests_per_s", "tokens_per_s_per_client", "generation_tokens_per_s_per_client",
    "goodput_per_s", "rate_per_s",
)  # fmt: skip


def in_twin_time(point: dict[str, Any], factor: float) -> dict[str, Any]:
    """Return a point in the twin's clock, which runs `factor` times as fast as ours: times grow, rates shrink.

    The raw requests beside it stay in wall time.
    """
    scaled = dict(point, duration_s=point["duration_s"] * factor)
    for name in _TIMES:
        if point.get(name) is not None:
            scaled[name] = {part: None if value is None else value * factor for part, value in point[name].items()}
    for name in _RATES:
        if point.get(name) is not None:
            scaled[name] = point[name] / factor
    scaled["percentiles"] = {
        name: [value * factor for value in values] for name, values in point.get("percentiles", {}).items()
    }
    if point.get("steady"):
        steady = point["steady"]
        scaled["steady"] = {
            "duration_s": steady["duration_s"] * factor,
            "output_tokens_per_s": steady["output_tokens_per_s"] / factor,
            "requests_per_s": steady["requests_per_s"] / factor,
        }
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


def level_spec(params: Params, level: int) -> PointSpec:
    """Return what one level of the params' sweep asks for."""
    benchmark = params.benchmark
    factor = params.twin.time_factor if params.twin is not None else 1.0
    return PointSpec(
        url=base_url(params, params.service.port),
        model=params.model.name,
        concurrency=level,
        # the same number of requests at every level, as in the published curve: ramp and drain are part of it
        requests=max(benchmark.requests_per_level, level),
        input_tokens=benchmark.input_tokens,
        output_tokens=benchmark.output_tokens,
        warmup_requests=level,
        timeout_s=benchmark.request_timeout_s,
        ca_file=str(resolve_path(ca_file)) if (ca_file := params.service.ca_file) else "",
        max_lateness_ms=MAX_LATENESS_MS,
        slo_ttft_ms=benchmark.slo_ttft_ms / factor,
        slo_tpot_ms=benchmark.slo_tpot_ms / factor,
        slo_e2e_ms=benchmark.slo_e2e_ms / factor,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run measured, in the service's clock.

    points: the sweep's lengths, with repeats and the levels of the search; grid: one point for each pair of lengths
    found: the highest concurrency within the SLO, 0 for none, None when it was not searched
    server: summary of the scraped metrics by concurrency of the sweep
    """

    points: list[dict[str, Any]]
    grid: list[dict[str, Any]]
    found: int | None
    server: dict[int, dict[str, float]]

    @property
    def all(self) -> list[dict[str, Any]]:
        """Every point once."""
        return self.points + [point for point in self.grid if point not in self.points]


class _Bed:
    """Measures points of this run, or takes them from its folder; keeps them in the order of measuring."""

    def __init__(self, params: Params, store: Store, events: EventLog) -> None:
        self._params, self._store, self._events = params, store, events
        self.points: dict[str, dict[str, Any]] = {}
        self.server: dict[int, dict[str, float]] = {}

    def __call__(self, spec: PointSpec, repeat: int) -> Point:
        """Return one point in wall time; that of the service's clock is kept."""
        stored, reused = _measured(self._params, self._store, spec, repeat)
        point, twin = stored.point, self._params.twin
        if stored.key not in self.points:
            self.points[stored.key] = scaled = point if twin is None else in_twin_time(point, twin.time_factor)
            server = _summaries(stored.server)
            self._events.append("measure", stage="benchmark", point=scaled, reused=reused, server=server)
            self.server[spec.concurrency] = stored.server.get("metrics", {}).get("summary", {})
        return Point.from_json(point)


def sweep(params: Params, folder: RunFolder, events: EventLog) -> Measured:
    """Measure what the params ask for and this run has not measured yet: sweep, search, grid. Raises LoadError.

    A point that was measured with the same service settings and was ok is taken from the run folder.
    """
    store = Store(folder.path / FOLDER)
    store.prepare()
    benchmark, bed = params.benchmark, _Bed(params, store, events)
    levels = benchmark.concurrency
    campaign = Campaign(
        level_spec(params, levels[0]), levels, requests=benchmark.requests_per_level, repeats=benchmark.repeats
    )
    campaign.run(bed)
    found = None
    if benchmark.slo_share:
        found, _ = campaign.search(bed, lambda point: (point.goodput_share or 0.0) >= benchmark.slo_share)
    points, server = sorted(bed.points.values(), key=_place), dict(bed.server)
    grid = _grid(params, store, events)
    return Measured(points, grid, found, server)


def _grid(params: Params, store: Store, events: EventLog) -> list[dict[str, Any]]:
    benchmark, bed = params.benchmark, _Bed(params, store, events)
    for inputs, outputs in benchmark.grid:
        bed(replace(level_spec(params, benchmark.grid_level), input_tokens=inputs, output_tokens=outputs), 1)
    return list(bed.points.values())


def _place(point: dict[str, Any]) -> tuple[int, int]:
    return int(point["concurrency"]), int(point.get("repeat", 1))


def measured_level(params: Params, store: Store, level: int) -> tuple[Stored, bool]:
    """Return one level in wall time, and whether it was found on disk."""
    return _measured(params, store, level_spec(params, level), 1)


def _measured(params: Params, store: Store, spec: PointSpec, repeat: int) -> tuple[Stored, bool]:
    key = _key(params, spec, repeat)
    before = _known(store, key)
    if before is not None:
        return before, True
    scraper = Scraper(f"{base_url(params, params.service.metrics_port)}/metrics", ca_file=spec.ca_file)
    cards = CardSampler(targets(params, project_root()))
    with ExitStack() as beside:
        beside.enter_context(scraper)
        beside.enter_context(cards)
        point = replace(run_point(replace(spec, raw_file=str(store.raw_file(key)))), repeat=repeat)
    server = {"metrics": scraper.result(), "cards": cards.result()}
    stored = Stored(key, spec.public(), point.to_json(), server)
    store.save(stored)
    return stored, False


def known_level(params: Params, store: Store, level: int) -> Stored | None:
    """Return what was measured before with these settings and was ok, None when there is nothing."""
    return _known(store, _key(params, level_spec(params, level)))


def _known(store: Store, key: str) -> Stored | None:
    before = store.get(key)
    return before if before is not None and before.point["ok"] else None


def _key(params: Params, spec: PointSpec, repeat: int = 1) -> str:
    context = canonical_json([params.service, params.container.image, params.model.format])
    return point_key(spec, repeat, context=context)


def _summaries(server: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: part.get(key) for key in ("summary", "failed_reads", "failed")} for name, part in server.items()
    }
