"""Parsers for hccn_tool, the tool of the NPU's own network port.

Every parser takes one Capture and never raises. Formats: the open source of the tool (hicann/driver,
src/custom/network/hccn) and field captures; where both differ, both wordings are accepted. Captures with a
value and a non-zero exit code are not believed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Never

from runbook_lib.ascend.hccn_detail import (
    HccnConf,
    LinkRecord,
    LinkStat,
    Lldp,
    Optical,
    Route,
    parse_conf,
    parse_link_stat,
    parse_lldp,
    parse_optical,
    parse_route,
    parse_stat,
)
from runbook_lib.ascend.hccn_other import (
    parse_arp,
    parse_bandwidth,
    parse_cfg,
    parse_duplex,
    parse_hw_stats,
    parse_pci,
    parse_raw,
    parse_set,
    parse_shaping,
    parse_udp,
    parse_version,
    parse_vnic,
)
from runbook_lib.ascend.plain import BLANKS, closed_ip, labelled, plain
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
    from collections.abc import Callable, Mapping

    from runbook_lib.model import Capture

__all__ = [
    "PARSERS", "Gateway", "HccnConf", "IpConfig", "LinkRecord", "LinkStat", "Lldp", "NetHealth", "Optical",
    "PingResult", "Route", "parse", "parse_conf", "parse_fec", "parse_gateway", "parse_ip", "parse_link",
    "parse_link_stat", "parse_lldp", "parse_mac", "parse_mtu", "parse_net_health", "parse_netdetect",
    "parse_optical", "parse_ping", "parse_route", "parse_speed", "parse_stat", "parse_tls",
]  # fmt: skip

_GATEWAY = r"([0-9a-f.:]+)(?:[ \t]*,[ \t]*Iface[ \t]*:[ \t]*(\S+))?"
_LARGEST_MTU = 9702  # hccn_tool takes 68..9702
_LONGEST_PREFIX = 128
_LOSS_ROUNDING = 0.51  # per cent; the tool prints two digits, some builds none


class NetHealth(StrEnum):
    """The ten answers of `-net_health -g` (tool source; the same table stands in the DCMI header)."""

    SUCCESS = "Success"
    SOCKET_FAIL = "Socket fail"
    RECEIVE_TIMEOUT = "Receive timeout"
    UNREACHABLE = "Unreachable"
    TIME_EXCEEDED = "Time exceeded"
    FAULT = "Fault"
    INIT = "Init"
    THREAD_ERROR = "Thread error"
    DETECT_IP_SET = "Detect ip set"
    UNKNOWN = "Unknown"

    @property
    def transient(self) -> bool:
        """Whether the state is on its way and worth polling again."""
        return self in {NetHealth.INIT, NetHealth.DETECT_IP_SET}


@dataclass(frozen=True, slots=True)
class IpConfig:
    """Address and mask of a card, both IPv4 in dotted form."""

    address: str
    netmask: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """Default gateway of a card; `iface` is None on tools that do not print it."""

    address: str
    iface: str | None = None


@dataclass(frozen=True, slots=True)
class PingResult:
    """Counts of one ping. `times_ms` holds one entry per answered packet; lost packets have none."""

    sent: int
    received: int
    loss_percent: float
    times_ms: tuple[float, ...] = ()
    target: str | None = None


def _address(text: str | None) -> str | None:
    """Return an IPv4 or IPv6 address in its usual spelling."""
    try:
        return str(ipaddress.ip_address((text or "").strip()))
    except ValueError:
        return None


def _ipv4(text: str | None) -> str | None:
    try:
        return str(ipaddress.IPv4Address((text or "").strip()))
    except ValueError:
        return None


def _is_mask(text: str) -> bool:
    """Whether an IPv4 address is a mask: ones, then zeros."""
    flipped = int(ipaddress.IPv4Address(text)) ^ 0xFFFFFFFF
    return flipped & (flipped + 1) == 0


def _always(value: str) -> bool:  # noqa: ARG001 - one of the answers to "is this word whole?"
    """Say that a word that has the right form is whole: no longer one begins with it."""
    return True


def _closed_mtu(value: str) -> bool:
    return int(value[:9]) * 10 > _LARGEST_MTU


def _closed_fec(value: str) -> bool:
    return value.lower().endswith(" mode")


def _closed_gateway(value: str) -> bool:
    """Whether a cut gateway line is whole: eth1 may go on as eth12 on a host with 16 chips, eth3 cannot."""
    address, comma, iface = value.partition(",")
    name = iface.rpartition(":")[2].strip()
    return name not in {"", "eth1"} and bool(re.fullmatch("eth[0-9]+", name)) if comma else closed_ip(address)


def parse_link(capture: Capture) -> Reading[bool]:
    """Read `-link -g`: True for UP, False for DOWN."""
    refused = refusal(capture)
    if refused:
        return refused
    word = labelled(capture.stdout, "link[ \t]+status", "UP|DOWN", _always)
    state = {"UP": True, "DOWN": False}.get((word or "").upper())
    return unreadable(capture) if state is None else found(state, first_words(capture))


def _preset(capture: Capture, nothing: str) -> Reading[Never] | None:
    """Return the common part of ip and gateway: not run, not configured, refused; None when there is text."""
    absent = not_run(capture)
    if absent:
        return absent
    if re.search(nothing, f"{capture.stderr}\n{capture.stdout}", re.IGNORECASE):
        return unset(first_words(capture))
    return refusal(capture)


def parse_ip(capture: Capture) -> Reading[IpConfig]:
    """Read `-ip -g`; `unset` when the tool says that no ip was preset."""
    early = _preset(capture, r"no ip was preset")
    if early:
        return early
    address = _address(labelled(capture.stdout, "ip[ \t]*addr(?:ess)?", whole=closed_ip))
    if address is not None and ":" in address:
        return _inet6(capture, address)
    netmask = _ipv4(labelled(capture.stdout, "net[ \t]*mask", whole=closed_ip))
    if address is None or netmask is None or not _is_mask(netmask):
        return unreadable(capture)
    if address == "0.0.0.0":  # noqa: S104 - compared with what the tool prints for "none"; nothing is bound
        return unset(first_words(capture))
    return found(IpConfig(address, netmask), first_words(capture))


def _inet6(capture: Capture, address: str) -> Reading[IpConfig]:
    """Read the second line of an IPv6 answer: a prefix length, or a mask in IPv6 form."""
    mask = labelled(capture.stdout, "net[ \t]*mask|prefix(?:[ _]?len(?:gth)?)?")
    length = to_int(mask or "")
    if length is not None and 0 <= length <= _LONGEST_PREFIX:
        return found(IpConfig(address, str(length)), first_words(capture))
    wide = _address(mask)
    return found(IpConfig(address, wide), first_words(capture)) if wide and ":" in wide else unreadable(capture)


def parse_gateway(capture: Capture) -> Reading[Gateway]:
    """Read `-gateway -g`; `unset` when the tool says that no gateway was preset."""
    early = _preset(capture, r"no gateway was preset")
    if early:
        return early
    line = labelled(capture.stdout, "(?:default[ \t]+)?gateway", _GATEWAY, _closed_gateway)
    match = re.fullmatch(_GATEWAY, line or "", re.IGNORECASE)
    address = _address(match.group(1)) if match else None
    if match is None or address is None:
        return unreadable(capture)
    if address == "0.0.0.0":  # noqa: S104 - see parse_ip
        return unset(first_words(capture))
    return found(Gateway(address, match.group(2)), first_words(capture))


def parse_netdetect(capture: Capture) -> Reading[str]:
    """Read `-netdetect -g` in both wordings (`addr`, `address`); 0.0.0.0 is `unset`."""
    refused = refusal(capture)
    if refused:
        return refused
    address = _address(labelled(capture.stdout, "netdetect[ \t]+addr(?:ess)?", whole=closed_ip))
    if address is None:
        return unreadable(capture)
    if address == "0.0.0.0":  # noqa: S104 - see parse_ip
        return unset(first_words(capture))
    return found(address, first_words(capture))


def parse_net_health(capture: Capture) -> Reading[NetHealth]:
    """Read `-net_health -g`; an eleventh word is unreadable, never guessed."""
    refused = refusal(capture)
    if refused:
        return refused
    word = labelled(capture.stdout, "net[ \t_]+health[ \t]+status", r"\S.*", _always)
    for status in NetHealth:
        if word is not None and status.value.lower() == " ".join(word.lower().split()):
            return found(status, first_words(capture))
    return unreadable(capture)


def parse_tls(capture: Capture) -> Reading[int]:
    """Read `-tls -g`: 0 off, 1 on. A card without certificates is off (HCCL documentation)."""
    absent = not_run(capture)
    if absent:
        return absent
    if re.search(r"no certificate found", f"{capture.stderr}\n{capture.stdout}", re.IGNORECASE):
        return found(0, first_words(capture))
    refused = refusal(capture)
    if refused:
        return refused
    text = plain(capture.stdout)
    switches = re.findall(r"tls[ \t]+switch[ \t]*\[[ \t]*([^\]\n]*?)[ \t]*\]", text, re.IGNORECASE)
    whole = len(switches) == len(re.findall(r"tls[ \t]+switch", text, re.IGNORECASE))
    if whole and set(switches) in ({"0"}, {"1"}):
        return found(int(switches[0]), first_words(capture))
    return unreadable(capture)


def _counts(text: str) -> tuple[int, int, float] | None:
    """Return (sent, received, loss in per cent) when the summary line is there and adds up."""
    pattern = r"^[ \t]*([0-9]+) packets? transmitted,[ \t]*([0-9]+) received,[ \t]*([0-9.]+)[ \t]*% packets? loss"
    summaries = list(re.finditer(pattern, text, re.MULTILINE))
    if len(summaries) != 1:
        return None
    summary = summaries[0]
    sent, received, loss = to_int(summary.group(1)), to_int(summary.group(2)), to_float(summary.group(3))
    if sent is None or received is None or loss is None or sent == 0 or received > sent:
        return None
    if abs(100.0 * (sent - received) / sent - loss) > _LOSS_ROUNDING:
        return None
    return sent, received, loss


def parse_ping(capture: Capture) -> Reading[PingResult]:
    """Read `-ping -g` and A3's `-hccs_ping`; times in ms.

    Loss comes with a non-zero exit code and is still a result; only a missing or contradictory summary
    line is not.
    """
    absent = not_run(capture)
    if absent:
        return absent
    text = BLANKS.sub(" ", plain(capture.stdout))
    counts = _counts(text)
    targets = set(re.findall(r"^[ \t]*device [0-9]+ PING (\S+)", text, re.MULTILINE))
    if counts is None or len(targets) > 1:
        return refusal(capture) or unreadable(capture)
    times: list[float] = []
    answered = r"^[ \t]*recv seq[ =]*[0-9]+[ \t]*,[ \t]*time[ =]*([0-9.]+)[ \t]*(ms|us)"
    for number, unit in re.findall(answered, text, re.MULTILINE):
        value = to_float(number)
        if value is not None:
            times.append(value if unit == "ms" else round(value / 1000, 9))
    result = PingResult(*counts, times_ms=tuple(times), target=targets.pop() if targets else None)
    return found(result, first_words(capture))


def parse_speed(capture: Capture) -> Reading[int]:
    """Read `-speed -g` in Mb/s (200000 on a healthy 910B port). `Speed: Unknown!` is an error."""
    refused = refusal(capture)
    if refused:
        return refused
    word = labelled(capture.stdout, "speed", r"[0-9]+[ \t]*Mb/s|unknown!?", _always) or ""
    if word.lower().startswith("unknown"):
        return Reading(None, "error", first_words(capture), "failed")
    match = re.fullmatch(r"([0-9]+)[ \t]*Mb/s", word, re.IGNORECASE)
    value = to_int(match.group(1)) if match else None
    return unreadable(capture) if value is None else found(value, first_words(capture))


def parse_mtu(capture: Capture) -> Reading[int]:
    """Read `-mtu -g` in bytes."""
    refused = refusal(capture)
    if refused:
        return refused
    value = to_int(labelled(capture.stdout, "mtu", "[0-9]+", _closed_mtu) or "")
    return unreadable(capture) if value is None else found(value, first_words(capture))


def parse_fec(capture: Capture) -> Reading[str]:
    """Read `-fec -g` as the mode's first word in lower case: rs, no, auto, base."""
    refused = refusal(capture)
    if refused:
        return refused
    words = labelled(capture.stdout, "fec[ \t]+mode", r"[a-z]+(?:[ \t]+FEC[ \t]+mode)?", _closed_fec)
    return unreadable(capture) if words is None else found(words.split()[0].lower(), first_words(capture))


def parse_mac(capture: Capture) -> Reading[str]:
    """Read `-mac -g`, lower case with colons."""
    refused = refusal(capture)
    if refused:
        return refused
    word = labelled(capture.stdout, "mac[ \t]+addr(?:ess)?", "(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", _always)
    return unreadable(capture) if word is None else found(word.lower(), first_words(capture))


PARSERS: Mapping[str, Callable[[Capture], Reading[object]]] = {
    "link": parse_link,
    "ip": parse_ip,
    "gateway": parse_gateway,
    "netdetect": parse_netdetect,
    "net_health": parse_net_health,
    "lldp": parse_lldp,
    "tls": parse_tls,
    "ping": parse_ping,
    "hccs_ping": parse_ping,
    "speed": parse_speed,
    "mtu": parse_mtu,
    "fec": parse_fec,
    "optical": parse_optical,
    "link_stat": parse_link_stat,
    "stat": parse_stat,
    "route": parse_route,
    "mac": parse_mac,
    "duplex": parse_duplex,
    "bandwidth": parse_bandwidth,
    "vnic": parse_vnic,
    "udp": parse_udp,
    "version": parse_version,
    "pci": parse_pci,
    "shaping": parse_shaping,
    "hw_stats": parse_hw_stats,
    "arp": parse_arp,
    "cfg": parse_cfg,
    "set": parse_set,
    "status": parse_raw,
    "pfc": parse_raw,
    "tc": parse_raw,
    "roce_test": parse_raw,
}


def parse(subcommand: str, capture: Capture) -> Reading[object]:
    """Read the output of one subcommand, named by the tool's own word; an unknown word is unreadable."""
    parser = PARSERS.get(subcommand.strip().lstrip("-"))
    if parser is None:
        return Reading(None, "unreadable", f"no parser for hccn_tool -{subcommand.strip().lstrip('-')}", "text")
    return parser(capture)
