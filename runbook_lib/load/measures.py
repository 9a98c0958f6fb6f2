"""Latencies, rates and concurrency of a load, from raw times. Pure numpy.

Latencies come from whole answers only; failed requests count as errors and as load that was in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runbook_lib.load.record import Record

    Floats = NDArray[np.float64]

_BLOCK = 1 << 14
_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass(frozen=True, slots=True)
class Stats:
    """One distribution; the unit is the field's that holds it. Percentiles are interpolated linearly.

    std, max: None in points that were recorded before these were
    """

    mean: float
    p50: float
    p90: float
    p99: float
    std: float | None = None
    max: float | None = None


def stats(values: Floats | NDArray[np.int64], scale: float = 1.0) -> Stats | None:
    """Return the distribution of values / scale, None when there is nothing to tell.

    The order of the values is lost, and no copy of them is made: they are most of what a load process holds.
    """
    if not len(values):
        return None
    mean, most = float(np.mean(values)), float(np.max(values))
    blocks = (values[at : at + _BLOCK] for at in range(0, len(values), _BLOCK))
    std = float(np.sqrt(sum(float(np.sum((block - mean) ** 2)) for block in blocks) / len(values)))
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99), overwrite_input=True))
    return Stats(*(value / scale for value in (mean, p50, p90, p99, std, most)))


def is_whole(record: Record) -> bool:
    """Whether the answer came whole: no error, an end, and at least one token event."""
    return not record.error and record.end_ns > 0 and len(record.events) > 0


def whole(records: Sequence[Record]) -> list[Record]:
    """Return the requests whose answer came whole."""
    return [record for record in records if is_whole(record)]


def ttft_ms(records: Sequence[Record]) -> Floats:
    """Time to the first token on any channel, ms; from the send, in an open loop from the intended send."""
    return _array([record.events[0] - record.begin_ns for record in records]) / _NS_PER_MS


def first_content_ms(records: Sequence[Record]) -> Floats:
    """Time to the first token that is no thinking, ms, of the answers that thought first."""
    firsts = [
        record.events[first] - record.begin_ns
        for record in records
        if record.thinking_events
        for first in [next((at for at, channel in record.channels if channel == "content"), -1)]
        if first >= 0
    ]
    return _array(firsts) / _NS_PER_MS


def send_delay_ms(records: Sequence[Record]) -> Floats:
    """How much later than intended the requests of an open loop went out, ms; failed ones too."""
    return _array([record.start_ns - record.begin_ns for record in records if record.start_ns]) / _NS_PER_MS


def e2e_ms(records: Sequence[Record]) -> Floats:
    """Time to the end of the answer, ms; counted as ttft_ms."""
    return _array([record.end_ns - record.begin_ns for record in records]) / _NS_PER_MS


def within_slo(records: Sequence[Record], ttft: float, tpot: float, e2e: float) -> int:
    """Count the requests that kept every bound, in ms; a bound of 0 is none."""
    return sum(
        (not ttft or record.events[0] - record.begin_ns <= ttft * _NS_PER_MS)
        and (not tpot or record.events[-1] - record.events[0] <= tpot * _NS_PER_MS * max(1, record.output_tokens - 1))
        and (not e2e or record.end_ns - record.begin_ns <= e2e * _NS_PER_MS)
        for record in records
    )


def rates_in(records: Sequence[Record], window: tuple[float, float], zero_ns: int) -> tuple[float, float]:
    """Return output tokens/s and ended requests/s inside a window (ns after `zero_ns`): no ramp, no tail.

    Each token event counts with the answer's mean of tokens per event.
    """
    begin, end = window
    tokens = ended = 0.0
    for record in records:
        times = np.frombuffer(record.events, dtype=np.int64) - zero_ns
        inside = int(np.count_nonzero((times >= begin) & (times < end)))
        tokens += inside * record.output_tokens / len(record.events)
        ended += begin <= record.end_ns - zero_ns < end
    seconds = (end - begin) / _NS_PER_S
    return tokens / seconds, ended / seconds


def decode_ms(records: Sequence[Record]) -> Floats:
    """Time from first to last token, ms."""
    return _array([record.events[-1] - record.events[0] for record in records]) / _NS_PER_MS


def tpot_ms(records: Sequence[Record]) -> Floats:
    """Decode time per token after the first, ms; answers of one token have none."""
    longer = [record for record in records if record.output_tokens > 1]
    return decode_ms(longer) / _array([record.output_tokens - 1 for record in longer])


def itl_ms(records: Sequence[Record]) -> Floats:
    """Time between two token events of one answer, ms: per chunk, whatever number of tokens it carries."""
    if not records:
        return _array([])
    gaps = np.empty(sum(max(0, len(record.events) - 1) for record in records))
    at = 0
    for record in records:
        times = np.frombuffer(record.events, dtype=np.int64)
        gaps[at : at + len(times) - 1] = np.diff(times)
        at += max(0, len(times) - 1)
    gaps /= _NS_PER_MS
    return gaps


def lpct_ms(records: Sequence[Record], estimated_input_tokens: int) -> Floats:
    """TTFT per input token, ms; the count is the server's usage where it told, else the estimate."""
    tokens = _array([record.prompt_tokens or record.input_tokens or estimated_input_tokens for record in records])
    return ttft_ms(records) / tokens


def duration_s(records: Sequence[Record]) -> float:
    """Time from the first send to the last end, seconds."""
    if not records:
        return 0.0
    return (max(record.end_ns for record in records) - min(record.start_ns for record in records)) / _NS_PER_S


def mean_in_flight(starts: Floats, ends: Floats, window: tuple[float, float]) -> float:
    """Return how many intervals were open on average within the window, 0 for an empty window."""
    begin, end = window
    if end <= begin:
        return 0.0
    overlap = np.minimum(ends, end) - np.maximum(starts, begin)
    return float(np.sum(np.clip(overlap, 0.0, None)) / (end - begin))


def steady_window(starts: Floats, ends: Floats, concurrency: int) -> tuple[float, float] | None:
    """Return the time from when `concurrency` were first in flight until the last start.

    None when they never were, or when the last start was not after that.
    """
    real = ends > starts
    if not np.any(real):
        return None
    times = np.concatenate([starts[real], ends[real]])
    steps = np.concatenate([np.ones(int(real.sum())), -np.ones(int(real.sum()))])
    order = np.lexsort((steps, times))  # at one instant, ends come before starts
    full = np.flatnonzero(np.cumsum(steps[order]) >= concurrency)
    if not len(full):
        return None
    begin, end = float(times[order][full[0]]), float(np.max(starts[real]))
    return (begin, end) if end > begin else None


def intervals(records: Sequence[Record]) -> tuple[Floats, Floats]:
    """Return starts and ends of all requests, failed ones too, in ns after the first start."""
    starts = np.array([record.start_ns for record in records], dtype=np.int64)
    ends = np.array([record.end_ns for record in records], dtype=np.int64)
    zero = starts.min() if len(starts) else 0
    return (starts - zero).astype(np.float64), (ends - zero).astype(np.float64)


def _array(values: Sequence[int]) -> Floats:
    # Differences are exact: nanoseconds of uptime stay below 2**53 for a hundred days, and are off by less
    # than a microsecond for centuries.
    return np.array(values, dtype=np.float64)
