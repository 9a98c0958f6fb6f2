"""Network: link, LLDP, speed, FEC, MTU, IP, mask and TLS switch of every card; sets IP, MTU, FEC and TLS."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from runbook_lib.ascend import hccn, hccn_detail
from runbook_lib.ascend.reading import Reading
from runbook_lib.model import Change, Command, Finding, ProbeScript, Risk, Section, Subject, Verdict
from runbook_lib.params import Topology
from runbook_lib.stages.base import Findings, apply_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runbook_lib.ascend.hccn import IpConfig, PingResult
    from runbook_lib.ascend.hccn_detail import Lldp
    from runbook_lib.model import Capture
    from runbook_lib.params import Card, Host, HostPaths, Params
    from runbook_lib.stages.base import Probes

ValueT = TypeVar("ValueT")

NAME = "network"
EXPECTED_SPEED_MBPS = 200_000  # 910B: one 200GE RoCE port per NPU (hccn_tool reference, `-speed -g`)
GOOD_FEC = "rs"
_READS = ("link", "lldp", "speed", "fec", "mtu", "ip", "tls")
_PING_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class CardNetwork:
    """What the tool said about one card."""

    link: Reading[bool]
    lldp: Reading[Lldp]
    speed_mbps: Reading[int]
    fec: Reading[str]
    mtu: Reading[int]
    ip: Reading[IpConfig]
    tls: Reading[int]
    ping: Reading[PingResult] | None


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The cards of every host that was reached, and its path of hccn_tool."""

    cards: Mapping[str, Mapping[int, CardNetwork]]
    tools: Mapping[str, str]


def _target(params: Params, host: Host, card: Card) -> str:
    """Return the same card of the next host: every card is sender once and receiver once."""
    hosts = params.cluster.hosts
    following = hosts[(hosts.index(host) + 1) % len(hosts)]
    return next((each.ip for each in following.cards if each.id == card.id), following.cards[0].ip)


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:
    """Read every card of one host; last of all ping the same card of the next host."""
    tool = paths.hccn_tool
    sections = [
        Section(f"{read}.{card.id}", (tool, "-i", str(card.id), f"-{read}", "-g"))
        for card in host.cards
        for read in _READS
    ]
    if len(params.cluster.hosts) > 1:
        sections += [
            Section(
                f"ping.{card.id}",
                (tool, "-i", str(card.id), "-ping", "-g", "address", _target(params, host, card)),
                _PING_TIMEOUT_S,
            )
            for card in host.cards
        ]
    return ProbeScript(tuple(sections))


def facts(params: Params, probes: Probes) -> NetworkFacts:
    """Parse every read of every card."""
    cards: dict[str, dict[int, CardNetwork]] = {}
    for name, seen in probes.items():
        if seen.error:
            continue
        cards[name] = {}
        for card in params.host(name).cards:
            number = card.id
            cards[name][number] = CardNetwork(
                link=hccn.parse_link(seen.get(f"link.{number}")),
                lldp=hccn_detail.parse_lldp(seen.get(f"lldp.{number}")),
                speed_mbps=hccn.parse_speed(seen.get(f"speed.{number}")),
                fec=hccn.parse_fec(seen.get(f"fec.{number}")),
                mtu=hccn.parse_mtu(seen.get(f"mtu.{number}")),
                ip=hccn.parse_ip(seen.get(f"ip.{number}")),
                tls=hccn.parse_tls(seen.get(f"tls.{number}")),
                ping=_ping(seen.get(f"ping.{number}")) if len(params.cluster.hosts) > 1 else None,
            )
    return NetworkFacts(cards, {name: seen.paths.hccn_tool for name, seen in probes.items()})


def _ping(capture: Capture) -> Reading[PingResult]:
    """Read a ping; "all answered" with an exit code that says otherwise is not believed."""
    result = hccn.parse_ping(capture)
    lossless = result.value is not None and result.value.received == result.value.sent
    return Reading(None, "unreadable", result.message, "text") if lossless and not capture.ok else result


def words(reading: Reading[object]) -> str:
    """Return what was read, for people: the value, or the tool's own words."""
    if isinstance(reading.value, bool):
        return "UP" if reading.value else "DOWN"
    if reading.value is not None:
        return str(reading.value)
    return reading.message or reading.state


def check(facts: NetworkFacts, params: Params) -> list[Finding]:
    """Judge every card; an unreadable answer is unknown, never ok."""
    findings = Findings(NAME, apply_command(params))
    findings.unreachable(params, tuple(facts.cards))
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                _check_hardware(findings, params, host, card, seen)
                _check_settings(findings, params, host, card, seen)
                _check_ping(findings, facts, params, host, card)
    _check_duplicates(findings, facts)
    return findings.items


def _check_hardware(findings: Findings, params: Params, host: Host, card: Card, seen: CardNetwork) -> None:
    subject = Subject(host.name, card.id)
    tool = f"hccn_tool -i {card.id}"
    _judge(findings, "NET-LINK", subject, seen.link, lambda up: up, "UP", f"{tool} -link -g   # then check the cable")
    _judge(
        findings,
        "NET-SPEED",
        subject,
        seen.speed_mbps,
        lambda speed: speed >= EXPECTED_SPEED_MBPS,
        f"{EXPECTED_SPEED_MBPS} Mb/s",
        f"{tool} -speed -g   # then check cable and switch port",
    )
    _judge(findings, "NET-FEC", subject, seen.fec, lambda mode: mode == GOOD_FEC, f"{GOOD_FEC} FEC mode")
    _check_lldp(findings, params, subject, seen)


def _check_lldp(findings: Findings, params: Params, subject: Subject, seen: CardNetwork) -> None:
    """Judge LLDP: on a switch every port must be named; a direct cable has nobody who speaks it."""
    command = f"hccn_tool -i {subject.card} -lldp -g | grep Ifname"
    lldp = seen.lldp
    direct = params.cluster.topology is Topology.DIRECT
    if lldp.value is not None:
        verdict = Verdict.WARN if direct else Verdict.OK
        code = "NET-TOPOLOGY" if direct else "NET-LLDP"
        expected = "no LLDP on a direct cable" if direct else "the switch port that the card hangs on"
        findings.add(code, subject, verdict, seen=lldp.value.ifname, expected=expected, next_command=command)
    elif lldp.state == "unset" and direct:
        findings.add("NET-LLDP", subject, Verdict.OK, seen="no answer", expected="no LLDP on a direct cable")
    else:
        verdict = Verdict.FAIL if lldp.state == "unset" else Verdict.UNKNOWN
        expected = "no LLDP on a direct cable" if direct else "the switch port that the card hangs on"
        findings.add(
            "NET-LLDP", subject, verdict, seen=lldp.message or "no answer", expected=expected, next_command=command
        )


def _check_settings(findings: Findings, params: Params, host: Host, card: Card, seen: CardNetwork) -> None:
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
    _judge(findings, "NET-MTU", subject, seen.mtu, lambda value: value == mtu, str(mtu))
    _judge(
        findings, "NET-TLS", subject, seen.tls, lambda value: value == tls, f"tls switch {tls}, as on every other card"
    )


def _has_its_ip(facts: NetworkFacts, params: Params, address: str) -> bool:
    """Whether the card that shall have an address has it; True for a host that was not reached: nobody knows."""
    for host in params.cluster.hosts:
        for card in host.cards:
            if card.ip == address and host.name in facts.cards:
                live = facts.cards[host.name][card.id].ip
                return live.state == "unreadable" or (live.value is not None and live.value.address == address)
    return True


def _check_ping(findings: Findings, facts: NetworkFacts, params: Params, host: Host, card: Card) -> None:
    seen = facts.cards[host.name][card.id]
    if seen.ping is None:
        return
    subject = Subject(host.name, card.id)
    target = _target(params, host, card)
    expected = f"answers from {target}, 0 % loss"
    command = f"hccn_tool -i {card.id} -ping -g address {target}"
    if not _has_its_ip(facts, params, card.ip) or not _has_its_ip(facts, params, target):
        said = "not judged: NET-IP comes first, here or on the target"
        findings.add("NET-PING", subject, Verdict.SKIPPED, seen=said, expected=expected)
        return
    result = seen.ping.value
    if result is None:
        known_loss = seen.ping.state == "error"
        verdict = Verdict.FAIL if known_loss else Verdict.UNKNOWN
        findings.add("NET-PING", subject, verdict, seen=words(seen.ping), expected=expected, next_command=command)
        return
    lost = result.sent - result.received
    verdict = Verdict.OK if result.received and not lost else Verdict.FAIL
    said = f"{target}: {result.received} of {result.sent} answered"
    findings.add("NET-PING", subject, verdict, seen=said, expected=expected, next_command=command)


def _check_duplicates(findings: Findings, facts: NetworkFacts) -> None:
    holders: defaultdict[str, list[Subject]] = defaultdict(list)
    for host, cards in facts.cards.items():
        for number, card in cards.items():
            if card.ip.value is not None:
                holders[card.ip.value.address].append(Subject(host, number))
    for address, subjects in holders.items():
        for subject in subjects if len(subjects) > 1 else ():
            others = ", ".join(str(each) for each in subjects if each != subject)
            findings.add(
                "NET-IP-DUPLICATE",
                subject,
                Verdict.FAIL,
                seen=f"{address}, also on {others}",
                expected="an address of its own",
            )


def _judge(  # noqa: PLR0913, PLR0917 - a reading, its rule, and the words around it
    findings: Findings,
    code: str,
    subject: Subject,
    reading: Reading[ValueT],
    rule: Callable[[ValueT], bool],
    expected: str,
    next_command: str | None = None,
) -> None:
    if reading.value is None:
        findings.add(code, subject, Verdict.UNKNOWN, seen=words(reading), expected=expected, next_command=next_command)
        return
    verdict = Verdict.OK if rule(reading.value) else Verdict.FAIL
    findings.add(code, subject, verdict, seen=words(reading), expected=expected, next_command=next_command)


def plan(facts: NetworkFacts, params: Params) -> list[Change]:
    """Set what differs: TLS switch, FEC, MTU, then IP and mask (a new IP drops the gateway: that stage comes next)."""
    changes: list[Change] = []
    for host in params.cluster.hosts:
        for card in host.cards:
            seen = facts.cards.get(host.name, {}).get(card.id)
            if seen is not None:
                changes += _card_changes(facts.tools[host.name], params, host, card, seen)
    return changes


def _card_changes(tool: str, params: Params, host: Host, card: Card, seen: CardNetwork) -> list[Change]:
    def change(what: str, before: str, after: str, setter: Callable[[str], tuple[str, ...]], fixes: str) -> Change:
        def command(value: str) -> Command:
            return Command((tool, "-i", str(card.id), *setter(value)))

        return Change(
            subject=Subject(host.name, card.id),
            summary=f"set {what} to {after}",
            before=before or f"no {what}",
            after=after,
            action=command(after),
            undo=command(before) if before else None,
            irreversible="" if before else f"hccn_tool cannot take away the {what} of a card",
            risk=Risk.REVERSIBLE if before else Risk.DISRUPTIVE,
            fixes=(fixes,),
        )

    changes: list[Change] = []
    tls, mtu = params.cluster.tls, params.cluster.mtu
    if seen.tls.value is not None and seen.tls.value != tls:
        changes.append(change("TLS switch", str(seen.tls.value), str(tls), _set_tls, "NET-TLS"))
    if seen.fec.value is not None and seen.fec.value != GOOD_FEC:
        changes.append(change("FEC", seen.fec.value, GOOD_FEC, _set_fec, "NET-FEC"))
    if seen.mtu.value is not None and seen.mtu.value != mtu:
        changes.append(change("MTU", str(seen.mtu.value), str(mtu), _set_mtu, "NET-MTU"))
    wanted = f"{card.ip}/{card.netmask}"
    live = f"{seen.ip.value.address}/{seen.ip.value.netmask}" if seen.ip.value is not None else ""
    if seen.ip.state in ("set", "unset") and live != wanted:
        changes.append(change("IP", live, wanted, _set_ip, "NET-IP"))
    return changes


def _set_tls(value: str) -> tuple[str, ...]:
    return ("-tls", "-s", "enable", value)


def _set_fec(value: str) -> tuple[str, ...]:
    return ("-fec", "-s", "encoding", value)


def _set_mtu(value: str) -> tuple[str, ...]:
    return ("-mtu", "-s", "size", value)


def _set_ip(value: str) -> tuple[str, ...]:
    address, _, netmask = value.partition("/")
    return ("-ip", "-s", "address", address, "netmask", netmask)


def waits_for(facts: NetworkFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: this stage needs no other."""
    return ()
