"""Parsers for the answers of hccn_tool that no deployment depends on, and the long form of `-tls -g`.

Formats: the tool's source (hicann/driver). Like all parsers here they never raise, and what is half there is
not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.plain import closed_ip, differs, is_elision, is_noise, labelled, lines_of, plain
from runbook_lib.ascend.reading import (
    Reading,
    first_words,
    found,
    not_run,
    refusal,
    to_float,
    to_int,
    unreadable,
    unset,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.model import Capture

_LINES = re.IGNORECASE | re.MULTILINE
_MB_PER_S = r"[0-9]+\.[0-9]{2}[ \t]*MB/sec"
_RECOVERY_WORDS = {"success": True, "fail": False, "failed": False}


@dataclass(frozen=True, slots=True)
class Tls:
    """The whole answer of `-tls -g`. `fields` holds the rest by the tool's keys, one object for each certificate."""

    switch: int
    preconfigured: int | None = None
    alarm_days: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Traffic of the port, in MB/s as the tool counts them."""

    tx_mb_s: float
    rx_mb_s: float


@dataclass(frozen=True, slots=True)
class Vnic:
    """The internal network card between host and NPU."""

    up: bool
    address: str | None
    netmask: str | None


@dataclass(frozen=True, slots=True)
class Arp:
    """One neighbour in the card's ARP table."""

    address: str
    mac: str
    iface: str


def parse_tls_info(capture: Capture) -> Reading[Tls]:
    """Read `-tls -g` with all it says; `unset` without certificates, which HCCL takes for off."""
    absent = not_run(capture)
    if absent:
        return absent
    if re.search(r"no certificate found", f"{capture.stderr}\n{capture.stdout}", re.IGNORECASE):
        return unset(first_words(capture))
    refused = refusal(capture)
    if refused:
        return refused
    said: dict[tuple[str, str], set[str | None]] = {}  # by certificate and key; None: cut off before its bracket
    cert = ""
    for line in lines_of(plain(capture.stdout)):
        heading = re.search(r"\[([^\]]+)\] info[ \t]*:", line.text, re.IGNORECASE)
        cert = " ".join(heading[1].lower().split()) if heading else "" if "tls switch" in line.text.lower() else cert
        for key, value, end in re.findall(r"([a-z][a-z _]*?)[ \t]*\[([^\]\n]*)(\]|$)", line.text, re.IGNORECASE):
            said.setdefault((cert, " ".join(key.lower().split())), set()).add(value.strip() if end else None)
    fields = _tls_fields(said)
    if fields is None:
        return unreadable(capture)
    switch = fields.pop("tls switch", "")
    if switch not in {"0", "1"}:
        return unreadable(capture)
    preset, days = fields.pop("tls preconfigured", ""), fields.pop("tls alarm time threshold", "")
    return found(Tls(int(switch), to_int(preset), to_int(days), fields), first_words(capture))


def _tls_fields(said: Mapping[tuple[str, str], set[str | None]]) -> dict[str, Any] | None:
    """Return what is certain; None where it is not known whether a certificate has expired."""
    fields: dict[str, Any] = {}
    for (cert, key), values in said.items():
        value = next(iter(values)) if len(values) == 1 else None
        if value is not None:
            (fields.setdefault(cert, {}) if cert else fields)[key] = value
        elif "expiration" in key and len(values - {None}) > 1:
            return None
    return fields


def parse_duplex(capture: Capture) -> Reading[str]:
    """Read `-duplex -g`: full or half. `Unknown!` is an error."""
    refused = refusal(capture)
    if refused:
        return refused
    word = (labelled(capture.stdout, "duplex", "full|half|unknown!?", lambda _: True) or "").lower()
    if word.startswith("unknown"):
        return Reading(None, "error", first_words(capture), "failed")
    return found(word, first_words(capture)) if word else unreadable(capture)


def parse_bandwidth(capture: Capture) -> Reading[Bandwidth]:
    """Read `-bandwidth -g`."""
    refused = refusal(capture)
    if refused:
        return refused
    rates = [
        to_float((labelled(capture.stdout, f"bandwidth {way}", _MB_PER_S, lambda _: True) or "").split("MB")[0])
        for way in ("TX", "RX")
    ]
    if rates[0] is None or rates[1] is None:
        return unreadable(capture)
    return found(Bandwidth(rates[0], rates[1]), first_words(capture))


def parse_vnic(capture: Capture) -> Reading[Vnic]:
    """Read `-vnic -g`; an address that it does not print is None."""
    refused = refusal(capture)
    if refused:
        return refused
    word = labelled(capture.stdout, "vnic link status", "UP|DOWN", lambda _: True)
    if word is None or any(differs(capture.stdout, f"vnic {what}") for what in ("ipaddr", "netmask")):
        return unreadable(capture)
    address, mask = (
        labelled(capture.stdout, f"vnic {what}", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", closed_ip)
        for what in ("ipaddr", "netmask")
    )
    return found(Vnic(word.upper() == "UP", address, mask), first_words(capture))


def parse_udp(capture: Capture) -> Reading[int]:
    """Read `-udp -g`: the source port."""
    return _number(capture, "udp_port")


def _number(capture: Capture, label: str) -> Reading[int]:
    refused = refusal(capture)
    if refused:
        return refused
    value = to_int(labelled(capture.stdout, label, "[0-9]+") or "")
    return unreadable(capture) if value is None else found(value, first_words(capture))


def parse_version(capture: Capture) -> Reading[Mapping[str, str]]:
    """Read `-version -g`: versions of network driver and firmware, by the tool's own words."""
    refused = refusal(capture)
    if refused:
        return refused
    parts = ("driver", "firmware")
    if any(differs(capture.stdout, f"network {part} version") for part in parts):
        return unreadable(capture)
    values = {
        part: value
        for part in parts
        if (value := labelled(capture.stdout, f"network {part} version", r"\S+")) is not None
    }
    return found(values, first_words(capture)) if values else unreadable(capture)


def parse_pci(capture: Capture) -> Reading[str]:
    """Read `-pci -g`: the bus address, like 0000:c1:00.0."""
    refused = refusal(capture)
    if refused:
        return refused
    value = labelled(capture.stdout, "pci", "(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}[.:][0-9a-f]", lambda _: True)
    return unreadable(capture) if value is None else found(value.lower(), first_words(capture))


def parse_shaping(capture: Capture) -> Reading[Mapping[str, int]]:
    """Read `-shaping -g`: limits in Mb/s by the tool's own names."""
    refused = refusal(capture)
    if refused:
        return refused
    pairs = re.findall(r"(bw_\w+)[ \t]*\[[ \t]*([0-9]{1,18})[ \t]*Mbps\]", plain(capture.stdout), re.IGNORECASE)
    values = {name: int(number) for name, number in pairs}
    same = all(values[name] == int(number) for name, number in pairs)
    return found(values, first_words(capture)) if values and same else unreadable(capture)


def parse_hw_stats(capture: Capture) -> Reading[Mapping[str, int]]:
    """Read `-hw_stats -g`: counters of one card by their own names."""
    refused = refusal(capture)
    if refused:
        return refused
    counters: dict[str, int] = {}
    cards: set[str] = set()
    for line in lines_of(plain(capture.stdout)):
        match = re.fullmatch(
            r"[ \t]*\[devid[ \t]*([0-9]+)\][ \t]*([a-z]\w*)[ \t]*:[ \t]*([0-9]{1,18})[ \t]*", line.text
        )
        if match is None or line.open:
            continue
        cards.add(match.group(1))
        if counters.setdefault(match.group(2), int(match.group(3))) != int(match.group(3)):
            return unreadable(capture)
    return found(counters, first_words(capture)) if len(cards) == 1 else unreadable(capture)


def parse_arp(capture: Capture) -> Reading[tuple[Arp, ...]]:
    """Read `-arp -g`; a heading without rows is an empty table. One row that does not fit makes it unreadable."""
    refused = refusal(capture)
    if refused:
        return refused
    rows: list[Arp] = []
    heading = False
    for line in lines_of(plain(capture.stdout)):
        if re.match(r"[ \t]*arp table[ \t]*:", line.text, re.IGNORECASE):
            heading = True
            continue
        if is_noise(line.text) or is_elision(line.text) or line.open or not heading:
            continue
        match = re.search(r"\(([0-9a-f.:]+)\) at ((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b.*\bon (\S+)", line.text, _LINES)
        if match is None and "incomplete" not in line.text.lower():
            return unreadable(capture)
        if match:
            rows.append(Arp(match.group(1), match.group(2).lower(), match.group(3)))
    return found(tuple(rows), first_words(capture)) if heading else unreadable(capture)


def parse_cfg(capture: Capture) -> Reading[bool]:
    """Read `-cfg recovery`: whether the recorded settings were taken."""
    refused = refusal(capture)
    if refused:
        return refused
    text = plain(capture.stdout)
    words = {word.lower() for word in re.findall(r"^[ \t]*dev[ \t]*:[ \t]*[0-9]+ recovery (\w+)", text, _LINES)}
    if len(words) != 1 or not words <= set(_RECOVERY_WORDS):
        return unreadable(capture)
    return found(_RECOVERY_WORDS[words.pop()], first_words(capture))


def parse_set(capture: Capture) -> Reading[bool]:
    """Read the answer to a setting: True for `Cmd executed successfully!`; a refusal is an error."""
    refused = refusal(capture)
    if refused:
        return refused
    if re.search(r"^[ \t]*cmd executed successfully!", plain(capture.stdout), _LINES):
        return found(value=True, message=first_words(capture))
    return unreadable(capture)


def parse_raw(capture: Capture) -> Reading[tuple[str, ...]]:
    """Keep the lines of an answer that is a table for people: -status, -pfc, -tc, -roce_test, -dscp_to_tc."""
    refused = refusal(capture)
    if refused:
        return refused
    lines = tuple(line.text.rstrip() for line in lines_of(plain(capture.stdout)) if line.text.strip() and not line.open)
    return found(lines, first_words(capture)) if lines else unset()
