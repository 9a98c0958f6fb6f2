"""Parsers for the longer answers of hccn_tool: neighbours, optics, link history, counters, routes, file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

_DEVICE = r"^[ \t]*(?:\[(?:devid|device) [0-9]+\])?[ \t]*"
_ROUTE_COLUMNS = 8


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
    if not capture.stdout.strip() and not capture.stderr.strip():
        return unset()
    text = capture.stdout.replace("\r", "")
    names = set(re.findall(r"^[ \t]*Ifname[ \t]*:[ \t]*(\S[^\n]*?)[ \t]*$", text, re.MULTILINE))
    if len(names) != 1:
        return unreadable(capture)
    mac = re.search(r"Chassis ID TLV[ \t]*\n[ \t]*MAC[ \t]*:[ \t]*(\S+)", text)
    system = re.search(r"System (?:Name|Description) TLV[ \t]*\n[ \t]*(\S[^\n]*)", text)
    lldp = Lldp(
        names.pop(),
        mac.group(1).lower() if mac else None,
        system.group(1).strip() if system else None,
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
    for line in capture.stdout.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() and value.strip():
            values[key.strip()] = value.strip()
    present = {"present": True, "not present": False}.get(values.pop("present", "").lower())
    if present is None:
        return unreadable(capture)
    return found(Optical(present, values), first_words(capture))


def parse_link_stat(capture: Capture) -> Reading[LinkStat]:
    """Read `-link_stat -g` with either prefix, `[devid N]` or `[device N]`."""
    refused = refusal(capture)
    if refused:
        return refused
    text = capture.stdout.replace("\r", "")
    up = re.search(rf"{_DEVICE}link up count[ \t]*:[ \t]*([0-9]+)[ \t]*$", text, re.MULTILINE)
    down = re.search(rf"{_DEVICE}link down count[ \t]*:[ \t]*([0-9]+)[ \t]*$", text, re.MULTILINE)
    up_count = to_int(up.group(1)) if up else None
    if up_count is None:
        return unreadable(capture)
    records = tuple(
        LinkRecord(at.strip(), word == "UP")
        for at, word in re.findall(rf"{_DEVICE}(\S[^\n]*?)[ \t]+LINK (UP|DOWN)[ \t]*$", text, re.MULTILINE)
    )
    return found(LinkStat(up_count, to_int(down.group(1)) if down else None, records), first_words(capture))


def parse_stat(capture: Capture) -> Reading[Mapping[str, int]]:
    """Read the counters of `-stat -g` by their own names."""
    refused = refusal(capture)
    if refused:
        return refused
    counters: dict[str, int] = {}
    for match in re.finditer(r"^[ \t]*([a-z][a-z0-9_]*)[ \t]*:[ \t]*(\S+)[ \t\r]*$", capture.stdout, re.MULTILINE):
        value = to_int(match.group(2))
        if value is None:
            return unreadable(capture)
        counters[match.group(1)] = value
    return found(counters, first_words(capture)) if counters else unreadable(capture)


def parse_route(capture: Capture) -> Reading[tuple[Route, ...]]:
    """Read `-route -g`; a table with a heading and no rows is an empty tuple."""
    refused = refusal(capture)
    if refused:
        return refused
    lines = [line.split() for line in capture.stdout.splitlines() if line.strip()]
    heading = next((n for n, words in enumerate(lines) if words[:2] == ["Destination", "Gateway"]), None)
    if heading is None:
        return unreadable(capture)
    rows = lines[heading + 1 :]
    if any(len(words) != _ROUTE_COLUMNS for words in rows):
        return unreadable(capture)
    return found(tuple(Route(words[0], words[1], words[2], words[3], words[7]) for words in rows), first_words(capture))


def parse_conf(text: str) -> HccnConf:
    """Read an hccn.conf: `key_<card>=value` lines with `#` comments."""
    cards: dict[int, dict[str, str]] = {}
    other: dict[str, str] = {}
    bad: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]*", key):
            bad.append(line)
            continue
        numbered = re.fullmatch(r"(.+)_([0-9]{1,3})", key)
        # route_address_X_netmask_Y carries addresses in its key, not a card number
        is_card = numbered is not None and not key.startswith("route_")
        target = cards.setdefault(int(numbered.group(2)), {}) if numbered and is_card else other
        name = numbered.group(1) if numbered and is_card else key
        if target.get(name, value) != value:
            bad.append(line)
        target[name] = value
    return HccnConf(cards, other, tuple(bad))
