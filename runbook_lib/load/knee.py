"""The knee of a sweep: the concurrency from which on more clients buy waiting, not throughput. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.load.point import Point

_FEWEST = 3
# Throughput this close to the best is the plateau: the scatter of repeated points is a few per cent.
_PLATEAU = 0.95
_STILL_RISES = 1.05
# A first token that comes twice as late as at the knee is where waiting becomes what users notice.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Knee:
    """What a sweep says.

    concurrency: the recommended one, None when these points cannot tell
    saturates_at: the knee itself, the lowest level on the plateau of throughput; None when it cannot be told
    reason: for people
    """

    concurrency: int | None
    reason: str
    saturates_at: int | None = None


def knee(points: Sequence[Point]) -> Knee:
    """Find where throughput saturates, and how far beyond it a service may be loaded.

    The knee is the lowest level with at least 95 % of the best throughput. Recommended is the highest level of that
    plateau whose mean first-token time is at most twice the knee's: it takes bursts without making users wait. Points
    that are not ok are left out, and named.
    """
    good = sorted((point for point in points if point.ok), key=lambda point: point.concurrency)
    levels = [point.concurrency for point in good]
    failed = sorted({point.concurrency for point in points if not point.ok})
    note = f" (not ok and left out: {_names(failed)})" if failed else ""
    if len(set(levels)) != len(levels):
        return Knee(None, "The knee cannot be told: a concurrency occurs more than once; give one sweep.")
    if len(good) < _FEWEST:
        return Knee(None, f"The knee cannot be told from {len(good)} good points; {_FEWEST} are needed{note}.")
    best = max(good, key=lambda point: point.output_tokens_per_s)
    last, before = good[-1], good[-2]
    if last.output_tokens_per_s > _STILL_RISES * before.output_tokens_per_s:
        return Knee(
            None,
            f"Throughput still rises at the highest concurrency {last.concurrency} "
            f"({last.output_tokens_per_s:.1f} tokens/s): the service is not saturated, "
            f"measure {2 * last.concurrency} and more{note}.",
        )
    plateau = [point for point in good if point.output_tokens_per_s >= _PLATEAU * best.output_tokens_per_s]
    at = plateau[0]
    place = good.index(at)
    if place == 0 and at.concurrency > 1:
        return Knee(
            None,
            f"Throughput hardly rises above the lowest concurrency {at.concurrency} "
            f"({at.output_tokens_per_s:.1f} tokens/s): the knee lies at or below it, "
            f"measure {max(1, at.concurrency // 2)} and less{note}.",
        )
    low = levels[place - 1] if place else 0
    hidden = [level for level in failed if low < level <= at.concurrency]
    if hidden:
        return Knee(
            None,
            f"The knee lies at {at.concurrency} or below, but {_names(hidden)} before it did not measure well; "
            "repeat the points that are not ok.",
        )
    return _recommended(at, plateau, good[place + 1 :], note)


def _recommended(at: Point, plateau: Sequence[Point], beyond: Sequence[Point], note: str) -> Knee:
    """Go on along the plateau as long as the first token does not come too late."""
    chosen = at
    for point in plateau[1:]:
        if at.ttft_ms is None or point.ttft_ms is None or point.ttft_ms.mean > _PATIENCE * at.ttft_ms.mean:
            break
        chosen = point
    reason = f"Throughput saturates at {at.concurrency} concurrent requests, with {at.output_tokens_per_s:.1f} tokens/s"
    if chosen is not at:
        reason += (
            f"; up to {chosen.concurrency} it stays there and the first token takes at most {_PATIENCE:g} times as "
            f"long as at the knee, so {chosen.concurrency} is recommended"
        )
    after = next((point for point in beyond if point.concurrency > chosen.concurrency), None)
    if after is not None:
        gain = 100 * (after.output_tokens_per_s / chosen.output_tokens_per_s - 1)
        reason += f". {after.concurrency} clients change throughput by {gain:+.0f} %"
        if chosen.ttft_ms is not None and after.ttft_ms is not None:
            reason += f" and the first token from {chosen.ttft_ms.mean / 1000:.3g} to {after.ttft_ms.mean / 1000:.3g} s"
    return Knee(chosen.concurrency, f"{reason}{note}.", at.concurrency)


def _names(levels: Sequence[int]) -> str:
    return ", ".join(str(level) for level in levels)
