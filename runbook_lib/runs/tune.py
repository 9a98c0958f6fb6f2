"""Tuning the service: each trial is a run of the service stage with other settings, then one measured level.

Every restart is planned, approved and recorded as any other; what was measured before with the same settings is taken
from disk, so a search that was stopped goes on where it was. Nothing is kept: at the end the cluster has the settings
that it began with, and the result is a difference of params with its evidence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import ApprovalNeeded, StageFailed, UsageError
from runbook_lib.load.store import Store
from runbook_lib.load.tuning import Outcome, Trial, search
from runbook_lib.params import load_params, project_root
from runbook_lib.runs.folder import atomic_write
from runbook_lib.runs.measure import in_twin_time, known_level, measured_level
from runbook_lib.runs.runner import RunOptions, run
from runbook_lib.stages import tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runbook_lib.params import Params

FOLDER = "tune"
OBJECTIVES = ("throughput", "first-token")


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What to tune.

    level: concurrency that is measured, 0 for the highest of the params' benchmark; budget: measurements in all
    objective: `throughput` (output tokens/s) or `first-token` (1 / mean first-token time)
    yes, approvals: as of `runbook run`; knobs: only these settings, all when empty
    """

    params: str
    overrides: str = ""
    level: int = 0
    budget: int = 12
    objective: str = "throughput"
    yes: bool = False
    approvals: tuple[str, ...] = ()
    knobs: tuple[str, ...] = ()


def tune(options: TuneOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Search, restore, and return the result, which is also written below outputs/<cluster>/tune.

    Raises ApprovalNeeded when a restart is not approved, UsageError, and StageFailed when the settings that the
    cluster began with could not be put back.
    """
    if options.objective not in OBJECTIVES:
        raise UsageError(f"objective {options.objective!r}; right would be one of {', '.join(OBJECTIVES)}")
    given = json.loads(options.overrides or "{}")
    params = load_params(options.params, options.overrides)
    names = {f"service.{name.removeprefix('service.')}" for name in options.knobs}
    knobs = [knob for knob in tuning.knobs(params) if not names or knob.name in names]
    if not knobs:
        raise UsageError(f"nothing to tune; right would be of {', '.join(knob.name for knob in tuning.knobs(params))}")
    folder = project_root() / "outputs" / params.cluster.name / FOLDER
    trials = _Trials(options, given, Store(folder), say)
    start = {name: value for name, value in tuning.start(params).items() if name in {knob.name for knob in knobs}}
    try:
        outcome = search(knobs, start, trials.measure, budget=options.budget, worthwhile=tuning.worthwhile)
    finally:
        trials.restore(start)
    result = _result(options, params, outcome, trials.runs)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = folder / f"{stamp}.json"
    atomic_write(path, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
    return result | {"file": str(path)}


class _Trials:
    """Puts settings on the cluster and measures; remembers which settings it has now."""

    def __init__(self, options: TuneOptions, given: dict[str, Any], store: Store, say: Callable[[str], None]) -> None:
        self._options, self._given, self._store, self._say = options, given, store, say
        self._now: Mapping[str, Any] | None = None  # None: not known
        self._touched = False
        self.runs: list[str] = []
        store.prepare()

    def measure(self, settings: Mapping[str, Any]) -> Trial:
        """Return the trial of these settings, from disk when they were measured before."""
        overrides = json.dumps({**self._given, **settings})
        params = load_params(self._options.params, overrides)
        level = self._options.level or max(params.benchmark.concurrency)
        self._say("trial " + ", ".join(f"{name.removeprefix('service.')}={value}" for name, value in settings.items()))
        stored = known_level(params, self._store, level)
        if stored is None:
            failure = self._put(settings, overrides)
            if failure:
                self._say(f"  the service did not start: {failure}")
                return Trial(dict(settings), None, {"reason": failure, "run": self.runs[-1]})
            stored, _ = measured_level(params, self._store, level)
            if not stored.point["ok"] and not stored.point["errors"]:
                self._say(f"  once more: {stored.point['reason']}")  # the client was disturbed, not the service
                stored, _ = measured_level(params, self._store, level)
        point = stored.point
        if params.twin is not None:
            point = in_twin_time(point, params.twin.time_factor)
        score = _score(point, self._options.objective)
        self._say(f"  {point['output_tokens_per_s']:.1f} tokens/s" + ("" if point["ok"] else f": {point['reason']}"))
        return Trial(dict(settings), score, _evidence(point) | {"run": self.runs[-1] if self.runs else ""})

    def _put(self, settings: Mapping[str, Any], overrides: str) -> str:
        """Bring the service to these settings; return why it failed, "" when it runs. Raises ApprovalNeeded."""
        options, before = self._options, (self._now, self._touched)
        self._now, self._touched = None, True  # until the run ends well, nobody knows
        outcome = run(
            RunOptions(options.params, "apply", overrides, ("service",), options.yes, options.approvals), self._say
        )
        self.runs.append(str(outcome.folder.path))
        if outcome.stopped_by or not outcome.stages:
            raise KeyboardInterrupt
        stage = outcome.stages[0]
        if outcome.ok:
            self._now = dict(settings)
            return ""
        if stage["digest"] and all(change["state"] == "planned" for change in stage["changes"]):
            self._now, self._touched = before
            raise ApprovalNeeded(
                f"tuning waits for approval of a restart of the service, plan {stage['digest']}; nothing was changed",
                digest=stage["digest"],
                next_command=f"runbook bench tune {options.params} --approve {stage['digest']}   # or --yes",
            )
        return str(stage["error"]) or "the service stage does not verify"

    def restore(self, start: Mapping[str, Any]) -> None:
        """Put back what the cluster began with, if a trial changed it. Raises StageFailed."""
        if not self._touched or self._now == dict(start):
            return
        self._say("putting the settings back that the cluster began with")
        failure = self._put(start, json.dumps({**self._given, **start}))
        if failure:
            raise StageFailed(
                f"the settings that the cluster began with could not be put back: {failure}",
                next_command=f"runbook run {self._options.params} --mode apply --stage service --yes",
            )


def _score(point: Mapping[str, Any], objective: str) -> float | None:
    if not point["ok"]:
        return None
    if objective == "throughput":
        return float(point["output_tokens_per_s"])
    return 1000.0 / float(point["ttft_ms"]["mean"])


def _evidence(point: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("concurrency", "ok", "reason", "output_tokens_per_s", "requests_per_s", "delivered", "ttft_ms", "tpot_ms")
    return {key: point[key] for key in keys}


def _result(options: TuneOptions, params: Params, outcome: Outcome, runs: list[str]) -> dict[str, Any]:
    changed = outcome.changed
    lines = [
        f"  {name.removeprefix('service.')}: {_spelled(after)}   # was {_spelled(before)}"
        for name, (before, after) in changed.items()
    ]
    return {
        "cluster": params.cluster.name,
        "objective": options.objective,
        "gain": outcome.gain,
        "changed": {name: {"before": before, "after": after} for name, (before, after) in changed.items()},
        "params_diff": "\n".join(["service:", *lines]) if lines else "",
        "ended": outcome.ended,
        "trials": [
            {"settings": dict(each.settings), "score": each.score, "evidence": dict(each.evidence)}
            for each in outcome.trials
        ],
        "runs": runs,
    }


def _spelled(value: object) -> str:
    return json.dumps(value)
