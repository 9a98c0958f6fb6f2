"""What is pushed to hosts runs on any Python 3.7 and bash; requests, starts and stops do only what they say."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.stages import push
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from collections.abc import Iterator

PUSH = Path(push.__file__).parent
PROGRAMS = sorted(path for path in PUSH.glob("*.py") if path.name != "__init__.py")
SCRIPTS = sorted(PUSH.glob("*.sh"))
NETWORK = f"127.91.{os.getpid() % 250 + 1}"
DEADLINE_S = 40.0


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_programs_are_python_3_7_and_standard_library_only(program: Path) -> None:
    """Hosts have the Python that their system brought, and nothing is installed for us."""
    tree = ast.parse(program.read_text(encoding="utf-8"), feature_version=(3, 7))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
        assert not isinstance(node, ast.NamedExpr), "Python 3.8"
    assert imported <= sys.stdlib_module_names | {path.stem for path in PROGRAMS}
    new = {"removeprefix", "removesuffix", "is_relative_to", "readlink", "hardlink_to"}
    assert not {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & new


def test_there_are_programs_and_scripts() -> None:
    """The globs above find what is pushed."""
    assert {path.name for path in PROGRAMS} >= {"http_call.py", "hub_list.py", "image_tar.py", "weights_tool.py"}
    assert {path.name for path in SCRIPTS} == {"alive.sh", "image_load.sh", "logs.sh", "start.sh", "stop.sh"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid(script: Path) -> None:
    """Bash can read them to their end."""
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def call(method: str, url: str, *body: str) -> dict[str, Any]:
    """Run http_call.py as a probe does."""
    argv = [sys.executable, "-c", source("http_call.py"), method, url, "5", *body]
    environment = os.environ | {"http_proxy": f"http://{NETWORK}.99:1"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=True, env=environment)
    assert done.stderr == ""
    said: dict[str, Any] = json.loads(done.stdout)
    return said


class _Service(BaseHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Print nothing."""

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        if self.path == "/garbage":
            self.wfile.write(b"what is this\r\n\r\n")
        else:
            self._answer(
                200 if self.path == "/ok" else 404, "Gr\u00fc\u00dfe" if self.path == "/ok" else "nothing here"
            )

    def do_POST(self) -> None:
        self._answer(200, self.rfile.read(int(self.headers["Content-Length"])).decode())


def test_http_call_prints_json() -> None:
    """200, 404, a body, a refused connection, and something that is no HTTP; never through a proxy."""
    server = ThreadingHTTPServer((f"{NETWORK}.80", 0), _Service)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    base = f"http://{NETWORK}.80:{server.server_address[1]}"
    try:
        good = call("GET", f"{base}/ok")
        assert (good["status"], good["body"], good["error"]) == (200, "Gr\u00fc\u00dfe", "")
        missing = call("GET", f"{base}/no")
        assert (missing["status"], missing["body"], missing["error"]) == (404, "nothing here", "")
        assert call("POST", f"{base}/x", '{"a": 1}')["body"] == '{"a": 1}'
        garbage = call("GET", f"{base}/garbage")
        assert garbage["status"] == 0
        assert garbage["error"]
    finally:
        server.shutdown()
        server.server_close()
    refused = call("GET", f"{base}/ok")
    assert refused["status"] == 0
    assert "refused" in refused["error"]


# --- daemon scripts ----------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that would sleep; it is reaped as soon as it ends."""
    with subprocess.Popen(["sleep", "100"]) as process:
        reaper = threading.Thread(target=process.wait)
        reaper.start()
        yield process
        process.kill()
        reaper.join()


def start_time(pid: int) -> str:
    """Return field 22 of /proc/PID/stat: with the pid it names a process for ever."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()[19]


def stop(folder: Path, pid_file: str) -> None:
    """Run stop.sh as the container does."""
    (folder / "stop.sh").write_text(source("stop.sh"), encoding="utf-8")
    (folder / "daemon.pid").write_text(pid_file, encoding="utf-8")
    subprocess.run(["bash", str(folder / "stop.sh"), str(folder)], check=True, timeout=DEADLINE_S)
    assert not (folder / "daemon.pid").exists()


def alive(folder: Path, pid_file: str | None) -> str:
    """Run alive.sh as a probe does."""
    path = folder / "daemon.pid"
    if pid_file is not None:
        path.write_text(pid_file, encoding="utf-8")
    argv = ["sh", "-c", source("alive.sh"), "sh", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=DEADLINE_S).stdout.strip()


def test_stop_kills_the_recorded_process(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """It ends on TERM, and its pid file goes."""
    stop(tmp_path, f"{sleeper.pid} {start_time(sleeper.pid)}\n")
    assert sleeper.wait(timeout=10) == -signal.SIGTERM


@pytest.mark.parametrize("started", ["1", "", "x"])
def test_stop_spares_a_process_that_only_has_the_pid(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], started: str
) -> None:
    """After a reboot the pid may belong to anybody: only pid and start time together name the daemon."""
    stop(tmp_path, f"{sleeper.pid} {started}\n")
    assert sleeper.poll() is None


def test_alive_believes_only_pid_and_start_time(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Alive, dead by another start time, dead by a torn file, none without a file."""
    assert alive(tmp_path, None) == "none"
    assert alive(tmp_path, "") == "none"
    assert alive(tmp_path, f"{sleeper.pid} {start_time(sleeper.pid)}\n") == "alive"
    assert alive(tmp_path, f"{sleeper.pid} 1\n") == "dead"
    assert alive(tmp_path, f"{sleeper.pid}\n") == "dead"
    assert alive(tmp_path, "999999999\n") == "dead"


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    """A daemon that nobody has reaped runs no more, and stopping it does not wait for it."""
    with subprocess.Popen(["sleep", "100"]) as process:
        record = f"{process.pid} {start_time(process.pid)}\n"
        process.kill()
        deadline = time.monotonic() + 10
        while "Z" not in Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2][:1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert alive(tmp_path, record) == "dead"
        stop(tmp_path, record)


@pytest.mark.skipif(Path("/usr/local/Ascend").exists(), reason="would start a real daemon here")
def test_start_sets_old_logs_aside_and_records_what_it_starts_with(tmp_path: Path) -> None:
    """Logs in place belong to this start; pid, start time and file sums are written before the daemon runs."""
    (tmp_path / "plog" / "run").mkdir(parents=True)
    (tmp_path / "plog" / "run" / "old.log").write_text("old", encoding="utf-8")
    (tmp_path / "daemon.log").write_text("old", encoding="utf-8")
    for name in ("config.json", "rank_table.json", "service.env"):
        (tmp_path / name).write_text(f"# {name}\n" if name == "service.env" else name, encoding="utf-8")
    (tmp_path / "start.sh").write_text(source("start.sh"), encoding="utf-8")
    done = subprocess.run(
        ["bash", str(tmp_path / "start.sh"), str(tmp_path)], capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 1  # there is no MindIE here
    assert list((tmp_path / "plog").iterdir()) == []
    assert len(list((tmp_path / "previous").rglob("*.log"))) == 2
    sums = (tmp_path / "started.sha256").read_text(encoding="utf-8").split()
    assert sums[1::2] == ["config.json", "rank_table.json", "service.env", "start.sh"]
    assert sums[0] == hashlib.sha256(b"config.json").hexdigest()
    assert alive(tmp_path, None) == "dead"
