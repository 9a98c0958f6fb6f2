"""The kernel that notebooks of a run get: this interpreter, dead with its runner, quick to begin and to end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from queue import Empty
from typing import TYPE_CHECKING, Any

import zmq
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from runbook_lib.runs.kernels.provisioner import PROVISIONER, register

if TYPE_CHECKING:
    from pathlib import Path

_REPLY_S = 1.0
_SOCKET_NAME_BYTES = 96  # 104 (BSD) less "-5" and the closing zero, and a little
_RECONNECT_MS = 10  # the kernel's ports are not open yet when the client calls for the first time
KERNEL_CODE = """
import faulthandler, os, runpy, sys
faulthandler.enable(os.dup(2))  # the kernel takes 2 away for itself
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the thread that started us
    if os.getppid() != int(os.environ["JPY_PARENT_PID"]):
        os._exit(1)
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""


class OwnInterpreter(KernelSpecManager):
    """Knows the kernel python3 as the interpreter that runs this program, whatever is installed for the user."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return what starts a kernel; python3 is forked where there is a preloaded process."""
        if kernel_name != "python3":
            return super().get_kernel_spec(kernel_name)
        register()
        return KernelSpec(
            argv=[sys.executable, "-c", KERNEL_CODE, "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            # here and not as the factory's default: that would be the default of every kernel of this process
            metadata={"kernel_provisioner": {"provisioner_name": PROVISIONER}},
        )


class KernelManager(AsyncKernelManager):
    """Looks more often whether the kernel has ended, and calls it more often until it answers."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - traitlets
        super().__init__(**kwargs)
        self.kernel_spec_manager = OwnInterpreter(parent=self)
        self.context.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)

    def keep_within(self, folder: Path) -> None:
        """Speak with the kernel through sockets in a private folder, where the folder's name is short enough.

        Ports are chosen before the kernel takes them, and in between an outgoing connection may get one: that of
        another cluster's benchmark, say. And what a kernel sends through a port, every user of the machine can read.
        """
        path = folder / "k"
        if sys.platform != "win32" and len(os.fsencode(path)) < _SOCKET_NAME_BYTES:
            self.transport = "ipc"
            self.ip = str(path)

    async def _async_wait(self, pollinterval: float = 0.1) -> None:  # noqa: ARG002 - jupyter_client's
        if self.provisioner is not None and self.has_kernel:
            await self.provisioner.wait()

    async def ready_client(self, timeout_s: float) -> Any:  # noqa: ANN401 - a kernel client
        """Return a client once the kernel answers and its output is heard. Raises RuntimeError when it does not.

        jupyter_client's own way then throws away what it hears for a quiet 0.2 s. That is not needed: nbclient
        looks at nothing that does not belong to the cell that it runs.
        """
        client = self.client()
        client.start_channels(stdin=False, hb=False)
        try:
            await self._answer(client, timeout_s)
        except BaseException:
            client.stop_channels()
            raise
        return client

    async def _answer(self, client: Any, timeout_s: float) -> None:  # noqa: ANN401 - a kernel client
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            client.kernel_info()
            with contextlib.suppress(Empty):
                await client.get_shell_msg(timeout=_REPLY_S)
                await client.get_iopub_msg(timeout=_REPLY_S)
                return
            if not await self.is_alive():
                raise RuntimeError("it died before it answered")
        raise RuntimeError(f"it did not answer within {timeout_s:g} s")
