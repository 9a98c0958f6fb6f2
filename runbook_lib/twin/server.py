"""The resident process of one twin: `python -m runbook_lib.twin.server --root TWIN_DIR`, started by lifecycle.up.

It reads TWIN_DIR/params.json, says one JSON line on stdout when it is ready (or why it cannot be), and then lives until
SIGTERM or an admin `stop`. Everything in the nodes dies with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh

from runbook_lib.errors import RunbookError, TwinError
from runbook_lib.params import Params
from runbook_lib.twin import fault_deeds, fault_disks, fault_processes, faults, owners, service_hooks
from runbook_lib.twin.disk import make_disk, make_facts, make_twin_folder
from runbook_lib.twin.keys import ensure_keys
from runbook_lib.twin.processes import start_ticks
from runbook_lib.twin.ssh_server import NodeSsh
from runbook_lib.twin.tool_port import ToolPort
from runbook_lib.twin.tools import INSTALLED_APART, TOOLS, WITHOUT_REAL_OWNERS
from runbook_lib.twin.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runbook_lib.twin.node import Level, Node

LOG = logging.getLogger(__name__)
# what a reboot mends: a driver that was loaded before its upgrade, a process that holds the lock of hccn_tool
_ENDS_WITH_THE_POWER = ("npu_smi", "hccn_tool", "hccn_busy_calls", "reboot_at_call")
BOOT_S = 60.0  # emulated seconds from the reset of a host until it answers again
_TOOL_HOST = 254
_START_S = 90.0  # real seconds


class Resident:
    """Owns the world, and everything that listens or runs for it."""

    def __init__(self, params: Params, root: Path) -> None:
        self.world = World(params, root)
        self.root = root
        self.tool_token = secrets.token_hex(16)
        self.admin_token = secrets.token_hex(16)
        self.port = ToolPort(self.world, (self.tool_token, self.admin_token), self.admin)
        self.tool_address = f"{self.world.twin.network}.{_TOOL_HOST}"
        self.tool_port = 0
        self.level: Level = "L0"
        self.reasons: list[str] = []
        self.ssh = {
            node.name: NodeSsh(node, params.cluster.ssh, self.world.twin.network, self.world.machine(node.name))
            for node in self.world.nodes.values()
        }
        self.stopping = asyncio.Event()
        self._reboots: dict[str, asyncio.Task[None]] = {}
        self.world.reboot = self._start_reboot

    async def start(self) -> None:
        """Power on. Raises TwinError when an address is taken or the asked level cannot be had."""
        ensure_keys(self.world)
        try:
            self.tool_port = await self.port.start(self.tool_address)
        except OSError as error:
            raise TwinError(f"cannot listen on {self.tool_address}: {error.strerror}") from None
        for node in self.world.nodes.values():
            make_disk(node, self.world.params, self._tls_cards(node))
        await self._start_nodes()
        try:
            await service_hooks.start(self.world)
        except OSError as error:
            url = self.world.params.model.weights.source.endpoint
            raise TwinError(f"the weights hub cannot listen on {url}: {error.strerror or error}") from None
        for node in self.world.nodes.values():
            self.world.fabric.power_on(node.name)
        self.world.fabric.note_links(dict.fromkeys(self.world.fabric.links(), False))
        for node in self.world.nodes.values():
            if faults.down(self.world, node.name):
                await node.stop()
            else:
                await self._come_up(node)
        self.world.save()

    def _tls_cards(self, node: Node) -> Iterable[int]:
        """Return whose TLS switch a bare server has on: all of the second host, so that there is something to find."""
        return self.world.fabric.cards[node.name] if list(self.world.nodes)[1:2] == [node.name] else ()

    async def _start_nodes(self) -> None:
        levels = _levels(self.world.twin.level)
        for level in levels:
            try:
                for node in self.world.nodes.values():
                    await self._boot(node, level)
            except TwinError as error:
                self.reasons.append(f"{level}: {error.message}")
                for node in self.world.nodes.values():
                    await node.stop()
            else:
                self.level = level
                return
        raise TwinError(
            "this machine cannot give the twin the level that its params ask for: " + "; ".join(self.reasons),
            next_command="set twin.level: auto in the params file",
        )

    async def _boot(self, node: Node, level: Level) -> None:
        node.level = level
        make_facts(node, self.world.fabric.cards[node.name])
        tools = set(TOOLS) - INSTALLED_APART - (WITHOUT_REAL_OWNERS if owners.are_real(node) else frozenset())
        make_twin_folder(node, tools, f"{self.tool_address} {self.tool_port} {node.name} {self.tool_token}")
        fault_deeds.hide_tools(self.world, node)
        await node.start(level)

    async def _come_up(self, node: Node) -> None:
        node.booted_at = self.world.monotonic()
        keys = self.root / "host_keys"
        await self.ssh[node.name].start(str(keys / node.name), str(self.root / "id_ed25519.pub"))
        await fault_disks.fill_disks(self.world, node)
        await service_hooks.node_booted(self.world, node)

    async def power_off(self, node: Node) -> None:
        """Cut a host's power: connections drop, processes die, files stay."""
        before = self.world.fabric.links()
        await service_hooks.node_going_down(self.world, node)
        await self.ssh[node.name].stop()
        await node.stop()
        for holder in [key for key in self.world.hbm if key[0] == node.name]:
            del self.world.hbm[holder]
        self.world.fabric.note_links(before)

    async def power_on(self, node: Node) -> None:
        """Boot a host: its settings are replayed from its disk."""
        before = self.world.fabric.links()
        await self._boot(node, self.level)
        self.world.fabric.power_on(node.name)
        self.world.fabric.note_links(before)
        for key in _ENDS_WITH_THE_POWER:
            self.world.machine(node.name).pop(key, None)
        await self._come_up(node)
        self.world.save()

    async def _reboot(self, node: Node) -> None:
        await self.power_off(node)
        await self.world.sleep(BOOT_S)
        await self.power_on(node)

    async def stop(self) -> None:
        """Power off all hosts and stop listening."""
        for task in self._reboots.values():
            task.cancel()
        await asyncio.gather(*self._reboots.values(), return_exceptions=True)
        await fault_processes.stop_all(self.world)
        for node in self.world.nodes.values():
            if node.up:
                await service_hooks.node_going_down(self.world, node)
            await self.ssh[node.name].stop()
            await node.stop()
        await service_hooks.stop(self.world)
        await self.port.close()
        self.world.save()

    async def admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request of the command line: status, stop, inject, clear, hands, reboot."""
        action = request.get("action")
        if action == "status":
            return self.status()
        if action == "stop":
            self.stopping.set()
            return {}
        if action == "inject":
            skipped = await faults.inject(self, request["fault"], request["host"], request["card"], self.level)
            return {**self.status(), "skipped": skipped}
        if action in {"clear", "hands"}:
            mend = faults.clear if action == "clear" else faults.hands
            mended = await mend(self, request["fault"], request["host"], request["card"])
            return {**self.status(), "mended": mended}
        if action == "reboot":
            return await self._asked_to_reboot(request["host"])
        raise TwinError(f"the twin cannot {action!r}")

    async def _asked_to_reboot(self, host: str) -> dict[str, Any]:
        node = faults.node_of(self.world, host)
        if not node.up and not self._is_rebooting(host):
            raise TwinError(f"{host} is switched off", next_command=f"runbook twin clear --host {host}")
        self._start_reboot(host)
        await asyncio.shield(self._reboots[host])
        return self.status()

    def _is_rebooting(self, host: str) -> bool:
        running = self._reboots.get(host)
        return running is not None and not running.done()

    def _start_reboot(self, host: str) -> None:
        if not self._is_rebooting(host):
            self._reboots[host] = asyncio.create_task(self._reboot(self.world.nodes[host]))

    def status(self) -> dict[str, Any]:
        """Return what `twin status` shows."""
        return {
            "pid": os.getpid(),
            "level": self.level,
            "reasons": [*self.reasons, *_not_shown(self.level)],
            "hosts": [
                {
                    "name": node.name,
                    "address": node.address,
                    "port": self.world.params.cluster.ssh.port,
                    "up": node.up,
                    "boot_id": node.boot_id,
                }
                for node in self.world.nodes.values()
            ],
            "faults": faults.active(self),
        }


def _levels(asked: str) -> list[Level]:
    best: Level = "L1a" if os.getuid() == 0 else "L1b"
    if asked == "L0":
        return ["L0"]
    if asked == "L1b":
        return ["L1b"]
    tries: list[Level] = [best] if best == "L1b" else [best, "L1b"]
    return tries if asked == "L1" else [*tries, "L0"]


def _not_shown(level: Level) -> list[str]:
    if level == "L1a":
        return []
    if level == "L1b":
        return ["real file owners: they are attributes of the files, shown by chown, stat -c and install only"]
    return [
        "true absolute paths: hosts are folders, found through RUNBOOK_HOST_ROOT",
        "processes of a host of its own, ENOSPC, and (without root) file owners outside of chown, stat -c and install",
        "/proc of the emulated servers: only the tools answer for them",
    ]


async def _start_in_time(resident: Resident) -> None:
    try:
        async with asyncio.timeout(_START_S):
            await resident.start()
    except TimeoutError:
        raise TwinError(
            f"it was not ready after {_START_S:.0f} s", next_command=f"less {resident.root / 'twin.log'}"
        ) from None


async def _live(root: Path) -> int:
    params = Params.model_validate_json((root / "params.json").read_text(encoding="utf-8"))
    resident = Resident(params, root)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, resident.stopping.set)
    try:
        await _start_in_time(resident)
    except RunbookError as error:
        await resident.stop()
        _say({"error": error.message, "next": error.next_command, "pid": os.getpid()})
        return 1
    except BaseException:
        await resident.stop()
        raise
    _record(resident)
    _say({"ready": True})
    await resident.stopping.wait()
    await resident.stop()
    (root / "server.json").unlink(missing_ok=True)
    return 0


def _record(resident: Resident) -> None:
    file = resident.root / "server.json"
    record = {
        "pid": os.getpid(),
        "start": start_ticks(os.getpid()),
        "address": resident.tool_address,
        "port": resident.tool_port,
        "token": resident.admin_token,
        "level": resident.level,
    }
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        json.dump(record, out)


def _say(line: dict[str, Any]) -> None:
    """Tell the starter, who waits on our stdout, and let go of it."""
    with contextlib.suppress(OSError):
        os.write(1, (json.dumps(line) + "\n").encode())
    os.dup2(2, 1)


def main() -> int:
    """Detach and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    root = parser.parse_args().root.resolve()
    if os.fork():  # the starter waits for this process only; the resident belongs to nobody
        os._exit(0)
    os.setsid()
    os.umask(0o022)
    os.chdir("/")
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    asyncssh.set_log_level("WARNING")
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        LOG.warning("unshare and nsenter are not installed: only level L0 is possible")
    return asyncio.run(_live(root))


if __name__ == "__main__":
    sys.exit(main())
