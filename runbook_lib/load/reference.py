"""Measured points beside others: an earlier run, a simulation, the published curve. Pure, but for reading our data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.load.repeats import by_level, middle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PUBLISHED = Path(__file__).with_name("published.json")


@dataclass(frozen=True, slots=True)
class Reference:
    """A named curve; rows: concurrency, requests_per_s, output_tokens_per_s, ttft_s, decode_ms; None where unknown."""

    name: str
    source: str
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One level beside its reference; changes are shares, +0.1 is 10 % more; None where one side is missing."""

    concurrency: int
    output_tokens_per_s: float | None
    ttft: float | None
    decode: float | None


def published() -> Reference:
    """Return the field report's curve."""
    data = json.loads(_PUBLISHED.read_text(encoding="utf-8"))
    return Reference(data["name"], data["source"], tuple(data["points"]))


def fits_published(*, cards: int, weights: str, input_tokens: int, output_tokens: int, requests: int) -> bool:
    """Whether a sweep may be laid beside the published curve: same cards, weights, lengths, number of requests."""
    setup = json.loads(_PUBLISHED.read_text(encoding="utf-8"))["setup"]
    mine = (cards, weights, input_tokens, output_tokens, requests)
    return mine == (
        setup["cards"], setup["format"], setup["input_tokens"], setup["output_tokens"], setup["requests_per_level"]
    )  # fmt: skip


def of_points(name: str, source: str, points: Sequence[Mapping[str, Any]]) -> Reference:
    """Return measured points as a reference; of repeats the middle one, and only what was ok."""
    rows = [_row(middle(repeated)) for repeated in by_level(points).values() if any(each["ok"] for each in repeated)]
    return Reference(name, source, tuple(rows))


def compare(points: Sequence[Mapping[str, Any]], reference: Reference) -> list[Difference]:
    """Return the differences at the levels that both have."""
    others = {int(row["concurrency"]): row for row in reference.rows}
    result = []
    for row in of_points("", "", points).rows:
        other = others.get(int(row["concurrency"]))
        if other is not None:
            parts = (_change(row, other, name) for name in ("output_tokens_per_s", "ttft_s", "decode_ms"))
            result.append(Difference(int(row["concurrency"]), *parts))
    return result


def beside(points: Sequence[Mapping[str, Any]], reference: Reference) -> dict[str, Any]:
    """Return a reference, and how far the points are from it, as plain JSON."""
    return {
        "name": reference.name,
        "source": reference.source,
        "rows": [dict(row) for row in reference.rows],
        "differences": [asdict(each) for each in compare(points, reference)],
    }


def side_by_side(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each common level of what `beside` gave as `concurrency` and three `cells`: throughput, TTFT, decode.

    A cell has the reference's value, the measured one (None where unknown) and their change; s and ms.
    """
    rows = {row["concurrency"]: row for row in comparison.get("rows", [])}
    measures = (("output_tokens_per_s", "output_tokens_per_s"), ("ttft_s", "ttft"), ("decode_ms", "decode"))
    result = []
    for each in comparison["differences"]:
        row = rows.get(each["concurrency"], {})
        cells = []
        for name, change in measures:
            known, by = row.get(name), each[change]
            measured = None if known is None or by is None else known * (1 + by)
            cells.append({"known": known, "measured": measured, "change": by})
        result.append({"concurrency": each["concurrency"], "cells": cells})
    return result


def _row(point: Mapping[str, Any]) -> dict[str, Any]:
    ttft, tpot = point["ttft_ms"], point["tpot_ms"]
    return {
        "concurrency": point["concurrency"],
        "requests_per_s": point["requests_per_s"],
        "output_tokens_per_s": point["output_tokens_per_s"],
        "ttft_s": ttft["mean"] / 1000 if ttft else None,
        "decode_ms": tpot["mean"] if tpot else None,
    }


def _change(row: Mapping[str, Any], other: Mapping[str, Any], name: str) -> float | None:
    mine, theirs = row.get(name), other.get(name)
    return None if mine is None or not theirs else float(mine) / float(theirs) - 1
