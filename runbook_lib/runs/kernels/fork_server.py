"""The runner's end of the preloaded process: start it, ask it for kernels, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ROOT = Path(__file__).parents[3]
# The root is there for a checkout that is not installed; at the end, and gone before any kernel.
_CODE = (
    "import sys; root = sys.argv.pop(); sys.path.append(root)\n"
    "from runbook_lib.runs.kernels import preloader; sys.path.remove(root)\n"
    "preloader.main()"
)
_INLINE = "module://matplotlib_inline.backend_inline"
_END_S = 5.0
LINE_BYTES = 4096
_LAST_WORDS_BYTES = 2000
# What an interpreter and its libraries read once, when they start. A fork cannot read them again.
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "OPENBLAS_", "OMP_", "MKL_", "MALLOC_", "GLIBC_", "XDG_", "MPLCONFIG")
_READ_AT_START_NAMES = frozenset({"HOME", "TZ", "MATPLOTLIBRC", "PATH", "TMPDIR"})


def start_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a process reads once, when it starts; no secret is among it."""
    return {
        name: value for name, value in env.items() if name in _READ_AT_START_NAMES or name.startswith(_READ_AT_START)
    }


class NoFork(Exception):  # noqa: N818 - it is no error: the kernel is started in the ordinary way
    """The preloaded process cannot give this kernel; the message says why."""


class ForkedKernel:
    """A kernel whose parent is the preloaded process; as much of `subprocess.Popen` as jupyter_client wants."""

    stdin = stdout = stderr = None

    def __init__(self, channel: socket.socket) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.channel = channel
        self._heard = b""

    def begun(self, piece: bytes) -> bool:
        """Take what came from the channel; return whether the kernel has begun, so that its pid is known.

        Raises OSError when it could not begin, NoFork when it will not.
        """
        if not piece:
            raise NoFork("the preloaded process is gone")
        self._heard += piece
        line, newline, rest = self._heard.partition(b"\n")
        if not newline:
            return False
        word, _, said = line.decode().partition(" ")
        if word == "error":
            raise OSError(said)
        if word != "pid":
            raise NoFork(f"the fork ended before it was a kernel: {line.decode()}")
        self.pid, self._heard = int(said), rest
        return True

    def poll(self) -> int | None:
        """Return the exit code as `subprocess` counts it, None while the kernel lives."""
        while self.returncode is None:
            try:
                piece = self.channel.recv(LINE_BYTES)
            except BlockingIOError:
                break
            except ConnectionError:
                piece = b""
            self._heard += piece
            if b"\n" in self._heard:
                self.returncode = int(self._heard.split()[1])
            elif not piece:
                # the preloaded process died, and its kernels with it
                self.returncode = -signal.SIGKILL
        return self.returncode

    def wait(self) -> int | None:
        """Return the exit code; callers have polled until there is one."""
        self.close()
        return self.poll()

    def send_signal(self, signum: int) -> None:
        """Send a signal to a kernel that lives."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill a kernel that lives."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of the kernel; one that lives is killed by the preloaded process."""
        self.poll()
        self.channel.close()
        if self.returncode is None:
            self.returncode = -signal.SIGKILL


class ForkServer:
    """A preloaded process, from its start to its end."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process lives
        self.environment = start_environment(os.environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = threading.Event()
        self._asked = False
        # It dies with the thread that started it, so that thread does nothing but wait for it.
        self._thread = threading.Thread(target=self._run, args=(theirs,), name="runbook-preloader", daemon=True)
        self._thread.start()

    def _run(self, theirs: socket.socket) -> None:
        argv = [sys.executable, "-P", "-c", _CODE, str(theirs.fileno()), str(os.getpid()), str(_ROOT)]
        # One thread in OpenBLAS: its threads would not survive a fork. Inline figures: read at the first import.
        env = {"OPENBLAS_NUM_THREADS": "1", **self.environment, "MPLBACKEND": _INLINE}
        env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        # for whoever looks at processes: it names the project that this one and its kernels belong to
        env |= {name: os.environ[name] for name in ("RUNBOOK_HOME",) if name in os.environ}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    argv,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            self._errors.write(str(error).encode())
            return
        finally:
            self._ready.set()
        self._process.wait()

    @property
    def pid(self) -> int | None:
        """The pid of the preloaded process, None when it could not be started."""
        self._ready.wait()
        return None if self._process is None else self._process.pid

    def fork(
        self, arguments: Sequence[str], cwd: str, env: Mapping[str, str], stdout: int, stderr: int
    ) -> ForkedKernel:
        """Ask for a kernel with these arguments of ipykernel_launcher. Raises NoFork; see `ForkedKernel.begun`."""
        if start_environment(env) != self.environment:
            other = start_environment(env).items() ^ self.environment.items()
            raise NoFork(f"its environment has another {min(name for name, _ in other)}")
        if env.get("MPLBACKEND", _INLINE) != _INLINE:
            raise NoFork("it wants another matplotlib backend")
        self._asked = True
        ours, theirs = socket.socketpair()
        request = os.memfd_create("kernel-request")
        try:
            with os.fdopen(os.dup(request), "wb") as file:
                file.write(json.dumps({"arguments": list(arguments), "cwd": cwd, "env": dict(env)}).encode())
            os.lseek(request, 0, os.SEEK_SET)
            socket.send_fds(self._control, [b"k"], [theirs.fileno(), request, stdout, stderr])
        except OSError as error:
            ours.close()
            raise NoFork(f"the preloaded process is gone: {self.last_words()}") from error
        finally:
            theirs.close()
            os.close(request)
        ours.setblocking(False)  # noqa: FBT003 - socket's
        return ForkedKernel(ours)

    def last_words(self) -> str:
        """Return the end of what the preloaded process wrote to its stderr."""
        size = os.fstat(self._errors.fileno()).st_size
        start = max(0, size - _LAST_WORDS_BYTES)
        return os.pread(self._errors.fileno(), _LAST_WORDS_BYTES, start).decode(errors="replace").strip()

    def close(self) -> None:
        """End the process and every kernel of it."""
        self._ready.wait()
        self._control.close()
        if self._process is not None:
            if self._asked:  # without kernels it has nothing to end, and while it imports it looks at nothing else
                self._process.terminate()
                self._thread.join(_END_S)
            self._process.kill()
        self._thread.join()
        self._errors.close()


class _Shared:
    """The one preloaded process of this process, for as many as use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.server: ForkServer | None = None


_shared = _Shared()


@contextlib.contextmanager
def preloaded() -> Iterator[None]:
    """Have a preloaded process meanwhile; notebooks that are executed get their kernels from it.

    Any thread may, and within each other: there is one process, which ends with the last that needs it. Where it
    cannot be had (only Linux can), kernels are started in the ordinary way.
    """
    with _shared.lock:
        _shared.users += 1
        if _shared.users == 1 and sys.platform == "linux":
            _shared.server = ForkServer()
    try:
        yield
    finally:
        with _shared.lock:
            _shared.users -= 1
            if _shared.users == 0 and _shared.server is not None:
                _shared.server.close()
                _shared.server = None


def fork_server() -> ForkServer | None:
    """Return the preloaded process of this process, None where there is none."""
    return _shared.server


def wanted() -> bool:
    """Whether somebody has asked for a preloaded process."""
    return _shared.users > 0
