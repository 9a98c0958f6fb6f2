"""The papermill engine `runbook`: the executed notebook says what happened, and holds no secret.

Papermill's own engine marks the failed cell and all cells that never ran as completed after a dead kernel, a
timeout or Ctrl-C, writes outputs unredacted and in place, and forgets everything on SIGTERM. This one does not.
The kernel is driven from a thread of its own, so that a signal never interrupts the writing of the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if not TYPE_CHECKING:
    # Importing papermill loads its entry points, this class among them. When papermill is imported from here, it
    # asks before the class exists and is given None; register() at the end replaces that.
    RunbookEngine = None

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.iorw import write_ipynb
from papermill.log import logger
from papermill.utils import merge_kwargs, remove_args

from runbook_lib.errors import RecordError, RunbookError
from runbook_lib.runs.folder import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from runbook_lib.runs.redaction import Redactor

ENGINE = "runbook"
Status = Literal["completed", "failed", "interrupted", "timeout", "kernel_died"]

AUTOSAVE_S = 2.0
OUTPUT_CAP_CHARS = 1_000_000  # per cell; about what JupyterLab still opens at once with 30 such cells
GRACE_S = 5.0  # from the interrupt to the kill: the stage gives back its lock and records where it stopped
_ERROR_CHARS = 4000
# nbclient gives the outputs of an ended cell 4 s to arrive, which a busy machine does not make with 100 MB.
_IOPUB_TIMEOUT_S = 60
# The same signal often arrives twice (process and group); the third is from somebody who wants out at once.
_PATIENCE_SIGNALS = 3
_KERNEL_CODE = """
import faulthandler, os, runpy, sys
faulthandler.enable(os.dup(2))  # the kernel takes 2 away for itself
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the thread that started us
    if os.getppid() != int(os.environ["JPY_PARENT_PID"]):
        os._exit(1)
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""


@dataclass(slots=True)
class Outcome:
    """What became of a notebook; `failed_cell` counts from 0 and is None when no cell is to blame."""

    status: Status | None = None
    error: str = ""
    failed_cell: int | None = None
    signum: int | None = None


class SignalExit(SystemExit):
    """A signal ended the notebook, its record is saved, and nobody else handles the signal."""


class _CellOutputs:
    """The outputs of one cell, held below a number of characters: the newest stay, and it says what was dropped.

    Stream text is kept in pieces and joined only when the notebook is saved; joining at each message would be
    quadratic. Stream messages of one name are one output until something else is displayed.
    """

    def __init__(
        self, outs: list[Any], cap: int, redacted: Callable[[str], str], moved: Callable[[int, int], None]
    ) -> None:
        self.outs = outs
        self._cap = cap
        self._redacted = redacted
        self._moved = moved
        self._streams: dict[str, tuple[Any, list[str]]] = {}
        self._unsettled = 0
        self._dropped = 0
        self._notice: Any = None

    def took(self, out: Any) -> None:  # noqa: ANN401 - a notebook node
        """Account for an output that nbclient has just appended."""
        self._unsettled += _size(out)
        if out.output_type != "stream":
            self._join()
            self._streams.clear()
        else:
            node, pieces = self._streams.get(out.name, (None, []))
            if node is not None and any(node is other for other in self.outs[-3:]):
                self.outs.pop()
                pieces.append(out.text)
            else:
                self._streams[out.name] = (out, [])
        if self._unsettled > self._cap:
            self.settle()

    def _join(self) -> None:
        for node, pieces in self._streams.values():
            node.text = _overwritten("".join([node.text, *pieces]))
            pieces.clear()

    def settle(self) -> None:
        """Join the pieces and drop what is over the cap, oldest first."""
        self._join()
        self._unsettled = 0
        if self._notice is not None and not any(self._notice is out for out in self.outs):
            self._notice, self._dropped = None, 0  # the cell has cleared its output
        sizes = [0 if out is self._notice else _size(out) for out in self.outs]
        if sum(sizes) > self._cap:
            self._drop(sizes)

    def _drop(self, sizes: list[int]) -> None:
        excess = sum(sizes) - self._cap
        first = 1 if self._notice is not None else 0
        gone = 0
        while excess > 0 and first + gone < len(self.outs):
            out, size = self.outs[first + gone], sizes[first + gone]
            if size > excess and out.output_type == "stream":
                # a secret that is cut in two would not be found any more
                out.text = self._redacted(out.text)[excess:]
                self._dropped += excess
                break
            if first + gone == len(self.outs) - 1 and out.output_type == "error":
                self._dropped += size
                _shorten_error(out, self._cap, self._redacted)
                break
            self._dropped += size
            excess -= size
            gone += 1
        until, by = first + gone, gone
        del self.outs[first:until]
        if self._notice is None:
            self._notice = _stderr("")
            self.outs.insert(0, self._notice)
            by -= 1
        self._moved(until, by)
        self._notice.text = (
            f"[runbook] {self._dropped} characters of earlier output were dropped: "
            f"a cell keeps its last {self._cap} characters\n"
        )


class _Manager(NotebookExecutionManager):  # type: ignore[misc]  # papermill has no type information
    """Papermill's record keeper with true cell states, redaction, and saving that replaces the file as a whole."""

    def __init__(self, nb: Any, redactor: Redactor | None, outcome: Outcome, **kwargs: Any) -> None:  # noqa: ANN401 - papermill's
        super().__init__(nb, **kwargs)
        self.nb: Any = nb
        self.redactor = redactor
        self.outcome = outcome
        self.dirty = False
        self.settle: Callable[[], None] = lambda: None

    def save(self, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Write the notebook as it stands, redacted. Raises RecordError."""
        self.settle()
        self.dirty = False
        if not self.output_path:
            return
        clean = self._redacted()
        if "://" in str(self.output_path):
            write_ipynb(clean, self.output_path)
        else:
            text: str = nbformat.writes(clean)  # type: ignore[no-untyped-call]  # nbformat types half of itself
            atomic_write(Path(self.output_path), text.encode("utf-8", "backslashreplace") + b"\n")
        self.last_save_time = self.now()

    def try_save(self) -> None:
        """Save while the notebook runs; a full disk must not end a change half done. The last save does raise."""
        try:
            self.save()
        except RecordError as error:
            self.dirty = True
            logger.warning("%s", error)

    def autosave_cell(self, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Note that there is something to save; papermill asks at every message."""
        self.dirty = True

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Mark a cell as running, on the disk too."""
        cell.metadata.papermill.update(start_time=self.now().isoformat(), status=self.RUNNING, exception=False)
        if self.log_output:
            logger.info("Executing cell %s", cell_index)
        self.try_save()

    def cell_complete(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Close a cell: completed unless it was marked as failed."""
        record, end = cell.metadata.papermill, self.now()
        started = type(end).fromisoformat(record["start_time"])
        record.update(end_time=end.isoformat(), duration=(end - started).total_seconds())
        if record["status"] != self.FAILED:
            record["status"] = self.COMPLETED
        self.dirty = True
        if self.log_output:
            logger.info("Ended cell %s: %s", cell_index, record["status"])

    def notebook_complete(self, **_: Any) -> None:  # noqa: ANN401 - papermill's
        """Close the notebook. What never ran stays pending. Raises RecordError when it cannot be saved."""
        self.end_time = self.now()
        record = self.nb.metadata.papermill
        record.update(end_time=self.end_time.isoformat(), duration=(self.end_time - self.start_time).total_seconds())
        if self.outcome.status != "completed":
            record["exception"] = True
        for cell in self.nb.cells:
            if cell.metadata.papermill["status"] == self.RUNNING:
                self.cell_exception(cell)
        self.cleanup_pbar()
        self.settle()
        # papermill itself reads and writes this object from here on
        self.nb = self._redacted()
        self.save()

    def _redacted(self) -> Any:  # noqa: ANN401 - a notebook node
        if self.redactor is None:
            return self.nb
        return nbformat.from_dict(self.redactor.data(self.nb))  # type: ignore[no-untyped-call]  # see save


class _OwnInterpreter(KernelSpecManager):
    """Knows the kernel python3 as the interpreter that runs this program, whatever is installed for the user."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        if kernel_name != "python3":
            return super().get_kernel_spec(kernel_name)
        argv = [sys.executable, "-c", _KERNEL_CODE, "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


@dataclass(frozen=True, slots=True)
class _Options:
    """What may be asked of a run; see RunbookEngine."""

    deadline_s: float | None
    grace_s: float
    output_cap: int
    kernel_cwd: str | None
    on_cell: Callable[[int, int, str], None] | None


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no type information
    """Runs the cells of one notebook in one kernel, and stops in order when told to."""

    def __init__(self, nb_man: _Manager, options: _Options, **kwargs: Any) -> None:  # noqa: ANN401 - nbclient's
        super().__init__(nb_man, iopub_timeout=_IOPUB_TIMEOUT_S, **kwargs)
        self._options = options
        self._outputs: dict[int, _CellOutputs] = {}
        self._lock = threading.Lock()
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
            with tempfile.TemporaryDirectory(prefix="runbook-kernel-") as folder:
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

    def create_kernel_manager(self) -> Any:  # noqa: ANN401 - nbclient's
        manager = super().create_kernel_manager()
        manager.kernel_spec_manager = _OwnInterpreter(parent=manager)
        return manager

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str | None, cell_index: int) -> Any:  # noqa: ANN401 - nbclient's
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None:
            held = self._outputs.get(cell_index)
            if held is None or held.outs is not outs:
                held = _CellOutputs(outs, self._options.output_cap, self._redacted, partial(self._shift, cell_index))
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
        self._starting = None
        return self.nb_man.outcome.status is None

    async def _start(self, log_path: Path) -> None:
        # the kernel chooses inline figures only where no other backend is asked for
        env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        cwd = {"cwd": self._options.kernel_cwd} if self._options.kernel_cwd else {}
        with log_path.open("wb") as log:
            await self.async_start_new_kernel(env=env, stdout=log, stderr=log, **cwd)
        await self.async_start_new_kernel_client()

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
            await self._cell(cell, index)
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
        cell.outputs.append(_stderr(f"[runbook] {why}\n"))

    def _tell(self, index: int, status: str) -> None:
        if self._options.on_cell is not None:
            self._options.on_cell(index, len(self.nb.cells), status)


class RunbookEngine(NBClientEngine):  # type: ignore[misc]  # papermill has no type information
    """Papermill engine with keywords of its own.

    deadline_s: seconds for the whole notebook; redactor; outcome: an Outcome to fill in; output_cap: characters
    kept per cell; grace_s: seconds from interrupt to kill; target: path to save to when papermill is given none;
    kernel_cwd: the kernel's folder; on_cell(index, total, status): called from another thread.

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
        outcome = outcome or Outcome()
        path = output_path or target
        manager = _Manager(nb, redactor, outcome, output_path=path, progress_bar=progress_bar, log_output=log_output)
        nb.metadata.papermill["output_path"] = path
        manager.notebook_start()
        with _signals() as caught:
            try:
                cls.execute_managed_notebook(manager, kernel_name, caught=caught, log_output=log_output, **kwargs)
            finally:
                manager.notebook_complete()
        if caught.signum is not None:
            outcome.signum = caught.signum
            caught.hand_on()
        _raise_for(outcome, manager.nb)
        return manager.nb

    @classmethod
    def execute_managed_notebook(  # noqa: PLR0913 - papermill's signature, and our keywords
        cls,
        nb_man: _Manager,
        kernel_name: str,
        *,
        log_output: bool = False,
        stdout_file: Any = None,  # noqa: ANN401 - a text file
        stderr_file: Any = None,  # noqa: ANN401 - a text file
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        caught: _Caught | None = None,
        deadline_s: float | None = None,
        grace_s: float = GRACE_S,
        output_cap: int = OUTPUT_CAP_CHARS,
        kernel_cwd: str | None = None,
        on_cell: Callable[[int, int, str], None] | None = None,
        **kwargs: Any,  # noqa: ANN401 - nbclient's
    ) -> None:
        """Run the cells in a thread of their own and wait for it."""
        client = _Client(
            nb_man,
            _Options(deadline_s, grace_s, output_cap, kernel_cwd, on_cell),
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
        if caught is not None:
            caught.stop = client.stop
        _run_in_thread(client)


class _Caught:
    """SIGINT and SIGTERM that arrived while a notebook ran, and the handlers that were there before."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.stop: Callable[[Status, str], None] = lambda _status, _why: None
        self.before: dict[int, Any] = {}
        self._count = 0

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        self._count += 1
        if self._count >= _PATIENCE_SIGNALS:
            self.restore()
            signal.raise_signal(signum)
            return
        self.stop("interrupted", f"{signal.Signals(signum).name} was received")

    def restore(self) -> None:
        while self.before:
            signum, handler = self.before.popitem()
            signal.signal(signum, handler)

    def hand_on(self) -> None:
        """Give the signal to the handler that was there before. Raises what that raises, else SignalExit."""
        if self.signum is None:
            return
        handler = signal.getsignal(self.signum)
        if callable(handler):
            handler(self.signum, None)
        raise SignalExit(128 + self.signum)


@contextlib.contextmanager
def _signals() -> Iterator[_Caught]:
    caught = _Caught()
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(signum)
            # ignored on purpose (a background job of a shell), or set by C code that could not be restored
            if before not in (signal.SIG_IGN, None):
                caught.before[signum] = before
                signal.signal(signum, caught.handle)
    try:
        yield caught
    finally:
        caught.restore()


def _run_in_thread(client: _Client) -> None:
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


def _stderr(text: str) -> Any:  # noqa: ANN401 - a notebook node
    return nbformat.v4.new_output("stream", name="stderr", text=text)  # type: ignore[no-untyped-call]  # see save


def _overwritten(text: str) -> str:
    r"""Return what a terminal would show of text with \r (progress bars), line by line."""
    if "\r" not in text:
        return text
    lines = (line.rstrip("\r").rpartition("\r")[2] + line[len(line.rstrip("\r")) :][:1] for line in text.split("\n"))
    return "\n".join(lines)


def _size(out: Any) -> int:  # noqa: ANN401 - a notebook node
    if out.output_type == "stream":
        return len(out.text)
    if out.output_type == "error":
        return len(out.evalue) + sum(len(line) for line in out.traceback)
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in out.data.values())


def _shorten_error(out: Any, cap: int, redacted: Callable[[str], str]) -> None:  # noqa: ANN401 - a notebook node
    out.evalue = redacted(out.evalue)[-(cap // 2) :]
    out.traceback = [redacted("\n".join(out.traceback))[-(cap // 2) :]]


def register() -> None:
    """Make the engine known to papermill also where the package is not installed."""
    papermill_engines.register(ENGINE, RunbookEngine)


register()
