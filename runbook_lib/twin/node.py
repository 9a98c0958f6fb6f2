"""One emulated host: its disk, its processes, and how to run a command in it.

Levels: L1a (root of this machine: real owners), L1b (plain user: one owner), both in namespaces with their own `/`;
L0 (no user namespaces): a folder per host, which commands find in RUNBOOK_HOST_ROOT.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import sysconfig
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runbook_lib.errors import TwinError
from runbook_lib.params import ROOT_VARIABLE
from runbook_lib.twin.rooted import resolve_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Level = Literal["L1a", "L1b", "L0"]
NODE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT = Path(__file__).with_name("init.sh")
_START_TIMEOUT_S = 20.0
_FULL_MAP = "0 0 65536"


class Node:
    """An emulated host. `files` is its disk, kept across reboots; `boot_id` is new on every boot."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self.files = folder / "files"
        self.twin = folder / "twin"
        self.facts = folder / "facts"
        self.level: Level = "L0"
        self.up = False
        self.boot_id = ""
        self.booted_at = 0.0  # World.monotonic
        self.init_pid = 0
        self._unshare: asyncio.subprocess.Process | None = None

    @property
    def python(self) -> str:
        """A python3 inside the node that can `import runbook_lib.twin`."""
        return str(self.twin / "bin/python3") if self.level == "L0" else "/opt/twin/bin/python3"

    @property
    def base(self) -> Path:
        """Where the node's `/` is for this process."""
        return self.files if self.level == "L0" or not self.init_pid else Path(f"/proc/{self.init_pid}/root")

    def path(self, path: str) -> Path:
        """Return where the node's absolute path is for this process; symlinks are followed inside the node."""
        return resolve_in(self.base, path)

    def environment(self) -> dict[str, str]:
        """Return the environment that sshd gives a command."""
        if self.level == "L0":
            return {
                "HOME": str(self.files / "root"),
                "LANG": "C.UTF-8",
                "LOGNAME": "root",
                "PATH": f"{self.twin / 'bin'}:{self.files}/usr/local/bin:{os.environ.get('PATH', NODE_PATH)}",
                ROOT_VARIABLE: str(self.files),
                "SHELL": "/bin/bash",
                "TWIN_LINK": str(self.twin / "link"),
                "USER": "root",
            }
        return {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "LOGNAME": "root",
            "PATH": f"/opt/twin/bin:{NODE_PATH}",
            "SHELL": "/bin/bash",
            "USER": "root",
        }

    def argv(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """Return the argv that runs `command` inside the node with a clean environment plus `env`.

        Raises TwinError when the node is down.
        """
        if not self.up:
            raise TwinError(f"{self.name} is down", next_command="runbook twin status PARAMS")
        variables = [f"{key}={value}" for key, value in {**self.environment(), **(env or {})}.items()]
        if self.level == "L0":
            return ["env", "-i", "-C", str(self.files / "root"), *variables, *command]
        enter = ["nsenter", "-t", str(self.init_pid), "-U", "-m", "-u", "-p", "--preserve-credentials", "--"]
        return [*enter, "/usr/bin/env", "-i", "-C", "/root", *variables, *command]

    async def start(self, level: Level) -> None:
        """Boot the node. Raises TwinError when this machine cannot give that level."""
        self.level = level
        self.boot_id = str(uuid.uuid4())
        if level != "L0":
            _write_facts(self)
            try:
                await asyncio.wait_for(self._boot(level), _START_TIMEOUT_S)
            except (OSError, TimeoutError, TwinError) as error:
                await self.stop()
                raise TwinError(f"{self.name}: no namespaces: {error or 'timed out'}") from error
        self.up = True

    async def _boot(self, level: Level) -> None:
        folders = [self.folder / "mnt", self.files, self.twin, self.facts]
        folders[0].mkdir(exist_ok=True)
        command = ["unshare", "--user", "bash", str(INIT), "user", *map(str, folders), self.name]
        self._unshare = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": NODE_PATH},
            start_new_session=True,
        )
        await self._hear(r"map")
        process = Path(f"/proc/{self._unshare.pid}")
        if level == "L1a":
            (process / "uid_map").write_text(_FULL_MAP)
            (process / "gid_map").write_text(_FULL_MAP)
        else:
            (process / "setgroups").write_text("deny")
            (process / "uid_map").write_text(f"0 {os.getuid()} 1")
            (process / "gid_map").write_text(f"0 {os.getgid()} 1")
        if self._unshare.stdin is None:
            raise TwinError("unshare has no stdin")
        self._unshare.stdin.write(b"go\n")
        self.init_pid = int((await self._hear(r"ready (\d+)"))[1])

    async def _hear(self, pattern: str) -> re.Match[str]:
        if self._unshare is None or self._unshare.stdout is None or self._unshare.stderr is None:
            raise TwinError("unshare was not started")
        line = (await self._unshare.stdout.readline()).decode(errors="replace").strip()
        if found := re.fullmatch(pattern, line):
            return found
        said = (await self._unshare.stderr.read(4096)).decode(errors="replace").strip()
        raise TwinError(said or f"the node's init said {line!r}")

    async def stop(self) -> None:
        """Kill everything that runs in the node; its files stay."""
        self.up = False
        if self._unshare is not None:
            for pid in (self.init_pid, self._unshare.pid):
                with contextlib.suppress(ProcessLookupError):
                    if pid:
                        os.kill(pid, signal.SIGKILL)
            if self._unshare.stdin is not None:
                self._unshare.stdin.close()
            await self._unshare.wait()
            self._unshare = None
        if self.level == "L0":
            kill_marked(self.folder)
        self.init_pid = 0


def kill_marked(folder: Path) -> None:
    """Kill the processes of L0 nodes below `folder`: those with it in their TWIN_LINK."""
    mark = f"\0TWIN_LINK={folder}/".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in b"\0" + (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


def python_binds() -> list[tuple[Path, str]]:
    """Return what is bound below /opt/twin so that the node's python3 can import the project: (source, target)."""
    package = Path(__file__).resolve().parents[1]
    binds = [(Path(sysconfig.get_path("purelib")), "site"), (package, "project/runbook_lib")]
    prefix = Path(sys.base_prefix).resolve()
    return binds if prefix == Path("/usr") else [*binds, (prefix, "python")]


def _write_facts(node: Node) -> None:
    (node.facts / "binds").write_text("".join(f"{source}\t{target}\n" for source, target in python_binds()))
    (node.facts / "boot_id").write_text(f"{node.boot_id}\n")
