"""Network: link, LLDP, speed, FEC, MTU, IP, mask, TLS switch, light and errors of every card, and who answers whom.

Sets TLS, FEC, MTU, IP and mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Finding, ProbeScript
from runbook_lib.stages.base import Findings
from runbook_lib.stages.network.cabling import check_cabling
from runbook_lib.stages.network.facts import NetworkFacts, facts, words
from runbook_lib.stages.network.hardware import check_hardware
from runbook_lib.stages.network.matrix import check_matrix, suspects
from runbook_lib.stages.network.pairs import suspect_pairs
from runbook_lib.stages.network.pings import ping_section
from runbook_lib.stages.network.plan import plan
from runbook_lib.stages.network.probe import probe
from runbook_lib.stages.network.settings import check_conf_file, check_duplicates, check_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import HostPaths, Params

NAME = "network"

__all__ = ["NAME", "NetworkFacts", "check", "facts", "follow_up", "plan", "probe", "waits_for", "words"]


def check(facts: NetworkFacts, params: Params) -> list[Finding]:
    """Judge every card; an unreadable answer is unknown, never ok."""
    findings = Findings(params, NAME)
    findings.unreachable(params, tuple(facts.cards))
    for host in params.cluster.hosts:
        for card in host.cards if host.name in facts.cards else ():
            check_hardware(findings, facts, params, host, card)
            check_settings(findings, facts, params, host, card)
        if host.name in facts.cards:
            check_conf_file(findings, facts, host)
    check_duplicates(findings, facts, params)
    check_cabling(findings, facts, params)
    check_matrix(findings, facts, params)
    return findings.items


def follow_up(facts: NetworkFacts, params: Params, paths: Mapping[str, HostPaths]) -> dict[str, ProbeScript]:
    """Ping all pairs of the cards that somebody could not reach; nothing where nobody is suspect."""
    doubtful = suspects(facts, params)
    scripts = {}
    for host in params.cluster.hosts if doubtful else ():
        asked = [
            pair
            for pair in suspect_pairs(params, host, doubtful)
            if host.name in facts.cards and (pair.source, pair.target) not in facts.pings
        ]
        if asked:
            tool, deadline_s = paths[host.name].hccn_tool, params.network.ping_deadline_s
            scripts[host.name] = ProbeScript((ping_section("more_pings", tool, asked, 1, deadline_s),))
    return scripts


def waits_for(facts: NetworkFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: this stage needs no other."""
    return ()
