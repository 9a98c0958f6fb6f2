"""Drives one kernel through the cells of one notebook, and knows at every end what happened."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient

from runbook_lib.runs.cell_outputs import CellOutputs, stderr
from runbook_lib.runs.kernels.own import KernelManager
from runbook_lib.runs.who import kernel_folder_prefix

if TYPE_CHECKING:
    from runbook_lib.runs.execution import Options, Status
    from runbook_lib.runs.notebook_record import NotebookRecord

AUTOSAVE_S = 2.0
MARK_S = 0.3
_ERROR_CHARS = 4000
# nbclient gives the outputs of an ended cell 4 s to arrive, which a busy machine does not make with 100 MB.
_IOPUB_TIMEOUT_S = 60


class KernelClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no type information
    """Runs the cells of one notebook in one kernel, and stops in order when told to."""

    def __init__(self, nb_man: NotebookRecord, options: Options, **kwargs: Any) -> None:  # noqa: ANN401 - nbclient's
        super().__init__(nb_man, iopub_timeout=_IOPUB_TIMEOUT_S, kernel_manager_class=KernelManager, **kwargs)
        self._options = options
        self._outputs: dict[int, CellOutputs] = {}
        self._lock = threading.RLock()  # a signal handler may come while another holds it, in one thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._log: Path | None = None
        self._stop_asked: tuple[Status, str] | None = None
        nb_man.settle = self._settle

    def stop(self, status: Status, why: str) -> None:
        """End the notebook: interrupt the running cell, and kill the kernel when that does not help. Any thread."""
        with self._lock:
            if self._stop_asked is None:
                self._stop_asked = (status, why)
                if self._loop is not None and not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._end_now)

    def interrupt(self, why: str) -> None:
        """End the notebook because somebody wants it to end. Any thread."""
        self.stop("interrupted", why)

    async def run(self) -> None:
        """Run all cells and put down what became of them. Raises only what on_cell or a defect raises."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._loop = loop
        deadline = None
        if self._options.deadline_s is not None:
            why = f"the notebook did not end within its {self._options.deadline_s:g} s"
            deadline = loop.call_later(self._options.deadline_s, self.stop, "timeout", why)
        autosave = asyncio.ensure_future(self._autosave())
        try:
            with tempfile.TemporaryDirectory(prefix=kernel_folder_prefix()) as folder:
                try:
                    if await self._started(folder):
                        await self._cells()
                        if self.nb_man.outcome.status is None:
                            await self._finish()
                finally:
                    await self._shut_down()
        finally:
            if deadline is not None:
                deadline.cancel()
            autosave.cancel()
            with self._lock:
                self._loop = None

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:  # noqa: ANN401 - nbclient's
        """Take an output as nbclient does, and hold what the cell has below the cap."""
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None:
            held = self._outputs.get(cell_index)
            if held is None or held.outs is not outs:
                log = self.nb_man.cell_log(cell_index)
                moved = partial(self._shift, cell_index)
                held = CellOutputs(outs, self._options.output_cap, self._redacted, moved, log)
                self._outputs[cell_index] = held
            held.took(out)
        return out

    def _shift(self, cell_index: int, until: int, by: int) -> None:
        """Forget displays before place `until` and move the others up, so that later updates find them."""
        for places in self._display_id_map.values():
            if cell_index in places:
                places[cell_index] = [place - by for place in places[cell_index] if place >= until]

    def _settle(self) -> None:
        for held in self._outputs.values():
            held.settle()

    async def _autosave(self) -> None:
        while True:
            await asyncio.sleep(AUTOSAVE_S)
            if self.nb_man.dirty:
                self.nb_man.try_save()

    async def _started(self, folder: str) -> bool:
        self.km = self.create_kernel_manager()
        # not in the user's home, which may be read-only
        self.km.connection_file = str(Path(folder, "kernel.json"))
        self.km.keep_within(Path(folder))
        self._log = Path(folder, "kernel.log")
        self._starting = asyncio.ensure_future(self._start(self._log))
        if self._stop_asked:
            self._starting.cancel()
        try:
            await self._starting
        except asyncio.CancelledError:
            self._put_down(*(self._stop_asked or ("interrupted", "cancelled")), None)
        except (RuntimeError, OSError) as error:
            self._put_down("kernel_died", f"the kernel did not start: {error}{self._last_words()}", None)
        else:
            self.nb_man.nb.metadata.papermill["kernel"] = self._origin()
        self._starting = None
        return self.nb_man.outcome.status is None

    async def _start(self, log_path: Path) -> None:
        # the kernel chooses inline figures only where no other backend is asked for
        env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        env |= self._options.kernel_env
        cwd = {"cwd": self._options.kernel_cwd} if self._options.kernel_cwd else {}
        with log_path.open("wb") as log:
            await self.async_start_new_kernel(env=env, stdout=log, stderr=log, **cwd)
        self.kc = await self.km.ready_client(self.startup_timeout)
        self.kc.allow_stdin = False

    def _origin(self) -> str:
        """Say for the record where the kernel came from."""
        provisioner = self.km.provisioner
        if getattr(provisioner, "forked", False):
            return "forked"
        reason = getattr(provisioner, "fell_back", "")
        return f"started, not forked: {reason}" if reason else "started"

    async def _cells(self) -> None:
        self.reset_execution_trackers()
        for index in range(len(self.nb.cells)):
            cell = self.nb.cells[index]
            if self.skip_cells_with_tag in cell.metadata.get("tags", []):
                continue
            if self._stop_asked:
                self._put_down(*self._stop_asked, None)
                return
            self._tell(index, self.nb_man.RUNNING)
            self.nb_man.cell_start(cell, index)
            # Most cells are over at once, and a save costs as much as many of them. One that is not over is on the
            # disk as running; a runner that is killed before leaves the cell as pending, never as completed.
            mark = asyncio.get_running_loop().call_later(MARK_S, self.nb_man.try_save)
            try:
                await self._cell(cell, index)
            finally:
                mark.cancel()
            if index in self._outputs:
                self._outputs[index].end()
            self.nb_man.cell_complete(cell, cell_index=index)
            self._tell(index, cell.metadata.papermill["status"])
            if self.nb_man.outcome.status is not None:
                return

    async def _cell(self, cell: Any, index: int) -> None:  # noqa: ANN401 - a notebook node
        status: Status
        try:
            await self.async_execute_cell(cell, index)
        except CellExecutionError as error:
            status, why = self._stop_asked or ("failed", f"{error.ename}: {error.evalue}")
        except DeadKernelError:
            status, why = self._stop_asked or (
                "kernel_died",
                f"the kernel died while this cell ran{self._last_words()}",
            )
            self._say(cell, why)
        except CellTimeoutError as error:
            status, why = self._stop_asked or ("timeout", str(error))
            self._say(cell, why)
        else:
            return
        finally:
            if self._ending is not None:
                self._ending.cancel()
        self.nb_man.cell_exception(cell, cell_index=index)
        self._put_down(status, why, index)

    async def _finish(self) -> None:
        if self._stop_asked:
            self._put_down(*self._stop_asked, None)
            return
        self.nb_man.outcome.status = "completed"
        language = self.nb.metadata.get("language_info")
        self.nb.metadata["language_info"] = language or {"name": "python"}
        self.set_widgets_metadata()

    async def _shut_down(self) -> None:
        if self.km is None:
            return
        group = getattr(self.km.provisioner, "pgid", None)
        if self.nb_man.outcome.status != "completed":
            self.shutdown_kernel = "immediate"
        try:
            await self._async_cleanup_kernel()
        finally:
            # what the kernel started and left; it leads a session of its own
            if group is not None and group != os.getpgrp():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)

    def _end_now(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        elif self.km is not None:
            self._ending = asyncio.ensure_future(self._interrupt_then_kill())

    async def _interrupt_then_kill(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            await self.km.interrupt_kernel()
        await asyncio.sleep(self._options.grace_s)
        if self.task_poll_for_reply is not None:
            self.task_poll_for_reply.cancel()

    def _put_down(self, status: Status, why: str, cell: int | None) -> None:
        outcome = self.nb_man.outcome
        outcome.status, outcome.failed_cell = status, cell
        outcome.error = self._redacted(why)
        if len(outcome.error) > _ERROR_CHARS:
            outcome.error = f"{outcome.error[:_ERROR_CHARS]}... ({len(outcome.error)} characters)"

    def _redacted(self, text: str) -> str:
        redactor = self.nb_man.redactor
        return str(redactor.text(text)) if redactor else text

    def _last_words(self) -> str:
        """Return how the kernel ended, and the end of what it wrote to its stderr, where a crash explains itself."""
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        code = None if process is None else process.poll()
        how = ""
        if code is not None:
            how = f" (exit code {code})" if code >= 0 else f" ({signal.Signals(-code).name})"
        if code == -signal.SIGKILL:
            how += ", somebody killed it, or the machine has no memory left (see dmesg)"
        if self._log is None or not self._log.exists():
            return how
        lines = self._redacted(self._log.read_text(encoding="utf-8", errors="replace")).splitlines()
        # what the kernel says about itself at its start
        words = "\n".join(line for line in lines if line.strip() and not line.startswith("[IPKernelApp]"))
        # a crash says first where it happened; everything else says last what it was about
        crash = words.find("Fatal Python error")
        words = words[crash:][: _ERROR_CHARS // 2] if crash >= 0 else words[-_ERROR_CHARS // 2 :]
        return f"{how}; its last words:\n{words}" if words else how

    def _say(self, cell: Any, why: str) -> None:  # noqa: ANN401 - a notebook node
        self._settle()
        cell.outputs.append(stderr(f"[runbook] {why}\n"))

    def _tell(self, index: int, status: str) -> None:
        if self._options.on_cell is not None:
            self._options.on_cell(index, len(self.nb.cells), status)
