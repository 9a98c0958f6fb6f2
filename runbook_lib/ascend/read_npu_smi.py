"""Output of npu-smi commands into replies."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import npu_smi, npu_smi_values
from runbook_lib.ascend.answers import LONGEST_LINE, Yield, number, read
from runbook_lib.ascend.npu_smi_values import HEALTH_WORDS, KeyValues
from runbook_lib.ascend.plain import Line, is_elision, is_noise
from runbook_lib.ascend.reading import Reading, to_int
from runbook_lib.model import Capture, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from runbook_lib.ascend.commands import Step
    from runbook_lib.ascend.npu_smi import NpuInfo


_PROCESS_WORDS = re.compile(r"[ \t]*(?:No process in device|Process id[ \t]*:)", re.IGNORECASE)


def _mark(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.MULTILINE)


_MARKS = (  # what a text without a command is, by words that only it has
    ("info", _mark(r"^[ \t]*(?:\|[ \t]*NPU[ \t]+Name|\|[ \t]*npu-smi|There is no NPU card)")),
    ("m", _mark(r"^[ \t]*NPU ID[ \t]+Chip ID[ \t]+Chip Logic ID")),
    ("topo", _mark(r"^[ \t]*(?:NPU0|Phy-ID0)[ \t]+(?:NPU|Phy-ID)|CPU Affinity")),
    ("proc-mem", _mark(r"^[ \t]*(?:Process id[ \t]*:|No process in device)")),
    ("l", _mark(r"^[ \t]*Total Count[ \t]*:")),
    ("health", _mark(r"^[ \t]*Health(?: Status)?[ \t]*:")),
    ("ecc", _mark(r"Single Bit Error Count[ \t]*:")),
    ("usages", _mark(r"^[ \t]*(?:DDR|HBM) Capacity\(MB\)[ \t]*:")),
    ("common", _mark(r"^[ \t]*(?:Aicore Freq|NPU Real-time Power)")),
    ("board", _mark(r"^[ \t]*(?:Board ID|Software Version|PCB ID)[ \t]*:")),
)


def _info(value: NpuInfo) -> Any:  # noqa: ANN401 - JSON
    """Return the table with the processes at their cards: null where the tool does not say."""
    cards = []
    for card in value.cards:
        said = value.processes_of(card.id)
        mine = None if said is None else [process for process in said if process.chip in {None, card.chip}]
        cards.append({**to_json(card), "processes": to_json(mine)})
    return {"version": value.version, "cards": cards, "warnings": list(value.warnings)}


def _sections(value: KeyValues) -> Any:  # noqa: ANN401 - JSON
    """Return `key : value` lines as objects; a key that comes again begins the next one, and so does the mcu's name."""
    sections: list[dict[str, Any]] = [{}]
    for key, text in value.pairs:
        mcu = key == "Chip Name" and text.lower() == "mcu" and _names_first(sections[-1])
        if key in sections[-1] or mcu:
            sections.append({})
        sections[-1][key] = number(text)
    return sections


def _names_first(section: Mapping[str, Any]) -> bool:
    """Whether the chip stands before its values, as in `-t common`; in `-t temp` it stands behind them."""
    keys = list(section)
    return "Chip ID" in keys and set(keys[: keys.index("Chip ID")]) <= {"NPU ID", "Chip Count"}


def _with_fields(value: Any, lines: Sequence[Line]) -> Any:  # noqa: ANN401 - JSON
    """Add all `key : value` lines to what a parser picked out."""
    text = "\n".join(line.text for line in lines if not line.open) + "\n"
    values = npu_smi_values.parse_keyvalues(Capture(text, exit_code=0)).value
    sections = _sections(values) if values is not None else [{}]
    fields = sections[0]
    data = {**to_json(value), "fields": fields}
    if len(sections) > 1:
        data["sections"] = sections
    if "codes" in data:  # of a health answer: what it does not say is not "no codes"
        data["codes"] = data["codes"] if "Error Code" in fields else None
        data["information"] = data["information"] or None
    return data


_PARSERS: dict[str, Callable[[Capture], Reading[Any]]] = {
    "info": npu_smi.parse_info,
    "board": npu_smi_values.parse_board,
    "health": npu_smi_values.parse_health,
    "l": npu_smi_values.parse_list,
    "m": npu_smi_values.parse_map,
    "proc-mem": npu_smi_values.parse_proc_mem,
    "topo": npu_smi_values.parse_topo,
}


def read_npu_smi(steps: Sequence[Step], lines: Sequence[Line], *, closed: bool) -> Yield:  # noqa: ARG001 - the form of all readers
    """Read what npu-smi printed for these commands."""
    out = Yield()
    kept: list[Line] = []
    for line in lines:
        if is_elision(line.text):
            out.trouble(line.text, line.number, "left-out")
        if len(line.text) > LONGEST_LINE:
            out.trouble(line.text, line.number, "text")
        elif line.text.strip():
            kept.append(line)
    if len(steps) == 1:
        out.add(_single(steps[0], kept))
        return out
    groups = _groups(kept)
    if len(groups) == len(steps) and not out.problems and all(map(_fits, steps, groups)):
        for step, group in zip(steps, groups, strict=True):
            out.add(_one(step, group))
        return out
    for group in groups:
        out.add(_one(replace(steps[0], subcommand="", card=None, chip=None, text=""), group))
    first = kept[0].number if kept else None
    out.trouble(
        f"{len(groups)} answers to {len(steps)} commands: it is not certain whose they are", first, "not-certain"
    )
    return out


def _groups(lines: Sequence[Line]) -> list[list[Line]]:
    """Cut the output of several commands where the first line's label comes again, or a table begins."""
    groups: list[list[Line]] = []
    label = ""
    for line in lines:
        if is_elision(line.text) or (is_noise(line.text) and not groups):
            continue
        words = line.text.split(":", maxsplit=1)[0].strip()
        label = label or words
        if words == label or not groups:
            groups.append([])
        groups[-1].append(line)
    return groups


def _own_card(group: Sequence[Line]) -> int | None:
    """Return the one NPU that the lines name as theirs."""
    matches = (re.fullmatch(r"[ \t]*NPU ID[ \t]*:[ \t]*([0-9]+)[ \t]*", line.text) for line in group if not line.open)
    named = {match[1] for match in matches if match}
    return to_int(named.pop()) if len(named) == 1 else None


def _fits(step: Step, group: Sequence[Line]) -> bool:
    """Whether an answer that names its card names this one."""
    return step.card is None or _own_card(group) in {None, step.card}


def _single(step: Step, lines: Sequence[Line]) -> Yield:
    """Read the output of one command. Where it holds several cards, each is an answer; one card twice is none."""
    starts = [n for n, line in enumerate(lines) if re.match(r"[ \t]*NPU ID[ \t]*:", line.text, re.IGNORECASE)]
    if len(starts) < 2 or step.subcommand == "l" or _MARKS[4][1].search("\n".join(line.text for line in lines)):  # noqa: PLR2004
        own = _own_card(lines)
        if own is not None and step.card is not None and own != step.card:
            out = Yield()
            out.trouble(lines[starts[0]].text, lines[starts[0]].number, "other-card")
            return out
        listed = step.subcommand in {"", "l", "info", "m"} and not starts
        return _one(step if listed or step.card is not None else replace(step, card=own), lines)
    out = Yield()
    groups: dict[int | None, list[list[Line]]] = {}
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        groups.setdefault(_own_card(lines[start:end]), []).append(list(lines[start:end]))
    for card, answers in groups.items():
        same = all([line.text for line in each] == [line.text for line in answers[0]] for each in answers)
        first = answers[0][0]
        if card is None or not same or step.card not in {None, card}:
            out.trouble(first.text, first.number, "conflict" if step.card in {None, card} else "other-card")
            continue
        out.add(_one(replace(step, card=card), answers[0]))
    for line in lines[: starts[0]]:
        if not is_noise(line.text) and not is_elision(line.text):
            out.trouble(line.text, line.number, "text")
    return out


def _one(step: Step, lines: Sequence[Line]) -> Yield:
    text = "\n".join(line.text for line in lines)
    kind = step.subcommand or next((kind for kind, mark in _MARKS if mark.search(text)), "values")
    step = replace(step, subcommand=kind)
    parser = _PARSERS.get(kind, npu_smi_values.parse_keyvalues)
    if kind == "info":
        out = read(parser, lines, step, _info)
        _check_table(out, lines)
        return out
    given = [line for line in lines if not is_elision(line.text)]
    picked = kind in {"board", "health"}
    out = read(parser, given, step, (lambda value: _with_fields(value, given)) if picked else _typed(kind))
    if kind not in {"m", "topo"} and out.replies[0].state == "set":
        _check_keyed(out, given)
    return out


def _typed(kind: str) -> Callable[[Any], Any]:
    return to_json if kind in _PARSERS else lambda value: {"sections": _sections(value)}


def _check_keyed(out: Yield, lines: Sequence[Line]) -> None:
    """Note the lines that are no `key : value`; what follows `Error Information` is its text."""
    words_may_follow = False
    for line in lines:
        words_may_follow = words_may_follow or "Error Information" in line.text
        known = npu_smi_values.key_value(line.text) or is_noise(line.text) or _PROCESS_WORDS.match(line.text)
        if not known and not words_may_follow:
            out.trouble(line.text, line.number, "text")


def _check_table(out: Yield, lines: Sequence[Line]) -> None:
    """Note the rows of the table that are not known, and a table without its last frame."""
    reading = npu_smi.parse_info(Capture("\n".join(line.text for line in lines) + "\n", exit_code=0))
    info = reading.value
    if info is None or not info.cards:
        return
    places = {line.text.strip(): line.number for line in lines}
    for row in info.unreadable_rows:
        out.trouble(row, places.get(row), "row")
    for words in _gaps(info):
        out.trouble(words, None, "text")
    inside = [line for line in lines if line.text.strip()[:1] in {"|", "+"}]
    for line in lines:
        if line not in inside and not is_noise(line.text) and not is_elision(line.text):
            out.trouble(line.text, line.number, "text")
    if inside and (not re.fullmatch(r"\+[-=+]+\+", inside[-1].text.strip()) or _too_short(inside)):
        out.trouble(inside[-1].text, inside[-1].number, "cut")


def _gaps(info: NpuInfo) -> Iterator[str]:
    """Name the cells that hold no value."""
    for card in info.cards:
        if card.health not in HEALTH_WORDS:
            yield f"NPU {card.id}: health {card.health}"
        if card.chip is not None and info.names_hbm and None in {card.hbm_used_mb, card.hbm_total_mb}:
            yield f"NPU {card.id}: no HBM figures"
        if card.chip is not None and not info.names_hbm and None in {card.memory_used_mb, card.memory_total_mb}:
            yield f"NPU {card.id}: no memory figures"
    numbers = {card.id for card in info.cards}
    told = {process.card for process in info.processes} | set(info.said_idle)
    if told:  # the second table names every card of the first
        yield from (f"NPU {number}: nothing said about its processes" for number in sorted(numbers - told))
        yield from (f"NPU {number}: processes of a card that is not in the table" for number in sorted(told - numbers))
    for process in info.processes:
        if process.pid is None or process.memory_mb is None:
            yield f"NPU {process.card}: a process without pid or memory"


def _too_short(lines: Sequence[Line]) -> bool:
    """Whether the last frame is shorter than the first."""
    return len(lines[-1].text.strip()) < len(lines[0].text.strip())
