"""One stage of one run, as notebooks and the command line use it.

    stage = session.open_stage("network", params="params/x.yaml", mode="plan")
    stage.observe(); stage.plan(); stage.approval(); stage.apply(); stage.verify(); stage.record()

Each call returns an object that displays itself. Cells can be run again and out of order: every call reads what it
needs from the hosts, none trusts an older state.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from runbook_lib import stages
from runbook_lib.errors import ApprovalNeeded, LockHeld, RunbookError, StageBlocked, StageFailed, UsageError
from runbook_lib.load.knee import knee
from runbook_lib.load.point import Point
from runbook_lib.model import Finding, Plan, Subject, Verdict, to_json, worst
from runbook_lib.params import Params, load_params, project_root
from runbook_lib.params.secrets import resolve
from runbook_lib.runs import events, measure
from runbook_lib.runs.apply import apply_plan
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder, new_run, open_run
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.show import Shown
from runbook_lib.views import findings as findings_view
from runbook_lib.views import plans as plans_view
from runbook_lib.views.benchmark import benchmark_html

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    token = params.model.weights.source.token
    return Redactor([resolve(token)] if token else [])


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
    return StageSession(stages.stage(stage), read, folder, mode, root=root, given_run=bool(run_dir))


class StageSession:
    """One stage of one run; see the module."""

    def __init__(  # noqa: PLR0913 - what a stage works on
        self, stage: Stage[Any], params: Params, folder: RunFolder, mode: str, *, root: Path, given_run: bool = False
    ) -> None:
        self._stage = stage
        self.params = params
        self.folder = folder
        self.mode = mode
        self._given_run = given_run
        self.cluster = Cluster(params, root)
        redactor = redactor_for(params)
        self._redactor = redactor
        self.events = EventLog(folder.events, redactor)
        self._observation: Observation | None = None
        self._first: Observation | None = None
        self._states: list[str] = []
        self._points: list[dict[str, Any]] | None = None
        self._applied = False
        self._began = time.monotonic()
        self.events.append("stage_start", stage=stage.name, mode=mode, params=params.cluster.name)

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

    def _look(self) -> Observation:
        probes = self.cluster.probe(self._stage)
        module = self._stage.module
        facts = module.facts(self.params, probes)
        if self._points is not None:
            facts = replace(facts, points=self._points)
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

    def _approved_by(self, plan: Plan) -> str:
        """Return who approved this plan: its digest, or by policy when all its risks may be; "" when nobody did."""
        allowed = set(self.params.policy.yes_approves)
        for event in reversed(events.read(self.folder.events)):
            if event.kind != "approval":
                continue
            by = str(event.data.get("by"))
            if event.data.get("stage") == self.stage and event.data.get("digest") == plan.digest:
                return by
            # what was said on the runner's command line holds for the notebooks that this very runner started
            if event.pid != os.getppid() or not self._given_run:
                continue
            if plan.digest in event.data.get("digests", []):
                return by
            if event.data.get("yes") and plan.risks <= allowed:
                return f"{by} by policy"
        return ""

    def approval(self) -> Shown:
        """Ask for approval, or say that none is needed. Raises ApprovalNeeded in a headless apply without one."""
        plan = self._seen().plan
        if self.mode != "apply":
            return Shown.line(f"mode {self.mode}: nothing is changed, so nothing is asked")
        if not plan.changes:
            return Shown.line("nothing to change, so nothing to approve")
        if plan.provisional:
            return Shown.line(f"waits for {', '.join(plan.waits_for)}")
        by = self._approved_by(plan)
        if by:
            return Shown.line(f"plan {plan.digest} is approved ({by})")
        if interactive():
            return Shown.line(f"plan {plan.digest} waits for approval")
        raise self._close_with(
            ApprovalNeeded(
                f"{self.stage}: {len(plan.changes)} changes wait for approval, plan {plan.digest}; nothing was changed",
                digest=plan.digest,
                next_command=f"runbook run params/{self.params.cluster.name}.yaml --mode apply --approve {plan.digest}",
            )
        )

    # --- change -------------------------------------------------------------------------------------------------

    def apply(self, on_progress: OnProgress | None = None, stop: threading.Event | None = None) -> Shown:
        """Make the approved changes; in other modes, or with nothing to change, say so.

        The facts are read again first: a plan that is no longer the approved one is not applied. Raises LockHeld
        while another apply to this cluster runs on this machine.
        """
        if self.mode != "apply":
            return Shown.line(f"mode {self.mode}: nothing is changed")
        with self._alone():
            return self._apply(on_progress, stop)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the cluster's apply lock; it ends with this process, however that ends."""
        path = self.folder.path.parent / "apply.lock"
        lock = FileLock(path, timeout=0, thread_local=False, is_singleton=False)
        try:
            lock.acquire()
        except Timeout:
            error = LockHeld(
                f"another apply to {self.params.cluster.name} is under way on this machine ({path})",
                next_command=f"runbook status params/{self.params.cluster.name}.yaml",
            )
            # in JupyterLab this is a second click or cell: the first apply goes on, and the stage with it
            raise (error if interactive() else self._close_with(error)) from None
        try:
            yield
        finally:
            lock.release()

    def _apply(self, on_progress: OnProgress | None, stop: threading.Event | None) -> Shown:
        approved = self._seen().plan
        seen = self._look()
        self._refuse_unfit(seen)
        plan = seen.plan
        if not plan.changes:
            return Shown.line("nothing to change")
        by = self._approved_by(plan)
        if not by:
            if interactive():
                return Shown.line(f"plan {plan.digest} was not approved when this cell ran: see the panel above")
            raise self._close_with(
                ApprovalNeeded(
                    f"{self.stage}: the facts changed since plan {approved.digest} was approved; nothing was changed\n"
                    f"{plans_view.plan_text(plan)}",
                    digest=plan.digest,
                    next_command=f"runbook plan params/{self.params.cluster.name}.yaml",
                )
            )
        self.events.append("apply_start", stage=self.stage, digest=plan.digest, approved_by=by)
        self._first = seen
        self._states, problem = apply_plan(
            self.cluster, plan, self.events, self._recorded(on_progress), stop or threading.Event()
        )
        self.events.append("commands", stage=self.stage, commands=self.cluster.take_commands())
        self._applied = True
        if problem:
            raise self._close_with(
                StageFailed(problem, next_command=f"runbook plan params/{self.params.cluster.name}.yaml")
            )
        return Shown(plans_view.plan_html(plan, self._states), plans_view.plan_text(plan, self._states), self._states)

    def _refuse_unfit(self, seen: Observation) -> None:
        name = self.params.cluster.name
        gone = sorted(
            {
                finding.subject.host
                for finding in seen.findings
                if finding.code in _UNREACHABLE and finding.verdict is Verdict.FAIL
            }
        )
        if gone:
            raise self._close_with(
                StageBlocked(
                    f"{self.stage}: {', '.join(gone)} cannot be reached, so nothing was changed on any host",
                    next_command=f"runbook check params/{name}.yaml",
                )
            )
        if seen.plan.provisional:
            raise self._close_with(
                StageBlocked(
                    f"{self.stage} waits for {', '.join(seen.plan.waits_for)}; nothing was changed",
                    next_command=f"runbook run params/{name}.yaml --mode apply --stage {seen.plan.waits_for[0]}",
                )
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
            return Shown.line(f"mode {self.mode}: no load is put on the service")
        self._refuse_unfit(self._look())
        self._points = measure.sweep(self.params, self.folder, self.events)
        self._look()
        conclusion = knee([Point.from_json(point) for point in self._points])
        note = measure.clock_note(self.params)
        html = benchmark_html(self._points, conclusion, scaled_down=self.params.benchmark.scaled_down)
        return Shown(f"{note}{html}", f"{len(self._points)} levels measured: {conclusion.reason}\n{note}", self._points)

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
            return seen.findings
        left = len(seen.plan.changes)
        verdict = Verdict.FAIL if left else Verdict.OK
        command = f"runbook plan params/{self.params.cluster.name}.yaml" if left else ""
        said = f"{left} changes left" if left else "no change left"
        return (
            *seen.findings,
            Finding("RUN-PLAN-LEFT", self.stage, Subject(), verdict, said, "no change left", command),
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
            "findings": to_json(self.final_findings()),
            "plan": to_json(shown),
            "digest": shown.digest,
            "changes": [
                {
                    "subject": to_json(change.subject),
                    "summary": change.summary,
                    "before": change.before,
                    "after": change.after,
                    "state": state,
                }
                for change, state in zip(shown.changes, states, strict=True)
            ],
            "states": self._states,
            "points": self._points,
            "note": measure.clock_note(self.params) if self._points else "",
            "seconds": round(time.monotonic() - self._began, 2),
        }

    def record(self) -> Shown:
        """Write the stage's result and end it. Raises StageFailed when an applied stage does not hold."""
        verdict = self.verdict()
        name = self.params.cluster.name
        if self.mode == "apply" and verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            if interactive() and not self._applied and self._seen().plan.changes:
                return Shown.line("not recorded when this cell ran: the plan waited for approval, see the panel above")
            raise self._close_with(
                StageFailed(
                    f"{self.stage} does not verify:\n{findings_view.findings_text(_problems(self.final_findings()))}",
                    next_command=f"runbook check params/{name}.yaml",
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


def interactive() -> bool:
    """Whether a person sits before this kernel: JupyterLab names the notebook to the kernel, papermill does not."""
    return "JPY_SESSION_NAME" in os.environ


def operator() -> str:
    """Return who runs this, for the record."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
