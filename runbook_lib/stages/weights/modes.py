"""The modes that the service accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.stages.weights.probe import CONFIG

if TYPE_CHECKING:
    from runbook_lib.stages.weights.facts import HostFacts

_DIRECTORY_MODE = 0o750  # the service refuses anything more open (field report; MindIE DeepSeek-R1 README)
_CONFIG_MODE = 0o640
_WATCHED_BITS = 0o427  # the owner reads, the group does not write, others nothing
_OWNER_READS = 0o400


def wrong_modes(seen: HostFacts) -> list[str]:
    """Return "path mode" of everything that the service would refuse."""
    wrong = []
    for path, entry in (seen.entries or {}).items():
        if entry.kind == "l":
            continue  # a link has no mode of its own; WGT-SYMLINK is about it
        if entry.kind == "d":
            fine = entry.mode == _DIRECTORY_MODE
        elif path == CONFIG:
            fine = entry.mode == _CONFIG_MODE
        else:
            fine = entry.mode & _WATCHED_BITS == _OWNER_READS
        if not fine:
            wrong.append(f"{path or '.'} {entry.mode:o}")
    return wrong
