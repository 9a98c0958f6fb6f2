"""Benchmark: a sweep over concurrency against the ready service, judged by what was really delivered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.model import Change, Finding, ProbeScript, Subject, Verdict
from runbook_lib.stages.base import Findings, params_file
from runbook_lib.stages.service import ready_section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import Probes

NAME = "benchmark"
_OK = 200


@dataclass(frozen=True, slots=True)
class BenchmarkFacts:
    """Whether the service is ready, and the points that this run measured; None when it measured nothing yet."""

    ready_status: int | None
    points: Sequence[Mapping[str, Any]] | None = None


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Ask the master whether it is ready."""
    return ProbeScript((ready_section(params),) if host == params.master else ())


def facts(params: Params, probes: Probes) -> BenchmarkFacts:
    """Read the master's answer; the points are added by the session after measuring."""
    try:
        ready = probes[params.master.name].get("ready")
        said = json.loads(ready.stdout) if ready.ok else None
    except (KeyError, ValueError):
        return BenchmarkFacts(None)
    return BenchmarkFacts(said.get("status") if isinstance(said, dict) else None)


def check(facts: BenchmarkFacts, params: Params) -> list[Finding]:
    """Judge every point: delivered, without errors. Nothing measured is said, and is not ok."""
    findings = Findings(NAME, f"runbook run {params_file(params)} --mode apply --stage benchmark")
    if facts.points is None:
        findings.add(
            "BEN-MEASURED",
            Subject(),
            Verdict.SKIPPED if facts.ready_status == _OK else Verdict.UNKNOWN,
            seen="not measured: this mode puts no load on the service" if facts.ready_status == _OK else "not ready",
            expected=f"levels {', '.join(map(str, params.benchmark.concurrency))}",
        )
        return findings.items
    measured = [point["concurrency"] for point in facts.points]
    missing = [level for level in params.benchmark.concurrency if level not in measured]
    findings.judge(
        "BEN-MEASURED",
        Subject(),
        ok=not missing,
        seen=f"levels {', '.join(map(str, measured)) or 'none'}",
        expected=f"levels {', '.join(map(str, params.benchmark.concurrency))}",
    )
    for point in facts.points:
        subject = Subject(item=f"concurrency {point['concurrency']}")
        errors = {kind: count for kind, count in dict(point["errors"]).items() if count}
        said = ", ".join(f"{count} {kind}" for kind, count in errors.items()) or "none"
        findings.judge("BEN-ERRORS", subject, ok=not errors, seen=said, expected="no failed request")
        delivered = f"{float(point['delivered']):.1f} in flight"
        findings.judge(
            "BEN-DELIVERED",
            subject,
            ok=bool(point["ok"]),
            seen=f"{delivered}{': ' if point['reason'] else ''}{point['reason']}",
            expected=f"{point['concurrency']} in flight",
        )
    return findings.items


def plan(facts: BenchmarkFacts, params: Params) -> list[Change]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: measuring changes no host."""
    return []


def waits_for(facts: BenchmarkFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return service while it is not ready."""
    return () if facts.ready_status == _OK else ("service",)
