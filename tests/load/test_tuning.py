"""The search over settings: bounded, greedy, never the same twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.tuning import Knob, Trial, search

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOBS = [Knob("a", (1, 2, 4, 8), "grow"), Knob("b", (False, True), "switch")]


class _Measured:
    """Best at a=4, and with b; a=8 does not start."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, settings: Mapping[str, Any]) -> Trial:
        """Measure."""
        self.seen.append(dict(settings))
        scores = {1: 100.0, 2: 130.0, 4: 150.0, 8: None}
        score = scores[settings["a"]]
        return Trial(settings, None if score is None else score * (1.1 if settings["b"] else 1.0))


def test_it_walks_as_long_as_it_helps() -> None:
    """Up from the present value, past a failure not; then the next knob."""
    measured = _Measured()
    outcome = search(_KNOBS, {"a": 1, "b": False}, measured, budget=20)
    assert outcome.best.settings == {"a": 4, "b": True}
    assert outcome.changed == {"a": (1, 4), "b": (False, True)}
    assert outcome.gain == pytest.approx(0.65)
    assert [each["a"] for each in measured.seen] == [1, 2, 4, 8, 4]
    assert "every knob" in outcome.ended


def test_it_goes_down_as_well() -> None:
    """When up does not help."""
    outcome = search(_KNOBS[:1], {"a": 8, "b": False}, lambda s: Trial(s, 100.0 / s["a"]), budget=20)
    assert outcome.best.settings["a"] == 1


def test_scatter_is_no_gain() -> None:
    """Less than two per cent is not worth a restart."""
    outcome = search(_KNOBS, {"a": 2, "b": False}, lambda s: Trial(s, 100.0 + s["a"] / 10 + s["b"]), budget=20)
    assert outcome.changed == {}
    assert outcome.gain == 0
    assert len(outcome.trials) == 4


def test_the_budget_holds() -> None:
    """And is named."""
    measured = _Measured()
    outcome = search(_KNOBS, {"a": 1, "b": False}, measured, budget=2)
    assert len(measured.seen) == 2
    assert "budget of 2" in outcome.ended
    with pytest.raises(UsageError):
        search(_KNOBS, {"a": 1, "b": False}, measured, budget=0)


def test_a_present_value_outside_the_list() -> None:
    """It stands between its neighbours."""
    tried: list[Any] = []

    def measure(settings: Mapping[str, Any]) -> Trial:
        tried.append(settings["a"])
        return Trial(settings, 1.0)

    search(_KNOBS[:1], {"a": 3, "b": False}, measure, budget=9)
    assert tried == [3, 4, 2]


def test_a_knob_that_cannot_matter_is_left_alone() -> None:
    """With the settings of that moment."""
    measured = _Measured()
    search(_KNOBS, {"a": 1, "b": False}, measured, budget=9, worthwhile=lambda _settings, knob: knob != "a")
    assert [each["b"] for each in measured.seen] == [False, True]


def test_a_start_that_cannot_be_measured_ends_it() -> None:
    """There is nothing to compare with."""
    with pytest.raises(UsageError, match="present settings could not be measured: it broke"):
        search(_KNOBS, {"a": 8, "b": False}, lambda s: Trial(s, None, {"reason": "it broke"}), budget=9)
