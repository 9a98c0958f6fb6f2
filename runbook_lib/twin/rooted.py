"""Paths of a node as paths of this machine: every symlink, absolute or not, stays below the node's root."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAX_LINKS = 40  # as the kernel's ELOOP


def resolve_in(root: Path, path: str, *, follow_last: bool = True) -> Path:
    """Return the place of the absolute `path` of the node whose `/` is `root`; it need not exist.

    Raises OSError(ELOOP) on a circle of symlinks.
    """
    left = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    done: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            if done:
                done.pop()
            continue
        here = root.joinpath(*done, part)
        try:
            target = str(here.readlink()) if left or follow_last else ""
        except OSError:
            target = ""
        if not target:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            done = []
        left += [piece for piece in reversed(target.split("/")) if piece not in {"", "."}]
    return root.joinpath(*done)
