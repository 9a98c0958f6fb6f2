"""What hccn_tool said about the cards of every host, typed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.ascend import hccn
from runbook_lib.ascend.link_history import recent_changes
from runbook_lib.model import Subject
from runbook_lib.stages.base import NEVER_RAN
from runbook_lib.stages.card_reads import split_reads
from runbook_lib.stages.hccn_conf import read_conf
from runbook_lib.stages.network.pairs import pairs, subject_of, suspect_pairs
from runbook_lib.stages.network.pings import parse_pings
from runbook_lib.stages.network.probe import READS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.hccn import HccnConf, IpConfig, LinkStat, Lldp, Optical
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Params
    from runbook_lib.stages.base import HostProbe, Probes
    from runbook_lib.stages.card_reads import Reads
    from runbook_lib.stages.network.pairs import Pair
    from runbook_lib.stages.network.pings import Pings

RECENT_S = 3600.0


@dataclass(frozen=True, slots=True)
class CardNetwork:
    """What the tool said about one card. recent_changes: ages in s, last hour; None if not known."""

    link: Reading[bool]
    lldp: Reading[Lldp]
    speed_mbps: Reading[int]
    fec: Reading[str]
    mtu: Reading[int]
    ip: Reading[IpConfig]
    tls: Reading[int]
    optical: Reading[Optical]
    link_stat: Reading[LinkStat]
    recent_changes: tuple[float, ...] | None
    counters: tuple[Reading[Mapping[str, int]], Reading[Mapping[str, int]]]


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The cards of every host that was reached, its path of hccn_tool and its hccn.conf; who answered whom.

    conf: None where the file could not be read. untested: how many pairs that must be pinged each card has not pinged.
    lost: hosts whose connection broke before all had come.
    """

    cards: Mapping[str, Mapping[int, CardNetwork]]
    tools: Mapping[str, str]
    conf: Mapping[str, HccnConf | None] = field(default_factory=dict)
    pings: Pings = field(default_factory=dict)
    untested: Mapping[Subject, int] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()

    def card(self, subject: Subject) -> CardNetwork | None:
        """Return what is known of one card, None for a host that was not reached."""
        return self.cards.get(subject.host, {}).get(subject.card)


def facts(params: Params, probes: Probes) -> NetworkFacts:
    """Parse every read of every card."""
    seen = {name: each for name, each in probes.items() if not each.error}
    where = subject_of(params)
    pings: Pings = {}
    due: list[Pair] = []
    for name, each in seen.items():
        host = params.host(name)
        first = pairs(params, host)
        due += [pair for pair in first if pair.turn < 0]
        pings |= parse_pings(each.get("pings"), name, where, first)
        if "more_pings" in each.captures:
            everything = suspect_pairs(params, host, {Subject(name, card.id) for card in host.cards})
            pings |= parse_pings(each.get("more_pings"), name, where, everything)
    return NetworkFacts(
        {name: _cards(params, name, each) for name, each in seen.items()},
        {name: each.paths.hccn_tool for name, each in probes.items()},
        {name: read_conf(each.get("conf")) for name, each in seen.items()},
        pings,
        Counter(pair.source for pair in due if (pair.source, pair.target) not in pings),
        frozenset(name for name, each in seen.items() if each.lost),
    )


def _card(reads: Reads, number: int, after: Capture) -> CardNetwork:
    def said(read: str) -> Capture:
        return reads.get((number, read), NEVER_RAN)

    stat = hccn.parse_link_stat(said("link_stat"))
    return CardNetwork(
        link=hccn.parse_link(said("link")),
        lldp=hccn.parse_lldp(said("lldp")),
        speed_mbps=hccn.parse_speed(said("speed")),
        fec=hccn.parse_fec(said("fec")),
        mtu=hccn.parse_mtu(said("mtu")),
        ip=hccn.parse_ip(said("ip")),
        tls=hccn.parse_tls(said("tls")),
        optical=hccn.parse_optical(said("optical")),
        link_stat=stat,
        recent_changes=None if stat.value is None else recent_changes(said("link_stat"), stat.value, RECENT_S),
        counters=(hccn.parse_stat(said("stat")), hccn.parse_stat(after)),
    )


def _cards(params: Params, name: str, seen: HostProbe) -> dict[int, CardNetwork]:
    numbers = [card.id for card in params.host(name).cards]
    reads = split_reads(seen, "cards", numbers, READS)
    after = split_reads(seen, "after", numbers, ("stat",))
    return {number: _card(reads, number, after.get((number, "stat"), NEVER_RAN)) for number in numbers}


def words(reading: Reading[object]) -> str:
    """Return what was read, for people: the value, or the tool's own words."""
    if isinstance(reading.value, bool):
        return "UP" if reading.value else "DOWN"
    if reading.value is not None:
        return str(reading.value)
    return reading.message or reading.state
