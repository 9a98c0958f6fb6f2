"""Many clusters side by side: a run each, a bounded number at a time, each with its own record."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RunbookError, UsageError
from runbook_lib.params import load_params, project_root
from runbook_lib.runs.kernel_signals import Caught, heard_from, signals_caught
from runbook_lib.runs.kernels.fork_server import preloaded
from runbook_lib.runs.runner import chosen_stages, need_notebooks, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.runs.runner import RunOptions, RunOutcome

    Say = Callable[[str], None]

NOT_REACHED = "-"  # the state of a stage that the run did not come to


@dataclass(slots=True)
class BatchRun:
    """What became of one cluster: an outcome, or the error that kept its run from an end. `seconds` is wall time."""

    cluster: str
    options: RunOptions
    outcome: RunOutcome | None = None
    error: str = ""
    next_command: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether this cluster's run did what was asked."""
        return self.outcome is not None and self.outcome.ok and not self.error

    def states(self) -> dict[str, str]:
        """Return the verdict of every stage that was asked for, `-` where the run did not come to it."""
        names = [stage.name for stage in chosen_stages(self.options.only)]
        reached = {} if self.outcome is None else {each["name"]: str(each["verdict"]) for each in self.outcome.stages}
        return {name: reached.get(name, NOT_REACHED) for name in names}

    def failures(self) -> list[dict[str, Any]]:
        """Return what is not ok, each with the cluster's name."""
        found = [] if self.outcome is None else self.outcome.to_json()["failures"]
        if self.error:
            found = [{"seen": self.error, "next_command": self.next_command}, *found]
        return [{"cluster": self.cluster, **each} for each in found]

    def to_json(self) -> dict[str, Any]:
        """Return this cluster's part of what `runbook batch --json` prints."""
        outcome = self.outcome
        return {
            "cluster": self.cluster,
            "params": self.options.params,
            "ok": self.ok,
            "run_dir": str(outcome.folder.path) if outcome else None,
            "report": str(outcome.report) if outcome and outcome.report else None,
            "stopped_by": outcome.stopped_by if outcome else "",
            "error": self.error,
            "stages": self.states(),
            "seconds": round(self.seconds, 2),
        }


@dataclass(slots=True)
class BatchOutcome:
    """How a batch ended. `stopped_by` is "", SIGINT or SIGTERM."""

    mode: str
    runs: list[BatchRun] = field(default_factory=list)
    stopped_by: str = ""

    @property
    def ok(self) -> bool:
        """Whether every cluster's run did what was asked."""
        return bool(self.runs) and not self.stopped_by and all(each.ok for each in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `runbook batch --json` prints; see docs/json.md."""
        return {
            "ok": self.ok,
            "mode": self.mode,
            "stopped_by": self.stopped_by,
            "clusters": [each.to_json() for each in self.runs],
            "failures": [failure for each in self.runs for failure in each.failures()],
        }

    def table(self) -> str:
        """Return clusters by stages as text, a cluster a line."""
        head = ["cluster", *(self.runs[0].states() if self.runs else ()), "", "seconds"]
        rows = [
            [each.cluster, *each.states().values(), "ok" if each.ok else "not ok", f"{each.seconds:.0f}"]
            for each in self.runs
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
        return "\n".join(line.rstrip() for line in lines)


def run_batch(every: Sequence[RunOptions], say: Say, jobs: int = 0) -> BatchOutcome:
    """Run every cluster's stages, at most `jobs` clusters at a time (0: as many as there are processors).

    A cluster that fails does not stop the others. SIGINT and SIGTERM stop all of them in order, and no further one
    is begun. Must be called from the main thread. Raises UsageError and ParamsError before any host is touched.
    """
    runs = _named(every)
    if jobs < 0:
        raise UsageError(f"--jobs {jobs}; right would be 1 or more, or 0 for the number of processors")
    waiting: queue.SimpleQueue[BatchRun] = queue.SimpleQueue()
    for each in runs:
        waiting.put(each)
    count = min(len(runs), jobs or os.cpu_count() or 1)
    with preloaded(), signals_caught() as caught:
        # daemons, so that a third signal can leave; kernels end with the preloaded process
        lanes = [
            threading.Thread(target=_lane, args=(waiting, caught, say), name=f"batch-{number}", daemon=True)
            for number in range(count)
        ]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()
    stopped = signal.Signals(caught.signum).name if caught.signum is not None else ""
    return BatchOutcome(every[0].mode, runs, stopped)


def _named(every: Sequence[RunOptions]) -> list[BatchRun]:
    """Return a run for each cluster. Raises UsageError when two would be one cluster's."""
    if not every:
        raise UsageError("no params file was given", next_command="ls params/*.yaml")
    root = project_root()
    runs: dict[str, BatchRun] = {}
    for options in every:
        need_notebooks(root, chosen_stages(options.only))
        name = load_params(options.params, options.overrides).cluster.name
        if name in runs:
            raise UsageError(f"{runs[name].options.params} and {options.params} are both of the cluster {name}")
        runs[name] = BatchRun(name, options)
    return list(runs.values())


def _lane(waiting: queue.SimpleQueue[BatchRun], caught: Caught, say: Say) -> None:
    with heard_from(caught):
        while True:
            try:
                work = waiting.get_nowait()
            except queue.Empty:
                return
            _run_one(work, caught, say)


def _run_one(work: BatchRun, caught: Caught, say: Say) -> None:
    began = time.monotonic()
    again = f"runbook run {work.options.params} --mode {work.options.mode}"
    if caught.signum is not None:
        work.error, work.next_command = f"not begun: {caught.why}", again
        return
    try:
        work.outcome = run(work.options, lambda line: say(f"{work.cluster}: {line}"))
    except RunbookError as error:
        work.error, work.next_command = error.message, error.next_command
    except Exception as error:  # noqa: BLE001 - a defect that one cluster shows must not end the others' runs
        work.error, work.next_command = f"{type(error).__name__}: {error}", again
    work.seconds = time.monotonic() - began
    result = "ok" if work.ok else work.error or "not ok"
    say(f"{work.cluster}: ended, {result} ({work.seconds:.1f} s)")
