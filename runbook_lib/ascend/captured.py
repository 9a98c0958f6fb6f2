"""One door to all parsers: a tool's pasted output in, typed facts and the parts that could not be read out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.commands import Step
from runbook_lib.ascend.plain import lines_of, plain
from runbook_lib.ascend.read_logs import read_log
from runbook_lib.ascend.terminal import read_terminal
from runbook_lib.errors import UsageError
from runbook_lib.model import to_json

if TYPE_CHECKING:
    from runbook_lib.ascend.answers import Problem, Yield

TOOLS = ("hccn_tool", "npu-smi", "hccn.conf", "rank-table", "docker", "versions", "plog", "mindie", "mixed")
_FLAT = frozenset({"hccn.conf", "rank-table", "versions", "plog", "mindie"})
_LONGEST_WORD = 64


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a capture says. `facts` is plain JSON data; `problems` is empty when every part could be read."""

    tool: str
    facts: dict[str, Any]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether every part could be read."""
        return not self.problems


def parse_text(tool: str, text: str, subcommand: str = "") -> Parsed:
    """Read what a tool printed. `subcommand`: the tool's own word, with or without dash, "" to tell by its words.

    Raises UsageError for a tool that has no parser.
    """
    if tool not in TOOLS:
        raise UsageError(f"no parser for {tool!r}; there are: {', '.join(TOOLS)}", next_command="runbook parse --help")
    word = subcommand.strip().split(" ")[-1].lstrip("-")[:_LONGEST_WORD]
    word = word.replace("-", "_") if tool == "hccn_tool" else word
    if tool in {"plog", "mindie"}:
        return _parsed(tool, read_log(Step(tool), lines_of(plain(text))))
    default = None if tool == "mixed" else Step(tool, word)
    return _parsed(tool, read_terminal(text, default))


def _parsed(tool: str, read: Yield) -> Parsed:
    if tool not in _FLAT:
        return Parsed(tool, {"answers": to_json(read.replies)}, tuple(read.problems))
    values = [reply.value for reply in read.replies if reply.value is not None]
    facts = values[0] if len(values) == 1 else {}
    if len(values) > 1:
        read.trouble(f"{len(values)} files in one capture", None, "not-certain")
    return Parsed(tool, facts, tuple(read.problems))
