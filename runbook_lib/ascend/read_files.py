"""Printed files (hccn.conf, version files, rank tables) and docker's answers into replies."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import docker, rank_table
from runbook_lib.ascend.answers import Reply, Yield, number, read
from runbook_lib.ascend.hccn_detail import parse_conf
from runbook_lib.ascend.plain import DAMAGED, closed_ip, is_elision, is_noise, joined
from runbook_lib.ascend.versions import parse_versions
from runbook_lib.model import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runbook_lib.ascend.commands import Step
    from runbook_lib.ascend.plain import Line
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture

_ADDRESSES = frozenset({"address", "netmask", "gateway", "netdetect"})
_DOCKER: dict[str, Callable[[Capture], Reading[Any]]] = {
    "version": docker.parse_version,
    "info": docker.parse_info,
    "images": docker.parse_images,
    "ps": docker.parse_ps,
    "inspect": docker.parse_inspect,
}
_DOCKER_MARKS = (
    ("images", re.compile(r"^\s*REPOSITORY\s+TAG\s|\"Repository\":")),
    ("ps", re.compile(r"^\s*CONTAINER ID\s|\"RunningFor\":|\"Names\":")),
    ("inspect", re.compile(r"^\s*\[\s*[\]{]|No such (?:object|container)")),
    ("info", re.compile(r"^\s*(?:Server Version|Docker Root Dir):|\"DockerRootDir\":", re.MULTILINE)),
    ("version", re.compile(r"^\s*\{\s*\"Client\"\s*:|^Client:|docker daemon", re.MULTILINE)),
)


def _told(step: Step, lines: Sequence[Line]) -> tuple[Yield, list[Line]]:
    """Start a yield with what was left out, and return the lines that are there."""
    out = Yield()
    for line in lines:
        if is_elision(line.text):
            out.trouble(line.text, line.number, "left-out")
    kept = [line for line in lines if not is_elision(line.text)]
    if not any(line.text.strip() for line in kept):
        out.trouble(f"nothing printed for {step.text or step.tool}", None, "empty")
    missing = next(
        (
            line
            for line in kept
            if re.search(r"no such file|permission denied|没有那个文件或目录|权限不够", line.text, re.IGNORECASE)
        ),
        None,
    )
    if missing is not None and step.tool != "docker":
        out.trouble(missing.text, missing.number, "no-file")
        kept.remove(missing)
    return out, kept


def _reply(step: Step, lines: Sequence[Line], value: Any) -> Reply:  # noqa: ANN401 - JSON
    first = lines[0].number if lines else None
    if DAMAGED in str(value):
        value = None  # the line itself is among the problems
    state, reason = ("set", "") if value is not None else ("unreadable", "text")
    return Reply(step.tool, step.subcommand, state, value, reason, host=step.host, command=step.text, line=first)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read_text(step: Step, lines: Sequence[Line]) -> Yield:
    """Keep the one line that a command like `hostname` prints."""
    out, kept = _told(step, lines)
    said = [line for line in kept if line.text.strip()]
    whole = len(said) == 1 and not said[0].open
    for line in said if not whole else ():
        out.trouble(line.text, line.number, "cut" if line.open else "text")
    out.replies.append(_reply(step, said, said[0].text.strip() if whole else None))
    return out


def read_conf(step: Step, lines: Sequence[Line]) -> Yield:
    """Read an hccn.conf. An address in an open last line counts when it cannot go on."""
    out, kept = _told(step, lines)
    text = joined(kept)
    last = kept[-1].text.strip() if kept and kept[-1].open else ""
    if last and closed_ip(last.partition("=")[2].strip()):
        text += "\n"
    conf = parse_conf(text)
    places: dict[str, int] = {}
    for line in kept:
        places[line.text.strip()] = line.number
    for bad in conf.bad_lines:
        out.trouble(bad, places.get(bad), "text")
    cards: dict[str, dict[str, Any]] = {}
    for card, values in sorted(conf.cards.items()):
        cards[str(card)] = {}
        for key, value in values.items():
            if key in _ADDRESSES and not _is_address(value):
                out.trouble(f"{key}_{card}={value}", places.get(f"{key}_{card}={value}"), "text")
            else:
                cards[str(card)][key] = value if key in _ADDRESSES else number(value)
    other = {key: number(value) for key, value in conf.other.items()}
    out.replies.append(_reply(step, kept, {"cards": cards, "other": other} if cards or other else None))
    return out


def read_versions(step: Step, lines: Sequence[Line]) -> Yield:
    """Read a version file of driver, firmware, toolkit or system."""
    out, kept = _told(step, lines)
    read_ = parse_versions(joined(kept))
    first = kept[0].number - 1 if kept else 0
    for place, bad in read_.bad_lines:
        if not is_noise(bad):
            out.trouble(bad, first + place, "text")
    asked = step.subcommand
    if asked and read_.kinds and read_.kinds != (asked,):
        out.trouble(f"the keys are those of {' and '.join(read_.kinds)}, not of {asked}", None, "other-answer")
    kind = read_.kind or (asked if not read_.kinds else None) or None
    if kind is None and read_.values:
        out.trouble("the keys do not tell whose versions they are", None, "not-certain")
    out.replies.append(_reply(step, kept, {"kind": kind, "values": dict(read_.values)} if read_.values else None))
    return out


def _places(text: str, lines: Sequence[Line]) -> int | None:
    """Return the line in which a value of a problem stands, when exactly one line holds it."""
    for value in re.findall(r"'([^']+)'|\"([^\"]+)\"|(\d+(?:\.\d+){3})", text):
        wanted = next(part for part in value if part)
        holders = [line.number for line in lines if wanted in line.text]
        if len(holders) == 1:
            return holders[0]
    return None


def read_rank_table(step: Step, lines: Sequence[Line]) -> Yield:
    """Read a rank table of either form, and name what keeps it from being a good one."""
    out, kept = _told(step, lines)
    text = joined(kept)
    if step.filtered:
        out.trouble(f"{step.text} shows a part of the file", None, "left-out")
    reading = rank_table.parse(text)
    first = kept[0].number - 1 if kept else 0
    for problem in rank_table.validate(text, {}):
        place = re.search(r"line (\d+) column", problem)
        out.trouble(problem, first + int(place[1]) if place else _places(problem, kept), "text")
    out.replies.append(_reply(step, kept, to_json(reading.value)))
    return out


def read_docker(step: Step, lines: Sequence[Line]) -> Yield:
    """Read an answer of docker, as JSON or as printed for people."""
    out, kept = _told(step, lines)
    text = joined(kept)
    if step.subcommand not in _DOCKER:
        kind = next((kind for kind, mark in _DOCKER_MARKS if mark.search(text)), "")
        if not kind:
            out.trouble(kept[0].text if kept else "no answer of docker in it", None, "text")
            out.replies.append(_reply(step, kept, None))
            return out
        step = replace(step, subcommand=kind)
    answer = read(lambda capture: _docker(step.subcommand, capture), kept, step)
    for problem in _unsaid(answer.replies[0].value):
        answer.trouble(problem, None, "text")
    out.add(answer)
    return out


def _unsaid(value: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Name what docker did not say although it always does."""
    for row in value if isinstance(value, list) else ():
        if "state" in row and row["state"] is None:
            yield f"container {row['container_id']}: state not read from {row['status']!r}"


def _docker(kind: str, capture: Capture) -> Reading[Any]:
    """Read a paste: standard output and standard error are one text in it."""
    reading = _DOCKER[kind](capture)
    if reading.value is not None and reading.value != ():
        return reading
    as_error = _DOCKER[kind](replace(capture, stdout="", stderr=capture.stdout, exit_code=1))
    said = as_error.state == "unset" or as_error.reason not in {"failed", ""}
    return as_error if said and capture.stdout.strip() else reading
