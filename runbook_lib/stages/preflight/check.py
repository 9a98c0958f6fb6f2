"""The judgement of preflight: every host, then what must be equal on all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.stages.base import Findings, ssh_command
from runbook_lib.stages.preflight.cards import check_cards
from runbook_lib.stages.preflight.room import check_room
from runbook_lib.stages.preflight.software import check_software
from runbook_lib.stages.preflight.together import check_together

if TYPE_CHECKING:
    from runbook_lib.params import Params
    from runbook_lib.stages.preflight.facts import PreflightFacts


def check(facts: PreflightFacts, params: Params) -> list[Finding]:
    """Judge every host, then what must be equal on all of them."""
    findings = Findings(params, "preflight")
    for name, error in facts.errors.items():
        findings.add(
            "PRE-HOST-UNREACHABLE",
            Subject(name),
            Verdict.FAIL,
            seen=error,
            expected="the host answers over SSH with its pinned key",
            next_command=ssh_command(params, params.host(name)),
        )
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is not None:
            findings.add("PRE-HOST-UNREACHABLE", Subject(host.name), Verdict.OK, seen="answers", expected="answers")
            check_cards(findings, host, seen)
            check_software(findings, params, host, seen)
            check_room(findings, params, host, seen)
    check_together(findings, params, facts)
    return findings.items
