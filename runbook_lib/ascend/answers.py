"""What a capture yields: replies with typed values, and the problems that keep parts of it from being known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.plain import DAMAGED, joined
from runbook_lib.ascend.reading import Reading, to_float
from runbook_lib.model import Capture, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.ascend.commands import Step
    from runbook_lib.ascend.plain import Line

LONGEST_LINE = 2000  # of hccn_tool and npu-smi; a longer one is no line of theirs
_LONGEST_SEEN = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """A part that could not be read. `reason`: a stable word. `line`: its number in the input, None for all of it."""

    seen: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of one tool.

    state and reason are those of Reading; value is plain JSON data, None unless state is `set`.
    host, card, chip: where it was asked, as far as that is certain. line: its first line in the input.
    """

    tool: str
    subcommand: str
    state: str
    value: Any = None
    reason: str = ""
    message: str = ""
    host: str = ""
    card: int | None = None
    chip: int | None = None
    command: str = ""
    line: int | None = None


@dataclass(slots=True)
class Yield:
    """Replies and problems, gathered."""

    replies: list[Reply] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def trouble(self, seen: str, line: int | None, reason: str) -> None:
        """Note a part that could not be read."""
        self.problems.append(Problem(seen.strip()[:_LONGEST_SEEN], line, reason))

    def add(self, other: Yield) -> None:
        """Take over another's."""
        self.replies += other.replies
        self.problems += other.problems


def number(text: str) -> Any:  # noqa: ANN401 - a JSON value
    """Return a whole or decimal number as one, "NA" as None, anything else as the text it is."""
    if text in {"NA", "N/A", "-", ""}:
        return None
    if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})", text):
        return int(text)
    return to_float(text) if re.fullmatch(r"-?(?:0|[1-9][0-9]{0,14})\.[0-9]{1,12}", text) else text


def read(
    parser: Callable[[Capture], Reading[Any]],
    lines: Sequence[Line],
    step: Step,
    typed: Callable[[Any], Any] = to_json,
) -> Yield:
    """Read lines with a parser. A value that would be another with a line end behind it is noted as cut off."""
    out = Yield()
    text = joined(lines)
    reading = parser(Capture(text, exit_code=0))
    first = lines[0].number if lines else None
    if lines and lines[-1].open and parser(Capture(f"{text}\n", exit_code=0)).value != reading.value:
        out.trouble(lines[-1].text, lines[-1].number, "cut")
    value = None if reading.value is None else typed(reading.value)
    if DAMAGED in str(value):
        out.trouble("a character of the capture is lost", first, "damaged")
        reading, value = Reading(None, "unreadable", reading.message, "damaged"), None
    state, reason, message = reading.state, reading.reason, reading.message
    where = (step.host, step.card, step.chip, step.text, first)
    out.replies.append(Reply(step.tool, step.subcommand, state, value, reason, message, *where))
    if reading.state in {"error", "unreadable"} and not (out.problems and reading.state == "unreadable"):
        out.trouble(reading.message or f"no answer to {step.text or step.tool}", first, reading.reason)
    return out
