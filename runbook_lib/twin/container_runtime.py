"""Containers of the emulated docker: making, starting, entering, stopping and removing them.

At L1 a container has its own mount, pid and uts namespaces inside the node, and shares its network. At L0 it is a
folder and a process that stands for it: absolute paths in the commands of `docker exec` are mapped by the mounts,
programs see the machine's own `/`, and /dev/shm, devices, `:ro` and the container's own pids are not shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from runbook_lib.errors import TwinError
from runbook_lib.twin.ascend_runtime import injected
from runbook_lib.twin.container_options import check_bind
from runbook_lib.twin.images import CONTAINER_PATH, DAEMON, daemon_script
from runbook_lib.twin.service_peers import find_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runbook_lib.twin.world import Node, World

DOCKER_ROOT = "/var/lib/docker"
INIT = "/opt/twin/project/runbook_lib/twin/container_init.sh"
ROOT_USERS = frozenset({"", "0", "root", "0:0", "root:root"})
_READY_S = 20.0
_POLL_S = 0.01
_KILLED = 128 + signal.SIGKILL
DEVICE_ERROR = 'error gathering device information while adding custom device "{}": no such file or directory.'


class Live:
    """The processes of a running container."""

    def __init__(self, process: asyncio.subprocess.Process, host_pid: int, node_pid: int) -> None:
        self.process = process
        self.host_pid = host_pid
        self.node_pid = node_pid
        self.ended: asyncio.Task[None] | None = None
        self.killed = False


_RUNTIMES: WeakKeyDictionary[World, Runtime] = WeakKeyDictionary()


def runtime_of(world: World) -> Runtime:
    """Return the one runtime of a twin."""
    if world not in _RUNTIMES:
        _RUNTIMES[world] = Runtime(world)
    return _RUNTIMES[world]


class Runtime:
    """All containers of one twin. What persists is in world.state["docker"][node]["containers"]."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.live: dict[tuple[str, str], Live] = {}
        self._helpers: set[asyncio.Task[int]] = set()
        self._spawned: set[int] = set()

    def containers(self, node: Node) -> dict[str, dict[str, Any]]:
        """Return the persistent records, by id."""
        records: dict[str, dict[str, Any]] = self.world.tool_state("docker", node.name).setdefault("containers", {})
        return records

    def find(self, node: Node, name: str) -> dict[str, Any] | None:
        """Return a container by its name or the beginning of its id."""
        records = self.containers(node).values()
        named = [record for record in records if record["name"] == name]
        return next(iter(named or [record for record in records if name and record["id"].startswith(name)]), None)

    def host_pid(self, node: str, name: str) -> int | None:
        """Return the pid, as seen here, of a container's first process."""
        record = self.find(self.world.nodes[node], name)
        live = self.live.get((node, record["id"])) if record else None
        return live.host_pid if live else None

    def folder(self, node: Node, record: Mapping[str, Any]) -> Path:
        """Return a container's folder, on the node's disk."""
        return node.files / DOCKER_ROOT.lstrip("/") / "containers" / str(record["id"])

    def create(self, node: Node, record: dict[str, Any], image_rootfs: Path) -> None:
        """Lay down a container's own files."""
        folder = self.folder(node, record)
        folder.mkdir(parents=True)
        shutil.copytree(image_rootfs, folder / "rootfs", symlinks=True)
        (folder / "merged").mkdir()
        (folder / "log").touch()
        local_bin = folder / "rootfs/usr/local/bin"
        for tool in sorted((node.twin / "bin").iterdir()):
            # in the image's own PATH: what tells facts about the machine, not the driver's tools
            if tool.is_symlink() and tool.name not in {"df", "docker", "npu-smi", "hccn_tool", "python3"}:
                (local_bin / tool.name).symlink_to(f"/opt/twin/bin/{tool.name}")
        for bind in record["binds"]:
            source = node.path(check_bind(self._outside(node, bind))[0])
            if not source.exists():
                source.mkdir(parents=True)  # as docker does
        if node.level == "L0":
            program = folder / "rootfs" / DAEMON
            program.chmod(0o700)
            project = Path(__file__).resolve().parents[2]
            program.write_text(daemon_script(node.python, f"PYTHONPATH={project}"), encoding="utf-8")
            program.chmod(0o550)
        self.containers(node)[record["id"]] = record
        self.world.save()

    @staticmethod
    def _outside(node: Node, bind: str) -> str:
        """At L0 the sources of -v may carry the node's folder in front; return them as the node's own paths."""
        return bind.removeprefix(str(node.files)) if node.level == "L0" else bind

    def missing_device(self, node: Node, record: Mapping[str, Any]) -> str:
        """Return the first device that the node does not have, or ""."""
        devices = [*record["devices"], *injected(node, record)[0]]
        if node.level == "L0":
            present = {f"/dev/davinci{card}" for card in self.world.fabric.present(node.name)}
            return next(
                (d for d in devices if d.startswith("/dev/davinci") and d[12:].isdigit() and d not in present),
                "",
            )
        return next((device for device in devices if not node.path(device).exists()), "")

    async def start(self, node: Node, record: dict[str, Any]) -> str:
        """Start a created or stopped container; return docker's error text, "" when it runs."""
        if missing := self.missing_device(node, record):
            return DEVICE_ERROR.format(missing)
        folder = self.folder(node, record)
        (folder / "ready").unlink(missing_ok=True)
        (folder / "spec").write_text(self._spec(node, record), encoding="utf-8")
        environment = self.environment(node, record)
        (folder / "environment").write_bytes(b"".join(f"{k}={v}\0".encode() for k, v in environment.items()))
        inside = f"{DOCKER_ROOT}/containers/{record['id']}"
        if node.level == "L0":
            command = node.argv(["sleep", "infinity"], {"TWIN_CONTAINER": record["name"]})
        else:
            unshare = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--propagation", "private"]
            if record["network"] == "host":
                unshare.remove("--uts")
            command = node.argv([*unshare, "bash", INIT, inside, *record["command"]], {"PATH": CONTAINER_PATH})
        with (folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE if record["open_stdin"] else asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        node_pid = process.pid if node.level == "L0" else await self._ready(folder / "ready", process)
        first = node_pid if node.level == "L0" or not node_pid else find_first(process.pid, node_pid)
        if not first:
            return await self._short_lived(node, record, process, ready=bool(node_pid))
        live = Live(process, first, node_pid)
        self.live[node.name, record["id"]] = live
        record |= {"status": "running", "pid": node_pid, "started": self._stamp(node), "exit_code": 0}
        live.ended = asyncio.create_task(self._wait(node, record, live))
        self.world.save()
        return ""

    async def _short_lived(
        self, node: Node, record: dict[str, Any], process: asyncio.subprocess.Process, *, ready: bool
    ) -> str:
        """Note a container whose command has ended before it could be seen, or never began."""
        try:
            code = await asyncio.wait_for(process.wait(), _READY_S)
        except TimeoutError:
            process.kill()
            raise TwinError("a container runs, but its first process was not found") from None
        record |= {"status": "exited", "pid": 0, "started": self._stamp(node), "finished": self._stamp(node)}
        record["exit_code"] = code if code >= 0 else 128 - code
        self.world.save()
        if ready:
            return ""
        lines = (self.folder(node, record) / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        record["exit_code"] = 127
        reason = lines[-1] if lines else "init did not start"
        return (
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create "
            f"failed: unable to start container process: {reason}: unknown."
        )

    async def _ready(self, file: Path, process: asyncio.subprocess.Process) -> int:
        for _ in range(int(_READY_S / _POLL_S)):
            with contextlib.suppress(OSError, ValueError):
                return int(_text(file))
            if process.returncode is not None:
                return 0
            await asyncio.sleep(_POLL_S)
        process.kill()
        raise TwinError("a container did not start in time")

    async def _wait(self, node: Node, record: dict[str, Any], live: Live) -> None:
        code = await live.process.wait()
        if live.process.stdin is not None:
            live.process.stdin.close()
        self.live.pop((node.name, record["id"]), None)
        record |= {"status": "exited", "pid": 0, "finished": self._stamp(node)}
        record["exit_code"] = _KILLED if live.killed else code if code >= 0 else 128 - code
        if record["auto_remove"] and node.up:
            self.remove(node, record)
        self.world.save()

    def _stamp(self, node: Node) -> str:
        return f"{self.world.emulated_now(node.name):%Y-%m-%dT%H:%M:%S.%f}000Z"

    def _spec(self, node: Node, record: Mapping[str, Any]) -> str:
        rows: list[tuple[str, ...]] = [("shm", str(record["shm"]))]
        more, binds_too = injected(node, record)
        devices = [(device, device) for device in (*record["devices"], *more)]
        if record["privileged"]:
            devices += [(f"/dev/{path.name}", f"/dev/{path.name}") for path in _npu_devices(node)]
        rows += [("device", *pair) for pair in dict.fromkeys(devices)]
        if record["network"] != "host":
            rows.append(("hostname", record["hostname"]))
        if record["workdir"]:
            rows.append(("workdir", record["workdir"]))
        if record["user"] not in ROOT_USERS:
            rows.append(("user", record["user"]))
        if record["init"]:
            rows.append(("init",))
        all_binds = (*record["binds"], *binds_too)
        binds = sorted((check_bind(bind) for bind in all_binds), key=lambda bind: bind[1].count("/"))
        rows += [("bind", *bind) for bind in binds]
        return "".join("\t".join(row) + "\n" for row in rows)

    def environment(self, node: Node, record: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment of a container's processes."""
        values = {"PATH": CONTAINER_PATH, "HOME": "/root", "HOSTNAME": record["hostname"]}
        values |= dict(item.partition("=")[::2] for item in record["env"])
        values |= {"TWIN_CONTAINER": record["name"], "TWIN_NETWORK": record["network"]}
        if node.level == "L0":
            mounts = self.mounts(node, record)
            own = node.environment()
            values["TWIN_MOUNTS"] = json.dumps(mounts)
            values["TWIN_LINK"] = own["TWIN_LINK"]
            values["PATH"] = own["PATH"]
            values["HOME"] = str(self.folder(node, record) / "rootfs/root")
        return values

    def mounts(self, node: Node, record: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (path in the container, path here), longest first: for L0."""
        rootfs = self.folder(node, record) / "rootfs"
        pairs = [
            (target, str(node.path(source)))
            for source, target, _ in (
                check_bind(self._outside(node, bind)) for bind in (*record["binds"], *injected(node, record)[1])
            )
        ]
        pairs += [(f"/{path}", str(rootfs / path)) for path in ("usr/local/Ascend", "root")]
        return sorted(pairs, key=lambda pair: -len(pair[0]))

    def outside(self, node: Node, name: str, path: str) -> Path:
        """Return where a path inside a container is for this process."""
        record = self.find(node, name)
        if record is None:
            return node.path(path)
        for target, source in sorted(
            ((target, source) for source, target, _ in map(check_bind, record["binds"])), key=lambda pair: -len(pair[0])
        ):
            if path == target or path.startswith(f"{target}/"):
                return node.path(source + path[len(target) :])
        return self.folder(node, record) / "rootfs" / path.lstrip("/")

    def exec_argv(
        self, node: Node, record: Mapping[str, Any], command: Sequence[str], env: Mapping[str, str], workdir: str
    ) -> list[str]:
        """Return the argv that, inside the node, runs a command in a running container."""
        values = self.environment(node, record) | dict(env)
        variables = [f"{key}={value}" for key, value in values.items()]
        if node.level == "L0":
            mounts = self.mounts(node, record)
            folder = self.folder(node, record) / "rootfs"
            return [
                "env",
                "-i",
                "-C",
                str(folder),
                *variables,
                *(self._mapped(word, mounts, folder) for word in command),
            ]
        live = self.live[node.name, str(record["id"])]
        enter = ["nsenter", "-t", str(live.node_pid), "-m", "-p", "-u", "--"]
        return [*enter, "/usr/bin/env", "-i", "-C", workdir or record["workdir"] or "/", *variables, *command]

    def _mapped(self, word: str, mounts: list[tuple[str, str]], folder: Path) -> str:
        """Map the container's paths in one word of a command; a script is copied with its paths mapped."""
        mapped = map_paths(word, mounts)
        script = Path(mapped)
        if mapped != word and script.suffix == ".sh" and script.is_file():
            handle, name = tempfile.mkstemp(suffix=f"-{script.name}", dir=folder / "tmp")
            with os.fdopen(handle, "w", encoding="utf-8") as copy:
                copy.write(map_paths(script.read_text(encoding="utf-8"), mounts))
            Path(name).chmod(0o700)
            return name
        return mapped

    def spawn(self, node: Node, command: Sequence[str]) -> None:
        """Run something inside the node in the background (`docker exec -d`)."""

        async def run() -> int:
            process = await asyncio.create_subprocess_exec(
                *node.argv(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
            self._spawned.add(process.pid)
            try:
                return await process.wait()
            finally:
                self._spawned.discard(process.pid)

        task = asyncio.create_task(run())
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    def resume(self) -> None:
        """Let nsenter go on, which stops itself when a signal stops what it runs, and would outlive the twin."""
        for pid in self._spawned:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def stop(self, node: Node, record: dict[str, Any], grace_s: float) -> None:
        """Stop a container: SIGTERM, and SIGKILL after `grace_s` emulated seconds."""
        live = self.live.get((node.name, record["id"]))
        if live is None or live.ended is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if grace_s > 0:
                os.kill(live.host_pid, signal.SIGTERM)
                await asyncio.wait({live.ended}, timeout=grace_s / self.world.time_factor)
        if not live.ended.done():
            live.killed = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(live.host_pid, signal.SIGKILL)
        if node.level == "L0":  # elsewhere the kernel kills what else runs in the container
            kill_container(record["name"], node.folder)
        await live.ended

    def remove(self, node: Node, record: Mapping[str, Any]) -> None:
        """Delete a stopped container."""
        remove_tree(self.folder(node, record))
        self.containers(node).pop(str(record["id"]), None)
        self.world.save()

    async def node_down(self, node: Node) -> None:
        """Kill a node's containers, as a loss of power does; they stay as exited."""
        for record in list(self.containers(node).values()):
            if (node.name, record["id"]) in self.live:
                await self.stop(node, record, 0)
        self.world.save()

    async def node_up(self, node: Node) -> None:
        """After a boot nothing runs; what has a restart policy is started again."""
        for record in list(self.containers(node).values()):
            was_running = record["status"] == "running"
            if was_running:  # the twin's process was killed: nobody could note the end
                record |= {"status": "exited", "pid": 0, "exit_code": _KILLED}
            if record["restart"] == "always" or (record["restart"] == "unless-stopped" and not record["stopped"]):
                await self.start(node, record)
        self.world.save()

    async def close(self) -> None:
        """Stop everything on all nodes."""
        for node in self.world.nodes.values():
            await self.node_down(node)
        self.resume()
        for task in self._helpers:
            task.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)


def remove_tree(folder: Path) -> None:
    """Delete a folder; folders without the write bit, as images have, stop a plain user otherwise."""
    for here, folders, _ in os.walk(folder):
        for name in folders:
            if not (path := Path(here, name)).is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def map_paths(text: str, mounts: Sequence[tuple[str, str]]) -> str:
    """Replace the container's paths in a text by the machine's; `mounts` longest first."""
    if not mounts:
        return text
    known = dict(mounts)
    words = "|".join(re.escape(target) for target, _ in mounts)
    return re.sub(rf"(?<![\w./-])(?:{words})(?![\w.-])", lambda match: known[match[0]], text)


def kill_container(name: str, folder: Path) -> None:
    """Kill the L0 processes that carry a container's name and the node's link in their environment."""
    marks = (f"\0TWIN_CONTAINER={name}\0".encode(), f"\0TWIN_LINK={folder}/".encode())
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                environment = b"\0" + (process / "environ").read_bytes()
                if all(mark in environment for mark in marks):
                    os.kill(int(process.name), signal.SIGKILL)


def _npu_devices(node: Node) -> list[Path]:
    names = ("davinci*", "hisi_hdc", "devmm_svm")
    return [path for name in names for path in sorted(node.path("/dev").glob(name))]


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
