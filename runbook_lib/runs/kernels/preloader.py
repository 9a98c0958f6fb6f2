"""The preloaded process: it imports what notebooks import, and becomes a kernel in a fork each time it is asked.

    python -P -c "from runbook_lib.runs.kernels.preloader import main; main()" CONTROL_FD RUNNER_PID

It has one thread, no connection, and is told nothing that is secret: what a kernel shall be is read by the fork, from
a file that only the fork reads. See `fork_server` for the other end.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass

# By name: a run stands below the user interface, and the notebooks that it runs import both. Never pyplot nor
# matplotlib_inline.backend_inline: they look for the kernel that they are in when they are imported, find none, and
# every figure of every kernel is lost.
MODULES = (
    "ipykernel.kernelapp",
    "ipykernel.debugger",
    "ipykernel.zmqshell",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "psutil",
    "tornado.platform.asyncio",
    "matplotlib",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "ipywidgets",
    "runbook_lib.ui",
    "runbook_lib.runs.session",
    "runbook_lib.runs.overview",
)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_DESCRIPTORS = 4  # of one request: channel, request, stdout, stderr
_BYTES = 4096
_END_S = 2.0
_LOOK_S = 0.01
_FIRST_OWN = 3  # descriptors below are stdin, stdout, stderr


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the runner sent for one kernel; the names of descriptors."""

    channel: socket.socket
    request: int
    stdout: int
    stderr: int


def main() -> None:
    """Serve until the runner is gone; in a fork, be the kernel and return when it ends."""
    control = socket.socket(fileno=int(sys.argv[1]))
    runner = int(sys.argv[2])
    _die_with_parent(runner, signal.SIGTERM)
    _be_called(b"runbook-preload")
    for name in MODULES:
        importlib.import_module(name)
    _read_ahead()
    os.chdir("/")
    # what is here stays for ever: a fork that collects garbage would copy every page that it looks at
    gc.collect()
    gc.freeze()
    asked = _Server(control).serve()
    if asked is not None:
        _become_kernel(asked)


def _read_ahead() -> None:
    """Read what every kernel would read for itself, none of which depends on a cluster or a run."""
    from jupyter_client.localinterfaces import localhost  # noqa: PLC0415 - loaded already, by the names above

    from runbook_lib.ascend import catalogue  # noqa: PLC0415 - as above
    from runbook_lib.views import html  # noqa: PLC0415 - as above

    localhost()  # the network's interfaces
    catalogue.codes()
    html.compile_templates()


def _die_with_parent(parent: int, signum: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os._exit(1)


def _be_called(name: bytes) -> None:
    """Set the name that ps and top show, at most 15 bytes."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name)


class _Server:
    """Forks when asked, and tells who asked how the fork ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._kernels: dict[int, socket.socket] = {}
        self._over = False
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(control, selectors.EVENT_READ)
        # a signal wakes the selector by a byte in this pipe
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        self._waiting.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def _end(self, _signum: int, _frame: object) -> None:
        self._over = True

    def serve(self) -> _Asked | None:
        """Return in each fork what was asked for, and None when the runner is gone and every kernel with it."""
        while not self._over:
            for key, _ in self._waiting.select():
                if key.fileobj is self._control:
                    asked = self._fork()
                    if asked is not None:
                        return asked
                elif key.fileobj == self._woken:
                    os.read(self._woken, _BYTES)
                elif key.data in self._kernels:
                    # nothing is ever sent here: who asked for this kernel has let go of it
                    self._waiting.unregister(key.fileobj)
                    _kill(key.data)
            self._reap()
        for pid in self._kernels:
            _kill(pid)
        deadline = time.monotonic() + _END_S
        while self._kernels and time.monotonic() < deadline:
            self._reap()
            time.sleep(_LOOK_S)
        return None

    def _fork(self) -> _Asked | None:
        asked = _asked(self._control)
        if asked is None:
            self._over = True
            return None
        pid = os.fork()
        if pid == 0:
            return asked
        self._kernels[pid] = asked.channel
        self._waiting.register(asked.channel, selectors.EVENT_READ, pid)
        for descriptor in (asked.request, asked.stdout, asked.stderr):
            os.close(descriptor)
        return None

    def _reap(self) -> None:
        for pid in list(self._kernels):
            # while it is not waited for, its number belongs to nobody else
            if not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                continue
            _kill(pid)  # what it started and left
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            channel = self._kernels.pop(pid)
            if channel in self._waiting.get_map():
                self._waiting.unregister(channel)
            _tell(channel, f"code {code}")
            channel.close()


def _asked(control: socket.socket) -> _Asked | None:
    message, descriptors, _, _ = socket.recv_fds(control, 16, _DESCRIPTORS)
    if not message or len(descriptors) != _DESCRIPTORS:
        return None
    channel, request, stdout, stderr = descriptors
    return _Asked(socket.socket(fileno=channel), request, stdout, stderr)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it does not lead its group yet
        except PermissionError:
            return
        return


def _tell(channel: socket.socket, line: str) -> None:
    try:
        channel.sendall(f"{line}\n".encode())
    except OSError:
        return  # nobody listens any more


def _become_kernel(asked: _Asked) -> None:
    """Turn this fork into the kernel that was asked for, and run it to its end."""
    parent = os.getppid()
    os.setsid()
    _die_with_parent(parent, signal.SIGKILL)
    _be_called(b"runbook-kernel")
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with os.fdopen(asked.request, "rb") as file:
        request = json.load(file)
    try:
        os.chdir(request["cwd"])
    except OSError as error:
        _tell(asked.channel, f"error {error}")
        os._exit(1)
    os.dup2(asked.stdout, 1)
    os.dup2(asked.stderr, 2)
    os.environ.clear()
    os.environ.update(request["env"])
    os.environ["JPY_PARENT_PID"] = str(parent)
    _tell(asked.channel, f"pid {os.getpid()}")
    asked.channel.detach()
    os.closerange(_FIRST_OWN, os.sysconf("SC_OPEN_MAX"))
    _be_unlike_the_others()
    faulthandler.enable(os.dup(2))  # the kernel takes 2 away for itself
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415 - it is loaded already; the runner's side is not to

    sys.argv = ["ipykernel_launcher", *request["arguments"]]
    IPKernelApp.launch_instance(
        [
            *request["arguments"],
            # read from the environment when the module was imported, which was before this kernel had a parent
            f"--IPKernelApp.parent_handle={parent}",
            "--HistoryManager.enabled=False",
            # imported before there was a kernel, so it could not announce itself
            "--InteractiveShellApp.extra_extensions=ipywidgets",
        ]
    )


def _be_unlike_the_others() -> None:
    """Throw away what forks of one process must not share."""
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    tempfile.tempdir = None
    time.tzset()
