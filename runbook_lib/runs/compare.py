"""Two recorded runs side by side. Works from their folders alone, wherever these lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.model import Subject, Verdict, from_json
from runbook_lib.runs import events
from runbook_lib.runs.facts import flat
from runbook_lib.runs.folder import INTERRUPTED
from runbook_lib.runs.manifest import Manifest, read_manifest, verify_manifest
from runbook_lib.runs.provenance import recorded_params
from runbook_lib.runs.results import NOT_REACHED, read_result
from runbook_lib.stages import STAGES
from runbook_lib.views.compare import Comparison, Difference, Measured, Side
from runbook_lib.views.points import point_views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runbook_lib.runs.folder import RunFolder

ABSENT = ""


def compare_runs(a: RunFolder, b: RunFolder) -> Comparison:
    """Compare what two runs recorded. Raises RecordError when a record cannot be read."""
    sides = (_side(a), _side(b))
    results = tuple({stage.name: read_result(run, stage.name) for stage in STAGES} for run in (a, b))
    states = tuple(run.status() for run in (a, b))
    stages = [
        Difference(stage.name, states[0].get(stage.name, NOT_REACHED), states[1].get(stage.name, NOT_REACHED))
        for stage in STAGES
        if any(stage.name in state for state in states)
    ]
    facts = tuple(_by_stage(result, fact_values) for result in results)
    return Comparison(
        a=sides[0],
        b=sides[1],
        stages=stages,
        findings=differences(*(_by_stage(result, finding_values) for result in results)),
        facts=differences(*facts),
        params=differences(*(flat(recorded_params(events.read(run.events)) or {}, moving=True) for run in (a, b))),
        versions=differences(*(_versions(run) for run in (a, b))),
        changes=differences(*(_changes(result) for result in results)),
        benchmark=_benchmark(*(results[number].get("benchmark") or {} for number in (0, 1))),
        without_facts=[side.run_id for side, found in zip(sides, facts, strict=True) if not found],
    )


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    """Return what is not the same in both, in the order of the first."""
    return [
        Difference(where, a.get(where, ABSENT), b.get(where, ABSENT))
        for where in dict.fromkeys((*a, *b))
        if a.get(where) != b.get(where)
    ]


def _side(run: RunFolder) -> Side:
    chain = events.read(run.events)
    start = next((event for event in chain if event.kind == "run_start"), None)
    end = next((event for event in reversed(chain) if event.kind == "run_end"), None)
    record = verify_manifest(run) or "its files are those of its manifest"
    outcome = INTERRUPTED if end is None else ("ok" if end.data.get("ok") is True else "not ok")
    return Side(
        run_id=run.run_id,
        cluster=run.path.parent.name,
        mode=str(start.data.get("mode", "")) if start is not None else "",
        started=chain[0].time if chain else "",
        outcome=outcome,
        record=record,
    )


def finding_key(finding: Mapping[str, Any]) -> str:
    """Name a finding by its code and subject."""
    return f"{finding['code']} {from_json(Subject, finding['subject'])}"


def finding_values(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what a stage's result says of each finding; what only a run can say (its own plan) is left out."""
    return {
        finding_key(finding): _said(finding)
        for finding in result.get("findings", [])
        if not str(finding["code"]).startswith("RUN-PLAN-")
    }


def _said(finding: Mapping[str, Any]) -> str:
    # what a good finding saw may move by itself (free space, a clock's offset), and is no difference
    if finding["verdict"] in {Verdict.OK, Verdict.SKIPPED}:
        return str(finding["verdict"])
    return f"{finding['verdict']}: {finding['seen']}"


def fact_values(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of a stage's result by their paths."""
    return flat(result.get("facts") or {})


def _by_stage(results: Mapping[str, Any], values: Callable[[Mapping[str, Any]], dict[str, str]]) -> dict[str, str]:
    return {f"{name}: {key}": value for name, result in results.items() for key, value in values(result or {}).items()}


def _changes(results: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{name}: {from_json(Subject, change['subject'])}: {change['summary']}": str(change["state"])
        for name, result in results.items()
        for change in (result or {}).get("changes", [])
    }


def _versions(run: RunFolder) -> dict[str, str]:
    manifest = read_manifest(run)
    if not isinstance(manifest, Manifest):
        return {}
    said = manifest.said
    return flat({"here": said.get("versions"), "git": said.get("git"), "hosts": said.get("hosts")}, moving=True)


_MEASURES = ("output_tokens_per_s", "ttft_mean", "ttft_p99", "tpot_mean", "requests_per_s", "in_flight")


def _benchmark(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Measured]:
    sides = [{view.concurrency: view for view in point_views(result.get("points") or [])} for result in (a, b)]
    return [
        Measured(level, name, *(getattr(side[level], name) if level in side else None for side in sides))
        for level in sorted({*sides[0], *sides[1]})
        for name in _MEASURES
    ]
