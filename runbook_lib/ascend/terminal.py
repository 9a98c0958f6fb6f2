"""A whole terminal capture: prompts and echoed commands, and the output that belongs to each.

What a command printed reaches to the next prompt. The output of a loop goes to its commands in order where
that is certain, and is otherwise shown without a card.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runbook_lib.ascend.answers import Yield
from runbook_lib.ascend.commands import Step, steps_of, typed, unfinished
from runbook_lib.ascend.hccn_answers import begins, refuses
from runbook_lib.ascend.plain import DAMAGED, Line, is_elision, is_noise, lines_of, plain
from runbook_lib.ascend.read_files import read_conf, read_docker, read_rank_table, read_text, read_versions
from runbook_lib.ascend.read_hccn import read_hccn
from runbook_lib.ascend.read_logs import read_log
from runbook_lib.ascend.read_npu_smi import read_npu_smi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FILE_READERS: dict[str, Callable[[Step, Sequence[Line]], Yield]] = {
    "hccn.conf": read_conf,
    "versions": read_versions,
    "rank-table": read_rank_table,
    "docker": read_docker,
    "plog": read_log,
    "mindie": read_log,
    "text": read_text,
}
_LONGEST_COMMAND = 30  # lines


def _mark(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE)


_NPU_BEGINS = re.compile(r"[ \t]*(?:NPU ID|Total Count|Health Status)[ \t]*:")
_TABLE = re.compile(r"[ \t]*(?:\+[-=+]{20}|\|[ \t]*(?:NPU\b|npu-smi))")
_GUESSES = (  # what output without any command is, by words that only it has
    (
        "npu-smi",
        _mark(
            r"^[ \t]*[|+](?:[ \t]*NPU\b|[ \t]*npu-smi|[-=]{20})|^[ \t]*(?:NPU ID|Total Count|Health Status)[ \t]*:"
            r"|^[ \t]*NPU ID[ \t]+Chip ID|There is no NPU card|dcmi mod(?:ule|el)|npu get board type"
            r"|No process in device|CPU Affinity"
        ),
    ),
    ("rank-table", _mark(r"\"server_list\"\s*:")),
    ("docker", _mark(r"^(?:CONTAINER ID|REPOSITORY)\s|^Client:|\"(?:DockerRootDir|HostConfig)\"|docker daemon")),
    ("hccn.conf", _mark(r"^[ \t]*(?:address|netmask|gateway|netdetect|tls_enable|send_arp_status)_\d+[ \t]*=")),
    (
        "versions",
        _mark(
            r"^[ \t]*(?:package_(?:version|name)|(?:firmware|ascendhal)_version|PRETTY_NAME|Driver_Install_\w+)[ \t]*="
        ),
    ),
    ("plog", _mark(r"^\[(?:ERROR|WARNING|INFO|EVENT|DEBUG)\] [A-Z]+\(\d+,|^\[PID: \d+\]")),
    ("mindie", _mark(r"^\[\d{4}-\d\d-\d\d.*\[(?:server|llm|daemon)\]|\[MIE\d\dE")),
)


@dataclass(slots=True)
class _Block:
    """One command and its output. steps None: the command could not be worked out. closed: something follows.

    ahead: it has printed nothing so far, so a line without prompt may be one that was typed ahead.
    """

    steps: tuple[Step, ...] | None
    command: str = ""
    line: int | None = None
    lines: list[Line] = field(default_factory=list)
    closed: bool = False
    ahead: bool = False

    def take(self, line: Line) -> None:
        """Add a line of output."""
        self.lines.append(line)
        tools = {step.tool for step in self.steps or ()}
        unknown = tools <= {"hccn_tool", "npu-smi"} and not _is_output(line.text)
        self.ahead = self.ahead and (is_noise(line.text) or unknown)


def read_terminal(text: str, default: Step | None = None) -> Yield:
    """Read a capture. `default`: what the output is when no command stands before it; None to tell by its words."""
    out = Yield()
    for block in _blocks(lines_of(plain(text)), default):
        out.add(_read_block(block, default))
    if not out.replies and not out.problems:
        out.trouble("nothing in it that could be read", None, "empty")
    return out


def _blocks(lines: Sequence[Line], default: Step | None) -> list[_Block]:
    """Cut a capture at its prompts."""
    now = _Block((default,) if default is not None else ())
    blocks = [now]
    prompts = {said.command: n for n, line in enumerate(lines) if (said := typed(line.text)) and not said.bare}
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        said = typed(line.text)
        if now.ahead and prompts.get(line.text.strip(), -1) >= position:
            continue  # typed while the other command still ran: it comes again behind its own prompt
        if said is None:
            now.take(line)
            continue
        command = said.command
        if said.bare and now.ahead and not line.text.lstrip().startswith("#"):
            now.steps, now.command = None, f"{now.command}\n{command}"  # whose answer follows is not certain
            continue
        while (
            unfinished(command)
            and position < len(lines)
            and command.count("\n") < _LONGEST_COMMAND
            and not _is_no_command(lines[position].text)
        ):
            command += "\n" + re.sub(r"^\s*>\s?", "", lines[position].text)
            position += 1
        now.closed = True
        cut = lines[position - 1].open
        steps = None if cut or DAMAGED in command else steps_of(command, said.host)
        now = _Block(steps, command, line.number, ahead=steps is None or any(step.tool != "quiet" for step in steps))
        blocks.append(now)
    return [block for block in blocks if block.command or any(line.text.strip() for line in block.lines)]


def _is_output(text: str) -> bool:
    """Whether a line is surely one that hccn_tool or npu-smi printed."""
    return bool(begins(text) or _NPU_BEGINS.match(text) or _TABLE.match(text) or refuses(text))


def _is_no_command(text: str) -> bool:
    """Whether a line cannot go on with a command of several lines."""
    said = typed(text)
    return (said is not None and not said.bare) or _is_output(text)


def _read_block(block: _Block, default: Step | None) -> Yield:
    out = Yield()
    if block.steps is None:
        out.trouble(block.command, block.line, "command")
        block.steps = ()
    steps = [step for step in block.steps if step.tool != "quiet"]
    if any(step.tool == "echo" for step in steps):
        out.add(_between_echoes(steps, block))
    elif not steps:
        out.add(_guessed(block.lines))
    elif len({step.tool for step in steps}) == 1:
        out.add(_of_one_tool(steps, block.lines, closed=block.closed))
    else:
        out.add(_by_words(steps, block.lines))
    if block.command and default is not None and default.tool not in {step.tool for step in steps} and steps:
        out.replies = [reply for reply in out.replies if reply.tool == default.tool]
    return out


def _by_words(steps: Sequence[Step], lines: Sequence[Line]) -> Yield:
    """Read the output of different tools that ran in one line: each part by its own words, without a card."""
    out = _guessed(lines)
    seen = {reply.tool for reply in out.replies}
    for step in steps:
        if step.tool not in seen:
            out.trouble(f"no answer to {step.text}", None, "empty")
    return out


def _of_one_tool(steps: Sequence[Step], lines: Sequence[Line], *, closed: bool) -> Yield:
    tool = steps[0].tool
    if tool == "hccn_tool":
        return read_hccn(steps, lines, closed=closed)
    if tool == "npu-smi":
        return read_npu_smi(steps, lines, closed=closed)
    if tool == "other":
        return _unread(steps[0], lines)
    if len(steps) == 1:
        return _FILE_READERS[tool](steps[0], lines)
    out = Yield()
    out.trouble(f"{len(steps)} files in one command: {steps[0].text} ...", None, "not-certain")
    return out


def _unread(step: Step, lines: Sequence[Line]) -> Yield:
    """Say that a command has no parser here, when it printed anything."""
    out = Yield()
    first = next((line for line in lines if not is_noise(line.text)), None)
    if first is not None:
        out.trouble(f"{step.text}: {first.text.strip()}", first.number, "no-parser")
    return out


def _between_echoes(steps: Sequence[Step], block: _Block) -> Yield:
    """Read a loop that prints a line before or after each card: those lines tell whose answer stands there."""
    lines = _without_inline(steps, block.lines)
    anchors = [step.text for step in steps if step.tool == "echo"]
    said = [line.text.strip() for line in lines]
    cuts: list[int] = []
    for anchor in anchors:
        begin = cuts[-1] + 1 if cuts else 0
        if anchor in said[begin:]:
            cuts.append(said.index(anchor, begin))
    if len(cuts) < len(anchors) or any(said.count(anchor) != anchors.count(anchor) for anchor in anchors):
        return _without_headings(steps, block, lines, anchors)
    out = Yield()
    parts = _parts(steps)
    bounds = [0, *(cut + 1 for cut in cuts)]
    ends = [*cuts, len(lines)]
    for place, (begin, end) in enumerate(zip(bounds, ends, strict=True)):
        mine, part = parts[place], lines[begin:end]
        if mine and len({step.tool for step in mine}) == 1:
            out.add(_of_one_tool(mine, part, closed=block.closed or place < len(cuts)))
        elif mine or any(not is_noise(line.text) for line in part):
            out.add(_guessed(part))
    return out


def _without_inline(steps: Sequence[Step], lines: Sequence[Line]) -> list[Line]:
    """Put what `echo -n` printed on a line of its own."""
    heads = sorted({step.text for step in steps if step.tool == "echo" and step.subcommand}, key=len, reverse=True)
    out: list[Line] = []
    for line in lines:
        head = next((head for head in heads if line.text.startswith(head)), "")
        if head:
            out.append(Line(line.number, head))
        if len(line.text.strip()) > len(head) or not head:
            out.append(line._replace(text=line.text[len(head) :]))
    return out


def _without_headings(steps: Sequence[Step], block: _Block, lines: Sequence[Line], anchors: Sequence[str]) -> Yield:
    """Read a loop whose headings are not all there: no answer has a card that it does not name itself."""
    out = Yield()
    out.trouble(f"the headings of the loop are not all there: {block.command}", block.line, "not-certain")
    rest = [line for line in lines if line.text.strip() not in anchors]
    asked = [replace(step, card=None, text="") for step in steps if step.tool != "echo"]
    out.add(_of_one_tool(asked, rest, closed=block.closed) if len(asked) == 1 else _guessed(rest))
    return out


def _parts(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the commands before the first echo, between the echoes, and after the last one."""
    parts: list[list[Step]] = [[]]
    for step in steps:
        if step.tool == "echo":
            parts.append([])
        else:
            parts[-1].append(step)
    return parts


def _guessed(lines: Sequence[Line]) -> Yield:
    """Read output without a command by its own words."""
    out = Yield()
    if not any(not is_noise(line.text) for line in lines):
        return out
    for group in _stretches(lines):
        text = "\n".join(line.text for line in group)
        tool = next((tool for tool, mark in _GUESSES if mark.search(text)), "hccn_tool")
        out.add(_of_one_tool([Step(tool)], group, closed=False))
    return out


def _stretches(lines: Sequence[Line]) -> list[list[Line]]:
    """Cut where a table of npu-smi or an answer of hccn_tool begins; everything else stays together."""
    groups: list[list[Line]] = [[]]
    now = ""
    for line in lines:
        nature = _nature(line.text, now)
        if nature != now:
            groups.append([])
            now = nature
        groups[-1].append(line)
    return [group for group in groups if any(not is_noise(line.text) for line in group)]


def _nature(text: str, now: str) -> str:
    """Return what a line begins, or `now` when it may belong to what stands before it."""
    if text.strip()[:1] in {"|", "+"} or (now == "table" and (is_elision(text) or not text.strip())):
        return "table"
    if begins(text):
        return "hccn"
    if _NPU_BEGINS.match(text):
        return "npu"
    return "" if now == "table" else now
