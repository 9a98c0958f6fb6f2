"""The knee of a sweep: the concurrency beyond which more clients buy more waiting than throughput. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.load.point import Point

_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Knee:
    """The recommended concurrency, None when these points cannot tell; `reason` is one sentence for people."""

    concurrency: int | None
    reason: str


def knee(points: Sequence[Point]) -> Knee:
    """Find the point of maximal power, throughput / latency (Kleinrock's criterion).

    In a closed loop latency = concurrency / throughput (Little's law), so power = throughput**2 / concurrency,
    and its maximum is where doubling the clients stops to bring sqrt(2) times the throughput. It needs no
    thresholds and no smooth curve. Points that are not ok are left out, and named.
    """
    good = sorted((point for point in points if point.ok), key=lambda point: point.concurrency)
    levels = [point.concurrency for point in good]
    failed = sorted({point.concurrency for point in points if not point.ok})
    note = f" (not ok and left out: {_names(failed)})" if failed else ""
    if len(set(levels)) != len(levels):
        return Knee(None, "The knee cannot be told: a concurrency occurs more than once; give one sweep.")
    if len(good) < _FEWEST:
        return Knee(None, f"The knee cannot be told from {len(good)} good points; {_FEWEST} are needed{note}.")
    power = [point.output_tokens_per_s**2 / point.concurrency for point in good]
    best = max(range(len(good)), key=power.__getitem__)
    at = good[best]
    if best == len(good) - 1:
        return Knee(
            None,
            f"Throughput still rises well at the highest concurrency {at.concurrency} "
            f"({at.output_tokens_per_s:.1f} tokens/s): the service is not saturated, "
            f"measure {2 * at.concurrency} and more{note}.",
        )
    if best == 0 and at.concurrency > 1:
        return Knee(
            None,
            f"Throughput hardly rises above the lowest concurrency {at.concurrency} "
            f"({at.output_tokens_per_s:.1f} tokens/s): the knee lies at or below it, "
            f"measure {max(1, at.concurrency // 2)} and less{note}.",
        )
    beyond = good[best + 1]
    hidden = [level for level in failed if (levels[best - 1] if best else 0) < level < beyond.concurrency]
    if hidden:
        return Knee(
            None,
            f"The knee lies near {at.concurrency}, but {_names(hidden)} beside it did not measure well; "
            "repeat the points that are not ok.",
        )
    gain = 100 * (beyond.output_tokens_per_s / at.output_tokens_per_s - 1)
    return Knee(
        at.concurrency,
        f"At {at.concurrency} clients the service gives {at.output_tokens_per_s:.1f} tokens/s; going to "
        f"{beyond.concurrency} changes that by {gain:+.0f} % for {beyond.concurrency / at.concurrency:.3g} "
        f"times the clients, so further clients mostly wait{note}.",
    )


def _names(levels: Sequence[int]) -> str:
    return ", ".join(str(level) for level in levels)
