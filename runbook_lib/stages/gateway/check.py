"""The judgement of gateway, detect target, health and routes of every card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend.hccn import NetHealth
from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.params import Topology
from runbook_lib.stages.base import Findings
from runbook_lib.stages.gateway.facts import lost_at_boot
from runbook_lib.stages.hccn_conf import recovery_command
from runbook_lib.stages.network import words

if TYPE_CHECKING:
    from runbook_lib.ascend.hccn import Gateway
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.params import Card, Host, Params
    from runbook_lib.stages.gateway.facts import CardGateway, GatewayFacts


def check(facts: GatewayFacts, params: Params) -> list[Finding]:
    """Judge every card; an unreadable answer is unknown, never ok."""
    findings = Findings(params, "gateway")
    findings.unreachable(params, tuple(facts.cards))
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                _check_gateway(findings, params, host, card, seen)
                _check_netdetect(findings, params, host, card, seen)
                _check_health(findings, facts, params, host, card)
                _check_route(findings, params, host, card, seen)
                _check_conf(findings, facts, params, host, card)
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


def _check_health(findings: Findings, facts: GatewayFacts, params: Params, host: Host, card: Card) -> None:
    health = facts.cards[host.name][card.id].health
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
        # a detection that is stuck starts again with it
        next_command=None
        if health.value is None
        else recovery_command(facts.conf.get(host.name), params, host, card, "link, peer and gateway first"),
        # a card that was just given its target answers a stale state for a moment
        transient=health.value is not None and health.value is not NetHealth.FAULT,
    )


def _check_route(findings: Findings, params: Params, host: Host, card: Card, seen: CardGateway) -> None:
    """Judge the way that packets take: on a switch the default route leads to the gateway, over the card's port."""
    subject, wanted = Subject(host.name, card.id), params.gateway(card)
    direct = params.cluster.topology is Topology.DIRECT
    expected = f"routes over the card's port, the default one by {wanted}"
    command = f"hccn_tool -i {card.id} -route -g   # on {host.name}"
    if seen.route.value is None:
        said = words(seen.route)
        findings.add("NET-ROUTE", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)
        return
    if seen.gateway.value is None or seen.gateway.value.address != wanted:
        said = "not judged: the gateway comes first"
        findings.add("NET-ROUTE", subject, Verdict.SKIPPED, seen=said, expected=expected)
        return
    default = [each for each in seen.route.value if each.destination in {"default", "0.0.0.0"}]  # noqa: S104 - a route's name
    own = [each for each in seen.route.value if each.iface == f"eth{card.id}"]
    said = ", ".join(f"{each.destination} by {each.gateway} on {each.iface}" for each in default) or "no default route"
    fit = bool(default) and all(each.gateway == wanted and each.iface == f"eth{card.id}" for each in default)
    # where the gateway is the card itself a kernel may leave the default route out; the peer is in the segment
    ok = fit or (direct and bool(own) and not default)
    findings.add(
        "NET-ROUTE",
        subject,
        Verdict.OK if ok else Verdict.FAIL,
        seen=said,
        expected=expected,
        next_command=f"{command}; then set the gateway again: hccn_tool -i {card.id} -gateway -s gateway {wanted}",
    )


def _check_conf(findings: Findings, facts: GatewayFacts, params: Params, host: Host, card: Card) -> None:
    subject, expected = Subject(host.name, card.id), "hccn.conf holds gateway and detect target as they are live"
    seen = facts.cards[host.name][card.id]
    if facts.conf.get(host.name) is None:
        findings.add(
            "NET-CONF-GATEWAY",
            subject,
            Verdict.UNKNOWN,
            seen="hccn.conf unreadable",
            expected=expected,
            next_command=f"cat /etc/hccn.conf   # on {host.name}",
        )
        return
    differs = lost_at_boot(facts, params, host, card)
    said = [f"{key}_{card.id} is {kept or 'missing'}, live {live}" for key, (kept, live) in differs.items()]
    verdict = Verdict.FAIL if said else Verdict.OK
    if not said and (seen.gateway.value is None or seen.netdetect.value is None):
        verdict = Verdict.SKIPPED if seen.gateway.known and seen.netdetect.known else Verdict.UNKNOWN
        said = ["not judged: not all is set live"]
    findings.add("NET-CONF-GATEWAY", subject, verdict, seen=", ".join(said) or "as live", expected=expected)
