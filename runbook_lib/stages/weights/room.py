"""How much is still to come, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.stages.weights.state import lacking

if TYPE_CHECKING:
    from runbook_lib.params import Params
    from runbook_lib.stages.weights.facts import Files, HostFacts

MARGIN = 1.02  # room for the file system's own needs; the downloader asks for the same
_INCOMPLETE = ".incomplete"


def missing_bytes(seen: HostFacts, files: Files, params: Params) -> int:
    """Return the bytes that are still to come: without what an earlier try left, and what only needs to be hashed."""
    total = 0
    for name in lacking(seen, files, params):
        size = int(files[name]["size"])
        entries = seen.entries or {}
        there, part = entries.get(name), entries.get(name + _INCOMPLETE)
        if there is not None and there.kind == "f" and there.size == size:
            continue
        total += size - (part.size if part is not None and part.kind == "f" else 0)
    return total


def needed_bytes(seen: HostFacts, files: Files, params: Params) -> int:
    """Return the free bytes that the rest of the weights takes."""
    return int(missing_bytes(seen, files, params) * MARGIN)


def fits(seen: HostFacts, files: Files, params: Params) -> bool:
    """Whether the rest fits; an unknown disk does not."""
    return seen.free is not None and needed_bytes(seen, files, params) <= seen.free
