"""What a deed is: a fault that is more than a value of a card's or a host's condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
