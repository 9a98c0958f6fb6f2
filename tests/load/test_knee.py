"""The knee of a sweep."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runbook_lib.load.knee import knee
from runbook_lib.load.measures import Stats
from runbook_lib.load.point import Point

_BASE = Point(
    concurrency=1, delivered=1.0, delivered_basis="steady", requests=4, errors={}, ttft_ms=None, itl_ms=None,
    tpot_ms=None, e2e_ms=None, decode_ms=None, lpct_ms=None, output_tokens_per_s=0.0, requests_per_s=0.0,
    tokens_per_s_per_client=0.0, generation_tokens_per_s_per_client=None, mean_in_flight=1.0,
    client_lateness_ms=None, clock="kernel", duration_s=1.0, input_tokens=1.0, input_tokens_estimated=False,
    output_tokens=1.0, output_tokens_estimated=False, finish_reasons={}, ok=True, reason="",
)  # fmt: skip


def _points(curve: dict[int, float], *, failed: tuple[int, ...] = ()) -> list[Point]:
    return [
        replace(_BASE, concurrency=level, output_tokens_per_s=rate, ok=level not in failed)
        for level, rate in curve.items()
    ]


def test_a_hard_limit() -> None:
    """A server that runs eight at a time."""
    result = knee(_points({level: 10.0 * min(level, 8) for level in (32, 1, 2, 4, 8, 16)}))
    assert result.concurrency == 8
    assert "80.0 tokens/s" in result.reason
    assert "+0 %" in result.reason
    assert result.saturates_at == 8


def test_the_published_curve() -> None:
    """It saturates near 400; more is recommended as long as the first token comes at most twice as late."""
    levels = (100, 300, 400, 500, 600, 800)
    rates = dict(zip(levels, (828.0, 1181.0, 1269.0, 1240.0, 1212.0, 1205.0), strict=True))
    firsts = dict(zip(levels, (4.3, 9.39, 12.75, 21.0, 32.94, 72.5), strict=True))
    points = [replace(point, ttft_ms=Stats(1000 * firsts[point.concurrency], 0, 0, 0)) for point in _points(rates)]
    result = knee(points)
    assert (result.saturates_at, result.concurrency) == (400, 500)
    assert "600 clients change throughput by -2 %" in result.reason
    assert knee([point for point in points if point.concurrency != 500]).concurrency == 400


def test_an_unsaturated_curve_has_none() -> None:
    """Still rising at the end."""
    result = knee(_points({1: 10, 2: 20, 4: 39, 8: 75}))
    assert result.concurrency is None
    assert "not saturated" in result.reason
    assert "measure 16" in result.reason


def test_a_curve_that_is_flat_from_its_start() -> None:
    """The knee lies below what was measured, except when nothing does."""
    assert "at or below" in knee(_points({8: 100, 16: 101, 32: 99})).reason
    assert knee(_points({8: 100, 16: 101, 32: 99})).concurrency is None
    assert knee(_points({1: 100, 2: 101, 4: 99})).concurrency == 1


@pytest.mark.parametrize("curve", [{}, {1: 10.0}, {1: 10.0, 2: 10.0}])
def test_too_few_points(curve: dict[int, float]) -> None:
    """Three are needed."""
    result = knee(_points(curve))
    assert result.concurrency is None
    assert "3 are needed" in result.reason


def test_points_that_are_not_ok_do_not_count() -> None:
    """They are named; beside the knee they hide it."""
    curve = {1: 10.0, 2: 20.0, 4: 40.0, 8: 41.0, 16: 41.0, 32: 42.0}
    far = knee(_points(curve, failed=(32,)))
    assert far.concurrency == 4
    assert "left out: 32" in far.reason
    near = knee(_points(curve, failed=(4,)))
    assert near.concurrency is None
    assert "4 before it" in near.reason
    assert knee(_points(curve, failed=(4, 8, 16, 32))).concurrency is None


def test_a_level_twice_is_refused() -> None:
    """Two sweeps in one list."""
    points = _points({1: 10, 2: 20, 4: 21})
    assert "more than once" in knee([*points, points[0]]).reason
