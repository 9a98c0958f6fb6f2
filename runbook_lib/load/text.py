"""Points as plain text, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.load.reference import side_by_side

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
        str(point.get("asked_input_tokens") or "-"),  # points of earlier versions do not tell
        str(point.get("asked_output_tokens") or "-"),
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
    """Return one line per compared level: throughput, first token, decode, measured and the reference's."""
    lines = []
    for each in comparisons:
        lines.append(f"beside {each['name']} ({each['source']}):")
        if not each["differences"]:
            lines.append("  no level in common")
        for level in side_by_side(each):
            parts = zip(("tok/s", "first token s", "decode ms"), level["cells"], strict=True)
            lines.append(f"  {level['concurrency']:5d} clients: " + ", ".join(_beside(*part) for part in parts))
    return "".join(f"{line}\n" for line in lines)


def _beside(name: str, cell: Mapping[str, Any]) -> str:
    if cell["measured"] is None:
        return f"{name} {_percent(cell['change'])}"
    return f"{name} {cell['measured']:.4g} instead of {cell['known']:.4g} ({_percent(cell['change'])})"


def answers_text(answers: Mapping[str, Any]) -> str:
    """Return what a run searched beside its sweep, how far the capacity model is off, and what was not measured."""
    lines = []
    slo, fit = answers.get("slo"), answers.get("calibration")
    if slo:
        lines.append(
            f"highest concurrency at which {100 * slo['share']:g} % keep the SLO: {slo['found'] or 'none'} "
            f"(searched from {slo['lowest']} to {slo['highest']})"
        )
    for point in answers.get("grid") or []:
        said = f"{point['output_tokens_per_s']:.1f} tokens/s" if point["ok"] else f"not ok: {point['reason']}"
        lines.append(
            f"grid: {point['asked_input_tokens']} in, {point['asked_output_tokens']} out, "
            f"{point['concurrency']} clients: {said}"
        )
    if fit:
        off = ", ".join(f"{_FIT[name]} {100 * share:.1f} %" for name, share in fit["mean_error"].items())
        said = "it holds" if fit["holds"] else "fit it to these points before you plan with it"
        if fit["twin"]:
            said = (
                "the twin runs on this model, so there is nothing to fit: the rest is how late clients are in its clock"
            )
        lines.append(f"capacity model, mean error: {off}; {said}\n  next: {fit['next_command']}")
    lines += [f"not measured: {each}" for each in answers.get("not_measured", [])]
    return "".join(f"{line}\n" for line in lines)


_FIT = {"output_tokens_per_s": "throughput", "ttft": "first token", "decode": "decode"}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"
