"""Several concurrencies in one go, each after a warm-up exactly as wide as itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runbook_lib.errors import UsageError
from runbook_lib.load.process import run_point

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.load.client import Progress
    from runbook_lib.load.point import Point
    from runbook_lib.load.spec import PointSpec

_PROMPTS_PER_LEVEL = 1 << 20


def level_spec(spec: PointSpec, level: int) -> PointSpec:
    """Return the spec of one level: as many requests per client as `spec` has, and a warm-up of one each."""
    per_client = -(-spec.requests // spec.concurrency)
    # With a fixed seed, every level still gets prompts of its own: no prefix cache carries over.
    seed = None if spec.seed is None else spec.seed + level * _PROMPTS_PER_LEVEL
    raw = f"{spec.raw_file}.c{level}" if spec.raw_file else ""
    return replace(spec, concurrency=level, requests=per_client * level, warmup_requests=level, raw_file=raw, seed=seed)


def run_sweep(
    spec: PointSpec,
    levels: Sequence[int],
    on_point: Callable[[Point], None] | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Point]:
    """Measure every level in the given order; a point that is not ok does not stop the sweep.

    on_point gets every point as soon as it is there, so the caller can record it and stop by raising.
    Raises UsageError for levels that cannot be measured, LoadError when a load could not be made.
    """
    if not levels or len(set(levels)) != len(levels):
        raise UsageError(f"levels are {list(levels)}; expected at least one, each once")
    points = []
    for each in [level_spec(spec, level) for level in levels]:
        point = run_point(each, on_progress=on_progress)
        points.append(point)
        if on_point is not None:
            on_point(point)
    return points
