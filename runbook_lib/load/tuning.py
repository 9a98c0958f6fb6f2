"""A bounded search over settings: one knob at a time, in the direction that helps, as long as it helps. Pure.

Every trial costs a restart of the service and a measurement, so the search is greedy and never tries a pair twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Less than this is the scatter between repeats, not an effect.
GAIN = 0.02


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting: its candidate values in the order in which they are worth trying, and why (with the source)."""

    name: str
    values: Sequence[Any]
    why: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement: settings, score (None when it failed: not started, or the point was not ok), evidence."""

    settings: Mapping[str, Any]
    score: float | None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """All trials in order, the first of them the start; `best` is the one to keep; `ended` says why it stopped."""

    trials: Sequence[Trial]
    best: Trial
    ended: str

    @property
    def changed(self) -> dict[str, tuple[Any, Any]]:
        """Return the settings in which the best differs from the start, as (before, after)."""
        start = self.trials[0].settings
        return {
            name: (start.get(name), value) for name, value in self.best.settings.items() if start.get(name) != value
        }

    @property
    def gain(self) -> float:
        """Return how much better the best is than the start, as a share."""
        first = self.trials[0].score
        return self.best.score / first - 1 if first and self.best.score else 0.0


def search(
    knobs: Sequence[Knob],
    start: Mapping[str, Any],
    measure: Callable[[Mapping[str, Any]], Trial],
    *,
    budget: int,
    worthwhile: Callable[[Mapping[str, Any], str], bool] = lambda _settings, _knob: True,
) -> Outcome:
    """Measure the start, then walk each knob from its present value, first up its list, then down.

    budget: measurements in all, at least 1. worthwhile: whether moving a knob can matter with these settings.
    Raises UsageError when the start itself cannot be measured: then nothing could be compared.
    """
    if budget < 1:
        raise UsageError(f"budget {budget}; at least 1 measurement is needed")
    trials = [measure(dict(start))]
    best = trials[0]
    if best.score is None:
        raise UsageError(f"the present settings could not be measured: {best.evidence.get('reason', 'unknown')}")
    seen = {_key(best.settings)}
    for knob in knobs:
        if not worthwhile(best.settings, knob.name):
            continue
        for path in _paths(knob, best.settings.get(knob.name)):
            for value in path:
                settings = {**best.settings, knob.name: value}
                if _key(settings) in seen:
                    continue
                if len(trials) >= budget:
                    return Outcome(trials, best, f"the budget of {budget} measurements is used up")
                seen.add(_key(settings))
                trial = measure(settings)
                trials.append(trial)
                if trial.score is None or best.score is None or trial.score < (1 + GAIN) * best.score:
                    break  # further in this direction is not worth a restart
                best = trial
    return Outcome(trials, best, "every knob was tried in both directions")


def _paths(knob: Knob, present: Any) -> Iterator[Sequence[Any]]:  # noqa: ANN401 - numbers and booleans
    values = list(knob.values)
    if present in values:
        at = values.index(present)
        yield values[at + 1 :]
        yield values[:at][::-1]
    elif isinstance(present, int) and not isinstance(present, bool):
        yield [value for value in values if value > present]
        yield [value for value in reversed(values) if value < present]
    else:
        yield values


def _key(settings: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))
