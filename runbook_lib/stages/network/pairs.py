"""Which card pings which: every pair in a small cluster, a sample in a large one, the cable's ends on a direct pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.model import Subject
from runbook_lib.params import Topology

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from runbook_lib.params import Card, Host, Params

COMPLETE_HOSTS = 4
TURNS = 7  # card k of a host meets card k+1 ... k+7 of another one, one of them each time


@dataclass(frozen=True, slots=True)
class Pair:
    """One ping. `turn` is -1 for a pair that is always asked, else the turn in which it is."""

    source: Subject
    target: Subject
    address: str
    turn: int = -1


def subject_of(params: Params) -> dict[str, Subject]:
    """Return which card shall have which address."""
    return {card.ip: Subject(host.name, card.id) for host in params.cluster.hosts for card in host.cards}


def is_complete(params: Params) -> bool:
    """Whether the first round asks every pair that there is a way for."""
    wanted = params.network.ping_matrix
    return wanted == "complete" or (wanted == "auto" and len(params.cluster.hosts) <= COMPLETE_HOSTS)


def pairs(params: Params, host: Host) -> list[Pair]:
    """Return what one host pings in the first round, the most telling first: a deadline may cut the end."""
    hosts = params.cluster.hosts
    own = hosts.index(host)
    others = [hosts[(own + distance) % len(hosts)] for distance in _distances(len(hosts))]
    if params.network.ping_matrix == "neighbour":
        others = others[:1]
    found = [
        Pair(Subject(host.name, card.id), Subject(other.name, far.id), far.ip)
        for other in others
        for card, far in _partners(host, other)
    ]
    # a cable has one other end; a ping to any other card of the peer goes nowhere
    if params.cluster.topology is Topology.DIRECT or params.network.ping_matrix == "neighbour":
        return found
    return found + list(_across(host, others) if is_complete(params) else _sample(host, others))


def _partners(host: Host, other: Host) -> Iterator[tuple[Card, Card]]:
    """Yield every card with the other host's of the same number; where there is none, with that in the same place."""
    numbered = {far.id: far for far in other.cards}
    for place, card in enumerate(host.cards):
        yield card, numbered.get(card.id, other.cards[place])


def _distances(hosts: int) -> list[int]:
    """Order the other hosts: the next, then 2, 4, 8 ... further, then the rest; early ones spread over the cluster."""
    near = [step for step in (1, 2, 4, 8, 16, 32, 64, 128) if step < hosts]
    return near + [step for step in range(1, hosts) if step not in near]


def _across(host: Host, others: list[Host]) -> Iterator[Pair]:
    for other in others:
        for card, partner in _partners(host, other):
            for far in other.cards:
                if far is not partner:
                    yield Pair(Subject(host.name, card.id), Subject(other.name, far.id), far.ip)


def _sample(host: Host, others: list[Host]) -> Iterator[Pair]:
    """One unequal pair with every other host; the host takes another turn every minute."""
    for number, other in enumerate(others):
        card, partner = list(_partners(host, other))[number % len(host.cards)]
        for turn in range(TURNS):
            far = other.cards[(number + 1 + turn) % len(other.cards)]
            if far is not partner:
                yield Pair(Subject(host.name, card.id), Subject(other.name, far.id), far.ip, turn)


def suspect_pairs(params: Params, host: Host, suspects: Collection[Subject]) -> list[Pair]:
    """Return every pair of this host with a suspect card at either end."""
    found = []
    for card in host.cards:
        near = Subject(host.name, card.id)
        for other in params.cluster.hosts:
            for far in other.cards if other is not host else ():
                target = Subject(other.name, far.id)
                if near in suspects or target in suspects:
                    found.append(Pair(near, target, far.ip))
    return found
