"""What preflight changes: the runbook's own work folder, and the CPUs' power mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Subject

if TYPE_CHECKING:
    from runbook_lib.params import Params
    from runbook_lib.stages.preflight.facts import HostFacts, PreflightFacts

GOVERNOR = "performance"
_MODE = "00700"  # of five digits: with four, install and chmod keep the setgid bit that a folder has from its parent
# the runbook's own books go; what anything else has left there keeps the folder, and is said
_REMOVE = 'cd "$1" 2>/dev/null || exit 0; rm -rf jobs lock lock.gone heads weights weights_tool.py; cd / && rmdir "$1"'


def plan(facts: PreflightFacts, params: Params) -> list[Change]:
    """Make the work folder where it is missing, close it where it is open; set the governor where another is known."""
    changes = []
    for host, seen in facts.hosts.items():
        changes += _work_folder(host, facts.paths[host].work, seen)
        others = [each for each in seen.governors or () if each != GOVERNOR]
        if params.preflight.power == GOVERNOR and others:
            changes.append(_governor(host, others[0]))
    return changes


def _work_folder(host: str, work: str, seen: HostFacts) -> list[Change]:
    if seen.work == "missing":
        action, undo = Command(("install", "-d", "-m", _MODE, work)), Command(("sh", "-c", _REMOVE, "sh", work))
    elif seen.work is not None and seen.work.endswith(" directory") and seen.work != "700 directory":
        mode = seen.work.split(maxsplit=1)[0]
        action, undo = Command(("chmod", _MODE, work)), Command(("chmod", mode, work))
    else:
        return []
    return [
        Change(
            subject=Subject(host),
            summary=f"make the runbook's work folder {work}",
            before=seen.work,
            after="700 directory",
            action=action,
            undo=undo,
            fixes=("PRE-WORKDIR",),
        )
    ]


def _governor(host: str, before: str) -> Change:
    return Change(
        subject=Subject(host),
        summary=f"set the CPUs' governor to {GOVERNOR}",
        before=before,
        after=GOVERNOR,
        action=Command(("cpupower", "frequency-set", "-g", GOVERNOR)),
        undo=Command(("cpupower", "frequency-set", "-g", before)),
        fixes=("PRE-POWER-MODE",),
    )
