"""Faults of a host's disks: full, filling, and weights on the small one."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runbook_lib.errors import TwinError
from runbook_lib.twin.fault_base import At, Deed, run_in_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import World


async def fill_disks(world: World, node: Node) -> None:
    """Make the large disk of a host as small as its condition says; called again at every boot.

    A tmpfs with a size over it gives a real ENOSPC; what it holds is copied back when the fault is mended.
    """
    room = world.machine(node.name).get("data_room_bytes")
    if room is None or node.level == "L0":
        return
    folder = "/" + PurePosixPath(world.params.model.weights.directory).parts[1]
    script = (
        'set -e; used=$(du -sk "$1" | cut -f1); kept=$(mktemp -d /run/full.XXXX); mount --bind "$1" "$kept"; '
        'mount -t tmpfs -o mode=755,size=$((used + used / 8 + $2))k full "$1"; cp -a "$kept/." "$1/"; '
        'umount "$kept"; rmdir "$kept"'
    )
    await run_in_node(node, script, folder, str(int(room) // 1024))


def _small_disk(room: Callable[[World], int], *, shown: bool) -> Deed:
    """Leave that many bytes on the large disk; `shown`: df says so too."""

    async def do(at: At) -> None:
        at.condition["data_room_bytes"] = room(at.world)
        if shown:
            at.condition["data_full"] = True
        await fill_disks(at.world, at.node)

    async def undo(at: At) -> None:
        for key in ("data_room_bytes", "data_full"):
            at.condition.pop(key, None)
        folder = PurePosixPath(at.world.params.model.weights.directory).parts[1]
        await asyncio.to_thread(_copy_back, at.node.base / folder, at.node.files / folder)
        await run_in_node(at.node, 'umount -l "$1"', f"/{folder}")

    return Deed(do, undo, lambda at: "data_room_bytes" in at.condition)


def _copy_back(small: Path, large: Path) -> None:
    for old in large.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    subprocess.run(["cp", "-a", f"{small}/.", f"{large}/"], check=True)


def _home_of_weights(at: At) -> tuple[PurePosixPath, PurePosixPath]:
    target = PurePosixPath(at.world.params.model.weights.directory)
    return target, PurePosixPath("/root/.cache") / target.name


async def _move_weights_home(at: At) -> None:
    target, home = _home_of_weights(at)
    place = at.node.files / str(target).lstrip("/")
    real = at.node.files / str(home).lstrip("/")
    if place.is_symlink() or real.exists():
        raise TwinError(f"{at.node.name}: {target} is a link already")
    at.kept["made"] = not place.exists()
    real.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(real)
    else:
        real.mkdir()
    place.symlink_to(home)


async def _move_weights_back(at: At) -> None:
    target, home = _home_of_weights(at)
    place = at.node.files / str(target).lstrip("/")
    real = at.node.files / str(home).lstrip("/")
    place.unlink()
    if at.kept["made"] and not any(real.iterdir()):
        real.rmdir()
    else:
        real.rename(place)


def _weights_are_home(at: At) -> bool:
    return (at.node.files / str(_home_of_weights(at)[0]).lstrip("/")).is_symlink()


DISK_FULL = _small_disk(lambda _world: 65536, shown=True)
DISK_FILLS = _small_disk(lambda world: world.twin.weights_bytes // 2, shown=False)
WEIGHTS_IN_HOME = Deed(_move_weights_home, _move_weights_back, _weights_are_home)
