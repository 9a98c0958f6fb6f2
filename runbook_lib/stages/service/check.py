"""Judge the service of the whole cluster: files, daemons, their first errors, and the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.stages import logs
from runbook_lib.stages.base import Findings, apply_command, params_file
from runbook_lib.stages.service.advice import advice, links_note
from runbook_lib.stages.service.answers import check_answers
from runbook_lib.stages.service.facts import NAME
from runbook_lib.stages.service.files import check_files
from runbook_lib.stages.service.plan import taken_ports
from runbook_lib.stages.service.wanted import stale

if TYPE_CHECKING:
    from runbook_lib.params import Host, Params
    from runbook_lib.stages.service.facts import HostFacts, ServiceFacts


def check(facts: ServiceFacts, params: Params) -> list[Finding]:
    """Judge files against params and live cards, then daemons, readiness and real answers."""
    findings = Findings(NAME, apply_command(params, NAME))
    findings.unreachable(params, tuple(facts.hosts))
    for host in params.cluster.hosts:
        if host.name in facts.hosts:
            check_files(findings, facts, params, host)
            _check_daemon(findings, facts, params, host)
    _check_advice(findings, params)
    _check_same(findings, facts, params)
    _check_first_error(findings, facts, params)
    if params.master.name in facts.hosts:
        _check_port(findings, facts.hosts[params.master.name], params)
        check_answers(findings, facts, params)
    return findings.items


def _check_advice(findings: Findings, params: Params) -> None:
    """Say what the settings do to the planned load; they hold, so nothing here stops a start."""
    found = advice(params)
    for setting, said in found:
        findings.add(
            "SVC-CONFIG-LOAD",
            Subject(item=setting),
            Verdict.WARN,
            seen=said,
            expected=f"service.{setting} that fits the planned load of benchmark",
            next_command=f"edit service.{setting} or benchmark in {params_file(params)}",
        )
    if not found:
        said = links_note(params) or "the planned load fits"
        findings.add("SVC-CONFIG-LOAD", Subject(), Verdict.OK, seen=said, expected="the planned load fits")


def _check_same(findings: Findings, facts: ServiceFacts, params: Params) -> None:
    tables = {seen.files.get(facts.paths[name].rank_table, ("", 0))[0] for name, seen in facts.hosts.items()}
    if len(facts.hosts) == len(params.cluster.hosts) and "" not in tables:
        said = "one rank table" if len(tables) == 1 else f"{len(tables)} different rank tables"
        findings.judge(
            "SVC-FILES-SAME", Subject(), ok=len(tables) == 1, seen=said, expected="one rank table on all hosts"
        )


def _check_daemon(findings: Findings, facts: ServiceFacts, params: Params, host: Host) -> None:
    seen, paths = facts.hosts[host.name], facts.paths[host.name]
    alive = seen.alive == "alive"
    older = stale(seen, paths) if alive else ()
    said = (
        f"runs with older files: {', '.join(older)}" if older else seen.alive or seen.container.message or "unreadable"
    )
    findings.add(
        "SVC-DAEMON",
        Subject(host.name),
        (Verdict.OK if alive and not older else Verdict.FAIL) if seen.daemon_known else Verdict.UNKNOWN,
        seen=said,
        expected="alive, started with the files that lie there",
        next_command=apply_command(params, NAME) if seen.alive != "dead" else f"runbook diagnose {params_file(params)}",
        transient=seen.alive == "none",
    )


def _check_first_error(findings: Findings, facts: ServiceFacts, params: Params) -> None:
    """Name the first error of every host; the earliest over all hosts is the cause and is said to be."""
    # without a daemon that was started and not stopped, the log is that of an earlier start
    started = {name: seen for name, seen in facts.hosts.items() if seen.alive != "none"}
    firsts = {name: logs.first(seen.logs) for name, seen in started.items()}
    earliest = logs.earliest(firsts)
    for host, error in firsts.items():
        if error is None:
            continue
        seen = facts.hosts[host]
        findings.add(
            "SVC-DAEMON-ERROR",
            Subject(host),
            Verdict.WARN if seen.alive == "alive" else Verdict.FAIL,
            seen=logs.told(error, seen.logs, params, earliest=earliest),
            expected="no error in the logs of this start",
            next_command=f"tail -n 100 {facts.paths[host].service}/daemon.log   # on {host}",
        )


def _check_port(findings: Findings, seen: HostFacts, params: Params) -> None:
    """Say that somebody else has a port of the service, while no daemon of ours runs."""
    if seen.listening is None or seen.alive == "alive":
        return
    service = params.service
    ports = {service.port, service.management_port, service.metrics_port}
    here = taken_ports(seen, params)
    findings.add(
        "SVC-PORT",
        Subject(params.master.name),
        Verdict.FAIL if here else Verdict.OK,
        seen=", ".join(f"{each.place} {each.holder}".strip() for each in here) or "free",
        expected=f"ports {', '.join(map(str, sorted(ports)))} free before the start",
        next_command=f"ss -lntp 'sport = :{here[0].port}'   # on {params.master.name}; stop that process by its pid"
        if here
        else None,
    )
