"""Measures against values computed by hand, and the verdict on a point."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runbook_lib.load import measures
from runbook_lib.load.point import Point, make_point
from runbook_lib.load.record import Record, Trace
from runbook_lib.load.spec import PointSpec

_MS = 1_000_000


def _record(start: int, events: list[int], end: int, **more: Any) -> Record:
    times = array("q", (each * _MS for each in events))
    return Record(0, start_ns=start * _MS, end_ns=end * _MS, events=times, **more)


def _spec(concurrency: int, requests: int, **more: Any) -> PointSpec:
    return PointSpec("http://127.0.0.1", "m", concurrency, requests, 10, 3, **more)


def test_latencies_by_hand() -> None:
    """Chunks of two tokens: ITL is per chunk, TPOT per token."""
    records = [
        _record(100, [150, 170, 210], 211, completion_tokens=5, prompt_tokens=25),
        _record(200, [210], 215),
    ]
    assert measures.ttft_ms(records).tolist() == [50, 10]
    assert measures.itl_ms(records).tolist() == [20, 40]
    assert measures.decode_ms(records).tolist() == [60, 0]
    assert measures.tpot_ms(records).tolist() == [15]
    assert measures.e2e_ms(records).tolist() == [111, 15]
    assert measures.lpct_ms(records, 10).tolist() == [2, 1]
    assert measures.duration_s(records) == pytest.approx(0.115)


def test_nothing_gives_nothing() -> None:
    """No request, no number."""
    assert measures.stats(measures.ttft_ms([])) is None
    assert measures.stats(measures.itl_ms([])) is None
    assert measures.stats(measures.tpot_ms([])) is None
    assert measures.duration_s([]) == 0


def test_percentiles() -> None:
    """Linear between the ranks."""
    assert measures.stats(np.arange(101.0)) == measures.Stats(50, 50, 90, 99, float(np.std(np.arange(101.0))), 100)


def test_concurrency_by_hand() -> None:
    """Two clients; the second begins at 10, a gap of 10 in the first, a tail of one."""
    starts, ends = np.array([0.0, 10.0, 50.0, 60.0]), np.array([40.0, 60.0, 90.0, 100.0])
    assert measures.steady_window(starts, ends, 2) == (10, 60)
    assert measures.mean_in_flight(starts, ends, (10, 60)) == pytest.approx((30 + 50 + 10) / 50)
    assert measures.mean_in_flight(starts, ends, (0, 100)) == pytest.approx(1.7)
    assert measures.steady_window(starts, ends, 3) is None
    assert measures.steady_window(starts[:2], ends[:2], 2) is None
    assert measures.mean_in_flight(starts, ends, (5, 5)) == 0


def test_back_to_back_requests_are_not_two() -> None:
    """One ends in the moment in which the next begins."""
    assert measures.steady_window(np.array([0.0, 10.0]), np.array([10.0, 20.0]), 2) is None


def _good(concurrency: int = 2, waves: int = 3) -> list[Record]:
    return [
        _record(wave * 30, [wave * 30 + 10, wave * 30 + 20, wave * 30 + 30], wave * 30 + 30,
                completion_tokens=3, prompt_tokens=10, finish_reason="length")
        for wave in range(waves) for _ in range(concurrency)
    ]  # fmt: skip


def _trace(records: list[Record], lateness_ms: float = 0.1) -> Trace:
    return Trace(records, array("q", [int(lateness_ms * _MS)] * 10), "kernel")


def test_a_good_point() -> None:
    """Six requests of three tokens in 90 ms."""
    point = make_point(_spec(2, 6), _trace(_good()))
    assert point.ok, point.reason
    assert point.reason == ""
    assert point.output_tokens_per_s == pytest.approx(200)
    assert point.requests_per_s == pytest.approx(6 / 0.09)
    assert point.tokens_per_s_per_client == pytest.approx(100)
    assert point.generation_tokens_per_s_per_client == pytest.approx(100)
    assert (point.delivered, point.delivered_basis, point.mean_in_flight) == (2, "steady", 2)
    assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point
    assert set(point.to_json()["ttft_ms"]) >= {"mean", "p50", "p90", "p99"}


def test_too_few_waves_say_so() -> None:
    """With one wave there is no steady time; the number is that of the whole load."""
    point = make_point(_spec(2, 2), _trace(_good(waves=1)))
    assert (point.ok, point.delivered_basis) == (True, "whole")


@pytest.mark.parametrize(
    ("records", "spec", "lateness_ms", "words"),
    [
        ([*_good()[:-1], _record(60, [], 70, error="cut", detail="gone")], _spec(2, 6), 0.1, "1 x cut (gone)"),
        (_good()[:-1], _spec(2, 6), 0.1, "5 of 6 requests were sent"),
        (_good(concurrency=1, waves=6), _spec(2, 6), 0.1, "never in flight together"),
        (_good(), _spec(2, 6), 27.0, "27.0 ms late at p99"),
        ([], _spec(2, 6), 0.1, "no request succeeded"),
        ([*_good()[:-1], _record(60, [], 0)], _spec(2, 6), 0.1, "1 of 6 requests failed"),
    ],
)
def test_what_spoils_a_point(records: list[Record], spec: PointSpec, lateness_ms: float, words: str) -> None:
    """Each cause alone is enough, and is named."""
    point = make_point(spec, _trace(records, lateness_ms))
    assert not point.ok
    assert words in point.reason


def test_a_load_below_the_requested_one_is_not_ok() -> None:
    """Two clients of which one pauses for long: 1.5 of 2."""
    records = [_record(0, [5], 10), _record(0, [5], 100), _record(60, [70], 110), _record(110, [115], 120)]
    point = make_point(_spec(2, 4), _trace(records))
    assert point.delivered == pytest.approx((10 + 100 + 50) / 110)
    assert "were in flight on average" in point.reason
    assert make_point(replace(_spec(2, 4), min_delivered=0.7), _trace(records)).ok


def test_unknown_lateness_is_not_ok() -> None:
    """Who cannot say how late it was has not measured."""
    point = make_point(_spec(2, 6), Trace(_good(), array("q"), "loop"))
    assert "lateness is unknown" in point.reason


def test_a_failed_warm_up_is_told() -> None:
    """The point itself may look well."""
    warmup = [_record(0, [], 5, error="timeout", detail="slow")]
    point = make_point(_spec(2, 6), _trace(_good()), warmup=warmup)
    assert not point.ok
    assert "warm-up failed: 1 x timeout (slow)" in point.reason
