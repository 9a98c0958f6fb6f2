"""The engine: whatever ends a notebook, its file says what happened, and no kernel stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import papermill
import pytest
from nbclient.exceptions import DeadKernelError

from runbook_lib.errors import RecordError, UsageError
from runbook_lib.params.secrets import SecretValue
from runbook_lib.runs.execution import Outcome
from runbook_lib.runs.kernels import fork_server
from runbook_lib.runs.kernels.fork_server import preloaded
from runbook_lib.runs.notebook import NotebookResult, execute_notebook
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "hunter2hunter2"
OTHER = "correct-horse!"
# tells its pid, and leaves a child that would outlive a careless end
_PID = (
    "import os, pathlib, subprocess, sys, time\n"
    "child = subprocess.Popen(['sleep', '300'])\n"
    "pathlib.Path('pids').write_text(f'{os.getpid()} {child.pid} ')"
)
# the preloaded process imports little here, which is quicker
_LITTLE = "preloader.MODULES = ('ipykernel.kernelapp',); preloader._read_ahead = lambda: None; preloader.main()"
_RUNNER = """
import contextlib, sys
from pathlib import Path
from runbook_lib.runs.kernels import fork_server as module
from runbook_lib.runs.kernels.fork_server import fork_server, preloaded
module._CODE = module._CODE.replace("preloader.main()", sys.argv[3])
from runbook_lib.runs.notebook import execute_notebook
from runbook_lib.runs.redaction import Redactor
folder = Path(sys.argv[1])
try:
    with preloaded() if sys.argv[2] == "forked" else contextlib.nullcontext():
        server = fork_server()
        (folder / "preloader").write_text(f"{server.pid if server else 0} ")
        result = execute_notebook(
            folder / "source.ipynb", folder / "target.ipynb", {},
            deadline_s=60, redactor=Redactor(), cwd=folder, grace_s=3,
        )
        print(result.status, result.failed_cell, result.error)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


class _Notebook:
    """A notebook to run in a temporary folder, and what is in its target."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.target = folder / "source.ipynb", folder / "target.ipynb"
        self.cells: list[tuple[int, int, str]] = []

    def write(self, *cells: str) -> None:
        made = [nbformat.v4.new_code_cell(text) for text in cells]  # type: ignore[no-untyped-call]  # untyped
        made[0].metadata["tags"] = ["parameters"]
        made.append(nbformat.v4.new_markdown_cell("the end"))  # type: ignore[no-untyped-call]  # untyped
        book = nbformat.v4.new_notebook(cells=made)  # type: ignore[no-untyped-call]  # untyped
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.source)  # type: ignore[no-untyped-call]  # untyped

    def run(
        self, parameters: dict[str, Any] | None = None, deadline_s: float = 60, grace_s: float = 3
    ) -> NotebookResult:
        return execute_notebook(
            self.source,
            self.target,
            parameters or {},
            deadline_s=deadline_s,
            redactor=Redactor([SecretValue(SECRET), SecretValue(OTHER)]),
            on_cell=lambda *seen: self.cells.append(seen),
            cwd=self.folder,
            grace_s=grace_s,
        )

    def start(self, kernel: str) -> subprocess.Popen[str]:
        # a killed runner leaves its temporary folder behind
        env = {**os.environ, "TMPDIR": str(self.folder)}
        command = [sys.executable, "-c", _RUNNER, str(self.folder), kernel, _LITTLE]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)

    def saved(self) -> Any:
        return nbformat.read(self.target, as_version=4)  # type: ignore[no-untyped-call]  # untyped

    def states(self) -> list[tuple[str, bool | None]]:
        records = [cell.metadata.papermill for cell in self.saved().cells]
        return [(record["status"], record["exception"]) for record in records]

    def saved_while_running(self, text: str) -> bool:
        """Wait for a text in the target."""
        for _ in range(300):
            if text in self.target.read_text():
                return True
            time.sleep(0.05)
        return False

    def pids(self, name: str = "pids") -> list[int]:
        """Wait for the kernel to tell its pid and that of its child, or for the runner to tell its preloader's."""
        for _ in range(1800):  # a busy machine imports for long
            path = self.folder / name
            text = path.read_text() if path.exists() else ""
            if text.endswith(" "):
                return [int(word) for word in text.split()]
            time.sleep(0.05)
        raise AssertionError("the kernel did not start")


@pytest.fixture(scope="module", autouse=True)
def forked() -> Iterator[None]:
    """Have kernels forked, which is what a run does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_CODE", fork_server._CODE.replace("preloader.main()", _LITTLE))
        with preloaded():
            yield


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have kernels started in the ordinary way."""
    monkeypatch.setattr(fork_server, "_shared", type(fork_server._shared)())


@pytest.fixture
def book(tmp_path: Path) -> _Notebook:
    """Return a notebook in an empty folder."""
    return _Notebook(tmp_path)


DONE, PENDING, FAILED = ("completed", False), ("pending", None), ("failed", True)


def _gone(*pids: int) -> bool:
    for _ in range(100):
        if not any(_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kernel", ["forked", "started"])
def test_a_notebook_that_succeeds(
    book: _Notebook, monkeypatch: pytest.MonkeyPatch, kernel: str, request: pytest.FixtureRequest
) -> None:
    """A notebook that succeeds."""
    if kernel == "started":
        request.getfixturevalue("started")
    # the user's kernel python3 points elsewhere, another backend is asked for, the home cannot be used
    other = book.folder / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "other", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(book.folder / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/proc/no/such/folder")
    monkeypatch.setenv("MPLBACKEND", "agg")
    book.write(
        "version = 1",
        _PID,
        "import sys\nprint(sys.executable, os.environ['MPLBACKEND'], os.getcwd(), sep='\\n')",
        "from IPython.display import display\n"
        "print('a' * 300_000)\n"
        "display({'text/html': 'b' * 300_000}, raw=True)\n"
        "shown = display('first', display_id=True)\n"
        "for step in range(80):\n"
        "    print('x' * 10_000)\n"
        "    print(f'\\rstep {step}', end='', file=sys.stderr)\n"
        "shown.update('second')\n"
        "print('hunter2', end='', flush=True); time.sleep(0.2); print('hunter2', flush=True)\n"
        "{'secret': 'hunter2' * 2, 'version': version}",
    )
    result = book.run({"version": "007"})
    assert result == NotebookResult("completed")
    assert book.states() == [DONE] * 6
    assert book.cells[-4:] == [(4, 6, "running"), (4, 6, "completed"), (5, 6, "running"), (5, 6, "completed")]
    saved = book.saved()
    executable, backend, folder = saved.cells[3].outputs[0].text.splitlines()
    assert executable == sys.executable
    assert "inline" in backend
    assert Path(folder) == book.folder
    outputs = saved.cells[4].outputs
    assert "earlier output are in target.cell-4.log" in outputs[0].text
    assert sum(len(out.get("text", "")) for out in outputs) < 1_010_000
    log = (book.folder / "target.cell-4.log").read_text()
    assert "a" * 300_000 in log
    assert log.count("x" * 10_000 + "\n") == 80
    assert SECRET not in log
    assert [out.text for out in outputs if out.get("name") == "stderr"][-1] == "step 79"
    assert [out.data["text/plain"] for out in outputs if out.output_type == "display_data"] == ["'second'"]
    assert outputs[-1].data["text/plain"] == "{'secret': '***', 'version': '007'}"
    assert [out.text[-4:] for out in outputs if out.get("name") == "stdout"] == ["***\n"]
    assert SECRET not in book.target.read_text()
    assert saved.metadata.papermill["exception"] is None
    assert saved.metadata.papermill["kernel"] == kernel
    assert _gone(*book.pids())
    left = {path.name for path in book.folder.iterdir()}
    assert left == {"jupyter", "pids", "source.ipynb", "target.ipynb", "target.cell-4.log"}


def test_a_failing_cell(book: _Notebook) -> None:
    """A failing cell."""
    book.write("x = 1", "print('seen')", f"raise ValueError('not {SECRET}')", "print('never')")
    result = book.run()
    assert result == NotebookResult("failed", "ValueError: not ***", 2)
    assert book.states() == [DONE, DONE, FAILED, PENDING, PENDING]
    assert book.saved().metadata.papermill["exception"] is True
    assert book.saved().cells[2].outputs[0].evalue == "not ***"
    assert SECRET not in json.dumps(book.saved().cells[2].outputs)


def test_leaving_a_notebook_is_no_success(book: _Notebook) -> None:
    """Leaving a notebook is no success."""
    book.write("x = 1", "import sys; sys.exit(0)", "print('never')")
    result = book.run()
    assert (result.status, result.failed_cell) == ("failed", 1)
    assert book.states() == [DONE, FAILED, PENDING, PENDING]


def test_what_is_dropped_cuts_no_secret_in_two(book: _Notebook) -> None:
    """What is dropped cuts no secret in two."""
    book.write(f"print('{OTHER}' * 100_000)", f"raise ValueError('{OTHER}' * 100_000)")
    result = book.run()
    assert "earlier output are in" in book.saved().cells[0].outputs[0].text
    assert "earlier output are in" in book.saved().cells[1].outputs[0].text
    assert len(result.error) < 5000
    text = "".join(json.dumps(cell.outputs) for cell in book.saved().cells[:2])
    text += "".join(path.read_text() for path in book.folder.glob("*.log"))
    assert "rse!" not in text
    assert "***" in text


def test_a_killed_kernel(book: _Notebook) -> None:
    """A killed kernel."""
    book.write("x = 1", _PID, "print('seen', flush=True); time.sleep(0.5)\nos.kill(os.getpid(), 9)", "print('never')")
    result = book.run()
    assert (result.status, result.failed_cell) == ("kernel_died", 2)
    assert result.error.startswith("the kernel died while this cell ran (SIGKILL)")
    assert book.states() == [DONE, DONE, FAILED, PENDING, PENDING]
    assert [out.text for out in book.saved().cells[2].outputs] == ["seen\n", f"[runbook] {result.error}\n"]
    assert _gone(*book.pids())


@pytest.mark.usefixtures("started")
def test_plain_papermill_fails_for_a_killed_kernel_too(book: _Notebook) -> None:
    """Plain papermill fails for a killed kernel too."""
    book.write("import ctypes\nctypes.string_at(0)", "print('never')")
    outcome = Outcome()
    with pytest.raises(DeadKernelError):
        papermill.execute_notebook(
            str(book.source), str(book.target), engine_name="runbook", progress_bar=False, outcome=outcome
        )
    assert book.states() == [FAILED, PENDING, PENDING]
    assert outcome.status == "kernel_died"
    assert "(SIGSEGV); its last words:\nFatal Python error: Segmentation fault" in outcome.error


def test_a_deadline_holds_for_a_deaf_cell(book: _Notebook) -> None:
    """A deadline holds for a cell that ignores the interrupt."""
    deaf = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    book.write("x = 1", f"{deaf}print('seen', flush=True)\n{_PID}\ntime.sleep(60)", "print('never')")
    result = book.run(deadline_s=6, grace_s=0.5)
    assert (result.status, result.failed_cell) == ("timeout", 1)
    assert "within its 6 s" in result.error
    assert book.states() == [DONE, FAILED, PENDING, PENDING]
    assert [out.text for out in book.saved().cells[1].outputs] == ["seen\n", f"[runbook] {result.error}\n"]
    assert _gone(*book.pids())


def test_a_deadline_before_the_kernel_is_there(book: _Notebook) -> None:
    """A deadline before the kernel is there."""
    book.write("x = 1")
    result = book.run(deadline_s=0)
    assert (result.status, result.failed_cell) == ("timeout", None)
    assert book.states() == [PENDING, PENDING]
    assert book.saved().metadata.papermill["exception"] is True


@pytest.mark.parametrize(
    ("signum", "said", "kernel"),
    [(signal.SIGTERM, "interrupted 1 SIGTERM", "forked"), (signal.SIGINT, "KeyboardInt", "started")],
)
def test_a_signal_to_the_runner(book: _Notebook, signum: signal.Signals, said: str, kernel: str) -> None:
    """A signal to the runner."""
    held = "try:\n    time.sleep(60)\nfinally:\n    pathlib.Path('released').touch()"
    book.write("x = 1", f"print('seen', flush=True)\n{_PID}\n{held}", "print('never')")
    with book.start(kernel) as runner:
        pids = book.pids()
        # often sent twice, to the process and to its group
        runner.send_signal(signum)
        runner.send_signal(signum)
        stdout, _ = runner.communicate(timeout=30)
    assert runner.returncode == 0
    assert stdout.startswith(said)
    assert book.states() == [DONE, FAILED, PENDING, PENDING]
    seen, error = book.saved().cells[1].outputs
    assert (seen.text, error.ename) == ("seen\n", "KeyboardInterrupt")
    # the cell was given the time to put away what it held
    assert (book.folder / "released").exists()
    assert _gone(*pids, *filter(None, book.pids("preloader")))


@pytest.mark.parametrize("kernel", ["forked", "started"])
def test_a_killed_runner_takes_its_kernel_along(book: _Notebook, kernel: str) -> None:
    """A killed runner takes its kernel along, and a preloaded process what the kernel has started too."""
    start = _PID if kernel == "forked" else _PID.replace("['sleep', '300']", "['true']")
    book.write("x = 1", f"print('seen', flush=True)\n{start}\ntime.sleep(60)")
    with book.start(kernel) as runner:
        pids = book.pids()
        assert book.saved_while_running("seen\\n")
        runner.kill()
    assert _gone(*pids, *filter(None, book.pids("preloader")))
    assert book.saved().cells[1].outputs[0].text == "seen\n"
    assert book.states() == [DONE, ("running", False), PENDING]


def test_a_handler_of_the_callers_own_hears_of_the_signal(book: _Notebook) -> None:
    """A handler of the callers own hears of the signal."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _frame: heard.append(signum))
    try:
        book.write("import os, time", f"os.kill({os.getpid()}, 15)\ntime.sleep(60)")
        result = book.run()
        assert signal.getsignal(signal.SIGTERM) not in {signal.SIG_DFL, before}
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert result.status == "interrupted"
    assert book.states() == [DONE, FAILED, PENDING]


def test_what_cannot_run_or_be_saved(book: _Notebook) -> None:
    """What cannot run or be saved."""
    with pytest.raises(UsageError, match="not there"):
        book.run()
    book.source.write_text("{")
    assert book.run().status == "failed"
    book.write("x = 1")
    book.target = book.folder / "no" / "target.ipynb"
    with pytest.raises(RecordError, match="cannot be written"):
        book.run()
    assert [path.name for path in book.folder.iterdir()] == ["source.ipynb"]
