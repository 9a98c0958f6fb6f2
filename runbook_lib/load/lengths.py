"""Distributions of prompt and answer lengths, as words on the command line.

`512` · `uniform:100-900` · `normal:512,150` · `lognormal:512,0.6` (median, sigma of the logarithm) ·
`choice:128,512,2048` · `choice:128*3,2048` (weights). All in tokens, never below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_EXPECTED = "like 512, uniform:100-900, normal:512,150, lognormal:512,0.6 or choice:128*3,2048"
_PAIR = 2


@dataclass(frozen=True, slots=True)
class Lengths:
    """One distribution; `draw` takes one length."""

    text: str
    draw: Callable[[Random], int]


def parse(text: str) -> Lengths:
    """Read a distribution. Raises UsageError for what is none."""
    kind, colon, rest = text.strip().partition(":")
    try:
        draw = _fixed(kind) if not colon else _KINDS[kind](rest)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{text!r} is no distribution of lengths; right would be {_EXPECTED}") from error
    return Lengths(text, draw)


def _fixed(text: str) -> Callable[[Random], int]:
    length = _positive(int(text))
    return lambda _: length


def _uniform(rest: str) -> Callable[[Random], int]:
    low, high = (_positive(int(part)) for part in rest.split("-"))
    if low > high:
        raise ValueError(rest)
    return lambda source: source.randint(low, high)


def _two(rest: str) -> tuple[float, float]:
    parts = [float(part) for part in rest.split(",")]
    if len(parts) != _PAIR or not all(math.isfinite(part) and part >= 0 for part in parts) or parts[0] < 1:
        raise ValueError(rest)
    return parts[0], parts[1]


def _normal(rest: str) -> Callable[[Random], int]:
    mean, deviation = _two(rest)
    return lambda source: max(1, round(source.gauss(mean, deviation)))


def _lognormal(rest: str) -> Callable[[Random], int]:
    median, sigma = _two(rest)
    return lambda source: max(1, round(source.lognormvariate(math.log(median), sigma)))


def _choice(rest: str) -> Callable[[Random], int]:
    parts = [part.partition("*") for part in rest.split(",")]
    values = [_positive(int(value)) for value, _, _ in parts]
    weights = [_positive(int(weight)) if star else 1 for _, star, weight in parts]
    return lambda source: source.choices(values, weights)[0]


def _positive(value: int) -> int:
    if value < 1:
        raise ValueError(value)
    return value


_KINDS: dict[str, Callable[[str], Callable[[Random], int]]] = {
    "uniform": _uniform,
    "normal": _normal,
    "lognormal": _lognormal,
    "choice": _choice,
}
