"""Continuing a run that was cut: by a crash, a kill, a reboot, a lost host, or a stage that did not hold.

Nothing that the run recorded is believed: every stage that ended well is probed and checked again, and redone with
a new plan where it no longer holds. The run's folder, id and chain go on. Approvals that were given to the process
that died are not inherited; those of a person who clicked on a plan's digest stand, since they name the plan.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError, RunbookError, UsageError
from runbook_lib.model import Verdict, to_json, worst
from runbook_lib.params import load_params, project_root
from runbook_lib.runs import events
from runbook_lib.runs.approval import read_approvals
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.find import find_run
from runbook_lib.runs.folder import all_runs, process_lives
from runbook_lib.runs.history import read_params
from runbook_lib.runs.locks import release_left
from runbook_lib.runs.manifest import MANIFEST, SIGNATURE, unseal
from runbook_lib.runs.results import read_result
from runbook_lib.runs.runner import (
    RunOptions,
    Work,
    carry_out,
    chosen_stages,
    need_notebooks,
    record_approval,
    told_lines,
)
from runbook_lib.runs.session import redactor_for
from runbook_lib.runs.who import operator, remove_dead_kernel_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.params import Params
    from runbook_lib.runs.events import Event
    from runbook_lib.runs.folder import RunFolder
    from runbook_lib.runs.runner import RunOutcome
    from runbook_lib.stages import Stage

    Say = Callable[[str], None]

_GOOD = (Verdict.OK, Verdict.WARN, Verdict.SKIPPED)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A run that can go on: how it was asked for, and in which state it was left."""

    folder: RunFolder
    start: Event
    last: Event
    states: dict[str, str]
    times: int
    how: str


def resume(run: str, say: Say, *, yes: bool = False, approve: Sequence[str] = (), why: str = "") -> RunOutcome:
    """Continue a run: its folder or id, or a params file or cluster for the newest run.

    Raises UsageError when there is nothing to resume or the params have changed, RecordError when the chain does not
    hold, ParamsError, TwinDown.
    """
    root = project_root()
    remove_dead_kernel_folders()
    cut = _find(run)
    said = cut.start.data
    digests, plans = read_approvals(approve, root)
    options = RunOptions(
        str(said["params_file"]),
        str(said["mode"]),
        str(said["overrides"]),
        tuple(said["only"]),
        yes=yes,
        digests=tuple(digests),
        plans=tuple(plans),
    )
    params = load_params(options.params, options.overrides)
    if read_params(cut.folder, str(said["params"])) != params:
        raise UsageError(
            f"{options.params} is not as it was when {cut.folder.run_id} began; a run is the record of one set of "
            "params, and a new run finds what is done",
            next_command=f"runbook run {options.params} --mode {options.mode}",
        )
    chosen = chosen_stages(options.only)
    need_notebooks(root, chosen)
    cluster = Cluster(params, root)
    with closing(cluster):
        cluster.reach()
        unseal(cut.folder)
        log = EventLog(cut.folder.events, redactor_for(params))
        known = len(events.read(cut.folder.events))
        event = log.append(
            "resume",
            by=operator(),
            why=why or cut.how,
            after=cut.how,
            predecessor={"pid": cut.last.pid, "event": cut.last.seq},
            states=cut.states,
            yes=yes,
        )
        _refuse_second(cut, event)
        if options.mode == "apply":  # no other takes locks
            release_left(cluster, log, cut.folder.run_id)
        for line in told_lines(events.read(cut.folder.events)[known:]):
            say(line)
        record_approval(log, options, params)
        _set_aside(cut)
        say(f"resuming {cut.folder.run_id}, mode {options.mode}: {cut.how}")

        def held(stage: Stage[Any]) -> dict[str, Any] | None:
            if options.mode != "apply" or cut.states.get(stage.name) not in _GOOD:
                return None
            return _recheck(cluster, stage, params, cut.folder, log, say)

        return carry_out(Work(options, params, cut.folder, root), chosen, log, say, held)


def _find(run: str) -> _Cut:
    folder = find_run(run)
    newest = all_runs(folder.path.parent.parent, folder.path.parent.name)[-1:]
    if newest and newest[0].path.resolve() != folder.path.resolve():
        raise UsageError(
            f"{folder.run_id} is not the newest run of {folder.path.parent.name}: {newest[0].run_id} came after it, "
            "so the hosts are no longer as this one left them",
            next_command=f"runbook resume {newest[0].run_id}",
        )
    problem = events.verify(folder.events, torn_ok=True)
    chain = events.read(folder.events)
    start = next((event for event in chain if event.kind == "run_start"), None)
    if start is None or "params_file" not in start.data:
        raise UsageError(
            f"{folder.run_id} was not begun by `runbook run`"
            + ("" if chain else ", and nothing is recorded in it")
            + ": there is no list of stages to go on with",
            next_command="runbook run PARAMS --mode apply   # finds what is done, and does the rest",
        )
    if problem:
        raise RecordError(
            f"{folder.path}: {problem}; a record that does not hold is not continued",
            next_command=f"runbook run {start.data['params_file']} --mode {start.data['mode']}",
        )
    if start.data["mode"] not in {"observe", "plan", "apply"}:
        raise UsageError(
            f"{folder.run_id} is a {start.data['mode']}, which is not resumed but asked for again",
            next_command=f"runbook {start.data['mode']} {start.data.get('of') or start.data['params_file']}",
        )
    last = _last_runner(chain)
    _refuse_running(folder, last)
    end = chain[-1] if folder.closed() else None
    ended = next((event for event in reversed(chain) if event.kind == "run_end"), None) if end else None
    if ended is not None and ended.data.get("ok") and (folder.path / MANIFEST).exists():
        raise UsageError(
            f"{folder.run_id} has ended well; there is nothing to resume",
            next_command=f"runbook check {start.data['params_file']}",
        )
    states = folder.status()
    return _Cut(folder, start, last, states, sum(event.kind == "resume" for event in chain), _how(ended, states))


def _how(ended: Event | None, states: dict[str, str]) -> str:
    cut = next((stage for stage, state in states.items() if state not in set(_GOOD)), "")
    where = f" in stage {cut}" if cut else ""
    if ended is None:
        return f"its runner died{where}"
    if ended.data.get("ok"):
        return "its runner died while it closed the record"
    return f"it was stopped by {ended.data['stopped_by']}{where}" if ended.data["stopped_by"] else f"it failed{where}"


def _last_runner(chain: Sequence[Event]) -> Event:
    """Return the event with which the last runner of this run began."""
    return next(event for event in reversed(chain) if event.kind in {"run_start", "resume"})


def _refuse_running(folder: RunFolder, runner: Event) -> None:
    if not folder.closed() and process_lives(runner.pid, datetime.fromisoformat(runner.time)):
        raise UsageError(
            f"{folder.run_id} is still running: process {runner.pid} of this machine",
            next_command=f"runbook status {runner.data.get('params_file') or folder.path.parent.name}",
        )


def _refuse_second(cut: _Cut, ours: Event) -> None:
    """Raise UsageError when somebody else resumed this run in the same moment, and was first."""
    chain = events.read(cut.folder.events)
    first = next(event for event in chain if event.kind in {"run_start", "resume"} and event.seq > cut.last.seq)
    if first.seq != ours.seq:
        raise UsageError(f"{cut.folder.run_id} was resumed by process {first.pid} in the same moment")


def _set_aside(cut: _Cut) -> None:
    """Keep what an unfinished stage left, under a name of its own; the stage writes its files anew."""
    folder = cut.folder
    for stage, state in cut.states.items():
        if state in set(_GOOD) and cut.start.data["mode"] == "apply":
            continue
        for path in (folder.notebook(stage), folder.stage_json(stage)):
            if path.exists():
                path.rename(path.with_name(f"{path.stem}.cut{cut.times + 1}{path.suffix}"))
        folder.notebook(stage).with_suffix(".html").unlink(missing_ok=True)  # made again from the notebook
    for name in (MANIFEST, SIGNATURE):
        (folder.path / name).unlink(missing_ok=True)  # of the run as it was then; written anew at the end
    for path in folder.path.glob(".*.tmp"):
        path.unlink(missing_ok=True)  # half a file of a writer that was killed


def _recheck(  # noqa: PLR0913, PLR0917 - what a check needs, and where it is told
    cluster: Cluster, stage: Stage[Any], params: Params, folder: RunFolder, log: EventLog, say: Say
) -> dict[str, Any] | None:
    """Probe and check a stage that ended well; return its result with the new findings, None when it must be redone."""
    recorded = read_result(folder, stage.name)
    if recorded is None or (recorded["verdict"] not in _GOOD):
        return None
    try:
        _, facts = cluster.observe(stage)
    except RunbookError as error:
        log.append("stage_recheck", stage=stage.name, holds=False, why=str(error))
        return None
    if recorded.get("points"):
        facts = replace(facts, points=recorded["points"])
    findings = tuple(stage.module.check(facts, params))
    waits = stage.module.waits_for(facts, params)
    changes = [] if waits else stage.module.plan(facts, params)
    bad = [finding for finding in findings if finding.verdict not in _GOOD]
    log.append("commands", stage=stage.name, commands=cluster.take_commands())
    why = f"{len(bad)} findings are not ok" if bad else f"{len(changes)} changes are due" if changes else ""
    why = f"it waits for {', '.join(waits)}" if waits else why
    log.append("stage_recheck", stage=stage.name, holds=not why, why=why, findings=findings)
    if why:
        say(f"    {stage.title} no longer holds: {why}; it is done again, with a new plan")
        return None
    return recorded | {"verdict": worst(finding.verdict for finding in findings), "findings": to_json(findings)}
