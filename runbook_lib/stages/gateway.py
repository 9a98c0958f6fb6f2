"""Gateway: gateway, detect target and net_health of every card.

Multi-host inference demands a gateway on every card, also where a back-to-back cable has none, and the error
names nothing (field report). On a direct pair the gateway is the card's own IP and the detect target is the
peer card's IP; on a switch both come from the params.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import hccn
from runbook_lib.ascend.hccn import NetHealth
from runbook_lib.model import Change, Command, Finding, ProbeScript, Risk, Section, Subject, Verdict
from runbook_lib.params import Topology
from runbook_lib.stages.base import Findings, apply_command
from runbook_lib.stages.network import words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.hccn import Gateway, IpConfig
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.params import Card, Host, HostPaths, Params
    from runbook_lib.stages.base import Probes

NAME = "gateway"
_READS = ("ip", "gateway", "netdetect", "net_health")
_NO_TARGET = "0.0.0.0"  # noqa: S104 - what the tool prints when no detect address is set


@dataclass(frozen=True, slots=True)
class CardGateway:
    """What the tool said about one card."""

    ip: Reading[IpConfig]
    gateway: Reading[Gateway]
    netdetect: Reading[str]
    health: Reading[NetHealth]


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """The cards of every host that was reached, and its path of hccn_tool."""

    cards: Mapping[str, Mapping[int, CardGateway]]
    tools: Mapping[str, str]


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read IP, gateway, detect target and health of every card of one host."""
    return ProbeScript(
        tuple(
            Section(f"{read}.{card.id}", (paths.hccn_tool, "-i", str(card.id), f"-{read}", "-g"))
            for card in host.cards
            for read in _READS
        )
    )


def facts(params: Params, probes: Probes) -> GatewayFacts:
    """Parse every read of every card."""
    return GatewayFacts(
        {
            name: {
                card.id: CardGateway(
                    ip=hccn.parse_ip(seen.get(f"ip.{card.id}")),
                    gateway=hccn.parse_gateway(seen.get(f"gateway.{card.id}")),
                    netdetect=hccn.parse_netdetect(seen.get(f"netdetect.{card.id}")),
                    health=hccn.parse_net_health(seen.get(f"net_health.{card.id}")),
                )
                for card in params.host(name).cards
            }
            for name, seen in probes.items()
            if not seen.error
        },
        {name: seen.paths.hccn_tool for name, seen in probes.items()},
    )


def check(facts: GatewayFacts, params: Params) -> list[Finding]:
    """Judge every card; an unreadable answer is unknown, never ok."""
    findings = Findings(NAME, apply_command(params))
    findings.unreachable(params, tuple(facts.cards))
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                _check_gateway(findings, params, host, card, seen)
                _check_netdetect(findings, params, host, card, seen)
                _check_health(findings, host, card, seen)
    return findings.items


def _check_gateway(findings: Findings, params: Params, host: Host, card: Card, seen: CardGateway) -> None:
    subject = Subject(host.name, card.id)
    wanted = params.gateway(card)
    why = " (its own IP, since a direct cable has no gateway)" if wanted == card.ip else ""
    gateway = seen.gateway
    if gateway.value is not None:
        live = gateway.value.address
        verdict = Verdict.OK if live == wanted else Verdict.FAIL
        findings.add("NET-GATEWAY-WRONG", subject, verdict, seen=live, expected=wanted + why)
    if gateway.state in ("set", "unset"):
        verdict = Verdict.FAIL if gateway.state == "unset" else Verdict.OK
        findings.add("NET-GATEWAY-MISSING", subject, verdict, seen=_gateway_words(gateway), expected=wanted + why)
    else:
        findings.add("NET-GATEWAY-MISSING", subject, Verdict.UNKNOWN, seen=words(gateway), expected=wanted + why)


def _gateway_words(gateway: Reading[Gateway]) -> str:
    return gateway.value.address if gateway.value is not None else words(gateway)


def _check_netdetect(findings: Findings, params: Params, host: Host, card: Card, seen: CardGateway) -> None:
    subject = Subject(host.name, card.id)
    wanted = params.peer(host, card)
    what = " (the peer card)" if params.cluster.topology is Topology.DIRECT else ""
    target = seen.netdetect
    if target.state in ("set", "unset"):
        findings.judge("NET-NETDETECT", subject, ok=target.value == wanted, seen=words(target), expected=wanted + what)
    else:
        findings.add("NET-NETDETECT", subject, Verdict.UNKNOWN, seen=words(target), expected=wanted + what)


def _check_health(findings: Findings, host: Host, card: Card, seen: CardGateway) -> None:
    health = seen.health
    if health.value is None:
        verdict = Verdict.UNKNOWN
    elif health.value is NetHealth.SUCCESS:
        verdict = Verdict.OK
    elif health.value.transient:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.FAIL
    findings.add(
        "NET-HEALTH",
        Subject(host.name, card.id),
        verdict,
        seen=words(health),
        expected="Success",
        next_command=f"hccn_tool -i {card.id} -net_health -g   # on {host.name}; link, peer and gateway first",
        # a card that was just given its target answers a stale state for a moment
        transient=health.value is not None and health.value is not NetHealth.FAULT,
    )


def plan(facts: GatewayFacts, params: Params) -> list[Change]:
    """Set gateway and detect target where they differ; nothing for a card whose IP is not set yet."""
    changes: list[Change] = []
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                changes += _card_changes(facts.tools[host.name], params, host, card, seen)
    return changes


def _card_changes(tool: str, params: Params, host: Host, card: Card, seen: CardGateway) -> list[Change]:
    subject = Subject(host.name, card.id)
    on_card = (tool, "-i", str(card.id))
    changes: list[Change] = []
    gateway, target = params.gateway(card), params.peer(host, card)
    has = seen.gateway.value.address if seen.gateway.value is not None else ""
    if seen.gateway.state in ("set", "unset") and has != gateway:
        undo = Command((*on_card, "-gateway", "-s", "gateway", has)) if has else None
        changes.append(
            Change(
                subject=subject,
                summary=f"set gateway to {gateway}",
                before=has or "no gateway",
                after=gateway,
                action=Command((*on_card, "-gateway", "-s", "gateway", gateway)),
                undo=undo,
                irreversible="" if undo else "hccn_tool cannot take away the gateway of a card",
                risk=Risk.REVERSIBLE if undo else Risk.DISRUPTIVE,
                fixes=("NET-GATEWAY-MISSING", "NET-GATEWAY-WRONG", "NET-HEALTH"),
            )
        )
    if seen.netdetect.state in ("set", "unset") and seen.netdetect.value != target:
        before = seen.netdetect.value or _NO_TARGET
        changes.append(
            Change(
                subject=subject,
                summary=f"set detect target to {target}",
                before=before,
                after=target,
                action=Command((*on_card, "-netdetect", "-s", "address", target)),
                undo=Command((*on_card, "-netdetect", "-s", "address", before)),
                fixes=("NET-NETDETECT", "NET-HEALTH"),
            )
        )
    return changes


def waits_for(facts: GatewayFacts, params: Params) -> tuple[str, ...]:
    """Return `network` while a card that was read has not its IP: the tool refuses a gateway without one."""
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None and (seen.ip.value is None or seen.ip.value.address != card.ip):
                return ("network",)
    return ()
