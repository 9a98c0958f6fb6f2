"""Execute one stage notebook and say what became of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import papermill

from runbook_lib.errors import RecordError, UsageError
from runbook_lib.runs.engine import ENGINE, register
from runbook_lib.runs.execution import GRACE_S, Outcome
from runbook_lib.runs.kernel_signals import SignalExit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from runbook_lib.runs.execution import Status
    from runbook_lib.runs.redaction import Redactor


@dataclass(frozen=True, slots=True)
class NotebookResult:
    """How a notebook ended; `error` is redacted, `failed_cell` counts the cells of the target from 0.

    stopped_by: the signal that ended it, like SIGTERM, else "".
    """

    status: Status
    error: str = ""
    failed_cell: int | None = None
    stopped_by: str = ""


def execute_notebook(  # noqa: PLR0913 - a run has this many sides
    source: Path,
    target: Path,
    parameters: Mapping[str, Any],
    *,
    deadline_s: float | None,
    redactor: Redactor,
    on_cell: Callable[[int, int, str], None] | None = None,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
) -> NotebookResult:
    """Run a notebook with this interpreter as its kernel in `cwd`, saving to `target`.

    The kernel is forked where there is a preloaded process (see kernels.fork_server.preloaded); `env` is added to
    the environment of this process. deadline_s, grace_s: seconds for the whole notebook, and from its interrupt to
    the kill of its kernel.
    on_cell(index, total, status) is called from another thread, before and after each cell.
    After SIGTERM the status is `interrupted` (the caller has to leave), after Ctrl-C KeyboardInterrupt is raised;
    a SIGTERM handler of the caller's own is called. Raises UsageError without a source, RecordError when the
    target cannot be saved; for a notebook that fails nothing is raised.
    """
    if not source.is_file():
        raise UsageError(f"the notebook {source} is not there")
    register()
    outcome = Outcome()
    try:
        papermill.execute_notebook(
            # papermill fills in braces in paths
            str(source.resolve()).replace("{", "{{").replace("}", "}}"),
            None,  # else papermill writes the target itself, neither redacted nor as a whole
            parameters=dict(parameters),
            engine_name=ENGINE,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            deadline_s=deadline_s,
            grace_s=grace_s,
            redactor=redactor,
            on_cell=on_cell,
            outcome=outcome,
            target=str(target.resolve()),
            kernel_cwd=str(cwd.resolve()),
            kernel_env=env,
        )
    except RecordError:
        raise
    except SignalExit:
        # also when all cells were done: the caller has to leave
        why = outcome.error or "SIGTERM was received after the last cell"
        return NotebookResult("interrupted", why, outcome.failed_cell, _name(outcome))
    except Exception as error:  # noqa: BLE001 - whatever keeps a notebook from running is its failure, and is told
        if outcome.status in {None, "completed"}:
            reason = redactor.text(f"{type(error).__name__}: {error}")
            return NotebookResult("failed", f"the notebook could not be run: {reason}")
    return NotebookResult(outcome.status or "failed", outcome.error, outcome.failed_cell, _name(outcome))


def _name(outcome: Outcome) -> str:
    return signal.Signals(outcome.signum).name if outcome.signum is not None else ""
