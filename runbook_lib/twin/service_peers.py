"""The resident side of the emulated daemons: who runs where, who has joined, which links hold, who keeps HBM.

Answers the question "daemon" of runbook_lib.twin.daemon; its field `do` names what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import TwinError
from runbook_lib.twin.owners import owner_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.world import Node, World

_WATCH_S = 0.2  # real seconds
_ZOMBIE = "Z"


@dataclass
class Running:
    """One daemon process. `host_pid` is its pid for this process, `node_pid` the one inside its node."""

    node: str
    host_pid: int
    node_pid: int
    born: str
    address: str = ""
    marks: dict[str, str] = field(default_factory=dict)
    phases: set[str] = field(default_factory=set)
    group: int = 0  # 0 until all servers have met; a daemon that comes later is no member

    def alive(self) -> bool:
        """Whether the process is still the same one."""
        return _born(self.host_pid) == self.born


def _born(pid: int) -> str:
    """Return a process's start time, "" when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == _ZOMBIE else fields[19]


def find_process(pid: int, namespace_of: int | None) -> tuple[int, int] | None:
    """Return (pid here, pid in the node) of the process that its own pid namespace calls `pid`.

    namespace_of: a process (as seen here) of the same pid namespace, or None when there is only one namespace.
    """
    if namespace_of is None:
        return (pid, pid) if _born(pid) else None
    with contextlib.suppress(OSError):
        wanted = Path(f"/proc/{namespace_of}/ns/pid").readlink()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    names = _namespace_pids(process)
                    if names[-1] == pid and (process / "ns/pid").readlink() == wanted:
                        return int(process.name), names[-2] if len(names) > 1 else pid
    return None


def find_first(ancestor: int, node_pid: int) -> int | None:
    """Return the pid here of the first process of a container: below `ancestor`, and `node_pid` inside its node."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                if _namespace_pids(process)[-2:] == [node_pid, 1] and _descends(int(process.name), ancestor):
                    return int(process.name)
    return None


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        pid = int(_status(Path(f"/proc/{pid}"), "PPid:")[0])
        if pid == ancestor:
            return True
    return False


def _namespace_pids(process: Path) -> list[int]:
    return [int(word) for word in _status(process, "NSpid:")]


def _status(process: Path, key: str) -> list[str]:
    for line in (process / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.split()[1:]
    raise ValueError(f"no {key}")


class Peers:
    """All daemons of one twin.

    container_pid(node name, container): the pid here of its first process; outside(node, container, path): where a path
    of it is for this process.
    """

    def __init__(
        self,
        world: World,
        container_pid: Callable[[str, str], int | None],
        outside: Callable[[Node, str, str], Path],
    ) -> None:
        self.world = world
        self.container_pid = container_pid
        self.outside = outside
        self.running: dict[int, Running] = {}
        self._groups = 0
        self._watcher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Answer questions, and watch for daemons that end."""
        self.world.answers["daemon"] = self.answer
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.sweep()
            await asyncio.sleep(_WATCH_S)

    def sweep(self) -> None:
        """Forget the daemons that have ended, and free their HBM."""
        for pid, daemon in list(self.running.items()):
            if not daemon.alive():
                del self.running[pid]
                for holders in self.world.hbm.values():
                    holders.pop(daemon.node_pid, None)

    async def answer(self, node: Node, question: dict[str, Any]) -> dict[str, Any]:
        """Answer one question of a daemon."""
        if question["do"] == "start":
            return self._start(node, question)
        if question["do"] == "owner":
            uid, gid = owner_of(node, self.outside(node, question["container"], question["path"]))
            return {"uid": uid, "gid": gid}
        daemon = self._find(node, question)
        if daemon is None:
            raise TwinError(f"no daemon with pid {question['pid']} runs on {node.name}")
        if question["do"] == "join":
            return self._join(daemon, question)
        if question["do"] == "links":
            return {"pairs": self._broken_pairs(node, question)}
        if question["do"] == "hold":
            for card in question["cards"]:
                self.world.hbm.setdefault((node.name, int(card)), {})[daemon.node_pid] = int(question["mb"])
            return {}
        raise TwinError(f"unknown question {question['do']!r}")

    def _find(self, node: Node, question: dict[str, Any]) -> Running | None:
        found = find_process(int(question["pid"]), self._namespace(node, question))
        return self.running.get(found[0]) if found else None

    def _namespace(self, node: Node, question: dict[str, Any]) -> int | None:
        if node.level == "L0":
            return None
        name = str(question.get("container", ""))
        return self.container_pid(node.name, name) if name else node.init_pid

    def _start(self, node: Node, question: dict[str, Any]) -> dict[str, Any]:
        self.sweep()
        found = find_process(int(question["pid"]), self._namespace(node, question))
        if found is None:
            raise TwinError(f"no process with pid {question['pid']} in {node.name}")
        self.running[found[0]] = Running(node.name, found[0], found[1], _born(found[0]))
        service_ip = self.world.params.host(node.name).service_ip
        skew_s = float(self.world.machine(node.name).get("skew_s", 0.0))
        return {
            "time_factor": self.world.time_factor,
            "skew_s": skew_s,
            "level": node.level,
            "address": node.address,
            "service_ip": service_ip,
            "node_pid": found[1],
            "cards": {
                str(card): {
                    "ip": self.world.fabric.card(node.name, card).ip,
                    "holders": sorted(self.world.hbm.get((node.name, card), {})),
                }
                for card in self.world.fabric.present(node.name)
            },
        }

    def _join(self, daemon: Running, question: dict[str, Any]) -> dict[str, Any]:
        """Note that a daemon has reached a phase; say who else has, and what differs from the first server's."""
        self.sweep()
        daemon.address = question["address"]
        daemon.marks = question["marks"] or daemon.marks
        daemon.phases.add(question["phase"])
        servers = question["servers"]
        present = {
            each.address: each
            for each in self.running.values()
            if each.address in servers and each.group == daemon.group
        }
        reached = [
            address for address in servers if address in present and question["phase"] in present[address].phases
        ]
        first = present.get(servers[0], daemon)
        compare = present.values() if first is daemon else [first]
        differs = [
            mark for mark, value in daemon.marks.items() if any(other.marks.get(mark) != value for other in compare)
        ]
        if len(reached) == len(servers) and not daemon.group and not differs:
            self._groups += 1
            for member in present.values():
                member.group = self._groups
        return {
            "joined": [address for address in servers if address in present],
            "reached": reached,
            "differs": differs,
        }

    def _broken_pairs(self, node: Node, question: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the links from this server's cards that cannot be set up.

        servers: [[[device id, ip, rank], ...], ...] in the order of the rank table; own: index of this server.
        Every card needs a gateway, and a health of Success, on both ends (field report).
        """
        fabric = self.world.fabric
        servers, own = question["servers"], question["own"]
        reference = fabric.find_ip(servers[0][0][1])
        tls = fabric.card(*reference).tls if reference else 0
        broken = []
        for index, server in enumerate(servers):
            for mine, theirs in zip(servers[own], server, strict=True):
                if index == own:
                    continue
                here, there = (node.name, mine[0]), fabric.find_ip(theirs[1])
                good = (
                    there is not None
                    and self._usable(here, tls)
                    and self._usable(there, tls)
                    and fabric.reachable(mine[1], theirs[1])
                )
                if not good:
                    broken.append(
                        {
                            "card": mine[0],
                            "ip": mine[1],
                            "rank": mine[2],
                            "peer_ip": theirs[1],
                            "peer_rank": theirs[2],
                            "tls": fabric.card(*here).tls,
                        }
                    )
        return broken

    def _usable(self, end: tuple[str, int], tls: int) -> bool:
        card = self.world.fabric.card(*end)
        return bool(card.gateway) and card.tls == tls and self.world.fabric.health(*end) == "Success"
