"""Applying a plan: phase by phase, all hosts side by side, each change recorded before and after."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from runbook_lib.errors import RunbookError, StageFailed
from runbook_lib.model import to_json
from runbook_lib.remote import fan_out
from runbook_lib.runs.cluster import Signs

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from runbook_lib.model import Change, Plan
    from runbook_lib.remote import Target
    from runbook_lib.runs.cluster import Cluster, OnProgress
    from runbook_lib.runs.events import EventLog

DONE = "done"
NOT_REACHED = "not reached"
BEGUN = "begun, its end was not seen"
_SLACK_S = 60.0


def apply_plan(
    cluster: Cluster, plan: Plan, events: EventLog, on_progress: OnProgress, stop: threading.Event
) -> tuple[list[str], str]:
    """Make all changes of a plan in order.

    Returns the state of each change (`done`, `not reached`, or what went wrong), and "" or the first problems with
    their next commands. After a failure a host makes no further change, no host begins the next phase, and a job that
    only waits for other hosts is not waited for.
    """
    signs = Signs(stop)
    states = [NOT_REACHED] * len(plan.changes)
    total: dict[str, int] = defaultdict(int)
    for change in plan.changes:
        total[change.subject.host] += 1
    finished: dict[str, int] = defaultdict(int)

    def make(index: int, change: Change) -> None:
        host = change.subject.host
        on_progress(host, finished[host] / total[host], change.summary)
        events.append(
            "change_start",
            stage=plan.stage,
            index=index,
            digest=plan.digest,
            **to_json(change),
        )
        states[index] = BEGUN
        try:
            cluster.apply(change, _scaled(on_progress, finished[host], total[host]), signs)
        except RunbookError as error:
            signs.failed.set()
            states[index] = f"failed: {error}"
            events.append("change_end", stage=plan.stage, index=index, state=states[index])
            raise
        states[index] = DONE
        events.append("change_end", stage=plan.stage, index=index, state=DONE)
        finished[host] += 1
        on_progress(host, finished[host] / total[host], change.summary)

    for phase in sorted({change.phase for change in plan.changes}):
        problems = _run_phase(cluster, plan, phase, make, stop)
        if problems:
            return states, "\n".join(problems)
        if stop.is_set():
            return states, "stopped by the operator between two changes"
    return states, ""


def _scaled(on_progress: OnProgress, before: int, total: int) -> OnProgress:
    """Return a callback that places one change's own progress within that of its host."""

    def scaled(host: str, fraction: float, text: str) -> None:
        on_progress(host, (before + max(fraction, 0.0)) / total if fraction >= 0 else -1.0, text)

    return scaled


def _run_phase(
    cluster: Cluster, plan: Plan, phase: int, make: Callable[[int, Change], None], stop: threading.Event
) -> list[str]:
    work: dict[str, list[tuple[int, Change]]] = defaultdict(list)
    for index, change in enumerate(plan.changes):
        if change.phase == phase:
            work[change.subject.host].append((index, change))

    def on_host(target: Target) -> None:
        for index, change in work[target.name]:
            if stop.is_set():
                return
            make(index, change)

    busy = [target for target in cluster.targets if target.name in work]
    deadline_s = max(_SLACK_S + deadline_of(change for _, change in changes) for changes in work.values())
    results = fan_out(busy, on_host, deadline_s=deadline_s)
    problems = []
    for result in results.values():
        if result.error is not None and not isinstance(result.error, RunbookError):
            raise StageFailed(f"{result.name}: {type(result.error).__name__}: {result.error}") from result.error
        if result.error is not None:
            problems.append(str(result.error))
    return problems


def deadline_of(changes: Iterable[Change]) -> float:
    """Return how long these changes may take one after the other, in s."""
    actions = [change.action for change in changes]
    return sum(getattr(each, "deadline_s", None) or getattr(each, "timeout_s", None) or _SLACK_S for each in actions)
