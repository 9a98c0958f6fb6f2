"""Faults that are processes of a host: a leftover that holds a card's memory, a stranger on the service's port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from runbook_lib.errors import TwinError
from runbook_lib.twin.fault_base import At, Deed

if TYPE_CHECKING:
    from runbook_lib.twin.world import World

LEFTOVER_MB = 56373  # per card of a busy host (npu-smi reference, section 1)
_LISTENER = (
    "import os, socket, sys, time\n"
    "listener = socket.create_server((sys.argv[1], int(sys.argv[2])))\n"
    "print(os.getpid(), flush=True)\n"
    "time.sleep(1e7)\n"
)
_START_S = 10.0

_PROCESSES: WeakKeyDictionary[World, dict[str, asyncio.subprocess.Process]] = WeakKeyDictionary()


async def _start(at: At, key: str, command: list[str]) -> tuple[asyncio.subprocess.Process, int]:
    """Start a process in the node and return it with its pid there, which it says in its first line."""
    process = await asyncio.create_subprocess_exec(
        *at.node.argv(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    if process.stdout is None:
        raise TwinError("the process has no stdout")
    try:
        said = await asyncio.wait_for(process.stdout.readline(), _START_S)
    except TimeoutError:
        said = b""
    if not said.strip().isdigit():
        await _end(process)
        raise TwinError(f"{at.node.name}: the leftover process could not be started: is its port taken already?")
    _PROCESSES.setdefault(at.world, {})[key] = process
    at.kept["process"] = key
    return process, int(said)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _runs(at: At) -> bool:
    process = _PROCESSES.get(at.world, {}).get(str(at.kept.get("process")))
    return process is not None and process.returncode is None


async def _stop(at: At) -> None:
    process = _PROCESSES.get(at.world, {}).pop(str(at.kept.get("process")), None)
    if process is not None:
        await _end(process)


async def stop_all(world: World) -> None:
    """End every process that a fault has started."""
    for process in _PROCESSES.pop(world, {}).values():
        await _end(process)


async def _hold_hbm(at: At) -> None:
    script = "echo $$; exec -a mindie_llm_backend_server sleep 10000000"
    process, pid = await _start(at, f"hbm {at.node.name} {at.card}", ["bash", "-c", script])
    at.world.hbm.setdefault((at.node.name, at.card), {})[pid] = LEFTOVER_MB

    async def watch() -> None:
        await process.wait()
        at.world.hbm.get((at.node.name, at.card), {}).pop(pid, None)

    at.kept["pid"] = pid
    task = asyncio.create_task(watch())
    _WATCHES.add(task)
    task.add_done_callback(_WATCHES.discard)


_WATCHES: set[asyncio.Task[None]] = set()


async def _release_hbm(at: At) -> None:
    await _stop(at)
    at.world.hbm.get((at.node.name, at.card), {}).pop(int(at.kept["pid"]), None)


async def _take_port(at: At) -> None:
    port = at.world.params.service.port
    command = [at.node.python, "-c", _LISTENER, at.node.address, str(port)]
    await _start(at, f"port {at.node.name}", command)


HBM_HELD = Deed(_hold_hbm, _release_hbm, _runs)
PORT_TAKEN = Deed(_take_port, _stop, _runs)
