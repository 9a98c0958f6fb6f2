"""What must be equal on all hosts: clocks, driver and firmware, system and docker."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runbook_lib.model import Subject, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.params import Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.preflight.facts import HostFacts, PreflightFacts

MAX_CLOCK_SPREAD_S = 10.0


def check_together(findings: Findings, params: Params, facts: PreflightFacts) -> None:
    """Compare the hosts; the one that differs from the most is blamed."""
    _check_clocks(findings, params, facts)
    _check_same(findings, params, facts, "PRE-DRIVER-SAME", Verdict.FAIL, _drivers)
    _check_same(findings, params, facts, "PRE-OS-SAME", Verdict.WARN, _systems)


def _check_clocks(findings: Findings, params: Params, facts: PreflightFacts) -> None:
    """Let our own clock vote too; with two that differ and no third nobody knows which is right."""
    known = [seen.ahead_s for seen in facts.hosts.values() if seen.ahead_s is not None]
    dated = bool(facts.hosts) and all(seen.dated for seen in facts.hosts.values())
    votes = [*known, 0.0] if dated else known
    expected = f"within {MAX_CLOCK_SPREAD_S:.0f} s of each other"
    middle = sorted(known)[len(known) // 2] if known else 0.0
    for host, seen in facts.hosts.items():
        command = f"chronyc tracking; chronyc makestep   # on {host}"
        if seen.ahead_s is None or (len(known) == 1 and len(params.cluster.hosts) > 1):
            said = "unreadable" if seen.ahead_s is None else "no other host's clock to compare with"
            command = f"date; chronyc tracking   # on {host}"
            findings.add(
                "PRE-CLOCK", Subject(host), Verdict.UNKNOWN, seen=said, expected=expected, next_command=command
            )
            continue
        near = sum(abs(seen.ahead_s - clock) <= MAX_CLOCK_SPREAD_S for clock in votes)
        verdict = Verdict.OK if near * 2 > len(votes) or near == len(known) else Verdict.FAIL
        said = f"{seen.ahead_s - middle:+.0f} s from the others"
        if dated:
            said += f", {seen.ahead_s:+.0f} s from here"
        findings.add("PRE-CLOCK", Subject(host), verdict, seen=said, expected=expected, next_command=command)
    if dated and known:
        verdict = Verdict.OK if abs(middle) <= MAX_CLOCK_SPREAD_S else Verdict.WARN
        findings.add(
            "PRE-CLOCK-HERE",
            Subject(),
            verdict,
            seen=f"the hosts' clocks are {middle:+.0f} s from this machine's",
            expected=f"within {MAX_CLOCK_SPREAD_S:.0f} s, so that the record and the hosts' logs can be compared",
            next_command="date; timedatectl   # on this machine, and on a host",
        )


def _drivers(seen: HostFacts) -> str:
    if seen.driver is None or seen.firmware is None or not seen.driver.version or not seen.firmware.version:
        return ""
    return f"driver {seen.driver.version}, firmware {seen.firmware.version}"


def _systems(seen: HostFacts) -> str:
    server = seen.docker.value.server if seen.docker.value is not None else None
    if not seen.system.pretty_name or not server:
        return ""
    return f"{seen.system.pretty_name}, docker {server}"


def _check_same(  # noqa: PLR0913, PLR0917 - what is compared, and how bad a difference is
    findings: Findings,
    params: Params,
    facts: PreflightFacts,
    code: str,
    differs: Verdict,
    words: Callable[[HostFacts], str],
) -> None:
    """Blame the hosts that are not like the most; where there is no most, every host."""
    said = {host: words(seen) for host, seen in facts.hosts.items()}
    counts = Counter(each for each in said.values() if each).most_common(2)
    most = counts[0][0] if counts and (len(counts) == 1 or counts[0][1] > counts[1][1]) else ""
    alone = len(params.cluster.hosts) > 1 and sum(bool(each) for each in said.values()) < 2  # noqa: PLR2004 - a pair
    for host, mine in said.items():
        others = sorted({each for name, each in said.items() if name != host and each and each != mine})
        verdict = Verdict.UNKNOWN if not mine or alone else Verdict.OK if mine == most else differs
        findings.add(
            code,
            Subject(host),
            verdict,
            seen=mine or "unreadable",
            expected=most or f"the same on all hosts; elsewhere: {'; '.join(others)}",
            next_command=f"runbook check params/{params.cluster.name}.yaml --stage preflight   "
            f"# bring {host} to the version of the others",
        )
