"""What the network stage reads from one host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import ProbeScript, Section
from runbook_lib.stages.card_reads import card_sections
from runbook_lib.stages.network.pairs import TURNS, pairs
from runbook_lib.stages.network.pings import ping_section

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params

READS = ("link", "lldp", "speed", "fec", "mtu", "ip", "tls", "optical", "link_stat", "stat")


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:
    """Read every card of one host, ping others, and read the error counters once more."""
    tool = paths.hccn_tool
    numbers = [card.id for card in host.cards]
    sections = [Section("conf", ("cat", paths.hccn_conf)), *card_sections("cards", tool, numbers, READS)]
    asked = pairs(params, host)
    if asked:
        sections.append(ping_section("pings", tool, asked, TURNS, params.network.ping_deadline_s))
    sections += card_sections("after", tool, numbers, ("stat",), limit_s=5)
    return ProbeScript(tuple(sections))
