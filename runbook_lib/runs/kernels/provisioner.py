"""A jupyter_client provisioner that has kernels forked from the preloaded process, where that can be."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from runbook_lib.runs.kernels.fork_server import LINE_BYTES, ForkedKernel, ForkServer, NoFork, fork_server, wanted

PROVISIONER = "runbook-forked"
_START_S = 60.0  # the preloaded process has to import everything before its first fork
_POLL_S = 0.005
_LAUNCHER = "ipykernel_launcher"


class ForkProvisioner(LocalProvisioner):
    """Forks the kernels of this interpreter from the preloaded process; all others are started as they always were.

    `fell_back` says why a kernel was not forked although a preloaded process was asked for, and "" otherwise.
    """

    fell_back = ""
    process: Any = None  # a Popen or a ForkedKernel

    @property
    def forked(self) -> bool:
        """Whether the kernel is a fork of the preloaded process."""
        return isinstance(self.process, ForkedKernel)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:  # noqa: ANN401 - jupyter_client's
        """Fork or start the kernel. Raises OSError when it cannot begin."""
        try:
            self.process = await self._fork(cmd, kwargs)
        except NoFork as reason:
            if wanted():
                self.fell_back = str(reason)
                self.log.warning("a kernel is started in the ordinary, slower way: %s", reason)
            return await super().launch_kernel(cmd, **kwargs)
        # it leads a group and a session of its own, as an ordinary kernel does
        self.pid = self.pgid = self.process.pid
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info

    async def _fork(self, cmd: list[str], kwargs: dict[str, Any]) -> ForkedKernel:
        server = fork_server()
        if server is None:
            raise NoFork("only Linux can fork a kernel")
        arguments = _arguments(cmd)
        env = kwargs.get("env") or dict(os.environ)
        out, err = kwargs.get("stdout"), kwargs.get("stderr")
        cwd = str(kwargs.get("cwd") or Path.cwd())
        kernel = server.fork(arguments, cwd, env, _descriptor(out, 1), _descriptor(err, 2))
        try:
            await asyncio.wait_for(_begin(kernel), _START_S)
        except NoFork as reason:
            kernel.close()
            raise _explained(reason, server) from reason
        except TimeoutError as error:
            kernel.close()
            raise NoFork(f"the preloaded process gave none within {_START_S:.0f} s") from error
        except BaseException:
            kernel.close()
            raise
        return kernel

    async def wait(self) -> int | None:
        """Wait for the kernel's end. A tenth of a second between two looks is much for a notebook of half a second."""
        while self.process is not None and await self.poll() is None:  # noqa: ASYNC110 - nothing tells of the end
            await asyncio.sleep(_POLL_S)
        code: int | None = await super().wait()
        return code

    async def cleanup(self, restart: bool = False) -> None:  # noqa: FBT001, FBT002 - jupyter_client's
        """Let go of the kernel."""
        if isinstance(self.process, ForkedKernel):
            self.process.close()
        await super().cleanup(restart=restart)


async def _begin(kernel: ForkedKernel) -> None:
    loop = asyncio.get_running_loop()
    while not kernel.begun(await loop.sock_recv(kernel.channel, LINE_BYTES)):
        pass


def _explained(reason: NoFork, server: ForkServer) -> NoFork:
    words = server.last_words()
    return NoFork(f"{reason}; its last words: {words}") if words else reason


def _arguments(cmd: list[str]) -> list[str]:
    """Return the arguments of the launcher in a kernel's command. Raises NoFork for what is no kernel of ours."""
    if cmd[0] != sys.executable or _LAUNCHER not in "".join(cmd[1:3]) or "-f" not in cmd:
        raise NoFork(f"{' '.join(cmd)[:80]} is no kernel of this interpreter")
    return cmd[cmd.index("-f") :]


def _descriptor(file: Any, default: int) -> int:  # noqa: ANN401 - what subprocess takes: None, a number or a file
    if file is None:
        return default
    descriptor = file if isinstance(file, int) else file.fileno()
    if descriptor < 0:
        raise NoFork("its output goes to a pipe")
    return int(descriptor)


def register() -> None:
    """Make the provisioner known to jupyter_client also where the package is not installed."""
    group = KernelProvisionerFactory.GROUP_NAME
    value = f"{__name__}:{ForkProvisioner.__name__}"
    KernelProvisionerFactory.provisioners[PROVISIONER] = EntryPoint(PROVISIONER, value, group)
