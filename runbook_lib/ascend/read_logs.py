"""Logs of CANN (plog) and MindIE into one reply: the errors, the first of them, and what it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import logs
from runbook_lib.ascend.answers import Reply, Yield
from runbook_lib.ascend.plain import DAMAGED, is_elision, joined
from runbook_lib.model import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.ascend.commands import Step
    from runbook_lib.ascend.plain import Line

_MOST_ERRORS = 200
_DAMAGED = re.compile(r"^\s*\[(?:ERROR|WARNING|INFO|EVENT|DEBUG|PID|\d{4}-)|^\s*E[A-Z]?\d{4,5}:|^\s*\d{4}-\d\d")
_SAID_BY_DAEMON = re.compile(
    r"Daemon (?:start success|is killing)|g_mainPid = \d+|Failed to init endpoint|^Killed$|^ERR: "
)


def read_log(step: Step, lines: Sequence[Line]) -> Yield:
    """Read a log. Lines without a stamp go on with the line before; a damaged line is a problem."""
    out = Yield()
    stamped = 0
    said: list[str] = []
    for line in lines:
        if not line.text:
            continue
        if DAMAGED in line.text:
            out.trouble(line.text, line.number, "damaged")
        if is_elision(line.text):
            out.trouble(line.text, line.number, "left-out")
        elif logs.parse_line(line.text) is not None and not line.open:
            stamped += 1
        elif line.open or _DAMAGED.search(line.text):
            out.trouble(line.text, line.number, "cut" if line.open else "text")
        elif _SAID_BY_DAEMON.search(line.text):
            said.append(line.text.strip())
        elif not stamped and not said:
            out.trouble(line.text, line.number, "text")
    whole = [line for line in lines if not line.open and not is_elision(line.text)]
    text = joined(whole)
    places = {place: line.number for place, line in enumerate(whole, start=1)}
    errors = list(logs.errors_of(text, step.text))
    if not stamped and not errors and not said:
        out.trouble("no line of a log in it", None, "empty")
        out.replies.append(Reply(step.tool, "", "unreadable", reason="empty", host=step.host, command=step.text))
        return out
    value = {"lines": stamped, "said": said, **_errors(text, errors, places)}
    first = lines[0].number
    out.replies.append(Reply(step.tool, "", "set", value, host=step.host, command=step.text, line=first))
    return out


def _errors(text: str, errors: list[logs.LogError], places: dict[int, int]) -> dict[str, Any]:
    first = logs.first_error({errors[0].source: text}) if errors else None
    return {
        "errors": [_error(error, places) for error in errors[:_MOST_ERRORS]],
        "error_count": len(errors),
        "first_error": _error(first, places) if first is not None else None,
        "link_errors": to_json(logs.parse_link_errors(text)),
    }


def _error(error: logs.LogError, places: dict[int, int]) -> Any:  # noqa: ANN401 - JSON
    known = [signature.id for signature in logs.match(error.text)]
    return {**to_json(error), "line": places.get(error.line, error.line), "signatures": known}
