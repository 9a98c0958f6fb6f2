"""What a set of points says: levels with their spread, the knee, what binds, one paragraph. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runbook_lib.load.binding import binding
from runbook_lib.load.knee import Knee, knee
from runbook_lib.load.point import Point
from runbook_lib.load.repeats import by_level, middle, spreads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def answers(
    points: Sequence[Mapping[str, Any]],
    server: Mapping[tuple[int, int, int], Mapping[str, float]] | None = None,
    *,
    max_batch_size: int = 0,
    max_link_num: int = 0,
) -> dict[str, Any]:
    """Return the answers of points in their JSON form, as plain JSON.

    server: summary of the scraped metrics by input tokens, output tokens and concurrency
    A grid of lengths has one sweep for each pair of them; the knee is told of each.
    """
    groups = by_level(points)
    sweeps: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for (inputs, outputs, _, _), repeated in groups.items():
        sweeps.setdefault((inputs, outputs), []).append(middle(repeated))
    told = []
    for (inputs, outputs), sweep in sweeps.items():
        found = knee_of(sweep)
        said = {level: each for (into, out, level), each in (server or {}).items() if (into, out) == (inputs, outputs)}
        held = binding(sweep, said, max_batch_size=max_batch_size, max_link_num=max_link_num)
        told.append(
            {
                "input_tokens": inputs,
                "output_tokens": outputs,
                "saturates_at": found.saturates_at,
                "recommended": found.concurrency,
                "reason": found.reason,
                "binds": held.kind,
                "binds_reason": held.reason,
            }
        )
    return {
        "sweeps": told,
        "levels": [
            {
                "input_tokens": level[0],
                "output_tokens": level[1],
                "rate_per_s": level[2],
                "concurrency": level[3],
                "repeats": len(repeated),
                "ok": all(point["ok"] for point in repeated),
                **{name: asdict(value) for name, value in spreads(repeated).items()},
            }
            for level, repeated in groups.items()
        ],
        "conclusion": _conclusion(told),
    }


def knee_of(points: Sequence[Mapping[str, Any]]) -> Knee:
    """Return the knee of points in their JSON form."""
    return knee([Point.from_json(dict(point)) for point in points])


def _conclusion(told: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for sweep in told:
        lengths = f"{sweep['input_tokens']} tokens in, {sweep['output_tokens']} out: " if len(told) > 1 else ""
        parts.append(f"{lengths}{sweep['reason']} What binds: {sweep['binds']} ({sweep['binds_reason']}).")
    return " ".join(parts)
