"""Judge the service of the whole cluster: files, daemons, their first errors, and the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.stages import logs
from runbook_lib.stages.base import Findings, params_file
from runbook_lib.stages.service.advice import advice, links_note
from runbook_lib.stages.service.answers import check_answers
from runbook_lib.stages.service.facts import NAME
from runbook_lib.stages.service.files import check_files
from runbook_lib.stages.service.plan import taken_ports
from runbook_lib.stages.service.wanted import stale, start_unread

if TYPE_CHECKING:
    from runbook_lib.params import Host, Params
    from runbook_lib.stages.service.facts import HostFacts, ServiceFacts


def check(facts: ServiceFacts, params: Params) -> list[Finding]:
    """Judge files against params and live cards, then daemons, readiness and real answers."""
    findings = Findings(params, NAME)
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
    paths = {name: facts.paths[name].rank_table for name in facts.hosts}
    unread = [name for name, seen in facts.hosts.items() if "text" in seen.unread(paths[name])]
    missing = [name for name, seen in facts.hosts.items() if paths[name] in seen.missing]
    away = [host.name for host in params.cluster.hosts if host.name not in facts.hosts]
    tables = {seen.files[paths[name]] for name, seen in facts.hosts.items() if paths[name] in seen.files}
    said, verdict = "one rank table", Verdict.OK
    if len(tables) > 1:
        said, verdict = f"{len(tables)} different rank tables", Verdict.FAIL
    elif unread:
        said, verdict = f"rank table not read: {', '.join(unread)}", Verdict.UNKNOWN
    elif missing or away:
        said, verdict = f"no rank table of {', '.join([*missing, *away])} to compare", Verdict.SKIPPED
    findings.add("SVC-FILES-SAME", Subject(), verdict, seen=said, expected="one rank table on all hosts")


def _check_daemon(findings: Findings, facts: ServiceFacts, params: Params, host: Host) -> None:
    seen, paths = facts.hosts[host.name], facts.paths[host.name]
    alive = seen.alive == "alive"
    older, unread = (stale(seen, paths), start_unread(seen, paths)) if alive else ((), ())
    stopped = f"container {seen.stopped}" if seen.stopped else ""
    said = seen.alive or stopped or seen.container.message or "unreadable"
    verdict = (Verdict.OK if alive else Verdict.FAIL) if seen.daemon_known else Verdict.UNKNOWN
    if older:
        said, verdict = f"runs with older files: {', '.join(older)}", Verdict.FAIL
    elif unread:
        said, verdict = f"alive; not read, so not compared with its start: {', '.join(unread)}", Verdict.UNKNOWN
    findings.add(
        "SVC-DAEMON",
        Subject(host.name),
        verdict,
        seen=said,
        expected="alive, started with the files that lie there",
        next_command=f"runbook diagnose {params_file(params)}" if seen.alive == "dead" else None,
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
            Verdict.FAIL if seen.daemon_known and seen.alive != "alive" else Verdict.WARN,
            seen=logs.told(error, seen.logs, params, earliest=earliest),
            expected="no error in the logs of this start",
            next_command=f"tail -n 100 {facts.paths[host].service}/daemon.log   # on {host}",
        )


def _check_port(findings: Findings, seen: HostFacts, params: Params) -> None:
    """Say that somebody else has a port of the service, while no daemon of ours runs."""
    if seen.alive == "alive":
        return
    service, subject = params.service, Subject(params.master.name)
    ports = {service.port, service.management_port, service.metrics_port}
    expected = f"ports {', '.join(map(str, sorted(ports)))} free before the start"
    if seen.listening is None:
        findings.add("SVC-PORT", subject, Verdict.UNKNOWN, seen="ports not readable", expected=expected)
        return
    here = taken_ports(seen, params)
    if here and not seen.daemon_known:
        said = "in use, perhaps by our daemon, of which it is not known whether it runs"
        findings.add("SVC-PORT", subject, Verdict.SKIPPED, seen=said, expected=expected)
        return
    findings.add(
        "SVC-PORT",
        subject,
        Verdict.FAIL if here else Verdict.OK,
        seen=", ".join(f"{each.place} {each.holder}".strip() for each in here) or "free",
        expected=expected,
        next_command=f"ss -lntp 'sport = :{here[0].port}'   # on {params.master.name}; stop that process by its pid"
        if here
        else None,
    )
