"""A whole run: one notebook per stage through papermill, a record, a report."""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib import __version__
from runbook_lib.errors import RunbookError, UsageError
from runbook_lib.model import Verdict
from runbook_lib.params import load_params, project_root
from runbook_lib.runs import events
from runbook_lib.runs.close import close_run
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import new_run
from runbook_lib.runs.history import params_text
from runbook_lib.runs.kernels.fork_server import preloaded
from runbook_lib.runs.notebook import execute_notebook
from runbook_lib.runs.report import notebook_page
from runbook_lib.runs.results import read_result
from runbook_lib.runs.session import MODES, redactor_for
from runbook_lib.runs.who import operator, remove_dead_kernel_folders
from runbook_lib.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from runbook_lib.params import Params
    from runbook_lib.runs.events import Event
    from runbook_lib.runs.folder import RunFolder
    from runbook_lib.runs.notebook import NotebookResult
    from runbook_lib.stages import Stage

    Say = Callable[[str], None]
    Held = Callable[[Stage[Any]], dict[str, Any] | None]

_FOLLOW_S = 0.5
_PROBLEMS = (Verdict.FAIL, Verdict.UNKNOWN)
OVERVIEW = "00_overview"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run. `digests` and `yes` are approvals; `only` names stages, all when empty.

    plans: those behind the digests, where a file of them was given, to show what changed since.
    """

    params: str
    mode: str = "plan"
    overrides: str = ""
    only: tuple[str, ...] = ()
    yes: bool = False
    digests: tuple[str, ...] = ()
    plans: tuple[dict[str, Any], ...] = ()
    deadline_s: float | None = None


@dataclass(slots=True)
class RunOutcome:
    """How a run ended. `stopped_by` is "", SIGINT or SIGTERM."""

    folder: RunFolder
    mode: str
    stages: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: str = ""
    report: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether the run did what was asked: apply and observe need ok, plan needs every problem to be planned for."""
        if self.stopped_by or not self.stages:
            return False
        if self.mode == "plan":
            return all(stage["plan_ok"] and not stage["error"] for stage in self.stages)
        return all(stage["verdict"] not in _PROBLEMS and not stage["error"] for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `runbook run --json` prints; see docs/json.md."""
        return {
            "ok": self.ok,
            "run_dir": str(self.folder.path),
            "mode": self.mode,
            "report": str(self.report) if self.report else None,
            "stopped_by": self.stopped_by,
            "stages": [
                {
                    key: stage[key]
                    for key in ("name", "verdict", "digest", "waits_for", "error", "findings", "changes", "seconds")
                }
                for stage in self.stages
            ],
            "failures": failures(self.stages),
        }


def failures(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every problem of every stage as one flat list."""
    problems = [
        {
            "stage": stage["name"],
            **{key: finding[key] for key in ("code", "subject", "verdict", "seen", "expected", "next_command")},
        }
        for stage in stages
        for finding in stage["findings"]
        if finding["verdict"] in _PROBLEMS
    ]
    errors = [
        {"stage": stage["name"], "code": "RUN-STAGE", "verdict": "fail", "seen": stage["error"]}
        for stage in stages
        if stage["error"]
    ]
    return errors + problems


@preloaded()
def run(options: RunOptions, say: Say) -> RunOutcome:
    """Run the stages' notebooks one after the other, stopping an apply at the first that does not hold.

    Raises UsageError and ParamsError before any host is touched, TwinDown when the cluster is a twin that is down.
    """
    if options.mode not in MODES:
        raise UsageError(f"mode {options.mode!r}; right would be one of {', '.join(MODES)}")
    root = project_root()
    params = load_params(options.params, options.overrides)
    redactor = redactor_for(params)
    chosen = chosen_stages(options.only)
    need_notebooks(root, chosen)
    if options.mode != "apply" and (options.yes or options.digests):
        raise UsageError(f"--yes and --approve go with --mode apply, not {options.mode}")
    cluster = Cluster(params, root)
    try:
        cluster.reach()
    finally:
        cluster.close()
    folder = new_run(root / "outputs", params.cluster.name)
    log = EventLog(folder.events, redactor)
    _begin(log, options, params, chosen)
    say(f"run {folder.run_id}, mode {options.mode}: {folder.path.relative_to(root)}")
    return carry_out(Work(options, params, folder, root), chosen, log, say)


@preloaded()
def carry_out(
    work: Work, chosen: Sequence[Stage[Any]], log: EventLog, say: Say, held: Held = lambda _stage: None
) -> RunOutcome:
    """Run the stages' notebooks into the work's folder, then close the run.

    held: returns the result of a stage that need not be run, because what it did before still holds.
    """
    outcome = RunOutcome(work.folder, work.options.mode)
    remove_dead_kernel_folders()
    try:
        with _followed(work.folder, say), ThreadPoolExecutor(1) as pages:
            _run_stages(outcome, work, chosen, say, pages, held)
    except KeyboardInterrupt:
        outcome.stopped_by = "SIGINT"
    except RunbookError:
        log.append("run_end", ok=False, stopped_by="an error")
        raise
    remove_dead_kernel_folders()  # of a predecessor that was still dying when this run began
    if outcome.stopped_by:
        log.append("interrupted", by=outcome.stopped_by)
    log.append("run_end", ok=outcome.ok, stopped_by=outcome.stopped_by)
    outcome.report = close_run(work.folder, log, params=work.params, root=work.root, by=operator(), say=say)
    return outcome


def need_notebooks(root: Path, chosen: Sequence[Stage[Any]]) -> None:
    """Raise UsageError when a notebook is missing."""
    for name in (OVERVIEW, *(stage.notebook for stage in chosen)):
        if not (root / "notebooks" / f"{name}.ipynb").is_file():
            raise UsageError(f"notebooks/{name}.ipynb is not there", next_command="git status notebooks")


def chosen_stages(only: Collection[str]) -> list[Stage[Any]]:
    """Return the stages of these names in their order, all for none. Raises UsageError for a name that is none."""
    names = [stage.name for stage in STAGES]
    for name in only:
        if name not in names:
            raise UsageError(f"no stage {name!r}; right would be one of {', '.join(names)}")
    return [stage for stage in STAGES if not only or stage.name in only]


def _begin(log: EventLog, options: RunOptions, params: Params, chosen: Sequence[Stage[Any]]) -> None:
    log.append(
        "run_start",
        mode=options.mode,
        by=operator(),
        version=__version__,
        python=platform.python_version(),
        twin=params.twin is not None,
        scaled_down=params.benchmark.scaled_down,
        stages=[stage.name for stage in chosen],
        only=list(options.only),
        params_file=options.params,
        overrides=options.overrides,
        params=params_text(params),
    )
    record_approval(log, options, params)


def record_approval(log: EventLog, options: RunOptions, params: Params) -> None:
    """Record what was approved on the command line, by whom, and how far `--yes` goes."""
    if options.mode == "apply" and (options.yes or options.digests):
        log.append(
            "approval",
            by=operator(),
            yes=options.yes,
            yes_approves=sorted(params.policy.yes_approves) if options.yes else [],
            digests=list(options.digests),
            plans=list(options.plans),
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What every notebook of a run needs."""

    options: RunOptions
    params: Params
    folder: RunFolder
    root: Path

    def notebook(self, name: str, record_as: str) -> NotebookResult:
        """Execute a notebook of the project into the run's folder."""
        return execute_notebook(
            self.root / "notebooks" / f"{name}.ipynb",
            self.folder.notebook(record_as),
            {
                "params": self.options.params,
                "overrides": self.options.overrides,
                "run_dir": str(self.folder.path.relative_to(self.root)),
                "mode": self.options.mode,
            },
            deadline_s=self.options.deadline_s,
            redactor=redactor_for(self.params),
            cwd=self.root,
        )


def _run_stages(  # noqa: PLR0913, PLR0917 - what a run consists of
    outcome: RunOutcome, work: Work, chosen: Sequence[Stage[Any]], say: Say, pages: Executor, held: Held
) -> None:
    for number, stage in enumerate(chosen, start=1):
        say(f"[{number}/{len(chosen)}] {stage.title}")
        began = time.monotonic()
        done = held(stage)
        if done is not None:
            outcome.stages.append(done)
            say(f"[{number}/{len(chosen)}] {stage.title}: {done['verdict']}, still holds")
            continue
        try:
            result = work.notebook(stage.notebook, stage.name)
        except KeyboardInterrupt:
            outcome.stages.append(_judged(stage, read_result(outcome.folder, stage.name), "interrupted", "Ctrl-C"))
            raise
        pages.submit(notebook_page, outcome.folder, stage.name)  # while the next kernel starts
        recorded = read_result(outcome.folder, stage.name)
        outcome.stages.append(_judged(stage, recorded, result.status, result.error))
        verdict = outcome.stages[-1]["verdict"]
        say(f"[{number}/{len(chosen)}] {stage.title}: {verdict} ({time.monotonic() - began:.1f} s)")
        if result.status == "interrupted":
            outcome.stopped_by = result.stopped_by or "SIGTERM"
            return
        if work.options.mode == "apply" and (verdict in _PROBLEMS or outcome.stages[-1]["error"]):
            return
    if not work.options.only:
        work.notebook(OVERVIEW, "overview")
        notebook_page(outcome.folder, "overview")


def _judged(stage: Stage[Any], recorded: dict[str, Any] | None, status: str, error: str) -> dict[str, Any]:
    """Return a stage's result; what the notebook did not record is unknown, and a notebook that failed is an error."""
    if recorded is None:
        recorded = {"findings": [], "changes": [], "waits_for": [], "digest": "", "seconds": None, "plan_ok": False}
        recorded |= {"name": stage.name, "verdict": Verdict.UNKNOWN, "error": "", "plan": None}
    if status != "completed" and not recorded["error"]:
        recorded["error"] = f"notebook {status}: {error}"
    return recorded


@contextlib.contextmanager
def _followed(folder: RunFolder, say: Say) -> Iterator[None]:
    """Say what the events tell while a notebook runs: which host makes which change, how far a job is."""
    over = threading.Event()

    told_before = len(events.read(folder.events))

    def follow() -> None:
        told = told_before
        while True:
            last = over.wait(_FOLLOW_S)
            chain = events.read(folder.events)
            for line in told_lines(chain[told:]):
                say(line)
            told = len(chain)
            if last:
                return

    thread = threading.Thread(target=follow, name="follow-events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=10)


def told_lines(chain: Iterable[Event]) -> Iterator[str]:
    """Return what a person is told of these events while a run goes on."""
    return (line for event in chain if event.kind in _TOLD and (line := _TOLD[event.kind](event.data)))


def _told_change(data: dict[str, Any]) -> str:
    subject = data["subject"]
    card = f" card {subject['card']}" if subject["card"] >= 0 else ""
    return f"    {subject['host']}{card}: {data['summary']}"


def _told_repair(data: dict[str, Any]) -> str:
    return f"    the last line of the record was cut short ({data['bytes']} bytes); it was moved to {data['moved_to']}"


def _told_taken_over(data: dict[str, Any]) -> str:
    return f"    {data['host']}: took over the apply lock of the process that died"


def _told_released(data: dict[str, Any]) -> str:
    return f"    {', '.join(data['hosts'])}: gave back the apply lock of the process that died" if "of" in data else ""


def _told_progress(data: dict[str, Any]) -> str:
    share = f" {data['fraction'] * 100:.0f} %" if data["fraction"] >= 0 else ""
    return f"    {data['host']}:{share} {data['text']}"


def _told_measure(data: dict[str, Any]) -> str:
    point = data["point"]
    return f"    concurrency {point['concurrency']}: {point['output_tokens_per_s']:.0f} tok/s"


_TOLD: dict[str, Callable[[dict[str, Any]], str]] = {
    "change_start": _told_change,
    "chain_repaired": _told_repair,
    "lock_taken_over": _told_taken_over,
    "lock_released": _told_released,
    "progress": _told_progress,
    "measure": _told_measure,
}
