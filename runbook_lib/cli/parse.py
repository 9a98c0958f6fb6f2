"""`runbook parse`: pasted output of the tools into facts, for hosts that nobody can reach by SSH."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runbook_lib.cli.base import Json, app, emit, say

if TYPE_CHECKING:
    from runbook_lib.ascend.captured import Parsed

_WIDEST_CELL = 60
_MOST_BYTES = 64 * 1024 * 1024


@app.command()
def parse(
    tool: Annotated[
        str,
        typer.Argument(
            help="hccn_tool, npu-smi, hccn.conf, rank-table, docker, versions, plog, mindie, or mixed: a whole "
            "terminal capture with the commands in it."
        ),
    ],
    subcommand: Annotated[
        str,
        typer.Argument(help="The tool's own word without dash: ip, net_health, board; left out: told by its words."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Read pasted output from stdin; what cannot be read is said, with its line. Exit 1 when any part was not read."""
    from runbook_lib.ascend.captured import parse_text

    parsed = parse_text(tool, _stdin(), subcommand)
    if as_json:
        failures = [
            {
                "seen": problem.seen,
                "line": problem.line,
                "reason": problem.reason,
                "next_command": _next(problem.reason),
            }
            for problem in parsed.problems
        ]
        emit({"ok": parsed.ok, "failures": failures, "tool": parsed.tool, "facts": parsed.facts})
    else:
        _show(parsed)
    raise typer.Exit(0 if parsed.ok else 1)


def _next(reason: str) -> str:
    """Return what tells the answers apart: the command in front of them."""
    return "runbook parse mixed   # with the commands in the capture" if reason in {"conflict", "not-certain"} else ""


def _stdin() -> str:
    """Return standard input as text: UTF-8, UTF-16 with its mark, or the encoding of Chinese Windows."""
    data = sys.stdin.buffer.read(_MOST_BYTES)
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("gb18030")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace")


def _show(parsed: Parsed) -> None:
    rows = [_row(answer) for answer in parsed.facts.get("answers", [])] or [
        (key, _words(value)) for key, value in parsed.facts.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for problem in parsed.problems:
        say(f"not read{f', line {problem.line}' if problem.line else ''} ({problem.reason}): {problem.seen}")


def _row(answer: dict[str, Any]) -> tuple[str, ...]:
    where = " ".join(
        part for part in (answer["host"], "" if answer["card"] is None else f"card {answer['card']}") if part
    )
    value = _words(answer["value"]) if answer["state"] == "set" else f"{answer['state']} {answer['reason']}".strip()
    return where, f"{answer['tool']} {answer['subcommand']}".strip(), value


def _words(value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, dict) and value.keys() >= {"version", "cards"}:
        good = sum(card["health"] == "OK" for card in value["cards"])
        return f"{len(value['cards'])} chips, {good} with health OK"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST_CELL else f"{text[:_WIDEST_CELL]}..."
