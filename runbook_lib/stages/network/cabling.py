"""Where the cards hang: LLDP on a switch, silence on a cable; the cabling plan; which of both the facts show."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import TYPE_CHECKING

from runbook_lib.model import Subject, Verdict
from runbook_lib.params import Topology
from runbook_lib.stages.base import params_file
from runbook_lib.stages.network.matrix import address_of, cell_verdict

if TYPE_CHECKING:
    from runbook_lib.ascend.hccn import Lldp
    from runbook_lib.params import Card, Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.network.facts import CardNetwork, NetworkFacts

    Ports = defaultdict[tuple[str, str | None], set[Subject]]


def check_cabling(findings: Findings, facts: NetworkFacts, params: Params) -> None:
    """Judge the neighbour of every card, then the cluster as a whole."""
    on_port = _cards_on_ports(facts)
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                _check_lldp(findings, params, Subject(host.name, card.id), seen)
                if params.cluster.topology is Topology.SWITCH:
                    _check_port(findings, on_port, params, host, card, seen)
                else:
                    _check_peer(findings, facts, params, Subject(host.name, card.id))
    _check_topology(findings, facts, params)


def _check_lldp(findings: Findings, params: Params, subject: Subject, seen: CardNetwork) -> None:
    """Judge LLDP: on a switch every port must be named; a direct cable has nobody who speaks it."""
    command = f"hccn_tool -i {subject.card} -lldp -g | grep Ifname   # on {subject.host}"
    direct = params.cluster.topology is Topology.DIRECT
    expected = "no LLDP on a direct cable" if direct else "the switch port that the card hangs on"
    lldp = seen.lldp
    if not lldp.known:
        verdict, said = Verdict.UNKNOWN, lldp.message or "no answer"
    elif seen.link.value is False:
        verdict, said = Verdict.SKIPPED, "not judged: NET-LINK comes first"
    else:
        heard = lldp.value is not None
        verdict = Verdict.OK if heard != direct else Verdict.FAIL
        said = lldp.value.ifname if lldp.value is not None else "no answer"
    findings.add("NET-LLDP", subject, verdict, seen=said, expected=expected, next_command=command)


def place(lldp: Lldp) -> str:
    """Name a switch port with its switch."""
    return f"{lldp.ifname} of {_switch(lldp) or 'an unnamed switch'}"


def _switch(lldp: Lldp) -> str | None:
    return lldp.chassis_mac or lldp.system


def _check_port(  # noqa: PLR0913, PLR0917 - a card, and all others to compare it with
    findings: Findings, on_port: Ports, params: Params, host: Host, card: Card, seen: CardNetwork
) -> None:
    """Compare a card's port with the cabling plan, and with the ports of all other cards."""
    subject = Subject(host.name, card.id)
    command = f"hccn_tool -i {card.id} -lldp -g   # on {host.name}; correct the cable, or the plan in params"
    planned = " of ".join(each for each in (card.port or "any port", card.switch) if each)
    lldp = seen.lldp.value
    if lldp is None:
        verdict = Verdict.SKIPPED if seen.lldp.known else Verdict.UNKNOWN
        said = "not judged: NET-LLDP or NET-LINK comes first" if seen.lldp.known else seen.lldp.message
        findings.add("NET-CABLING", subject, verdict, seen=said, expected=planned, next_command=command)
        return
    problems = []
    if card.port is not None and lldp.ifname != card.port:
        problems.append(f"{lldp.ifname}, which is planned for {_planned_for(params, lldp) or 'no card'}")
    if card.switch is not None and card.switch.lower() not in {
        (lldp.chassis_mac or "").lower(),
        (lldp.system or "").lower(),
    }:
        problems.append(f"switch {_switch(lldp) or 'unnamed'}")
    same = on_port[lldp.ifname, _switch(lldp)] - {subject}
    if same and _switch(lldp) is not None:  # ports of switches without a name may be alike
        problems.append(f"{place(lldp)}, as {', '.join(map(str, sorted(same)))} says too")
    no_plan = card.port is None and card.switch is None
    verdict = Verdict.FAIL if problems else Verdict.SKIPPED if no_plan else Verdict.OK
    said = "; ".join(problems) or place(lldp) + (", no cabling plan in params" if no_plan else "")
    findings.add("NET-CABLING", subject, verdict, seen=said, expected=planned, next_command=command)


def _planned_for(params: Params, lldp: Lldp) -> str:
    owners = [
        f"{host.name} card {card.id}"
        for host in params.cluster.hosts
        for card in host.cards
        if card.port == lldp.ifname
        and (card.switch is None or card.switch.lower() in {lldp.chassis_mac, (lldp.system or "").lower()})
    ]
    return ", ".join(owners)


def _cards_on_ports(facts: NetworkFacts) -> Ports:
    ports: Ports = defaultdict(set)
    for host, cards in facts.cards.items():
        for number, each in cards.items():
            if each.lldp.value is not None:
                ports[each.lldp.value.ifname, _switch(each.lldp.value)].add(Subject(host, number))
    return ports


def _check_peer(findings: Findings, facts: NetworkFacts, params: Params, subject: Subject) -> None:
    """Say whom the cable leads to, where another card than the planned one answered."""
    expected = f"card {subject.card} of the other host at the other end of the cable"
    answered = [
        cell[1] for cell, reading in facts.pings.items() if cell[0] == subject and cell_verdict(reading) is Verdict.OK
    ]
    wrong = [each for each in answered if each.card != subject.card]
    if wrong and not any(each.card == subject.card for each in answered):
        said, ping = (
            f"{wrong[0]} answers",
            f"hccn_tool -i {subject.card} -ping -g address {address_of(params, wrong[0])}",
        )
        command = f"{ping}   # on {subject.host}; swap the cables of {subject} and card {wrong[0].card} at one host"
        findings.add("NET-CABLING", subject, Verdict.FAIL, seen=said, expected=expected, next_command=command)
    elif answered:
        findings.add("NET-CABLING", subject, Verdict.OK, seen=f"{answered[0]} answers", expected=expected)
    else:
        said = "not judged: nobody answers, see NET-LINK, NET-IP and NET-PING"
        findings.add("NET-CABLING", subject, Verdict.SKIPPED, seen=said, expected=expected)


def _check_topology(findings: Findings, facts: NetworkFacts, params: Params) -> None:
    """Compare what the facts look like with what the params say."""
    wanted = params.cluster.topology
    seen, why = looks_like(facts, params)
    verdict = Verdict.UNKNOWN if seen is None else Verdict.OK if seen is wanted else Verdict.FAIL
    findings.add(
        "NET-TOPOLOGY",
        Subject(),
        verdict,
        seen=f"{'undecided' if seen is None else seen.value}: {why}",
        expected=f"{wanted.value}, as params say",
        next_command=f"hccn_tool -i {params.master.cards[0].id} -lldp -g   # on {params.master.name}; only a switch "
        f"answers; then correct cluster.topology in {params_file(params)}",
    )


def looks_like(facts: NetworkFacts, params: Params) -> tuple[Topology | None, str]:
    """Tell a direct pair from a switch by LLDP, modules and addresses; None where the facts do not decide."""
    cards = [each for host in facts.cards.values() for each in host.values()]
    heard = sum(each.lldp.value is not None for each in cards)
    if heard * 2 > len(cards):
        return Topology.SWITCH, f"{heard} of {len(cards)} cards hear a switch by LLDP"
    if len(params.cluster.hosts) != 2:  # noqa: PLR2004 - a cable has two ends
        return Topology.SWITCH, f"{len(params.cluster.hosts)} hosts are no direct pair"
    silent = sum(each.lldp.state == "unset" and each.link.value is True for each in cards)
    if silent * 2 <= len(cards) or len(facts.cards) != len(params.cluster.hosts):
        return None, f"LLDP and link of only {silent} of {len(cards)} cards could be read"
    copper = sum(each.optical.value is not None and not each.optical.value.present for each in cards)
    segments = _shared_segments(facts)
    why = f"no LLDP on {silent} of {len(cards)} cards, {copper} without a module, {segments} pairs in one segment"
    return Topology.DIRECT, why


def _shared_segments(facts: NetworkFacts) -> int:
    """Count the card numbers whose cards lie in one segment on all hosts."""
    networks: defaultdict[int, set[str]] = defaultdict(set)
    for cards in facts.cards.values():
        for number, each in cards.items():
            networks[number].add(_segment(each))
    return sum(len(each) == 1 and "" not in each for each in networks.values())


def _segment(seen: CardNetwork) -> str:
    value = seen.ip.value
    try:
        return str(ipaddress.ip_interface(f"{value.address}/{value.netmask}").network) if value is not None else ""
    except ValueError:
        return ""  # a mask with holes
