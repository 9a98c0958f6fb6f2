"""What the gateway stage reads, and what came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.ascend import hccn
from runbook_lib.model import ProbeScript, Section
from runbook_lib.stages.base import NEVER_RAN
from runbook_lib.stages.card_reads import card_sections, split_reads
from runbook_lib.stages.hccn_conf import read_conf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.hccn import Gateway, HccnConf, IpConfig, NetHealth, Route
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Card, Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes
    from runbook_lib.stages.card_reads import Reads

READS = ("ip", "gateway", "netdetect", "net_health", "route")
PATIENCE_S = 10.0
# asks again while detection has just begun; the state of a card comes within seconds of its setting
_WAIT = r"""
read -r up x </proc/uptime; end=$((${up%%.*} + $3))
while :; do
  out=$("$1" -i "$2" -net_health -g 2>&1); code=$?
  read -r up x </proc/uptime
  case $out in *'Detect ip set'*|*Init*|*'tool is busy'*) [ "${up%%.*}" -lt "$end" ] && { sleep 0.5; continue; };; esac
  break
done
printf '%s\n' "$out"
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class CardGateway:
    """What the tool said about one card."""

    ip: Reading[IpConfig]
    gateway: Reading[Gateway]
    netdetect: Reading[str]
    health: Reading[NetHealth]
    route: Reading[tuple[Route, ...]]


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """The cards of every host that was reached, its path of hccn_tool, its hccn.conf (None: unreadable)."""

    cards: Mapping[str, Mapping[int, CardGateway]]
    tools: Mapping[str, str]
    conf: Mapping[str, HccnConf | None] = field(default_factory=dict)


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read IP, gateway, detect target, health and routes of every card of one host, and its hccn.conf."""
    numbers = [card.id for card in host.cards]
    return ProbeScript(
        (Section("conf", ("cat", paths.hccn_conf)), *card_sections("cards", paths.hccn_tool, numbers, READS))
    )


def follow_up(facts: GatewayFacts, params: Params, paths: Mapping[str, HostPaths]) -> dict[str, ProbeScript]:
    """Wait for the health of cards whose detection has just begun, and has all that it needs."""
    del params
    scripts = {}
    for host, cards in facts.cards.items():
        waiting = [
            number
            for number, seen in cards.items()
            if seen.health.value is not None
            and seen.health.value.transient
            and seen.gateway.value is not None
            and seen.netdetect.value is not None
        ]
        tool, patience = paths[host].hccn_tool, str(int(PATIENCE_S))
        scripts[host] = ProbeScript(
            tuple(
                Section(f"later.{number}", ("sh", "-c", _WAIT, "sh", tool, str(number), patience), PATIENCE_S + 10)
                for number in waiting
            )
        )
    return scripts


def facts(params: Params, probes: Probes) -> GatewayFacts:
    """Parse every read of every card."""
    seen = {name: each for name, each in probes.items() if not each.error}
    return GatewayFacts(
        {name: _cards(params, name, each) for name, each in seen.items()},
        {name: each.paths.hccn_tool for name, each in probes.items()},
        {name: read_conf(each.get("conf")) for name, each in seen.items()},
    )


def _cards(params: Params, name: str, seen: HostProbe) -> dict[int, CardGateway]:
    numbers = [card.id for card in params.host(name).cards]
    reads = split_reads(seen, "cards", numbers, READS)
    return {number: _card(seen, reads, number) for number in numbers}


def _card(seen: HostProbe, reads: Reads, number: int) -> CardGateway:
    def said(read: str) -> Capture:
        return reads.get((number, read), NEVER_RAN)

    return CardGateway(
        ip=hccn.parse_ip(said("ip")),
        gateway=hccn.parse_gateway(said("gateway")),
        netdetect=hccn.parse_netdetect(said("netdetect")),
        health=hccn.parse_net_health(seen.captures.get(f"later.{number}") or said("net_health")),
        route=hccn.parse_route(said("route")),
    )


def lost_at_boot(facts: GatewayFacts, params: Params, host: Host, card: Card) -> dict[str, tuple[str, str]]:
    """Return what the next boot would spoil: key -> (in the file, live), of settings that are live as they shall be.

    What is not yet live as it shall be is not looked at: setting it writes both. {} where the file cannot be read.
    """
    conf, seen = facts.conf.get(host.name), facts.cards[host.name][card.id]
    if conf is None:
        return {}
    kept = conf.cards.get(card.id, {})
    live = {}
    if seen.gateway.value is not None and seen.gateway.value.address == params.gateway(card):
        live["gateway"] = params.gateway(card)
    if seen.netdetect.value == params.peer(host, card):
        live["netdetect"] = params.peer(host, card)
    return {key: (kept.get(key, ""), value) for key, value in live.items() if kept.get(key) != value}
