"""Fits the few constants that a benchmark can tell to a user's own measurements, and says how well they fit.

What a closed-loop sweep fixes is the decode step at no batch (`host_ms` stands for all of it), its slope
(`decode_bus_efficiency`), the prefill rate (`prefill_bus_efficiency`) and the number of KV blocks (`runtime_gib`).
It does not fix how a step's time is divided among latency, bandwidth and host (engine_model.md section 3), so a
calibrated model is good for this layout, and no better than before for another one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import exp, log
from typing import TYPE_CHECKING

import numpy as np

from runbook_lib.capacity.constants import Constants
from runbook_lib.capacity.level import Load, run_level
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.capacity.setup import Setup

FREE = ("host_ms", "decode_bus_efficiency", "prefill_bus_efficiency", "runtime_gib")
# one standard deviation of each measure, relative: first-token times vary more than rates
_SIGMA = {"throughput": 0.02, "ttft": 0.06, "decode": 0.02}
_STEP = 0.02  # relative, for derivatives: wide enough to see past whole blocks and whole batches
_ROUNDS = 12
_DAMPING = (0.0, 0.1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured level: output tokens/s, mean first-token time in s, mean decode time per token in ms.

    requests: how many the level had, 0 for as many as the load says.
    """

    concurrency: int
    output_tokens_per_s: float
    ttft_mean_s: float
    decode_mean_ms: float
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted constants and what is left: mean absolute relative error per measure, and per point (model / seen - 1).

    at_bounds: constants that ended at the edge of their interval, where the data ask for more than is plausible.
    """

    constants: Constants
    mean_error: dict[str, float]
    residuals: tuple[dict[str, float], ...]
    at_bounds: tuple[str, ...]


def errors(setup: Setup, load: Load, points: Sequence[Point]) -> list[dict[str, float]]:
    """Return model / measured - 1 for every point and measure. Raises UsageError when the setup would not start."""
    rows = []
    for point in points:
        level = run_level(setup, replace(load, requests=point.requests or load.requests), point.concurrency)
        rows.append(
            {
                "concurrency": float(point.concurrency),
                "throughput": level.output_tokens_per_s / point.output_tokens_per_s - 1,
                "ttft": level.ttft_mean_s / point.ttft_mean_s - 1,
                "decode": level.decode_mean_ms / point.decode_mean_ms - 1,
            }
        )
    return rows


def mean_errors(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean absolute error per measure."""
    return {name: sum(abs(row[name]) for row in rows) / len(rows) for name in _SIGMA}


def calibrate(
    setup: Setup,
    load: Load,
    points: Sequence[Point],
    free: Sequence[str] = FREE,
    progress: Callable[[str], None] = lambda _: None,
) -> Fit:
    """Fit constants within their intervals (damped least squares on log ratios).

    Raises UsageError for fewer than two points, or fewer measures than free constants.
    """
    if len(points) < 2 or 3 * len(points) <= len(free):  # noqa: PLR2004 - a slope needs two points
        raise UsageError(f"{len(points)} points cannot fix {len(free)} constants; right would be at least 2 levels")
    bounds = {each.name: (float(each.metadata["low"]), float(each.metadata["high"])) for each in fields(Constants)}
    values = {name: float(getattr(setup.constants, name)) for name in free}

    def at(changed: dict[str, float]) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], list[dict[str, float]]]:
        rows = errors(replace(setup, constants=setup.constants.changed(**changed)), load, points)
        ratios = [log(max(1.0 + row[name], 1e-6)) / sigma for row in rows for name, sigma in _SIGMA.items()]
        return np.array(ratios), rows

    residual, rows = at(values)
    for turn in range(_ROUNDS):
        moved = [at({**values, name: value * (1 + _STEP)})[0] for name, value in values.items()]
        slopes = np.column_stack([(each - residual) / log(1 + _STEP) for each in moved])
        square = slopes.T @ slopes
        for damping in _DAMPING:
            ridge = square + np.diag(damping * np.diag(square) + 1e-9)
            move = np.linalg.solve(ridge, -slopes.T @ residual)
            trial = {
                name: min(max(value * exp(float(np.clip(step, -0.3, 0.3))), bounds[name][0]), bounds[name][1])
                for (name, value), step in zip(values.items(), move, strict=True)
            }
            new, new_rows = at(trial)
            if new @ new < residual @ residual * 0.999:
                values, residual, rows = trial, new, new_rows
                break
        else:
            break
        progress(f"round {turn + 1}: {', '.join(f'{name} {share:.1%}' for name, share in mean_errors(rows).items())}")
    return Fit(
        constants=setup.constants.changed(**values),
        mean_error=mean_errors(rows),
        residuals=tuple(rows),
        at_bounds=tuple(name for name, value in values.items() if value in bounds[name]),
    )
