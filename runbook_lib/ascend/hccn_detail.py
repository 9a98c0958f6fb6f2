"""Parsers for the longer answers of hccn_tool: neighbours, optics, link history, counters, routes, file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.ascend.plain import BLANKS, DAMAGED, DEVICE, is_elision, is_noise, labelled, lines_of, plain
from runbook_lib.ascend.reading import (
    Reading,
    first_words,
    found,
    not_run,
    refusal,
    to_int,
    unreadable,
    unset,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.model import Capture

_ROUTE_COLUMNS = 8
_COUNTER = re.compile(r"^[ \t]*([a-z][a-z0-9_]*)[ \t]*:[ \t]*(\S+)[^\S\n]*\n", re.MULTILINE)  # a line that has its end
_LINES = re.IGNORECASE | re.MULTILINE
_MAC = "(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}"
_CHASSIS = re.compile(rf"Chassis ID TLV[ \t]*\n[ \t]*MAC[ \t]*:[ \t]*({_MAC})[ \t]*$", _LINES)
_SYSTEM = re.compile(r"System Description TLV[ \t]*\n[ \t]*(\S[^\n]*)\n")
_SYSTEM_NAME = re.compile(r"System Name TLV[ \t]*\n[ \t]*(\S[^\n]*)\n")
_LINK_LINE = re.compile(r"^[ \t]*\[(?:devid|device|dev_id)[ \t]*[0-9]+\][ \t]*\S", _LINES)
_LINK_LABEL = re.compile(rf"^{DEVICE}[a-z_ ]+:", _LINES)
_LINK_CHANGE = re.compile(rf"^{DEVICE}([a-z]{{3}} [^\n]*?)[ \t]+LINK (UP|DOWN)[ \t]*$", _LINES)


@dataclass(frozen=True, slots=True)
class Lldp:
    """The switch port that a card hangs on."""

    ifname: str
    chassis_mac: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Optical:
    """An optical module; copper cables have none. `values` keeps the tool's own keys and units."""

    present: bool
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """One link change; the tool lists the newest first. `at` is the device's clock and may be years off."""

    at: str
    up: bool


@dataclass(frozen=True, slots=True)
class LinkStat:
    """How often the link changed since power on; `down_count` is None on older tools."""

    up_count: int
    down_count: int | None = None
    records: tuple[LinkRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the card's routing table."""

    destination: str
    gateway: str
    mask: str
    flags: str
    iface: str


@dataclass(frozen=True, slots=True)
class HccnConf:
    """What hccn.conf configures: not what is live.

    cards: settings per card number, keys without the `_N`. other: keys without a card number.
    bad_lines: lines that are no setting, and settings given twice with different values.
    """

    cards: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    other: Mapping[str, str] = field(default_factory=dict)
    bad_lines: tuple[str, ...] = ()


def parse_lldp(capture: Capture) -> Reading[Lldp]:
    """Read `-lldp -g`, whole or through `grep Ifname`.

    An empty answer of a tool that worked is `unset`: nobody at the other end speaks LLDP.
    """
    refused = refusal(capture)
    if refused:
        return refused
    text = BLANKS.sub(" ", plain(capture.stdout))
    if not text.strip() and not capture.stderr.strip():
        return unset()
    name = labelled(text, "ifname", r"\S.*")
    if name is None:
        return unreadable(capture)
    macs = set(_CHASSIS.findall(text))
    systems = set(_SYSTEM.findall(text))
    names = set(_SYSTEM_NAME.findall(text))
    system = names or systems
    lldp = Lldp(
        name,
        macs.pop().lower() if len(macs) == 1 else None,
        system.pop().strip() if len(system) == 1 and (names or "System Name" not in text) else None,
    )
    return found(lldp, first_words(capture))


def parse_optical(capture: Capture) -> Reading[Optical]:
    """Read `-optical -g`; a missing module is a value (`present` False), not an error."""
    absent = not_run(capture)
    if absent:
        return absent
    if re.search(r"optical module is not present", f"{capture.stderr}\n{capture.stdout}", re.IGNORECASE):
        return found(Optical(present=False), first_words(capture))
    refused = refusal(capture)
    if refused:
        return refused
    values: dict[str, str] = {}
    doubtful: set[str] = set()
    for line in lines_of(plain(capture.stdout)):
        key, _, value = (" ".join(part.split()) for part in line.text.partition(":"))
        if not key or not value or is_noise(line.text):
            continue
        if line.open or DAMAGED in line.text or values.get(key, value) != value:
            doubtful.add(key)
        values[key] = value
    present = {"present": True, "not present": False}.get(values.pop("present", "").lower())
    if present is None or "present" in doubtful:
        return unreadable(capture)
    return found(
        Optical(present, {key: value for key, value in values.items() if key not in doubtful}), first_words(capture)
    )


def parse_link_stat(capture: Capture) -> Reading[LinkStat]:
    """Read `-link_stat -g` with either prefix, `[devid N]` or `[device N]`."""
    refused = refusal(capture)
    if refused:
        return refused
    text = BLANKS.sub(" ", plain(capture.stdout))
    up_count = to_int(labelled(text, "link up count", "[0-9]+") or "")
    if up_count is None or len(set(re.findall(r"\[(?:devid|device) *([0-9]+)\]", text))) > 1:
        return unreadable(capture)
    down_count = to_int(labelled(text, "link down count", "[0-9]+") or "")
    records = tuple(LinkRecord(" ".join(at.split()), word.upper() == "UP") for at, word in _LINK_CHANGE.findall(text))
    if len(records) + len(_LINK_LABEL.findall(text)) < len(_LINK_LINE.findall(text)):
        return unreadable(capture)  # a record in another form
    return found(LinkStat(up_count, down_count, records), first_words(capture))


def parse_stat(capture: Capture) -> Reading[Mapping[str, int]]:
    """Read the counters of `-stat -g` by their own names."""
    refused = refusal(capture)
    if refused:
        return refused
    counters: dict[str, int] = {}
    for name, word in _COUNTER.findall(plain(capture.stdout)):
        value = to_int(word)
        if value is None or counters.get(name, value) != value:
            return unreadable(capture)
        counters[name] = value
    return found(counters, first_words(capture)) if counters else unreadable(capture)


def parse_route(capture: Capture) -> Reading[tuple[Route, ...]]:
    """Read `-route -g`; a table with a heading and no rows is an empty tuple."""
    refused = refusal(capture)
    if refused:
        return refused
    given = [line for line in lines_of(plain(capture.stdout)) if not is_noise(line.text) and not is_elision(line.text)]
    lines = [line.text.split() for line in given]
    heading = next((n for n, words in enumerate(lines) if words[:2] == ["Destination", "Gateway"]), None)
    if heading is None or lines[heading][-1] != "Iface":
        return unreadable(capture)
    if given[-1].open:
        lines.pop()  # its last word may be cut off
    rows = lines[heading + 1 :]
    if any(len(words) != _ROUTE_COLUMNS for words in rows):
        return unreadable(capture)
    return found(tuple(Route(words[0], words[1], words[2], words[3], words[7]) for words in rows), first_words(capture))


def parse_conf(text: str) -> HccnConf:
    """Read an hccn.conf: `key_<card>=value` lines with `#` comments. What cannot be trusted is no setting."""
    cards: dict[int, dict[str, str]] = {}
    other: dict[str, str] = {}
    bad: list[str] = []
    doubtful: list[tuple[dict[str, str], str]] = []
    for given in lines_of(plain(text)):
        line = given.text.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not value or given.open or DAMAGED in line or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]*", key):
            bad.append(line)
            continue
        numbered = re.fullmatch(r"(.+)_([0-9]{1,3})", key)
        # route_address_X_netmask_Y carries addresses in its key, not a card number
        is_card = numbered is not None and not key.startswith("route_")
        target = cards.setdefault(int(numbered.group(2)), {}) if numbered and is_card else other
        name = numbered.group(1) if numbered and is_card else key
        if target.get(name, value) != value:
            bad.append(line)
            doubtful.append((target, name))
        target.setdefault(name, value)
    for target, name in doubtful:
        target.pop(name, None)
    return HccnConf({card: values for card, values in cards.items() if values}, other, tuple(bad))
