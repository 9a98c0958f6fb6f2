"""What the gateway stage sets: gateway, then detect target, of every card that has its IP."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Risk, Subject
from runbook_lib.stages.gateway.facts import lost_at_boot

if TYPE_CHECKING:
    from runbook_lib.params import Card, Host, Params
    from runbook_lib.stages.gateway.facts import CardGateway, GatewayFacts

_NO_TARGET = "0.0.0.0"  # noqa: S104 - what the tool prints when no detect address is set


def plan(facts: GatewayFacts, params: Params) -> list[Change]:
    """Set gateway and detect target where they differ, live or in the file."""
    changes: list[Change] = []
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                lost = set(lost_at_boot(facts, params, host, card))
                changes += _gateway(facts.tools[host.name], params, host, card, seen, lost)
                changes += _target(facts.tools[host.name], params, host, card, seen, lost)
    return changes


def _gateway(  # noqa: PLR0913, PLR0917 - a card, what is seen of it, and what a boot would change
    tool: str, params: Params, host: Host, card: Card, seen: CardGateway, lost: set[str]
) -> list[Change]:
    wanted = params.gateway(card)
    has = seen.gateway.value.address if seen.gateway.value is not None else ""
    if not seen.gateway.known or (has == wanted and "gateway" not in lost):
        return []
    setter = (tool, "-i", str(card.id), "-gateway", "-s", "gateway")
    # the tool takes no gateway of another segment, so one that the IP left behind cannot be brought back
    undo = Command((*setter, has)) if has and _in_segment(has, card) else None
    fixes = ("NET-GATEWAY-MISSING", "NET-GATEWAY-WRONG", "NET-HEALTH") if has != wanted else ()
    return [
        Change(
            subject=Subject(host.name, card.id),
            summary=f"set gateway to {wanted}",
            before=has or "no gateway",
            after=wanted,
            action=Command((*setter, wanted)),
            undo=undo,
            irreversible="" if undo else "hccn_tool cannot take away the gateway of a card",
            risk=Risk.REVERSIBLE if undo else Risk.DISRUPTIVE,
            fixes=(*fixes, *(("NET-CONF-GATEWAY",) if "gateway" in lost else ())),
        )
    ]


def _in_segment(address: str, card: Card) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_interface(f"{card.ip}/{card.netmask}").network


def _target(  # noqa: PLR0913, PLR0917 - see _gateway
    tool: str, params: Params, host: Host, card: Card, seen: CardGateway, lost: set[str]
) -> list[Change]:
    wanted = params.peer(host, card)
    if not seen.netdetect.known or (seen.netdetect.value == wanted and "netdetect" not in lost):
        return []
    before = seen.netdetect.value or _NO_TARGET
    setter = (tool, "-i", str(card.id), "-netdetect", "-s", "address")
    fixes = ("NET-NETDETECT", "NET-HEALTH") if seen.netdetect.value != wanted else ()
    return [
        Change(
            subject=Subject(host.name, card.id),
            summary=f"set detect target to {wanted}",
            before=before,
            after=wanted,
            action=Command((*setter, wanted)),
            undo=Command((*setter, before)),
            fixes=(*fixes, *(("NET-CONF-GATEWAY",) if "netdetect" in lost else ())),
        )
    ]
