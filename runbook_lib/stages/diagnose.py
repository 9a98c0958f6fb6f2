"""Diagnose: collect plog and MindIE logs of all hosts, and name the first error of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.model import Change, Finding, ProbeScript, Section, Subject, Verdict
from runbook_lib.stages import logs
from runbook_lib.stages.base import Findings, params_file
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import Probes

NAME = "diagnose"
_LINES = 2000


@dataclass(frozen=True, slots=True)
class HostLogs:
    """The logs of the present start on one host, by file, and whether its daemon lives.

    whole: the reading came to its end; what was cut off may hold an error.
    """

    texts: Mapping[str, str]
    alive: str
    whole: bool = True


@dataclass(frozen=True, slots=True)
class DiagnoseFacts:
    """The logs of every host that was reached."""

    hosts: Mapping[str, HostLogs]


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read the early errors and the end of every log."""
    pid_file = f"{paths.inside(paths.service)}/daemon.pid"
    alive = ("docker", "exec", params.container.name, "sh", "-c", source("alive.sh"), "sh", pid_file)
    return ProbeScript((logs.section(paths, _LINES), Section("alive", alive)))


def facts(params: Params, probes: Probes) -> DiagnoseFacts:  # noqa: ARG001 - the same form for every stage
    """Split the logs by file."""
    return DiagnoseFacts(
        {
            name: HostLogs(
                logs.by_file(seen.get("logs")), seen.get("alive").stdout.strip(), logs.whole(seen.get("logs"))
            )
            for name, seen in probes.items()
            if not seen.error
        }
    )


def check(facts: DiagnoseFacts, params: Params) -> list[Finding]:
    """Name the first error of every host; with a daemon that lives it is a warning. The earliest is the cause."""
    findings = Findings(params, NAME, f"runbook diagnose {params_file(params)}")
    findings.unreachable(params, tuple(facts.hosts))
    firsts = {name: logs.first(seen.texts) for name, seen in facts.hosts.items()}
    earliest = logs.earliest(firsts)
    for host, seen in facts.hosts.items():
        subject = Subject(host)
        count = len(seen.texts)
        findings.add(
            "DIA-LOGS",
            subject,
            Verdict.UNKNOWN if not seen.whole else Verdict.OK if count else Verdict.WARN,
            seen=f"{count} log files, {sum(map(len, seen.texts.values()))} characters",
            expected="logs of the service and of CANN",
            next_command="nothing to read before the service was started once" if seen.whole else None,
        )
        error = firsts[host]
        if error is not None:
            verdict = Verdict.WARN if seen.alive == "alive" else Verdict.FAIL
            findings.add(
                "DIA-ERROR",
                subject,
                verdict,
                seen=logs.told(error, seen.texts, params, earliest=earliest),
                expected="no error in the logs of this start",
                next_command=f"read the collected logs of {host}, the earliest error of all hosts first",
            )
        elif not seen.whole:
            findings.add(
                "DIA-ERROR",
                subject,
                Verdict.UNKNOWN,
                seen="the logs could not be read to their end",
                expected="no error in the logs of this start",
            )
        elif count:
            findings.add(
                "DIA-ERROR", subject, Verdict.OK, seen="no error", expected="no error in the logs of this start"
            )
    return findings.items


def plan(facts: DiagnoseFacts, params: Params) -> list[Change]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: diagnosing changes no host."""
    return []


def waits_for(facts: DiagnoseFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: logs can be read at any time."""
    return ()
