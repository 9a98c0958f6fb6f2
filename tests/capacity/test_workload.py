"""Arrivals, lengths, and statistics in bounded memory."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from runbook_lib.capacity import statistics
from runbook_lib.capacity.statistics import Sample
from runbook_lib.capacity.step_time import PS
from runbook_lib.capacity.workload import Lengths, poisson, requests, trace


def test_lengths_keep_to_their_bounds_and_seed() -> None:
    """Equal lengths are equal; a spread is cut; the same seed gives the same."""
    assert {request.input for request in requests(10, Lengths(512), Lengths(7))} == {512}
    lengths = [each.input for each in requests(5000, Lengths(100, 60, low=20, high=150), Lengths(7), seed=3)]
    assert (min(lengths), max(lengths)) == (20, 150)
    assert lengths == [each.input for each in requests(5000, Lengths(100, 60, low=20, high=150), Lengths(7), seed=3)]


def test_poisson_arrivals() -> None:
    """Gaps are exponential: mean and deviation are equal."""
    times = [request.arrived / PS for request in poisson(4.0, requests(20_000, Lengths(1), Lengths(1)))]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 0
    assert np.mean(gaps) == pytest.approx(0.25, rel=0.03)
    assert np.std(gaps) == pytest.approx(0.25, rel=0.03)


def test_trace_arrivals() -> None:
    """A trace comes as it was."""
    (one,) = trace([(1.5, 10, 20)])
    assert (one.arrived, one.input, one.output) == (PS * 3 // 2, 10, 20)


def test_percentiles_exact_then_binned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few values are exact; many are within 0.2 %, in bounded memory."""
    sample = Sample()
    assert math.isnan(sample.mean)
    assert math.isnan(sample.percentile(0.5))
    for value in (1.0, 2.0, 4.0):
        sample.add(value)
    assert (sample.mean, sample.percentile(0.5), sample.percentile(1.0)) == (7 / 3, 2.0, 4.0)
    monkeypatch.setattr(statistics, "_EXACT", 100)
    values = np.random.default_rng(0).lognormal(1.0, 1.0, 5050)
    sample = Sample()
    for value in values:
        sample.add(float(value))
    assert len(sample._values) < 100
    for share in (0.01, 0.5, 0.9, 0.99):
        assert sample.percentile(share) == pytest.approx(float(np.quantile(values, share, method="lower")), rel=0.002)
