"""The papermill engine `runbook`: the executed notebook says what happened, and holds no secret.

Papermill's own engine marks the failed cell and all cells that never ran as completed after a dead kernel, a
timeout or Ctrl-C, writes outputs unredacted and in place, and forgets everything on SIGTERM. This one does not.
The kernel is driven from a thread of its own, so that a signal never interrupts the writing of the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Any

if not TYPE_CHECKING:
    # Importing papermill loads its entry points, this class among them. When papermill is imported from here, it
    # asks before the class exists and is given None; register() at the end replaces that. A module of ours that
    # imports papermill is in the middle of that when this module begins, so it is not imported at this level.
    RunbookEngine = None

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.log import logger
from papermill.utils import merge_kwargs, remove_args

from runbook_lib.errors import RunbookError
from runbook_lib.runs.execution import GRACE_S, OUTPUT_CAP_CHARS, Options, Outcome
from runbook_lib.runs.kernel_signals import Caught, caught_above, signals_caught

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runbook_lib.runs.kernel_client import KernelClient
    from runbook_lib.runs.notebook_record import NotebookRecord
    from runbook_lib.runs.redaction import Redactor

ENGINE = "runbook"


class RunbookEngine(NBClientEngine):  # type: ignore[misc]  # papermill has no type information
    """Papermill engine with keywords of its own.

    deadline_s: seconds for the whole notebook; redactor; outcome: an Outcome to fill in; output_cap: characters
    kept per cell; grace_s: seconds from interrupt to kill; target: path to save to when papermill is given none;
    kernel_cwd: the kernel's folder; kernel_env: added to its environment; on_cell(index, total, status): called from
    another thread.

    A failed cell is left to papermill to raise. Raises DeadKernelError, CellTimeoutError, and for a signal calls
    the handler that was there before (KeyboardInterrupt for SIGINT) or raises SignalExit(128 + signal).
    """

    @classmethod
    def execute_notebook(  # noqa: PLR0913 - papermill's signature, and our keywords
        cls,
        nb: Any,  # noqa: ANN401 - a notebook node
        kernel_name: str,
        *,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        autosave_cell_every: int = 30,  # noqa: ARG003 - always AUTOSAVE_S
        redactor: Redactor | None = None,
        outcome: Outcome | None = None,
        target: str | None = None,
        **kwargs: Any,  # noqa: ANN401 - for execute_managed_notebook
    ) -> Any:  # noqa: ANN401 - a notebook node
        """Execute a notebook and return it. Raises as the class says, always after the truth was saved."""
        from runbook_lib.runs.notebook_record import NotebookRecord  # noqa: PLC0415 - imports papermill, see above

        outcome = outcome or Outcome()
        path = output_path or target
        manager = NotebookRecord(
            nb, redactor, outcome, output_path=path, progress_bar=progress_bar, log_output=log_output
        )
        nb.metadata.papermill["output_path"] = path
        manager.notebook_start()
        above = caught_above()
        with contextlib.nullcontext(above) if above else signals_caught() as caught:
            try:
                cls.execute_managed_notebook(manager, kernel_name, caught=caught, log_output=log_output, **kwargs)
            finally:
                manager.notebook_complete()
        outcome.signum = caught.signum
        if above is None:
            caught.hand_on()
        _raise_for(outcome, manager.nb)
        return manager.nb

    @classmethod
    def execute_managed_notebook(  # noqa: PLR0913 - papermill's signature, and our keywords
        cls,
        nb_man: NotebookRecord,
        kernel_name: str,
        *,
        log_output: bool = False,
        stdout_file: Any = None,  # noqa: ANN401 - a text file
        stderr_file: Any = None,  # noqa: ANN401 - a text file
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        caught: Caught | None = None,
        deadline_s: float | None = None,
        grace_s: float = GRACE_S,
        output_cap: int = OUTPUT_CAP_CHARS,
        kernel_cwd: str | None = None,
        kernel_env: Mapping[str, str] | None = None,
        on_cell: Callable[[int, int, str], None] | None = None,
        **kwargs: Any,  # noqa: ANN401 - nbclient's
    ) -> None:
        """Run the cells in a thread of their own and wait for it."""
        from runbook_lib.runs.kernel_client import KernelClient  # noqa: PLC0415 - imports papermill, see above

        client = KernelClient(
            nb_man,
            Options(deadline_s, grace_s, output_cap, kernel_cwd, kernel_env or {}, on_cell),
            **merge_kwargs(
                remove_args(["timeout", "startup_timeout", "input_path"], **kwargs),
                timeout=execution_timeout or kwargs.get("timeout"),
                startup_timeout=start_timeout,
                kernel_name=kernel_name,
                log=logger,
                log_output=log_output,
                stdout_file=stdout_file,
                stderr_file=stderr_file,
            ),
        )
        with caught.stopping(client.interrupt) if caught is not None else contextlib.nullcontext():
            _run_in_thread(client)


def _run_in_thread(client: KernelClient) -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(client.run())
        except BaseException as error:  # noqa: BLE001 - it is raised again where somebody waits for it
            raised.append(error)

    # a daemon, so that a third signal can leave; the kernel dies with its thread
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True, name="runbook-kernel")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _raise_for(outcome: Outcome, nb: Any) -> None:  # noqa: ANN401 - a notebook node
    if outcome.status == "kernel_died":
        raise DeadKernelError(outcome.error)
    if outcome.status in {"timeout", "interrupted"}:
        raise CellTimeoutError(outcome.error)
    if outcome.status == "failed" and outcome.failed_cell is not None:
        outputs = nb.cells[outcome.failed_cell].outputs
        if any(out.output_type == "error" and out.ename == "SystemExit" for out in outputs):
            # papermill lets this pass as success
            raise RunbookError(f"cell {outcome.failed_cell} left the notebook ({outcome.error}); later cells never ran")


def register() -> None:
    """Make the engine known to papermill also where the package is not installed."""
    papermill_engines.register(ENGINE, RunbookEngine)


register()
