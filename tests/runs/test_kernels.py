"""Forked kernels: each as fresh as one that was started, the preloaded process harmless, every fall back told."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import papermill
import pytest
from jupyter_client.provisioning.factory import KernelProvisionerFactory

from runbook_lib.runs.kernels import fork_server, preloader
from runbook_lib.runs.kernels.fork_server import ForkServer, preloaded, start_environment
from runbook_lib.runs.kernels.provisioner import PROVISIONER, register
from runbook_lib.runs.notebook import NotebookResult, execute_notebook
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.runner import OVERVIEW
from runbook_lib.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

_SET_BY_IPYKERNEL = {
    "MPLBACKEND",
    "TERM",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
    "PAGER",
    "GIT_PAGER",
    "MANPAGER",
}
PROJECT = Path(__file__).resolve().parents[2]
_SELF = """
import json, os, random, sys
import numpy
from IPython import get_ipython
targets = list(get_ipython().kernel.comm_manager.targets)
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "cwd": os.getcwd(), "argv": sys.argv[0],
    "env": dict(os.environ), "random": random.random(), "numpy": numpy.random.random(), "targets": targets,
    "history": get_ipython().history_manager.enabled,
    "open": sorted(os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}")),
    "main": sys.modules["__main__"].__dict__ is globals(), "path": sys.path,
}))
"""


def _write(folder: Path, *cells: str) -> Path:
    made = [nbformat.v4.new_code_cell(text) for text in cells]  # type: ignore[no-untyped-call]  # untyped
    book = nbformat.v4.new_notebook(cells=made)  # type: ignore[no-untyped-call]  # untyped
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "source.ipynb")  # type: ignore[no-untyped-call]  # untyped
    return folder / "source.ipynb"


def _run(folder: Path, *cells: str, env: dict[str, str] | None = None) -> tuple[NotebookResult, Any]:
    source, target = _write(folder, *cells), folder / "target.ipynb"
    result = execute_notebook(source, target, {}, deadline_s=60, redactor=Redactor(), cwd=folder, env=env, grace_s=1)
    return result, nbformat.read(target, as_version=4)  # type: ignore[no-untyped-call]  # untyped


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"Z", "X"}:
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """Return the preloaded process of this test process, started while there was a secret to be had."""
    os.environ["PLANTED_TOKEN"] = "hunter2hunter2"
    try:
        with preloaded():
            made = fork_server.fork_server()
            assert made is not None
            yield made
    finally:
        del os.environ["PLANTED_TOKEN"]


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    """Return a preloaded process that a test may kill; it has imported little, which is quicker."""
    shared = type(fork_server._shared)()
    monkeypatch.setattr(fork_server, "_shared", shared)
    little = "preloader.MODULES = ('ipykernel.kernelapp',); preloader._read_ahead = lambda: None; preloader.main()"
    monkeypatch.setattr(fork_server, "_CODE", fork_server._CODE.replace("preloader.main()", little))
    with preloaded():
        assert shared.server is not None
        yield shared.server


def test_every_kernel_is_fresh(server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kernels of one preloaded process share nothing that a process of its own would not."""
    monkeypatch.setenv("GIVEN", "before")
    seen = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        result, book = _run(folder, _SELF, "left = 1", env={"NUMBER": str(number)})
        assert result == NotebookResult("completed")
        assert book.metadata.papermill["kernel"] == "forked"
        seen.append(json.loads(book.cells[0].outputs[0].text))
    first, second = seen
    for number, kernel in enumerate(seen):
        assert kernel["parent"] == server.pid
        assert kernel["session"] == kernel["pid"]
        assert kernel["cwd"] == str(tmp_path / str(number))
        assert kernel["env"].pop("NUMBER") == str(number)
        assert kernel["env"].pop("JPY_PARENT_PID") == str(server.pid)
        assert kernel["env"].pop("MPLBACKEND") == "module://matplotlib_inline.backend_inline"
        expected = {name: value for name, value in os.environ.items() if name not in _SET_BY_IPYKERNEL}
        assert {name: kernel["env"].get(name) for name in expected} == expected
        assert "OPENBLAS_NUM_THREADS" not in kernel["env"]
        assert "ipykernel_launcher" in kernel["argv"]
        assert {"jupyter.widget", "jupyter.widget.control"} <= set(kernel["targets"])
        assert not kernel["history"]
        assert kernel["main"]
        assert str(PROJECT) not in kernel["path"] or str(PROJECT) in sys.path
        # neither the preloaded process's channels nor another kernel's log
        assert not any("kernel-request" in name for name in kernel["open"])
        assert sum("kernel.log" in name for name in kernel["open"]) >= 1
    assert first["pid"] != second["pid"]
    assert first["random"] != second["random"]
    assert first["numpy"] != second["numpy"]
    assert _gone(first["pid"])
    assert _gone(second["pid"])


def test_the_preloaded_process_holds_nothing(server: ForkServer, tmp_path: Path) -> None:
    """It has one thread, no connection and no secret, and keeps nothing of the kernels that it forked."""
    _run(tmp_path, "x = 1", env={"OTHER_TOKEN": "correct-horse"})
    process = Path(f"/proc/{server.pid}")
    assert len(list((process / "task").iterdir())) == 1
    environment = (process / "environ").read_bytes()
    assert b"hunter2" not in environment
    opened = [str(path.readlink()) for path in (process / "fd").iterdir()]
    sockets = [name for name in opened if name.startswith("socket:")]
    assert len(sockets) == 1, opened
    assert not any("memfd" in name or "kernel.log" in name for name in opened)
    tcp = (process / "net" / "tcp").read_text()
    assert sockets[0].strip("socket:[]") not in tcp


def test_figures_appear(server: ForkServer, tmp_path: Path) -> None:
    """Figures of pyplot appear at the end of a cell, as they do in a kernel that was started."""
    assert server.pid
    drawn = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
    result, book = _run(tmp_path, drawn, "plt.figure()\nplt.plot([3]);", "import matplotlib; matplotlib.get_backend()")
    assert result.status == "completed"
    for cell in book.cells[:2]:
        assert any("image/png" in out.get("data", {}) for out in cell.outputs), cell
    assert "inline" in book.cells[2].outputs[0].data["text/plain"]


def test_what_notebooks_import_is_preloaded() -> None:
    """A new import in a notebook that runs execute is named in the preloaded process, else it is paid for each time."""
    wanted = set()
    for name in [OVERVIEW, *(stage.notebook for stage in STAGES)]:
        for cell in json.loads((PROJECT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
            for line in "".join(cell["source"]).splitlines():
                words = line.split()
                if cell["cell_type"] == "code" and words[:1] == ["from"] and words[1].startswith("runbook_lib"):
                    wanted |= {f"{words[1]}.{name.strip(',')}" for name in words[3:]}
    assert wanted
    assert wanted <= set(preloader.MODULES), wanted - set(preloader.MODULES)
    assert not {"matplotlib.pyplot", "matplotlib_inline.backend_inline"} & set(preloader.MODULES)


def test_exit_codes_come_from_the_preloaded_process(server: ForkServer, tmp_path: Path) -> None:
    """How a kernel ended is known although it is no child of the runner."""
    assert server.pid
    result, _ = _run(tmp_path, "import os\nos.write(2, b'the end is near\\n')\nos._exit(7)")
    assert result.status == "kernel_died"
    assert "(exit code 7); its last words:\nthe end is near" in result.error


def test_what_a_kernel_leaves_is_killed(server: ForkServer, tmp_path: Path) -> None:
    """What a kernel started and left ends with it."""
    assert server.pid
    start = "import subprocess\nprint(subprocess.Popen(['sleep', '300']).pid, flush=True)"
    result, book = _run(tmp_path, start, "import os, time; time.sleep(0.1); os._exit(0)")
    assert result.status == "kernel_died"
    assert _gone(int(book.cells[0].outputs[0].text))


def test_a_folder_that_is_not_there(server: ForkServer, tmp_path: Path) -> None:
    """A kernel that cannot begin says why."""
    assert server.pid
    source = _write(tmp_path, "x = 1")
    target = tmp_path / "target.ipynb"
    result = execute_notebook(source, target, {}, deadline_s=60, redactor=Redactor(), cwd=tmp_path / "none")
    assert result.status == "kernel_died"
    assert "the kernel did not start: [Errno 2] No such file" in result.error


def test_another_environment_is_no_fork(server: ForkServer, tmp_path: Path) -> None:
    """What an interpreter reads at its start cannot be given to a fork, so the kernel is started, and it is said."""
    assert server.pid
    result, book = _run(tmp_path, "import os; print(os.environ['LC_ALL'])", env={"LC_ALL": "C.UTF-8"})
    assert result.status == "completed"
    assert book.cells[0].outputs[0].text == "C.UTF-8\n"
    assert book.metadata.papermill["kernel"] == "started, not forked: its environment has another LC_ALL"


def test_no_secret_is_read_at_start() -> None:
    """What the preloaded process is given of an environment is what C and Python look at."""
    env = {"PYTHONPATH": "a", "LANG": "C", "HF_TOKEN": "b", "AWS_SECRET_ACCESS_KEY": "c", "PASSWORD": "d", "HOME": "e"}
    assert start_environment(env) == {"PYTHONPATH": "a", "LANG": "C", "HOME": "e"}


def test_a_killed_preloaded_process(own_server: ForkServer, tmp_path: Path) -> None:
    """Its kernel dies with it, which is told as it is; the next kernel is started, which is told too."""
    kill = (
        f"import os, time\nprint(os.getpid(), flush=True); time.sleep(0.3)\nos.kill({own_server.pid}, 9)\ntime.sleep(9)"
    )
    result, book = _run(tmp_path, kill, "x = 1")
    assert result.status == "kernel_died"
    assert result.failed_cell == 0
    assert _gone(int(book.cells[0].outputs[0].text))
    result, book = _run(tmp_path, "x = 1")
    assert result.status == "completed"
    assert book.metadata.papermill["kernel"].startswith("started, not forked: the preloaded process is gone")


def test_a_preloaded_process_that_cannot_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A preloaded process that fails at its start is told with its reason, and slows down, no more."""
    monkeypatch.setattr(fork_server, "_shared", type(fork_server._shared)())
    monkeypatch.setattr(fork_server, "_CODE", "import not_there")
    with preloaded():
        result, book = _run(tmp_path, "x = 1")
    assert result.status == "completed"
    assert "No module named 'not_there'" in book.metadata.papermill["kernel"]


def test_it_ends_with_the_last_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process for all that ask, ended with the last of them, also while it still imports."""
    monkeypatch.setattr(fork_server, "_shared", type(fork_server._shared)())
    with preloaded():
        made = fork_server.fork_server()
        with preloaded():
            assert fork_server.fork_server() is made
        assert made is not None
        assert made.pid is not None
        os.kill(made.pid, 0)
    assert fork_server.fork_server() is None
    assert _gone(made.pid)


def test_as_the_default_provisioner(server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain papermill forks too when the provisioner is jupyter_client's default."""
    register()
    monkeypatch.setattr(KernelProvisionerFactory.instance(), "default_provisioner_name", PROVISIONER)
    source = _write(tmp_path, "import os; print(os.getppid())", "os.kill(os.getpid(), 0); print('alive')")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    target = tmp_path / "target.ipynb"
    papermill.execute_notebook(str(source), str(target), progress_bar=False, kernel_name="python3")
    book = nbformat.read(target, as_version=4)  # type: ignore[no-untyped-call]  # untyped
    assert book.cells[0].outputs[0].text == f"{server.pid}\n"


def test_a_stopped_preloaded_process_takes_its_kernels_along(own_server: ForkServer, tmp_path: Path) -> None:
    """SIGTERM to the preloaded process ends every kernel and what they started, and itself."""
    cell = (
        "import os, subprocess, time\n"
        "print(os.getpid(), subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(0.3)\n"
        f"os.kill({own_server.pid}, {int(signal.SIGTERM)})\ntime.sleep(9)"
    )
    result, book = _run(tmp_path, cell)
    assert result.status == "kernel_died"
    assert own_server.pid is not None
    assert all(_gone(int(pid)) for pid in [*book.cells[0].outputs[0].text.split(), own_server.pid])
