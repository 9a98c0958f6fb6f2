"""What the network stage sets: TLS switch, FEC, MTU, then IP and mask, in an order that the tool accepts.

A new IP in another segment drops the card's gateway, so the gateway stage comes after this one.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Risk, Subject
from runbook_lib.stages.network.hardware import GOOD_FEC
from runbook_lib.stages.network.settings import lost_at_boot, no_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runbook_lib.params import Card, Host, Params
    from runbook_lib.stages.network.facts import CardNetwork, NetworkFacts


def plan(facts: NetworkFacts, params: Params) -> list[Change]:
    """Return the changes of every host that was read."""
    changes: list[Change] = []
    for host in params.cluster.hosts:
        if host.name in facts.cards:
            changes += _host_changes(facts, params, host)
    return changes


def _host_changes(facts: NetworkFacts, params: Params, host: Host) -> list[Change]:
    tool, cards = facts.tools[host.name], facts.cards[host.name]
    changes: list[Change] = []
    for card in host.cards:
        changes += _switches(tool, params, host, card, cards[card.id], _lost(facts, params, host, card))
    live = {number: _live(seen) for number, seen in cards.items() if seen.ip.known}
    kept = {card.id for card in host.cards if {"address", "netmask"} & _lost(facts, params, host, card)}
    for card, after in ip_order(host, live, _free_address(facts, params), also=kept):
        before = live[card.id]
        parked = after != _wanted(card)
        what = "IP for the time being" if parked else "IP"
        fixes = () if parked else ("NET-IP",) if before != after else ("NET-CONF",)
        changes.append(_change(tool, host, card, what, before, after, set_ip, fixes))
        live[card.id] = after
    return changes


def _lost(facts: NetworkFacts, params: Params, host: Host, card: Card) -> set[str]:
    """Return the settings that a boot would spoil; none while the file cannot be read: then nobody knows."""
    conf = facts.conf.get(host.name)
    return set() if conf is None else set(lost_at_boot(conf, params, card, facts.cards[host.name][card.id]))


def _wanted(card: Card) -> str:
    return f"{card.ip}/{card.netmask}"


def _live(seen: CardNetwork) -> str:
    return f"{seen.ip.value.address}/{seen.ip.value.netmask}" if seen.ip.value is not None else ""


def ip_order(
    host: Host, live: Mapping[int, str], spare: str, also: frozenset[int] | set[int] = frozenset()
) -> list[tuple[Card, str]]:
    """Return (card, address/mask) in an order in which no address is given while another card still has it.

    The tool refuses an address that another card of the host has. Cards that have each other's addresses wait for
    one of them to be parked on `spare` ("": nowhere). also: cards to be set again although they have what they shall
    have.
    """
    now = {number: text.partition("/")[0] for number, text in live.items()}
    waiting = [card for card in host.cards if card.id in live and (live[card.id] != _wanted(card) or card.id in also)]
    steps: list[tuple[Card, str]] = []
    while waiting:
        ready = next(
            (
                card
                for card in waiting
                if all(address != card.ip for number, address in now.items() if number != card.id)
            ),
            None,
        )
        if ready is not None:
            steps.append((ready, _wanted(ready)))
            now[ready.id] = ready.ip
            waiting.remove(ready)
            continue
        holders = {address: number for number, address in now.items()}
        held = next((card for card in waiting if any(card.id == holders.get(each.ip) for each in waiting)), None)
        if held is None or now[held.id] == spare or not spare:
            break  # a card that nobody may change holds the address, or there is nowhere to park one: verify says so
        steps.append((held, f"{spare}/{held.netmask}"))
        now[held.id] = spare
    return steps


def _free_address(facts: NetworkFacts, params: Params) -> str:
    """Return the highest address of a card's segment that nobody has or shall have; "" where all are taken."""
    taken = {card.ip for host in params.cluster.hosts for card in host.cards}
    taken |= {params.gateway(card) for host in params.cluster.hosts for card in host.cards}
    taken |= {
        each.ip.value.address for cards in facts.cards.values() for each in cards.values() if each.ip.value is not None
    }
    for host in params.cluster.hosts:
        for card in host.cards:
            segment = ipaddress.IPv4Interface(_wanted(card)).network
            for number in range(int(segment.broadcast_address) - 1, int(segment.network_address), -1):
                if (address := str(ipaddress.IPv4Address(number))) not in taken:
                    return address
    return ""


def _switches(  # noqa: PLR0913, PLR0917 - a card, what is seen of it, and what a boot would change
    tool: str, params: Params, host: Host, card: Card, seen: CardNetwork, lost: set[str]
) -> list[Change]:
    tls, mtu = params.cluster.tls, params.cluster.mtu
    changes: list[Change] = []
    if (
        seen.tls.value is not None
        and (seen.tls.value != tls or "tls_enable" in lost)
        and not (tls and no_certificate(seen))
    ):
        fixes = ("NET-CONF",) if "tls_enable" in lost else ("NET-TLS",)
        changes.append(_change(tool, host, card, "TLS switch", str(seen.tls.value), str(tls), _set_tls, fixes))
    if seen.fec.value is not None and seen.fec.value != GOOD_FEC:
        changes.append(_change(tool, host, card, "FEC", seen.fec.value, GOOD_FEC, _set_fec, ("NET-FEC",)))
    if seen.mtu.value is not None and (seen.mtu.value != mtu or "mtu" in lost):
        fixes = ("NET-CONF",) if "mtu" in lost else ("NET-MTU",)
        changes.append(_change(tool, host, card, "MTU", str(seen.mtu.value), str(mtu), _set_mtu, fixes))
    return changes


def _change(  # noqa: PLR0913, PLR0917 - the fields of a change
    tool: str,
    host: Host,
    card: Card,
    what: str,
    before: str,
    after: str,
    setter: Callable[[str], tuple[str, ...]],
    fixes: tuple[str, ...],
) -> Change:
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
        fixes=fixes,
    )


def _set_tls(value: str) -> tuple[str, ...]:
    return ("-tls", "-s", "enable", value)


def _set_fec(value: str) -> tuple[str, ...]:
    return ("-fec", "-s", "encoding", value)


def _set_mtu(value: str) -> tuple[str, ...]:
    return ("-mtu", "-s", "size", value)


def set_ip(value: str) -> tuple[str, ...]:
    """Return the tool's words for an address with its mask, like 10.0.0.1/255.0.0.0."""
    address, _, netmask = value.partition("/")
    return ("-ip", "-s", "address", address, "netmask", netmask)
