"""Many points: grid, levels, repeats, stop on saturation, search for the SLO. Decides what to measure next.

`measure` is given: a function from spec and repeat to a point, which may find the point on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runbook_lib.load.point import Point
    from runbook_lib.load.spec import PointSpec

    Measure = Callable[[PointSpec, int], Point]

_PROMPTS_PER_LEVEL = 1 << 20
# Two levels in a row that bring less than this share more throughput end a sweep.
_SATURATED_GAIN = 0.02
_SATURATED_LEVELS = 2
_SEARCH_STEPS = 12


@dataclass(frozen=True, slots=True)
class Campaign:
    """What shall be measured.

    levels: concurrencies, each once; inputs, outputs: a grid of lengths, empty for those of the spec
    requests: of every level; 0 for as many per client as the spec has. warm_up: as wide as each point
    repeats: how often each point is measured
    stop_saturated: end a sweep when further levels bring nothing
    """

    spec: PointSpec
    levels: Sequence[int]
    requests: int = 0
    inputs: Sequence[int] = ()
    outputs: Sequence[int] = ()
    repeats: int = 1
    warm_up: bool = True
    stop_saturated: bool = False

    def __post_init__(self) -> None:
        if not self.levels or len(set(self.levels)) != len(self.levels) or min(self.levels) < 1:
            raise UsageError(f"levels are {list(self.levels)}; expected at least one, each once")
        if self.repeats < 1:
            raise UsageError(f"repeats is {self.repeats}, at least 1 is needed")

    def level_spec(self, spec: PointSpec, level: int) -> PointSpec:
        """Return the spec of one level of a sweep."""
        requests = self.requests or -(-spec.requests // spec.concurrency) * level
        if not spec.open_loop:
            requests = max(level, requests)
        # With a fixed seed, every level still gets prompts of its own: no prefix cache carries over.
        seed = None if spec.seed is None else spec.seed + level * _PROMPTS_PER_LEVEL
        warmup = level if self.warm_up else spec.warmup_requests
        return replace(spec, concurrency=level, requests=requests, warmup_requests=warmup, seed=seed)

    def cells(self) -> Iterator[PointSpec]:
        """Return the spec of every cell of the length grid."""
        for inputs in self.inputs or (self.spec.input_tokens,):
            for outputs in self.outputs or (self.spec.output_tokens,):
                yield replace(self.spec, input_tokens=inputs, output_tokens=outputs)

    def run(self, measure: Measure) -> list[Point]:
        """Measure everything; a point that is not ok does not stop a sweep."""
        points = []
        for cell in self.cells():
            rates: list[float] = []
            for level in self.levels:
                spec = self.level_spec(cell, level)
                repeated = [measure(spec, repeat) for repeat in range(1, self.repeats + 1)]
                points += repeated
                good = [point.output_tokens_per_s for point in repeated if point.ok]
                if good:
                    rates.append(sum(good) / len(good))
                if self.stop_saturated and saturated(rates):
                    break
        return points

    def search(self, measure: Measure, keeps: Callable[[Point], bool]) -> tuple[int, list[Point]]:
        """Find the highest concurrency that keeps a bound: double from the lowest level, then halve the gap.

        The highest level is the limit of the search. Returns 0 when not even the lowest keeps it.
        """
        low, limit = min(self.levels), max(self.levels)
        points: list[Point] = []

        def good(level: int) -> bool:
            points.append(measure(self.level_spec(self.spec, level), 1))
            return points[-1].ok and keeps(points[-1])

        if not good(low):
            return 0, points
        high = 0
        for _ in range(_SEARCH_STEPS):
            level = min(limit, 2 * low) if not high else (low + high) // 2
            if level in {low, high}:
                break
            if good(level):
                low = level
            else:
                high = level
            if high and high - low <= max(1, low // 16):
                break
        return low, points


def saturated(rates: Sequence[float]) -> bool:
    """Whether the last levels brought nothing: each less than 2 % above the best before it."""
    if len(rates) <= _SATURATED_LEVELS:
        return False
    return all(
        rates[at] < (1 + _SATURATED_GAIN) * max(rates[:at]) for at in range(len(rates) - _SATURATED_LEVELS, len(rates))
    )
