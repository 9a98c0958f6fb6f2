"""Who asks for what, and when. Everything is lazy, so a million requests need no room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runbook_lib.capacity.group import Request
from runbook_lib.capacity.step_time import PS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Lengths:
    """A normal distribution of lengths in tokens, cut at `low` and `high`; a spread of 0 gives equal lengths."""

    mean: float
    spread: float = 0.0
    low: int = 1
    high: int = 1 << 22

    def draw(self, random: np.random.Generator, count: int) -> list[int]:
        """Return `count` lengths."""
        if self.spread == 0:
            return [round(self.mean)] * count
        values = np.clip(np.rint(random.normal(self.mean, self.spread, count)), self.low, self.high)
        return [int(value) for value in values.astype(np.int64).tolist()]


def requests(count: int, inputs: Lengths, outputs: Lengths, seed: int = 0) -> Iterator[Request]:
    """Return `count` requests that have not arrived yet (a closed loop sets when they do)."""
    random = np.random.default_rng(seed)
    left = count
    while left > 0:
        chunk = min(left, _CHUNK)
        for input_tokens, output_tokens in zip(inputs.draw(random, chunk), outputs.draw(random, chunk), strict=True):
            yield Request(input_tokens, output_tokens)
        left -= chunk


def poisson(rate_per_s: float, unsent: Iterable[Request], seed: int = 0) -> Iterator[Request]:
    """Let requests arrive at random, `rate_per_s` on average."""
    random = np.random.default_rng([seed, 1])
    now = 0.0
    gaps: list[float] = []
    for request in unsent:
        if not gaps:
            gaps = random.exponential(1.0 / rate_per_s, _CHUNK).tolist()
        now += gaps.pop()
        request.arrived = request.queued = round(now * PS)
        yield request


def trace(rows: Iterable[tuple[float, int, int]]) -> Iterator[Request]:
    """Let requests arrive as recorded: (seconds, input tokens, output tokens), in rising order of time."""
    for seconds, input_tokens, output_tokens in rows:
        yield Request(input_tokens, output_tokens, round(seconds * PS))
