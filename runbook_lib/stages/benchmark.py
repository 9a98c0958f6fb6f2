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
# input tokens, output tokens, concurrency, repeat
Place = tuple[int, int, int, int]
_OK = 200


@dataclass(frozen=True, slots=True)
class BenchmarkFacts:
    """Whether the service is ready, and what this run measured.

    points: None when it measured nothing yet. found: the highest concurrency within the SLO, 0 for none, None when it
    was not searched
    """

    ready_status: int | None
    points: Sequence[Mapping[str, Any]] | None = None
    found: int | None = None


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
    findings = Findings(params, NAME, f"runbook run {params_file(params)} --mode apply --stage benchmark")
    if facts.points is None:
        findings.add(
            "BEN-MEASURED",
            Subject(),
            Verdict.SKIPPED if facts.ready_status == _OK else Verdict.UNKNOWN,
            seen="not measured: this mode puts no load on the service" if facts.ready_status == _OK else "not ready",
            expected=f"levels {', '.join(map(str, params.benchmark.concurrency))}",
        )
        return findings.items
    asked = _asked(params)
    measured = {_place(point, params) for point in facts.points}
    missing = [_name(place, params) for place in asked if place not in measured]
    levels = dict.fromkeys(point["concurrency"] for point in facts.points)
    findings.judge(
        "BEN-MEASURED",
        Subject(),
        ok=not missing,
        seen=f"levels {', '.join(map(str, levels)) or 'none'}"
        + (f"; missing: {'; '.join(missing)}" if missing else ""),
        expected=f"levels {', '.join(map(str, params.benchmark.concurrency))}",
    )
    for point in facts.points:
        _judge(findings, point, params)
    if params.benchmark.slo_share:
        findings.judge(
            "BEN-TARGET",
            Subject(),
            ok=bool(facts.found),
            seen=f"highest concurrency within the SLO: {facts.found or 'none'}",
            expected=f"{100 * params.benchmark.slo_share:g} % of the requests within the SLO at "
            f"{min(params.benchmark.concurrency)} clients or more",
        )
    return findings.items


def _judge(findings: Findings, point: Mapping[str, Any], params: Params) -> None:
    """Add the verdicts on one point."""
    subject = Subject(item=_name(_place(point, params), params))
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


def _asked(params: Params) -> list[Place]:
    """Return what the params ask for: every level and repeat of the sweep, every pair of the grid."""
    benchmark = params.benchmark
    lengths = (benchmark.input_tokens, benchmark.output_tokens)
    repeats = range(1, benchmark.repeats + 1)
    sweep = [(*lengths, level, repeat) for level in benchmark.concurrency for repeat in repeats]
    return list(dict.fromkeys([*sweep, *((*pair, benchmark.grid_level, 1) for pair in benchmark.grid)]))


def _place(point: Mapping[str, Any], params: Params) -> Place:
    benchmark = params.benchmark
    return (
        int(point.get("asked_input_tokens", benchmark.input_tokens)),
        int(point.get("asked_output_tokens", benchmark.output_tokens)),
        int(point["concurrency"]),
        int(point.get("repeat", 1)),
    )


def _name(place: Place, params: Params) -> str:
    """Return what people call a point: its concurrency, and what sets it apart from the sweep."""
    inputs, outputs, level, repeat = place
    parts = [f"concurrency {level}"]
    if (inputs, outputs) != (params.benchmark.input_tokens, params.benchmark.output_tokens):
        parts.append(f"{inputs} tokens in, {outputs} out")
    if repeat > 1:
        parts.append(f"repeat {repeat}")
    return ", ".join(parts)


def plan(facts: BenchmarkFacts, params: Params) -> list[Change]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: measuring changes no host."""
    return []


def waits_for(facts: BenchmarkFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return service while it is not ready."""
    return () if facts.ready_status == _OK else ("service",)
