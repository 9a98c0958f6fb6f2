"""The twin's shared state: the hosts, the NPU fabric, the clock, and what survives a power cycle."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import TwinError
from runbook_lib.twin.fabric import Fabric
from runbook_lib.twin.node import Node

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.params import Params

__all__ = ["Answer", "Node", "Reply", "Tool", "ToolCall", "World"]


class World:
    """One twin. Durations given to it are emulated seconds; `time_factor` of them pass in one real second."""

    def __init__(self, params: Params, root: Path) -> None:
        if params.twin is None:
            raise TwinError(
                f"{params.cluster.name} is no twin: its params have no `twin:` block",
                next_command="runbook twin up params/twin-2x8-direct.yaml",
            )
        self.params = params
        self.root = root
        self.twin = params.twin
        self.time_factor = params.twin.time_factor
        self.state: dict[str, Any] = self._load()
        self.nodes: dict[str, Node] = {
            host.name: Node(host.name, host.address, root / "nodes" / host.name) for host in params.cluster.hosts
        }
        self.answers: dict[str, Answer] = {}
        self.reboot: Callable[[str], None] | None = None  # set by the resident process: reboots a host by itself
        self.hbm: dict[tuple[str, int], dict[int, int]] = {}
        self.fabric = Fabric(self)

    @property
    def state_file(self) -> Path:
        """Where `state` is kept across down, up and reboot."""
        return self.root / "state.json"

    def _load(self) -> dict[str, Any]:
        try:
            loaded = json.loads(self.state_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise TwinError(
                f"the twin's state {self.state_file} cannot be read: {error}",
                next_command=f"runbook twin up params/{self.params.cluster.name}.yaml --fresh",
            ) from None
        return dict(loaded)

    def save(self) -> None:
        """Write `state` to disk, atomically."""
        temporary = self.state_file.with_suffix(".json.new")
        temporary.write_text(json.dumps(self.state, indent=1, sort_keys=True), encoding="utf-8")
        temporary.replace(self.state_file)

    def tool_state(self, tool: str, node: str) -> dict[str, Any]:
        """Return the persistent dict of one tool on one node; call `save` after a change."""
        per_node: dict[str, Any] = self.state.setdefault(tool, {}).setdefault(node, {})
        return per_node

    def machine(self, node: str) -> dict[str, Any]:
        """Return the persisted condition of a server: what is not as hardware.py says. Keys: see faults.yaml."""
        condition: dict[str, Any] = self.state.setdefault("machine", {}).setdefault(node, {})
        return condition

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` emulated seconds pass."""
        await asyncio.sleep(seconds / self.time_factor)

    def monotonic(self) -> float:
        """Return a running count of emulated seconds, for measuring durations."""
        return time.monotonic() * self.time_factor

    def emulated_now(self, node: str = "") -> datetime:
        """Return the date and time that a host shows: the real one, plus that host's clock fault."""
        skew_s = float(self.machine(node).get("skew_s", 0.0)) if node else 0.0
        return datetime.fromtimestamp(time.time() + skew_s, tz=UTC)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of an emulated tool. `pid` is the shim's pid inside the node; `container` is "" on the host."""

    world: World
    node: Node
    argv: list[str]
    cwd: str = "/root"
    env: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    container: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a tool answers. With `exec_argv` the shim runs that argv itself, on its own stdin, stdout and stderr."""

    code: int = 0
    out: str | bytes = ""
    err: str | bytes = ""
    exec_argv: list[str] | None = None


Tool = Callable[[ToolCall], Awaitable[Reply]]
Answer = Callable[[Node, dict[str, Any]], Awaitable[dict[str, Any]]]
