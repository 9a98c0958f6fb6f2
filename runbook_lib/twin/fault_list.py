"""What can be broken in the twin, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """`repair`: "tool" when a correct setting repairs it, "hands" when somebody must go to the machine (`clear`)."""

    name: str
    what: str
    needs_card: bool
    expected: tuple[str, ...]
    repair: str


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "gateway-missing",
            "the card's gateway is gone, live and in hccn.conf",
            needs_card=True,
            expected=("NET-GATEWAY-MISSING", "NET-HEALTH"),
            repair="tool",
        ),
        Fault(
            "gateway-foreign",
            "the card's gateway is another address of its segment",
            needs_card=True,
            expected=("NET-GATEWAY-WRONG",),
            repair="tool",
        ),
        Fault(
            "netdetect-unset",
            "the card has no detection target",
            needs_card=True,
            expected=("NET-NETDETECT", "NET-HEALTH"),
            repair="tool",
        ),
        Fault(
            "netdetect-vnic",
            "the card's detection target lies in the range of the on-board vNICs",
            needs_card=True,
            expected=("NET-NETDETECT", "NET-HEALTH"),
            repair="tool",
        ),
        Fault(
            "ip-missing",
            "the card has no address, hence no gateway",
            needs_card=True,
            expected=("NET-IP", "NET-GATEWAY-MISSING", "NET-HEALTH"),
            repair="tool",
        ),
        Fault(
            "ip-duplicate",
            "the card has the address of the same card of the next host",
            needs_card=True,
            expected=("NET-IP-DUPLICATE", "NET-IP", "NET-HEALTH"),
            repair="tool",
        ),
        Fault(
            "tls-on",
            "the card's TLS switch is on while those of its peers are off",
            needs_card=True,
            expected=("NET-TLS",),
            repair="tool",
        ),
        Fault(
            "link-down",
            "the card's cable is unplugged",
            needs_card=True,
            expected=("NET-LINK", "NET-HEALTH"),
            repair="hands",
        ),
        Fault(
            "card-lost",
            "the host no longer sees the card",
            needs_card=True,
            expected=("PRE-CARDS",),
            repair="hands",
        ),
        Fault(
            "health-alarm",
            "the card reports the health Alarm with an error code",
            needs_card=True,
            expected=("PRE-CARD-HEALTH",),
            repair="hands",
        ),
        Fault(
            "tool-hangs",
            "hccn_tool never returns for the card",
            needs_card=True,
            expected=("NET-LINK", "NET-IP", "NET-TLS"),
            repair="hands",
        ),
        Fault(
            "clock-skew",
            "the host's clock is 95 s ahead",
            needs_card=False,
            expected=("PRE-CLOCK",),
            repair="hands",
        ),
        Fault(
            "host-down",
            "the host is switched off",
            needs_card=False,
            expected=("PRE-HOST-UNREACHABLE",),
            repair="hands",
        ),
    )
}
