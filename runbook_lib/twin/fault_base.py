"""What a deed is: a fault that is more than a value of a card's or a host's condition."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from runbook_lib.errors import TwinError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import World


class Power(Protocol):
    """Who can switch hosts on and off: the resident process."""

    world: World

    async def power_off(self, node: Node) -> None:
        """Cut a host's power."""

    async def power_on(self, node: Node) -> None:
        """Boot a host."""


@dataclass(frozen=True, slots=True)
class At:
    """Where a deed is done. `kept` is what it needs to undo it; it persists."""

    power: Power
    node: Node
    card: int
    kept: dict[str, Any]

    @property
    def world(self) -> World:
        """The twin."""
        return self.power.world

    @property
    def condition(self) -> dict[str, Any]:
        """The persisted condition of the host."""
        return self.world.machine(self.node.name)


@dataclass(frozen=True, slots=True)
class Deed:
    """do breaks, undo mends; there says whether it is still broken."""

    do: Callable[[At], Awaitable[None]]
    undo: Callable[[At], Awaitable[None]]
    there: Callable[[At], bool]


async def run_in_node(node: Node, script: str, *words: str, env: Mapping[str, str] | None = None) -> None:
    """Run a bash script inside a node. Raises TwinError with its last words when it fails."""
    process = await asyncio.create_subprocess_exec(
        *node.argv(["bash", "-c", script, "bash", *words], env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise TwinError(f"{node.name}: {said.decode(errors='replace').strip()[-300:]}")
