"""Measuring the service of a cluster: the sweep of the params, with the server's and the cards' numbers beside it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import UsageError
from runbook_lib.load import reference
from runbook_lib.load.answers import answers
from runbook_lib.load.process import run_point
from runbook_lib.load.scrape import Scraper
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.store import Store, Stored, point_key
from runbook_lib.model import canonical_json
from runbook_lib.params import project_root
from runbook_lib.runs.cards import CardSampler
from runbook_lib.runs.cluster import targets

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.params import Params
    from runbook_lib.runs.events import EventLog
    from runbook_lib.runs.folder import RunFolder

# Kernel time stamps keep a late client from falsifying TTFT and ITL; lateness only delays the next request. 50 ms is
# far below a TTFT of seconds; the tighter bound of the load generator is for servers that answer in milliseconds.
MAX_LATENESS_MS = 50.0
POINTS, ANSWERS, FOLDER = "benchmark-points.json", "benchmark-answers.json", "benchmark"

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
    return PointSpec(
        url=f"http://{params.master.service_ip}:{params.service.port}",
        model=params.model.name,
        concurrency=level,
        # the same number of requests at every level, as in the published curve: ramp and drain are part of it
        requests=max(benchmark.requests_per_level, level),
        input_tokens=benchmark.input_tokens,
        output_tokens=benchmark.output_tokens,
        warmup_requests=level,
        timeout_s=benchmark.request_timeout_s,
        max_lateness_ms=MAX_LATENESS_MS,
    )


def sweep(params: Params, folder: RunFolder, events: EventLog) -> list[dict[str, Any]]:
    """Measure every level that this run has not measured yet; write and return the points. Raises LoadError.

    A level that was measured with the same service settings and was ok is taken from the run folder.
    """
    store = Store(folder.path / FOLDER)
    store.prepare()
    points: list[dict[str, Any]] = []
    server: dict[int, dict[str, float]] = {}
    for level in params.benchmark.concurrency:
        stored, reused = measured_level(params, store, level)
        point = stored.point if params.twin is None else in_twin_time(stored.point, params.twin.time_factor)
        events.append("measure", stage="benchmark", point=point, reused=reused, server=_summaries(stored.server))
        points.append(point)
        server[level] = stored.server.get("metrics", {}).get("summary", {})
    folder.write_json(folder.path / POINTS, points)
    folder.write_json(folder.path / ANSWERS, conclude(params, points, server, folder))
    return points


def measured_level(params: Params, store: Store, level: int) -> tuple[Stored, bool]:
    """Return one level in wall time, and whether it was found on disk."""
    before = known_level(params, store, level)
    if before is not None:
        return before, True
    spec, key = level_spec(params, level), _key(params, level)
    scraper = Scraper(f"http://{params.master.service_ip}:{params.service.metrics_port}/metrics")
    cards = CardSampler(targets(params, project_root()))
    with ExitStack() as beside:
        beside.enter_context(scraper)
        beside.enter_context(cards)
        point = run_point(_with_raw(spec, str(store.raw_file(key))))
    server = {"metrics": scraper.result(), "cards": cards.result()}
    stored = Stored(key, spec.public(), point.to_json(), server)
    store.save(stored)
    return stored, False


def known_level(params: Params, store: Store, level: int) -> Stored | None:
    """Return what was measured before with these settings and was ok, None when there is nothing."""
    before = store.get(_key(params, level))
    return before if before is not None and before.point["ok"] else None


def _key(params: Params, level: int) -> str:
    context = canonical_json([params.service, params.container.image, params.model.format])
    return point_key(level_spec(params, level), context=context)


def _with_raw(spec: PointSpec, file: str) -> PointSpec:
    return PointSpec(**(spec.to_json() | {"raw_file": file}))


def _summaries(server: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {key: part.get(key) for key in ("summary", "failed_reads", "failed")} for name, part in server.items()
    }


def conclude(
    params: Params, points: list[dict[str, Any]], server: dict[int, dict[str, float]], folder: RunFolder
) -> dict[str, Any]:
    """Return the answers, with the differences to an earlier run, the simulation and the published curve."""
    service = params.service
    result = answers(points, server, max_batch_size=service.max_batch_size, max_link_num=service.max_link_num)
    result["server"] = {str(level): summary for level, summary in server.items()}
    result["comparisons"] = [
        {
            "name": each.name,
            "source": each.source,
            "rows": [dict(row) for row in each.rows],
            "differences": [asdict(difference) for difference in reference.compare(points, each)],
        }
        for each in _references(params, folder)
    ]
    return result


def _references(params: Params, folder: RunFolder) -> list[reference.Reference]:
    benchmark = params.benchmark
    found = [each for each in (_earlier(folder), _simulated(params)) if each is not None]
    if reference.fits_published(
        cards=params.world_size,
        weights=params.model.format,
        input_tokens=benchmark.input_tokens,
        output_tokens=benchmark.output_tokens,
        requests=benchmark.requests_per_level,
    ):
        found.append(reference.published())
    return found


def _earlier(folder: RunFolder) -> reference.Reference | None:
    """Return the points of the newest earlier run of this cluster that has any."""
    runs = sorted(path for path in folder.path.parent.glob(f"*/{POINTS}") if path.parent.name < folder.path.name)
    for path in reversed(runs):
        try:
            return reference.of_points(
                f"earlier run {path.parent.name}", str(path), json.loads(path.read_text("utf-8"))
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _simulated(params: Params) -> reference.Reference | None:
    """Return what the capacity model predicts for this sweep, None where it cannot."""
    from runbook_lib.capacity.level import Load, run_level  # noqa: PLC0415 - only where a sweep was measured
    from runbook_lib.capacity.workload import Lengths  # noqa: PLC0415
    from runbook_lib.runs.capacity import setup_of  # noqa: PLC0415

    benchmark = params.benchmark
    try:
        setup = setup_of(params)
        rows = []
        for level in benchmark.concurrency:
            load = Load(
                Lengths(benchmark.input_tokens),
                Lengths(benchmark.output_tokens),
                max(benchmark.requests_per_level, level),
            )
            row = run_level(setup, load, level)
            rows.append(
                {
                    "concurrency": level,
                    "requests_per_s": row.requests_per_s,
                    "output_tokens_per_s": row.output_tokens_per_s,
                    "ttft_s": row.ttft_mean_s,
                    "decode_ms": row.decode_mean_ms,
                }
            )
    except UsageError:
        return None
    return reference.Reference("capacity model", "runbook capacity simulate", tuple(rows))


def measured_before(folder: RunFolder) -> bool:
    """Whether this run has points on disk."""
    return (folder.path / POINTS).is_file()


def archived(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return points and answers of a run folder, or of a folder of `runbook bench --out`. Raises UsageError."""
    points_file, answers_file = folder / POINTS, folder / ANSWERS
    if points_file.is_file():
        try:
            points = json.loads(points_file.read_text(encoding="utf-8"))
            said = json.loads(answers_file.read_text(encoding="utf-8")) if answers_file.is_file() else answers(points)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder}: its benchmark cannot be read: {error!r}") from error
        return points, said
    stored = Store(folder).all()
    points = [each.point for each in stored]
    server = {int(each.point["concurrency"]): each.server.get("metrics", {}).get("summary", {}) for each in stored}
    return points, answers(points, server)
