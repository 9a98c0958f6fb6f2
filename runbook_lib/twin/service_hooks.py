"""What the resident process calls for docker, the service's daemons and the weights hub."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from runbook_lib.twin.container_runtime import runtime_of
from runbook_lib.twin.hub import Hub, start_hub
from runbook_lib.twin.images import write_image_tar
from runbook_lib.twin.service_peers import Peers
from runbook_lib.twin.weights_repo import build_repository

if TYPE_CHECKING:
    from runbook_lib.twin.world import Node, World


@dataclass(frozen=True, slots=True)
class _Parts:
    hub: Hub | None
    peers: Peers


_RUNNING: WeakKeyDictionary[World, _Parts] = WeakKeyDictionary()


async def start(world: World) -> None:
    """Start the hub and answer the daemons. Raises OSError when the hub's port is taken."""
    hub = await start_hub(world)
    runtime = runtime_of(world)
    peers = Peers(world, runtime.host_pid, runtime.outside)
    peers.start()
    _RUNNING[world] = _Parts(hub, peers)


async def stop(world: World) -> None:
    """Stop all containers, the hub and the watch over the daemons."""
    await runtime_of(world).close()
    if parts := _RUNNING.pop(world, None):
        await parts.peers.stop()
        if parts.hub is not None:
            await parts.hub.close()


async def node_booted(world: World, node: Node) -> None:
    """Put the image's tar on the node's disk at its first boot; start what has a restart policy."""
    state = world.tool_state("docker", node.name)
    tar = world.params.container.image_tar
    if tar is not None and not state.get("image_tar_placed"):
        path = node.path(tar)
        if not path.exists():
            await asyncio.to_thread(write_image_tar, path, world.params.container.image)
        state["image_tar_placed"] = True
    source = world.params.model.weights.source
    if source.path is not None and node.name == world.params.master.name and world.params.twin is not None:
        # the disk that somebody brought
        await asyncio.to_thread(
            build_repository,
            node.path(source.path),
            weights_format=world.params.model.format,
            weights_bytes=world.params.twin.weights_bytes,
        )
    await runtime_of(world).node_up(node)


async def node_going_down(world: World, node: Node) -> None:
    """Kill the node's containers."""
    await runtime_of(world).node_down(node)


def hub_of(world: World) -> Hub | None:
    """Return the running hub, for its request log."""
    parts = _RUNNING.get(world)
    return parts.hub if parts else None
