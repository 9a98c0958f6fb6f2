"""Gateway: gateway, detect target and net_health of every card.

Multi-host inference demands a gateway on every card, also where a back-to-back cable has none, and the error
names nothing (field report). On a direct pair the gateway is the card's own IP and the detect target is the
peer card's IP; on a switch both come from the params.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.stages.gateway.check import check
from runbook_lib.stages.gateway.facts import GatewayFacts, facts, follow_up, probe
from runbook_lib.stages.gateway.plan import plan

if TYPE_CHECKING:
    from runbook_lib.params import Params

NAME = "gateway"

__all__ = ["NAME", "GatewayFacts", "check", "facts", "follow_up", "plan", "probe", "waits_for"]


def waits_for(facts: GatewayFacts, params: Params) -> tuple[str, ...]:
    """Return `network` while a card that was read has not its IP: the tool refuses a gateway without one."""
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is None:
                continue
            live = seen.ip.value
            if live is None or (live.address, live.netmask) != (card.ip, card.netmask):
                return ("network",)
    return ()
