"""Repeated points: mean, scatter and confidence interval between the repeats. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond them 2 is close enough.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T_MANY = 2.1
MEASURES = ("output_tokens_per_s", "requests_per_s", "ttft_ms", "tpot_ms", "e2e_ms", "delivered")


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over the repeats; standard deviation and half width of the 95 % interval are None for a single one."""

    mean: float
    std: float | None
    ci95: float | None
    repeats: int


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one value."""
    count = len(values)
    mean = sum(values) / count
    if count == 1:
        return Spread(mean, None, None, 1)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    factor = _T95[count - 2] if count - 2 < len(_T95) else _T_MANY
    return Spread(mean, std, factor * std / math.sqrt(count), count)


def level_of(point: Mapping[str, Any]) -> tuple[int, int, float, int]:
    """Return what makes two points repeats of each other: lengths, rate, concurrency."""
    return (
        int(point.get("asked_input_tokens", 0)),
        int(point.get("asked_output_tokens", 0)),
        float(point.get("rate_per_s", 0.0)),
        int(point["concurrency"]),
    )


def by_level(points: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int, float, int], list[Mapping[str, Any]]]:
    """Group points in their JSON form, in the order of lengths, rate and concurrency."""
    groups: dict[tuple[int, int, float, int], list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=level_of):
        groups.setdefault(level_of(point), []).append(point)
    return groups


def spreads(points: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
    """Return the spread of each measure over the repeats that are ok."""
    result = {}
    for name in MEASURES:
        values = [value for point in points if point["ok"] for value in [_value(point, name)] if value is not None]
        if values:
            result[name] = spread(values)
    return result


def _value(point: Mapping[str, Any], name: str) -> float | None:
    value = point.get(name)
    if isinstance(value, dict):
        value = value.get("mean")
    return float(value) if isinstance(value, int | float) else None


def middle(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the repeat that stands for its level: the one with the median throughput of those that are ok."""
    good = [point for point in points if point["ok"]]
    if not good:
        return points[0]
    ranked = sorted(good, key=lambda point: float(point["output_tokens_per_s"]))
    return ranked[(len(ranked) - 1) // 2]
