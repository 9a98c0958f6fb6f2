"""Settings of a card: IP and mask, MTU, TLS switch; the same in hccn.conf; no address twice in the cluster."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from runbook_lib.model import Subject, Verdict
from runbook_lib.stages.network.facts import words
from runbook_lib.stages.network.hardware import judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.hccn import HccnConf
    from runbook_lib.params import Card, Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.network.facts import CardNetwork, NetworkFacts


_DEFAULTS = {"mtu": "1500", "tls_enable": "0"}  # what a card has whose hccn.conf names none


def check_settings(findings: Findings, facts: NetworkFacts, params: Params, host: Host, card: Card) -> None:
    """Judge the live settings against the params, and the file against the live settings."""
    seen = facts.cards[host.name][card.id]
    subject = Subject(host.name, card.id)
    wanted = f"{card.ip}/{card.netmask}"
    address = seen.ip
    if address.value is not None:
        live = f"{address.value.address}/{address.value.netmask}"
        findings.judge("NET-IP", subject, ok=live == wanted, seen=live, expected=wanted)
    else:
        verdict = Verdict.FAIL if address.state == "unset" else Verdict.UNKNOWN
        findings.add("NET-IP", subject, verdict, seen=words(address), expected=wanted)
    mtu, tls = params.cluster.mtu, params.cluster.tls
    judge(findings, "NET-MTU", subject, seen.mtu, lambda value: value == mtu, str(mtu))
    what = f"tls switch {tls}, as on every other card"
    command = f"hccn_tool -i {card.id} -tls -g   # on {host.name}; then install its certificates, or want tls: 0"
    certify = command if tls and no_certificate(seen) else None
    judge(findings, "NET-TLS", subject, seen.tls, lambda value: value == tls, what, certify)
    _check_conf(findings, facts, params, host, card)


def lost_at_boot(conf: HccnConf, params: Params, card: Card, seen: CardNetwork) -> dict[str, tuple[str, str]]:
    """Return what the next boot would spoil: key -> (in the file, live), of settings that are live as they shall be.

    Keys without a default must be there. What is not yet live as it shall be is not looked at: setting it writes both.
    """
    kept: Mapping[str, str] = conf.cards.get(card.id, {})
    live: dict[str, str] = {}
    if seen.ip.value is not None and (seen.ip.value.address, seen.ip.value.netmask) == (card.ip, card.netmask):
        live |= {"address": card.ip, "netmask": card.netmask}
    if seen.mtu.value == params.cluster.mtu:
        live["mtu"] = str(params.cluster.mtu)
    if seen.tls.value == params.cluster.tls:
        live["tls_enable"] = str(params.cluster.tls)
    return {
        key: (kept.get(key, ""), value) for key, value in live.items() if kept.get(key, _DEFAULTS.get(key)) != value
    }


def _unread(conf: HccnConf, params: Params, card: Card, seen: CardNetwork) -> list[str]:
    """Return the findings that say first whether the next boot spoils something: what is live is not known."""
    kept: Mapping[str, str] = conf.cards.get(card.id, {})
    asked = (("NET-MTU", "mtu", seen.mtu, params.cluster.mtu), ("NET-TLS", "tls_enable", seen.tls, params.cluster.tls))
    return [code for code, key, live, value in asked if not live.known and kept.get(key, _DEFAULTS[key]) != str(value)]


def no_certificate(seen: CardNetwork) -> bool:
    """Whether the card says that it has no certificates: then its switch is off, and cannot be set."""
    return seen.tls.value == 0 and "certificate" in seen.tls.message.lower()


def check_conf_file(findings: Findings, facts: NetworkFacts, host: Host) -> None:
    """Warn of lines that are no setting, and of settings given twice: the tool may refuse the whole file."""
    conf = facts.conf.get(host.name)
    bad = () if conf is None else conf.bad_lines
    findings.add(
        "NET-CONF-FILE",
        Subject(host.name),
        Verdict.UNKNOWN if conf is None else Verdict.WARN if bad else Verdict.OK,
        seen="unreadable" if conf is None else "; ".join(bad[:3]) or "settings and comments",
        expected="settings, each once, and comments",
        next_command=f"cat -n /etc/hccn.conf   # on {host.name}; correct what is named: boot and recovery replay it",
    )


def _check_conf(findings: Findings, facts: NetworkFacts, params: Params, host: Host, card: Card) -> None:
    subject, expected = Subject(host.name, card.id), "hccn.conf holds what is live, so that it survives a reboot"
    seen, conf = facts.cards[host.name][card.id], facts.conf.get(host.name)
    if conf is None:
        command = f"cat /etc/hccn.conf   # on {host.name}"
        findings.add(
            "NET-CONF", subject, Verdict.UNKNOWN, seen="hccn.conf unreadable", expected=expected, next_command=command
        )
        return
    differs = lost_at_boot(conf, params, card, seen)
    said = [f"{key}_{card.id} is {kept or 'missing'}, live {live}" for key, (kept, live) in differs.items()]
    unread = _unread(conf, params, card, seen)
    verdict = Verdict.FAIL if said else Verdict.OK
    if not said and (seen.ip.value is None or seen.ip.value.address != card.ip):
        verdict = Verdict.SKIPPED if seen.ip.known else Verdict.UNKNOWN
        said = ["not judged: NET-IP comes first"]
    elif not said and unread:
        verdict, said = Verdict.UNKNOWN, [f"not judged: {unread[0]} comes first"]
    findings.add("NET-CONF", subject, verdict, seen=", ".join(said) or "as live", expected=expected)


def check_duplicates(findings: Findings, facts: NetworkFacts, params: Params) -> None:
    """Say for every card whether its address is its own; a gateway's address is not.

    While the address of one card is not known, nobody can say of another that its own is unique.
    """
    cards = [card for host in params.cluster.hosts for card in host.cards]
    gateways = {params.gateway(card) for card in cards} - {card.ip for card in cards}
    holders: defaultdict[str, list[Subject]] = defaultdict(list)
    for name, known in facts.cards.items():
        for number, each in known.items():
            if each.ip.value is not None:
                holders[each.ip.value.address].append(Subject(name, number))
    expected = "an address of its own"
    unread = [
        Subject(host.name, card.id)
        for host in params.cluster.hosts
        for card in host.cards
        if (seen := facts.card(Subject(host.name, card.id))) is None or not seen.ip.known
    ]
    for subject in unread:
        if (seen := facts.card(subject)) is not None:
            findings.add("NET-IP-DUPLICATE", subject, Verdict.UNKNOWN, seen=words(seen.ip), expected=expected)
    for address, subjects in holders.items():
        for subject in subjects:
            others = [str(each) for each in subjects if each != subject]
            others += ["the switch's gateway"] if address in gateways else []
            verdict, said = Verdict.OK, address
            if others:
                verdict, said = Verdict.FAIL, f"{address}, also on {', '.join(others)}"
            elif unread:
                verdict, said = Verdict.SKIPPED, f"not judged: the address of {_some(unread)} is not known"
            findings.add("NET-IP-DUPLICATE", subject, verdict, seen=said, expected=expected)


def _some(subjects: list[Subject]) -> str:
    more = f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""
    return f"{subjects[0]}{more}"
