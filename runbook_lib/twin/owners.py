"""Who owns a file of a node. Where only one uid exists (L1b, L0 without root) an extended attribute says it.

An attribute moves and dies with its file, and a file that replaces another one belongs to root again, as in reality.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.twin.node import Node

_ATTRIBUTE = "user.twin.owner"


def are_real(node: Node) -> bool:
    """Whether the file system itself keeps the owners."""
    return node.level == "L1a" or (node.level == "L0" and os.getuid() == 0)


def owner_of(node: Node, place: Path) -> tuple[int, int]:
    """Return (uid, gid) of a file as the node sees it; `place` is from Node.path. Raises OSError."""
    seen = place.lstat()
    if are_real(node):
        return seen.st_uid, seen.st_gid
    if place.is_symlink():
        return 0, 0
    try:
        uid, _, gid = os.getxattr(place, _ATTRIBUTE).decode().partition(":")
    except OSError:
        return 0, 0
    return int(uid), int(gid)


def set_owner(node: Node, place: Path, uid: int | None, gid: int | None) -> None:
    """Set the owner; None keeps what is there. Raises OSError."""
    if are_real(node):
        os.chown(place, -1 if uid is None else uid, -1 if gid is None else gid, follow_symlinks=False)
        return
    if place.is_symlink():
        return
    old_uid, old_gid = owner_of(node, place)
    new = f"{old_uid if uid is None else uid}:{old_gid if gid is None else gid}"
    os.setxattr(place, _ATTRIBUTE, new.encode())
