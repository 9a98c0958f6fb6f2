"""What a run's points mean, beside an earlier run, the capacity model and the published curve; kept on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import UsageError
from runbook_lib.load import reference
from runbook_lib.load.answers import answers
from runbook_lib.load.repeats import level_of
from runbook_lib.load.store import Store
from runbook_lib.stages.base import params_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runbook_lib.params import Params
    from runbook_lib.runs.folder import RunFolder
    from runbook_lib.runs.measure import Measured

POINTS, ANSWERS = "benchmark-points.json", "benchmark-answers.json"
MODEL = "capacity model"
# What the model may miss before it is worth fitting again: twice the scatter that capacity.calibrate counts with.
_HOLDS = {"output_tokens_per_s": 0.04, "ttft": 0.12, "decode": 0.04}
_NO_TOKENIZER = (
    "tokenizer and detokenizer times: not given by this service (no documented log line or metric of it holds them)"
)


def keep(params: Params, measured: Measured, folder: RunFolder) -> None:
    """Write points and answers into the run folder."""
    folder.write_json(folder.path / POINTS, measured.points)
    folder.write_json(folder.path / ANSWERS, conclude(params, measured, folder))


def conclude(params: Params, measured: Measured, folder: RunFolder) -> dict[str, Any]:
    """Return the answers, with the SLO search, the grid, and the differences to what is known beside."""
    service, benchmark = params.service, params.benchmark
    lengths = (benchmark.input_tokens, benchmark.output_tokens)
    server = {(*lengths, level): summary for level, summary in measured.server.items()}
    result = answers(measured.points, server, max_batch_size=service.max_batch_size, max_link_num=service.max_link_num)
    result["server"] = {str(level): summary for level, summary in measured.server.items()}
    result["comparisons"] = [reference.beside(measured.points, each) for each in _references(params, folder)]
    result["calibration"] = calibration(result["comparisons"], params, str(folder.path))
    result["slo"] = None if measured.found is None else slo(params, measured)
    result["grid"] = measured.grid
    result["not_measured"] = [
        *(["repeats: benchmark.repeats is 1, so there is no confidence interval"] if benchmark.repeats == 1 else []),
        *(["highest concurrency within an SLO: benchmark.slo_share is 0"] if measured.found is None else []),
        *(
            ["grid of lengths: benchmark.grid_input_tokens and grid_output_tokens are empty"]
            if not measured.grid
            else []
        ),
        _NO_TOKENIZER,
    ]
    return result


def slo(params: Params, measured: Measured) -> dict[str, Any]:
    """Return what was searched and found; `found` is null when not even the lowest level keeps the bounds."""
    benchmark = params.benchmark
    levels = [int(point["concurrency"]) for point in measured.points]
    return {
        "ttft_ms": benchmark.slo_ttft_ms,
        "tpot_ms": benchmark.slo_tpot_ms,
        "e2e_ms": benchmark.slo_e2e_ms,
        "share": benchmark.slo_share,
        "lowest": min(levels),
        "highest": max(levels),
        "found": measured.found or None,
    }


def calibration(comparisons: Sequence[dict[str, Any]], params: Params, folder: str) -> dict[str, Any] | None:
    """Say how far the capacity model is off on average, and how it is fitted; None without a prediction.

    `twin`: the service runs on this very model
    """
    differences: list[dict[str, Any]] = next((each["differences"] for each in comparisons if each["name"] == MODEL), [])
    off: dict[str, float] = {}
    for name in _HOLDS:
        values = [abs(row[name]) for row in differences if row[name] is not None]
        if values:
            off[name] = sum(values) / len(values)
    if not off:
        return None
    return {
        "mean_error": off,
        "holds": all(value <= _HOLDS[name] for name, value in off.items()),
        "twin": params.twin is not None,
        "next_command": f"runbook capacity calibrate {params_file(params)} {folder}",
    }


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
    return reference.Reference(MODEL, "runbook capacity simulate", tuple(rows))


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
    server = {_level(each.point): each.server.get("metrics", {}).get("summary", {}) for each in stored}
    said = answers(points, server)
    # without params nobody knows what the model would predict; the command asks for them
    said["calibration"] = None
    said["not_measured"] = [f"against the capacity model: runbook capacity calibrate PARAMS {folder}", _NO_TOKENIZER]
    return points, said


def _level(point: Mapping[str, Any]) -> tuple[int, int, int]:
    inputs, outputs, _, concurrency = level_of(point)
    return inputs, outputs, concurrency
