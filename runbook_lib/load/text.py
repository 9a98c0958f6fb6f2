"""Points as plain text, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEAD = ("in", "out", "clients", "in flight", "req/s", "tok/s", "tok/s each", "TTFT s", "p99", "TPOT ms", "ITL p99", "")


def points_text(result: Mapping[str, Any]) -> str:
    """Return one line per point, then failures and the conclusion."""
    rows = [_HEAD, *(_row(point) for point in result["points"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"not ok: {failure['seen']}\n  next: {failure['next_command']}" for failure in result["failures"]]
    lines += [f"note: {note}" for note in dict.fromkeys(note for point in result["points"] for note in point["notes"])]
    if "answers" in result:
        lines.append(result["answers"]["conclusion"])
    if "found_concurrency" in result:
        lines.append(f"highest concurrency within the SLO: {result['found_concurrency'] or 'none'}")
    return "\n".join(lines)


def _row(point: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(point["asked_input_tokens"]),
        str(point["asked_output_tokens"]),
        str(point["concurrency"]),
        f"{point['delivered']:.1f}",
        f"{point['requests_per_s']:.3g}",
        f"{point['output_tokens_per_s']:.1f}",
        f"{point['tokens_per_s_per_client']:.3g}",
        _part(point, "ttft_ms", "mean", 1000.0),
        _part(point, "ttft_ms", "p99", 1000.0),
        _part(point, "tpot_ms", "mean", 1.0),
        _part(point, "itl_ms", "p99", 1.0),
        "" if point["ok"] else "not ok",
    )


def _part(point: Mapping[str, Any], name: str, part: str, scale: float) -> str:
    stats = point[name]
    return f"{stats[part] / scale:.3g}" if stats else "-"


def differences_text(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per compared level: throughput, first token, decode, as changes in per cent."""
    lines = []
    for each in comparisons:
        lines.append(f"beside {each['name']} ({each['source']}):")
        if not each["differences"]:
            lines.append("  no level in common")
        lines += [
            f"  {row['concurrency']:5d} clients: tok/s {_percent(row['output_tokens_per_s'])}, "
            f"first token {_percent(row['ttft'])}, decode {_percent(row['decode'])}"
            for row in each["differences"]
        ]
    return "".join(f"{line}\n" for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"
