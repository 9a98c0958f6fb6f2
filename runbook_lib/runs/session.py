"""One stage of one run, as notebooks and the command line use it.

    stage = session.open_stage("network", params="params/x.yaml", mode="plan")
    stage.observe(); stage.plan(); stage.approval(); stage.apply(); stage.verify(); stage.record()

Each call returns an object that displays itself. Cells can be run again and out of order: every call reads what it
needs from the hosts, none trusts an older state.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib import stages
from runbook_lib.errors import (
    ApprovalNeeded,
    LockHeld,
    PlanChanged,
    RecordError,
    RunbookError,
    StageBlocked,
    StageFailed,
    UsageError,
)
from runbook_lib.load.knee import Knee
from runbook_lib.model import Finding, Plan, Subject, Verdict, to_json, worst
from runbook_lib.params import Params, load_params, project_root
from runbook_lib.runs import conclusions, events, measure
from runbook_lib.runs.apply import apply_plan, deadline_of
from runbook_lib.runs.approval import Approval, approval_of, approved_plan, command, plan_difference
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.collective import run_collective
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.facts import recorded_facts
from runbook_lib.runs.folder import RunFolder, new_run, open_run
from runbook_lib.runs.history import params_text
from runbook_lib.runs.locks import SLACK_S, HostLocks, local_lock
from runbook_lib.runs.redaction import Redactor, redactor_of
from runbook_lib.runs.results import change_rows
from runbook_lib.runs.show import Shown
from runbook_lib.runs.who import interactive, operator
from runbook_lib.stages import hccl
from runbook_lib.views import findings as findings_view
from runbook_lib.views import pictures
from runbook_lib.views import plans as plans_view
from runbook_lib.views.benchmark import benchmark_html

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runbook_lib.stages import Stage

    OnProgress = Callable[[str, float, str], None]

MODES = ("observe", "plan", "apply")
_SETTLE_POLL_S = 0.7
_PROGRESS_EVENT_S = 5.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What one probe showed: facts, findings of the stage, and the changes that they call for."""

    facts: Any
    findings: tuple[Finding, ...]
    plan: Plan


def redactor_for(params: Params) -> Redactor:
    """Return a redactor that knows every secret that the params refer to."""
    return redactor_of(params)


def open_stage(
    stage: str,
    params: str | Path,
    overrides: Mapping[str, Any] | str | None = None,
    run_dir: str | Path = "",
    mode: str = "plan",
) -> StageSession:
    """Begin a stage. `run_dir` "" joins the cluster's open run, or starts one.

    Raises UsageError or ParamsError before any host is touched, TwinDown when the cluster is a twin that is down.
    """
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}; right would be one of {', '.join(MODES)}")
    root = project_root()
    read = load_params(params, overrides)
    if run_dir:
        folder = RunFolder(Path(run_dir) if Path(run_dir).is_absolute() else root / run_dir)
        folder.path.mkdir(parents=True, exist_ok=True)
    else:
        folder = open_run(root / "outputs", read.cluster.name) or new_run(root / "outputs", read.cluster.name)
    asked = _Asked(str(params), overrides, given_run=bool(run_dir))
    return StageSession(stages.stage(stage), read, folder, mode, root=root, asked=asked)


@dataclass(frozen=True, slots=True)
class _Asked:
    """How a stage was asked for: what a next command must repeat, and whether it was told to join a run."""

    params: str
    overrides: Mapping[str, Any] | str | None
    given_run: bool


class StageSession:
    """One stage of one run; see the module."""

    def __init__(  # noqa: PLR0913 - what a stage works on
        self, stage: Stage[Any], params: Params, folder: RunFolder, mode: str, *, root: Path, asked: _Asked
    ) -> None:
        self._stage = stage
        self.params = params
        self.folder = folder
        self.mode = mode
        self._asked = asked
        self.cluster = Cluster(params, root)
        redactor = redactor_for(params)
        self._redactor = redactor
        self.events = EventLog(folder.events, redactor)
        self._observation: Observation | None = None
        self._first: Observation | None = None
        self._states: list[str] = []
        self._measured: measure.Measured | None = None
        self._collective: tuple[Finding, ...] = ()
        self._applied = False
        self._began = time.monotonic()
        self._locks = HostLocks(self.cluster, self.events, folder.run_id, f"stage {stage.name}", asked.params)
        self.events.append(
            "stage_start",
            stage=stage.name,
            mode=mode,
            params=params.cluster.name,
            params_file=asked.params,
            overrides=asked.overrides or "",
            by=operator(),
        )

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self._stage.name

    @property
    def title(self) -> str:
        """The stage's name for people."""
        return self._stage.title

    def _repr_html_(self) -> str:
        return self.context()._repr_html_()

    def context(self) -> Shown:
        """Show what this stage works on."""
        params = self.params
        kind = "rehearsal on the twin" if params.twin else "real hosts"
        rows = {
            "cluster": f"{params.cluster.name} ({kind})",
            "size": f"{len(params.cluster.hosts)} hosts, {params.world_size} cards",
            "topology": params.cluster.topology.value,
            "hosts": ", ".join(f"{host.name} {host.address}" for host in params.cluster.hosts),
            "mode": self.mode,
            "run": self.folder.run_id,
        }
        return Shown.table(self.title, rows)

    # --- read ---------------------------------------------------------------------------------------------------

    def _look(self, *, lock_s: int = 0) -> Observation:
        """Probe, judge and plan; with lock_s, under the hosts' apply locks, which are taken in the same round trip."""
        lock = (lambda work: self._locks.section(work, lock_s)) if lock_s else None
        probes = self.cluster.probe([self._stage], lock)[self.stage]
        if lock_s:
            self._locks.taken(probes)
        probes, facts = self.cluster.follow_up(self._stage, probes)
        module = self._stage.module
        if self._measured is not None:
            facts = replace(facts, points=self._measured.all, found=self._measured.found)
        findings = tuple(module.check(facts, self.params))
        waits = tuple(module.waits_for(facts, self.params))
        changes = (
            () if any(seen.error for seen in probes.values()) and waits else tuple(module.plan(facts, self.params))
        )
        plan = Plan(self.stage, changes, provisional=bool(waits), waits_for=waits)
        self.events.append("commands", stage=self.stage, commands=self.cluster.take_commands())
        self._observation = Observation(facts, findings, plan)
        self._first = self._first or self._observation
        return self._observation

    def _seen(self) -> Observation:
        return self._observation or self._look()

    def observe(self) -> Shown:
        """Probe every host and judge what came."""
        seen = self._look()
        self.events.append("findings", stage=self.stage, findings=seen.findings)
        return self._show_findings(seen.findings)

    def _show_findings(self, found: tuple[Finding, ...]) -> Shown:
        grid = findings_view.verdict_grid_html(found)
        html = findings_view.findings_html(found)
        return Shown(f"{grid}{html}", findings_view.findings_text(found), to_json(found))

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings of the last probe."""
        return self._seen().findings

    def picture(self) -> Shown:
        """Show what was seen as a picture: host x check; for the network also who answers whom."""
        seen = self._seen()
        return Shown(
            pictures.picture_html(self.stage, seen.facts, seen.findings, self.params),
            pictures.picture_text(self.stage, seen.facts, seen.findings, self.params),
        )

    # --- plan and approval ----------------------------------------------------------------------------------------

    def plan(self) -> Shown:
        """Show the changes that the facts call for."""
        plan = self._seen().plan
        self.events.append("plan", stage=self.stage, digest=plan.digest, provisional=plan.provisional, plan=plan)
        return Shown(plans_view.plan_html(plan), plans_view.plan_text(plan), to_json(plan))

    def current_plan(self) -> Plan | None:
        """Return the plan of the last probe, None when there is none yet."""
        return self._observation.plan if self._observation else None

    def approve(self, by: str) -> None:
        """Record that `by` approves the plan of the last probe."""
        plan = self._seen().plan
        if not plan.digest:
            raise UsageError("there is no plan to approve", next_command="run the plan cell again")
        self.events.append("approval", stage=self.stage, digest=plan.digest, by=by, yes=False)

    def _approval_of(self, plan: Plan) -> Approval | None:
        """Return who approved this plan and how, None when nobody did."""
        chain = events.read(self.folder.events)
        allowed = self.params.policy.yes_approves
        return approval_of(chain, self.stage, plan, allowed, given_run=self._asked.given_run)

    def _not_approved(self, plan: Plan) -> RunbookError:
        """Return the error of a headless apply without approval; it shows what changed since an approved plan."""
        count = "1 change waits" if len(plan.changes) == 1 else f"{len(plan.changes)} changes wait"
        approve = self._command("run", mode="apply", last=f"--approve {plan.digest}")
        chain = events.read(self.folder.events)
        if self._asked.given_run and any(event.kind == "resume" for event in chain):
            approve = command("resume", self._asked.params, last=f"--approve {plan.digest}")
        approved = approved_plan(self.folder, chain, self.stage)
        if approved is not None and approved.digest != plan.digest:
            difference = plan_difference(approved, plan)
            self.events.append(
                "plan_changed", stage=self.stage, approved=approved.digest, now=plan.digest, difference=difference
            )
            return PlanChanged(
                f"{self.stage}: the hosts are no longer as they were when plan {approved.digest} was approved; nothing "
                f"was changed. The plan is now {plan.digest}:\n{difference}",
                next_command=approve,
            )
        return ApprovalNeeded(
            f"{self.stage}: {count} for approval, plan {plan.digest}; nothing was changed",
            digest=plan.digest,
            next_command=approve,
        )

    def _command(self, verb: str, *, mode: str = "", stages: tuple[str, ...] | None = None, last: str = "") -> str:
        """Return a command that works as typed, for this params file, these overrides and the stages of this run."""
        if stages is None:
            start = next((event for event in events.read(self.folder.events) if event.kind == "run_start"), None)
            given = start.data.get("only", []) if start is not None and self._asked.given_run else [self.stage]
            stages = tuple(given)
        return command(verb, self._asked.params, overrides=self._asked.overrides, stages=stages, mode=mode, last=last)

    def approval(self) -> Shown:
        """Ask for approval, or say that none is needed. Raises ApprovalNeeded in a headless apply without one."""
        plan = self._seen().plan
        if self.mode != "apply":
            return Shown.line(f"mode {self.mode}: nothing is changed, so nothing is asked")
        if not plan.changes:
            return Shown.line("nothing to change, so nothing to approve")
        if plan.provisional:
            return Shown.line(f"waits for {', '.join(plan.waits_for)}")
        approval = self._approval_of(plan)
        if approval is not None:
            return Shown.line(f"plan {plan.digest} is approved ({approval})")
        if interactive():
            return Shown.line(f"plan {plan.digest} waits for approval")
        raise self._close_with(self._not_approved(plan))

    # --- change -------------------------------------------------------------------------------------------------

    def apply(self, on_progress: OnProgress | None = None, stop: threading.Event | None = None) -> Shown:
        """Make the approved changes; in other modes, or with nothing to change, say so.

        The facts are read again first: a plan that is no longer the approved one is not applied. Raises LockHeld
        while another apply to this cluster runs on this machine.
        """
        if self.mode != "apply":
            return Shown.line(f"mode {self.mode}: nothing is changed")
        folder, reason = self.folder.path.parent, f"stage {self.stage}"
        try:
            with local_lock(folder, self.folder.run_id, reason, self._command("status", stages=())):
                return self._apply_locked(on_progress, stop)
        except LockHeld as error:
            # in JupyterLab this is a second click or cell: the first apply goes on, and the stage with it
            raise (error if interactive() else self._close_with(error)) from None
        except RunbookError as error:
            raise self._close_with(error) from None

    def _apply_locked(self, on_progress: OnProgress | None, stop: threading.Event | None) -> Shown:
        """Take the hosts' locks when there is something to change, and give them back however the apply ends."""
        plan = self._seen().plan
        if not plan.changes:
            plan = self._look().plan
        if plan.changes and interactive() and self._approval_of(plan) is None:
            return Shown.line(f"plan {plan.digest} was not approved when this cell ran: see the panel above")
        try:
            seen = self._look(lock_s=int(deadline_of(plan.changes)) + SLACK_S) if plan.changes else self._seen()
            shown = self._apply(seen, on_progress, stop)
        except BaseException as error:
            try:
                self._locks.release()
            except RecordError as broken:
                error.add_note(broken.message)
            raise
        self._locks.release()
        return shown

    def _apply(self, seen: Observation, on_progress: OnProgress | None, stop: threading.Event | None) -> Shown:
        self._refuse_unfit(seen)
        plan = seen.plan
        if not plan.changes:
            return Shown.line("nothing to change")
        approval = self._approval_of(plan)
        if approval is None:
            if interactive():
                return Shown.line(f"plan {plan.digest} was not approved when this cell ran: see the panel above")
            raise self._not_approved(plan)
        self.events.append(
            "apply_start",
            stage=self.stage,
            digest=plan.digest,
            approved_by=approval.by,
            approved_how=approval.how,
            approved_at=approval.time,
            risks=sorted(plan.risks),
            params=params_text(self.params),
        )
        self._first = seen
        self._states, problem = apply_plan(
            self.cluster, plan, self.events, self._recorded(on_progress), stop or threading.Event()
        )
        self.events.append("commands", stage=self.stage, commands=self.cluster.take_commands())
        self._applied = True
        if problem:
            raise StageFailed(problem, next_command=self._command("plan"))
        return Shown(plans_view.plan_html(plan, self._states), plans_view.plan_text(plan, self._states), self._states)

    def _refuse_unfit(self, seen: Observation) -> None:
        gone = sorted(
            {
                finding.subject.host
                for finding in seen.findings
                if finding.code in _UNREACHABLE and finding.verdict is Verdict.FAIL
            }
        )
        if gone:
            raise StageBlocked(
                f"{self.stage}: {', '.join(gone)} cannot be reached, so nothing was changed on any host",
                next_command=self._command("check", stages=()),
            )
        if seen.plan.provisional:
            raise StageBlocked(
                f"{self.stage} waits for {', '.join(seen.plan.waits_for)}; nothing was changed",
                next_command=self._command("run", mode="apply", stages=seen.plan.waits_for, last="--yes"),
            )

    def _recorded(self, on_progress: OnProgress | None) -> OnProgress:
        """Pass progress on, and put it into the record at most every few seconds for each host."""
        last: dict[str, float] = {}

        def recorded(host: str, fraction: float, text: str) -> None:
            now = time.monotonic()
            if now - last.setdefault(host, now) >= _PROGRESS_EVENT_S:
                last[host] = now
                self.events.append("progress", stage=self.stage, host=host, fraction=round(fraction, 4), text=text)
            if on_progress is not None:
                on_progress(host, fraction, text)

        return recorded

    def measure(self) -> Shown:
        """Put the load of the params on the service, level by level; only in mode apply."""
        if self.mode != "apply":
            if conclusions.measured_before(self.folder):
                return self._show_points()
            return Shown.line(f"mode {self.mode}: no load is put on the service")
        try:
            self._refuse_unfit(self._look())
            self._measured = measure.sweep(self.params, self.folder, self.events)
            conclusions.keep(self.params, self._measured, self.folder)
        except RunbookError as error:
            raise self._close_with(error) from None
        self._look()
        return self._show_points()

    def _show_points(self) -> Shown:
        """Show what this run has measured."""
        points, answers = conclusions.archived(self.folder.path)
        told = answers["sweeps"][0]
        conclusion = Knee(told["recommended"], told["reason"], told["saturates_at"])
        note = measure.clock_note(self.params)
        scaled_down = self.params.benchmark.scaled_down
        html = benchmark_html(points, conclusion, scaled_down=scaled_down, answers=answers)
        return Shown(f"{note}{html}", f"{len(points)} levels: {answers['conclusion']}\n{note}", points)

    # --- verify and record ----------------------------------------------------------------------------------------

    def verify(self) -> Shown:
        """Probe again until nothing is on its way any more, or the deadline; judge what came."""
        if self._applied:
            self._settle()
        elif self._observation is None or self.mode == "apply":
            self._look()
        found = self.final_findings()
        self.events.append("findings", stage=self.stage, findings=found)
        return self._show_findings(found)

    def collective(self) -> Shown:
        """Run the collective test over all cards, where it is installed and the cards are idle; only in mode apply."""
        if self.mode != "apply":
            return Shown.line(f"mode {self.mode}: no load is put on the cards")
        if _problems(self.final_findings()) or self._seen().plan.provisional:
            return Shown.line("the collective test was not run: what is above comes first")
        facts = run_collective(self.cluster, self.params)
        self._collective = tuple(hccl.check(facts, self.params))
        self.events.append("commands", stage=self.stage, commands=self.cluster.take_commands())
        self.events.append("findings", stage=self.stage, findings=self._collective)
        rows = facts.run.value if facts.run is not None else None
        bars = pictures.collective_html(rows, self.params.network.hccl_gb_per_s) if rows else ""
        return Shown(
            f"{bars}{findings_view.findings_html(self._collective)}",
            findings_view.findings_text(self._collective),
            to_json({"findings": self._collective, "rows": rows or ()}),
        )

    def _settle(self) -> None:
        patience_s = self._stage.settle_s or self.params.service.start_deadline_s
        deadline = time.monotonic() + patience_s
        while True:
            found = self._look().findings
            bad = _problems(found)
            if not bad or not all(each.transient for each in bad) or time.monotonic() > deadline:
                return
            time.sleep(_SETTLE_POLL_S)

    def final_findings(self) -> tuple[Finding, ...]:
        """Return the findings, and after an apply also whether the plan is empty as it must be."""
        seen = self._seen()
        if not self._applied:
            return (*seen.findings, *self._collective)
        left = len(seen.plan.changes)
        verdict = Verdict.FAIL if left else Verdict.OK
        next_command = self._command("plan", stages=(self.stage,)) if left else ""
        said = f"{left} changes left" if left else "no change left"
        return (
            *seen.findings,
            *self._collective,
            Finding("RUN-PLAN-LEFT", self.stage, Subject(), verdict, said, "no change left", next_command),
        )

    def verdict(self) -> Verdict:
        """Return the stage's verdict; a stage that waits for another is unknown."""
        if self._seen().plan.provisional:
            return Verdict.UNKNOWN
        return worst(finding.verdict for finding in self.final_findings())

    def unplanned(self) -> tuple[Finding, ...]:
        """Return the problems that no change of the plan claims to fix."""
        seen = self._seen()
        fixed = {(code, change.subject) for change in seen.plan.changes for code in change.fixes}
        problems = (Verdict.FAIL, Verdict.UNKNOWN)
        return tuple(
            each for each in seen.findings if each.verdict in problems and (each.code, each.subject) not in fixed
        )

    def result(self, error: str = "") -> dict[str, Any]:
        """Return the stage's result as it is recorded."""
        seen = self._observation
        if seen is None:
            return {
                "name": self.stage,
                "verdict": Verdict.UNKNOWN,
                "error": error,
                "findings": [],
                "changes": [],
                "plan": None,
            }
        shown = (self._first or seen).plan if self._applied else seen.plan
        waits = seen.plan.waits_for
        plan_fine = not any(each.code in _UNREACHABLE for each in self.unplanned()) if waits else not self.unplanned()
        states = self._states or ["provisional" if shown.provisional else "planned"] * len(shown.changes)
        return {
            "name": self.stage,
            "title": self.title,
            "mode": self.mode,
            "verdict": Verdict.FAIL if error else self.verdict(),
            "plan_ok": plan_fine,
            "waits_for": list(waits),
            "error": error,
            "facts": recorded_facts(seen.facts),
            "findings": to_json(self.final_findings()),
            "plan": to_json(shown),
            "digest": shown.digest,
            "changes": change_rows(shown.changes, states),
            "states": self._states,
            "points": None if self._measured is None else self._measured.points,
            "note": "" if self._measured is None else measure.clock_note(self.params),
            "seconds": round(time.monotonic() - self._began, 2),
        }

    def record(self) -> Shown:
        """Write the stage's result and end it. Raises StageFailed when an applied stage does not hold."""
        verdict = self.verdict()
        if self.mode == "apply" and verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            if interactive() and not self._applied and self._seen().plan.changes:
                return Shown.line("not recorded when this cell ran: the plan waited for approval, see the panel above")
            raise self._close_with(
                StageFailed(
                    f"{self.stage} does not verify:\n{findings_view.findings_text(_problems(self.final_findings()))}",
                    next_command=self._command("check", stages=(self.stage,)),
                )
            )
        self._write(self.result(), str(verdict))
        return Shown.line(f"{self.title}: {verdict}; recorded in {self.folder.path / (self.stage + '.json')}")

    def _close_with(self, error: RunbookError) -> RunbookError:
        """Record that the stage ends with an error, and return it to be raised."""
        self._write(self.result(str(error)), str(Verdict.FAIL))
        return error

    def _write(self, result: dict[str, Any], verdict: str) -> None:
        self.folder.write_json(self.folder.stage_json(self.stage), result, self._redactor)
        self.events.append("commands", stage=self.stage, commands=self.cluster.take_commands())
        self.events.append("stage_end", stage=self.stage, verdict=verdict, error=result.get("error", ""))
        self.cluster.close()


def _problems(found: tuple[Finding, ...]) -> list[Finding]:
    return [each for each in found if each.verdict in (Verdict.FAIL, Verdict.UNKNOWN)]


_UNREACHABLE = frozenset({"PRE-HOST-UNREACHABLE", "RUN-HOST"})
