"""Output of hccn_tool commands into replies: one command, a loop over cards, or a paste without any command."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import hccn
from runbook_lib.ascend.answers import LONGEST_LINE, Reply, Yield, number, read
from runbook_lib.ascend.hccn_answers import ERROR, split
from runbook_lib.ascend.hccn_other import parse_set, parse_tls_info
from runbook_lib.ascend.plain import closed_ip, joined, labelled
from runbook_lib.model import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.ascend.commands import Step
    from runbook_lib.ascend.hccn_answers import Answer, Split
    from runbook_lib.ascend.plain import Line
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture

_PARSERS: dict[str, Callable[[Capture], Reading[Any]]] = {**hccn.PARSERS, "tls": parse_tls_info}
_IPV4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_SAME = {"hccs_ping": "ping"}
_MAY_BE_SILENT = frozenset({"lldp"})


def _typed(kind: str) -> Callable[[Any], Any]:
    return _optical if kind == "optical" else to_json


def _optical(value: Any) -> Any:  # noqa: ANN401 - JSON out of a parsed value
    """Give the numbers of a module their units: `4.4035 mW` is {"number": 4.4035, "unit": "mW"}."""
    data = to_json(value)
    for key, text in data["values"].items():
        match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)[ \t]+(mW|mV|mA|V|C|dBm|nm|uW|uA)", text)
        data["values"][key] = {"number": number(match[1]), "unit": match[2]} if match else number(text)
    return data


def read_hccn(steps: Sequence[Step], lines: Sequence[Line], *, closed: bool) -> Yield:
    """Read what hccn_tool printed for these commands. `closed`: something follows, so nothing is cut off here."""
    out = Yield()
    for line in lines:
        if len(line.text) > LONGEST_LINE:
            out.trouble(line.text, line.number, "text")
    parts = split([line for line in lines if len(line.text) <= LONGEST_LINE], single=len(steps) == 1)
    for line in parts.elisions:
        out.trouble(line.text, line.number, "left-out")
    for line in parts.rest:
        out.trouble(line.text, line.number, "text")
    if len(steps) == 1 and steps[0].subcommand:
        out.add(_one(steps[0], parts, closed=closed))
    elif len(steps) == 1:
        out.add(_unnamed(steps[0], parts))
    else:
        out.add(_many(steps, parts, closed=closed))
    return out


def _one(step: Step, parts: Split, *, closed: bool) -> Yield:
    """Read the output of one command, or of a paste whose subcommand was given."""
    out = Yield()
    kind = _SAME.get(step.subcommand, step.subcommand)
    mine: list[Answer] = []
    for answer in parts.answers:
        if answer.kind in {kind, ERROR}:
            mine.append(answer)
        else:
            out.trouble(answer.lines[0].text, answer.lines[0].number, "other-answer")
    if step.subcommand not in _PARSERS:
        out.replies.append(_unknown(step, "no-parser"))
        out.trouble(f"no parser for hccn_tool -{step.subcommand}", None, "no-parser")
    elif mine:
        for card, group in _by_card(mine, step.card):
            if None not in {card, step.card} and card != step.card:
                out.trouble(group[0].lines[0].text, group[0].lines[0].number, "other-card")
                continue
            out.add(_read(replace(step, card=step.card if card is None else card), group))
    elif kind in _MAY_BE_SILENT and closed and not parts.rest and not parts.elisions:
        out.replies.append(Reply("hccn_tool", kind, "unset", host=step.host, card=step.card, command=step.text))
    else:
        out.replies.append(_unknown(step, "empty"))
        out.trouble(f"no answer to {step.text or 'hccn_tool -' + step.subcommand}", None, "empty")
    return out


def _by_card(answers: Sequence[Answer], card: int | None) -> list[tuple[int | None, list[Answer]]]:
    """Group answers by the card that they name; those that name none go with the only group, if there is one."""
    named = {answer.card for answer in answers if answer.card is not None}
    if len(named) <= 1:
        return [(next(iter(named), card), list(answers))]
    groups: dict[int | None, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.card, []).append(answer)
    return list(groups.items())


def _unnamed(step: Step, parts: Split) -> Yield:
    """Read a paste without a command: each kind by its own words; two different answers of one kind are none."""
    out = Yield()
    groups: dict[tuple[str, int | None], list[Answer]] = {}
    for position, answer in enumerate(parts.answers):
        key = (answer.kind, answer.card if answer.kind != ERROR else -1 - position)
        groups.setdefault(key, []).append(answer)
    if not parts.answers and not parts.rest and not parts.elisions:
        out.trouble("no answer of hccn_tool in it", None, "empty")
    for (kind, card), group in groups.items():
        named = replace(step, subcommand="" if kind == ERROR else kind, card=card if kind != ERROR else None)
        out.add(_read(named, group))
    return out


def _read(step: Step, group: Sequence[Answer]) -> Yield:
    lines = [line for answer in group for line in answer.lines]
    parser = _PARSERS.get(step.subcommand, parse_set)
    out = read(parser, lines, step, _typed(step.subcommand))
    reply = out.replies[0]
    if step.subcommand == "link_stat" and reply.state == "set" and not reply.value["records"]:
        none = labelled(joined(lines), "link change records", "NA", lambda _: True) is not None
        reply.value["records"] = [] if none else None  # a grep or a cut took them away
    address = labelled(joined(lines), "ip[ \t]*addr(?:ess)?", _IPV4, closed_ip) if step.subcommand == "ip" else None
    if reply.state == "unreadable" and address is not None and len(lines) == 1:  # a grep took the mask away
        value = {"address": address, "netmask": None}
        out.replies[0] = replace(reply, state="set", value=value, reason="")
    elif reply.state == "unreadable" and len(group) > 1:
        out.problems.clear()
        seen = (
            f"{len(group)} answers that differ or are not whole: {lines[0].text.strip()} ... {lines[-1].text.strip()}"
        )
        out.trouble(seen, lines[0].number, "conflict")
        out.replies[0] = replace(reply, reason="conflict")
    return out


def _unknown(step: Step, reason: str) -> Reply:
    return Reply(
        "hccn_tool", step.subcommand, "unreadable", reason=reason, host=step.host, card=step.card, command=step.text
    )


def _fits(step: Step, answer: Answer) -> bool:
    kind = _SAME.get(step.subcommand, step.subcommand)
    same_card = answer.card is None or step.card is None or answer.card == step.card
    return answer.kind in {kind, ERROR} and same_card


def _many(steps: Sequence[Step], parts: Split, *, closed: bool) -> Yield:
    """Give the answers of a loop to its commands, in order, as far as that is certain.

    One answer for each command: by their order. After lines were left out: those before the gap by their order.
    Any other number: only those that name their card themselves.
    """
    answers = parts.answers
    certain = 0
    if parts.gap_after:
        before = parts.gap_after[0]
        certain = before if before < len(steps) and not any(answer.elided for answer in answers[:before]) else 0
    elif len(answers) == len(steps):
        certain = len(answers)
    if not all(_fits(step, answer) for step, answer in zip(steps, answers[:certain], strict=False)):
        certain = 0
    out = Yield()
    given: set[int] = set()
    for position, answer in enumerate(answers):
        if position < certain:
            given.add(position)
            out.add(_read(steps[position], [answer]))
        else:
            out.add(_uncertain(steps, answer, given))
    _missing(out, steps, given, parts, closed=closed)
    return out


def _uncertain(steps: Sequence[Step], answer: Answer, given: set[int]) -> Yield:
    """Read an answer that its place does not identify: its card is known only when it says so itself."""
    owners = [
        place for place, step in enumerate(steps)
        if answer.card is not None and step.card == answer.card and _fits(step, answer) and answer.kind != ERROR
    ]  # fmt: skip
    if len(owners) == 1 and owners[0] not in given:
        given.add(owners[0])
        return _read(steps[owners[0]], [answer])
    kind = "" if answer.kind == ERROR else answer.kind
    return _read(replace(steps[0], subcommand=kind, card=None, text=""), [answer])


def _missing(out: Yield, steps: Sequence[Step], given: set[int], parts: Split, *, closed: bool) -> None:
    """Say for which commands no certain answer is there."""
    lost = [step for place, step in enumerate(steps) if place not in given]
    silent = all(step.subcommand in _MAY_BE_SILENT for step in steps)
    if silent and closed and not parts.answers and not parts.rest and not parts.elisions:
        out.replies += [
            Reply("hccn_tool", step.subcommand, "unset", host=step.host, card=step.card, command=step.text)
            for step in lost
        ]
        return
    reason = "left-out" if parts.elisions else "not-certain"
    out.replies += [_unknown(step, reason) for step in lost]
    if lost and not parts.elisions:
        seen = f"{len(parts.answers)} answers to {len(steps)} commands: it is not certain whose they are"
        out.trouble(seen, parts.answers[0].lines[0].number if parts.answers else None, "not-certain")
