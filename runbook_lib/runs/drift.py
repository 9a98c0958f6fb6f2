"""What changed on the hosts since the last good run, stage by stage; beside it, params say what is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError
from runbook_lib.model import Verdict, to_json
from runbook_lib.runs import events
from runbook_lib.runs.compare import differences, fact_values, finding_values
from runbook_lib.runs.facts import recorded_facts
from runbook_lib.runs.folder import RunFolder, all_runs
from runbook_lib.runs.manifest import verify_manifest
from runbook_lib.runs.results import read_result
from runbook_lib.views.html import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from runbook_lib.runs.check import StageCheck

_GOOD = (Verdict.OK, Verdict.WARN, Verdict.SKIPPED)
_SHOWN = 20
_SHOWN_CHARACTERS = 120
_LOOKED = ("apply", "observe")  # a plan is ok when it would mend what is wrong, so it is no good state to compare with


@dataclass(frozen=True, slots=True)
class Drifted:
    """One thing that is not as it was; "" where it is absent. `kind` is finding or fact."""

    stage: str
    since: str
    kind: str
    where: str
    before: str
    now: str


@dataclass(slots=True)
class Drift:
    """What changed. `since` names for each stage the run that it is compared with, "" when there was no good one."""

    since: dict[str, str] = field(default_factory=dict)
    changed: list[Drifted] = field(default_factory=list)

    def text(self, stage: str) -> str:
        """Return what changed in one stage, for a terminal."""
        if not self.since[stage]:
            return "  no good run of this stage is recorded to compare with"
        changed = [each for each in self.changed if each.stage == stage]
        lines = [f"  {each.where}: was {_short(each.before)}, is {_short(each.now)}" for each in changed[:_SHOWN]]
        if len(changed) > _SHOWN:
            lines.append(f"  ... {len(changed) - _SHOWN} more; all of them with --json")
        return "\n".join([f"  since {self.since[stage]}: {len(changed) or 'nothing'} changed", *lines])

    def to_json(self) -> dict[str, Any]:
        """Return the part `drift` of what `runbook check --json` prints; see docs/json.md."""
        return {"since": self.since, "changed": to_json(self.changed)}


def _short(value: str) -> str:
    shown = " ".join(value.split()) or "absent"
    return plain(shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}...")


def drift_of(checks: Sequence[StageCheck], outputs: Path, cluster: str) -> Drift:
    """Compare what a check saw with what the newest good run of each stage recorded."""
    wanted = {check.name: check for check in checks}
    drift = Drift(dict.fromkeys(wanted, ""))
    for run in reversed(all_runs(outputs, cluster)):
        missing = [name for name, since in drift.since.items() if not since]
        if not missing:
            break
        for name, result in _good_results(run, missing):
            drift.since[name] = run.run_id
            drift.changed += _changed(wanted[name], result, run.run_id)
    return drift


def _good_results(run: RunFolder, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the results of the stages that ended well in a run that did; none of a record that does not hold."""
    try:
        if events.verify(run.events):
            return
        chain = events.read(run.events)
        start = next((event for event in chain if event.kind == "run_start"), None)
        end = next((event for event in reversed(chain) if event.kind == "run_end"), None)
        if start is None or end is None or end.data.get("ok") is not True or start.data.get("mode") not in _LOOKED:
            return
        if verify_manifest(run):
            return
        states = run.status()
        for name in names:
            result = read_result(run, name) if states.get(name) in _GOOD else None
            if result is not None:
                yield name, result
    except RecordError:
        return


def _changed(check: StageCheck, result: dict[str, Any], since: str) -> Iterator[Drifted]:
    now = {"findings": to_json(check.findings), "facts": recorded_facts(check.facts)}
    for kind, values in (("finding", finding_values), ("fact", fact_values)):
        for each in differences(values(result), values(now)):
            yield Drifted(check.name, since, kind, each.where, each.a, each.b)
