"""A project folder with a twin of its own, JupyterLab on it, and a page of headless Chromium before that."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

PROJECT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
# Runs as root in containers with a small /dev/shm, and asks nobody outside for anything.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=direct://",
    "--proxy-bypass-list=*",
]
_LAB_START_S = 40.0
_GONE_S = 10.0


@dataclass(frozen=True)
class Home:
    """A project folder: params copied with other addresses, notebooks copied because JupyterLab saves them."""

    path: Path
    name: str
    network: str

    @property
    def params(self) -> str:
        return f"params/{self.name}.yaml"

    @property
    def env(self) -> dict[str, str]:
        dropped = {"JPY_SESSION_NAME", "MPLBACKEND", "LS_COLORS"}
        clean = {key: value for key, value in os.environ.items() if key not in dropped}
        return clean | {"RUNBOOK_HOME": str(self.path), "PYTHONPATH": str(PROJECT)}

    def runbook(self, *argv: str) -> str:
        """Run one command of the product and return what it says on stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "runbook_lib", *argv],
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ssh(self, host: int, command: str) -> str:
        twin = self.path / "outputs" / self.name / ".twin"
        argv = ["ssh", "-p", "2222", "-i", str(twin / "id_ed25519"), "-o", f"UserKnownHostsFile={twin / 'known_hosts'}"]
        argv += ["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", f"root@{self.network}.{host}", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def make_home(path: Path, name: str, network: str, source: str = "twin-2x8-direct") -> Home:
    (path / "params").mkdir(parents=True)
    (path / "outputs").mkdir()
    shutil.copytree(PROJECT / "notebooks", path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    text = (PROJECT / "params" / f"{source}.yaml").read_text(encoding="utf-8")
    old = text.rpartition("network: ")[2].split()[0]
    home = Home(path, name, network)
    (path / home.params).write_text(text.replace(source, name).replace(old, network), encoding="utf-8")
    return home


def _processes_of(home: Home) -> list[int]:
    """Return the processes that were started for this home: each got its path in the environment."""
    mark = f"RUNBOOK_HOME={home.path}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        # A process can end, or belong to somebody else.
        with suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def _assert_nothing_outlives(home: Home) -> None:
    deadline = time.monotonic() + _GONE_S
    while (left := _processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = {}
    for pid in left:
        with suppress(OSError):
            names[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")[:200]
            os.kill(pid, signal.SIGKILL)
    assert not names, f"these outlived the test and were killed: {names}"


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    made = make_home(tmp_path_factory.mktemp("home"), "lab", f"127.93.{int(worker) if worker.isdigit() else 0}")
    try:
        made.runbook("twin", "up", made.params)
        yield made
    finally:
        try:
            made.runbook("twin", "down", made.params)
        finally:
            _assert_nothing_outlives(made)


@dataclass(frozen=True)
class Lab:
    """A JupyterLab server whose root is a home."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def url(self, path: str) -> str:
        # `reset` drops the saved workspace, so that nothing of an earlier visit is opened
        return f"http://127.0.0.1:{self.port}/lab/tree/{path}?reset&token={self.token}"

    def get(self, path: str) -> Any:
        """Ask the server's REST API. Raises OSError while it does not listen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"token {self.token}"})
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def kernel_listens(self) -> bool:
        """Whether a kernel is idle and a page is connected: a "Run All" sent earlier is lost without a word."""
        kernels = [session["kernel"] for session in self.get("/api/sessions")]
        return any(each["execution_state"] == "idle" and each["connections"] >= 1 for each in kernels)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _lab_argv(lab: Lab, home: Home, own: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={lab.port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={lab.token}",
        f"--ServerApp.root_dir={home.path}",
        "--ServerApp.allow_root=True",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--LabApp.workspaces_dir={own / 'workspaces'}",
        f"--LabApp.user_settings_dir={own / 'settings'}",
    ]


@pytest.fixture
def lab(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    own = tmp_path_factory.mktemp("lab")
    settings = own / "settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    # no question about news over the corner of the page
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "run"}
    env = home.env | {key: str(own / name) for key, name in folders.items()} | {"IPYTHONDIR": str(own / "ipython")}
    made = Lab(_free_port())
    log = own / "lab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(_lab_argv(made, home, own), env=env, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + _LAB_START_S
        while not _listens(made):
            assert server.poll() is None, log.read_text(encoding="utf-8")[-2000:]
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-2000:]
            time.sleep(0.1)
        yield made
    finally:
        server.terminate()  # which shuts the kernels down too
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _listens(lab: Lab) -> bool:
    try:
        lab.get("/api/status")
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Tab:
    """A page, the errors of its scripts, and a folder for screenshots."""

    page: Page
    errors: list[str]
    pictures: Path

    @contextmanager
    def picture_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            picture = self.pictures / "failed.png"
            # A page that is gone must not hide the first error.
            with suppress(Exception):
                self.page.screenshot(path=picture)
                error.add_note(f"screenshot: {picture}")
            raise


@pytest.fixture
def tab(home: Home, tmp_path: Path) -> Iterator[Tab]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS, env=home.env)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(30_000)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            yield Tab(page, errors, tmp_path)
        finally:
            browser.close()
