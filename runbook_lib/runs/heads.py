"""The head of a run's chain, left on the hosts: whoever removes the newest run here cannot remove it there too.

A host keeps one line for each applied run in `work/heads/<cluster>`: run id, number of events, hash of the last of
them, who ran it. Lines are only ever added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import HostError, RunbookError
from runbook_lib.remote import fan_out
from runbook_lib.runs import events
from runbook_lib.runs.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runbook_lib.params import Params
    from runbook_lib.remote import Target
    from runbook_lib.runs.events import EventLog
    from runbook_lib.runs.folder import RunFolder

_TIMEOUT_S = 20.0
_DEADLINE_S = 60.0  # of a host, connecting included
_FIELDS = 4
_NO_WORK = 66

_LEAVE = r"""
work=$1 file=$1/heads/$2 line=$3
[ -d "$work" ] || exit 66
umask 077
mkdir -p "$work/heads" && printf '%s\n' "$line" >>"$file" || exit 74
sync "$file" 2>/dev/null || true
"""
_READ = r"""
[ -d "$1" ] || exit 66
[ ! -e "$1/heads/$2" ] || cat -- "$1/heads/$2"
"""


@dataclass(frozen=True, slots=True)
class Head:
    """One line on a host: after event `events` of that run its chain had this head. `by` ran it."""

    run_id: str
    events: int
    head: str
    by: str


@dataclass(frozen=True, slots=True)
class HostHeads:
    """What one host has, or why that is not known."""

    heads: tuple[Head, ...] = ()
    error: str = ""


def leave_heads(folder: RunFolder, cluster: Cluster, log: EventLog, by: str) -> dict[str, str]:
    """Leave the head on every host, and record that; return for each host "" or why it does not have it.

    Call it when the run has ended: only the events of this very step come after the head that is left.
    """
    last = events.read(folder.events)[-1]
    line = f"{folder.run_id} {last.seq} {last.hash} {'_'.join(by.split())}"
    name = cluster.params.cluster.name
    results: dict[str, str] = {}

    def leave(target: Target) -> None:
        host = cluster.connected(target)
        work = cluster.paths_of(target.name).work
        done = host.run(("sh", "-c", _LEAVE, "heads", work, name, line), _TIMEOUT_S)
        if done.exit_code == _NO_WORK:
            raise HostError(target.name, f"there is no {work} to leave it in")
        if not done.ok:
            raise HostError(target.name, done.stderr.strip() or "it was not written")

    for host, result in fan_out(cluster.targets, leave, deadline_s=_DEADLINE_S).items():
        results[host] = _reason(result.error) if result.error is not None else ""
    log.append("commands", stage="", commands=cluster.take_commands())
    path = f"{cluster.params.paths.work}/heads/{name}"
    log.append("anchored", path=path, line=line, head=last.hash, events=last.seq, hosts=results)
    return results


def read_heads(params: Params, root: Path) -> dict[str, HostHeads]:
    """Ask every host of a cluster for its lines. A host that does not answer has its error; nothing is raised."""
    try:
        cluster = Cluster(params, root)
    except RunbookError as error:
        return {host.name: HostHeads(error=error.message) for host in params.cluster.hosts}

    def read(target: Target) -> str:
        host = cluster.connected(target)
        work = cluster.paths_of(target.name).work
        done = host.run(("sh", "-c", _READ, "heads", work, params.cluster.name), _TIMEOUT_S)
        if not done.ok and done.exit_code != _NO_WORK:
            raise HostError(target.name, done.stderr.strip() or "its heads cannot be read")
        return done.stdout

    try:
        results = fan_out(cluster.targets, read, deadline_s=_DEADLINE_S)
    finally:
        cluster.close()
    return {
        name: HostHeads(error=_reason(result.error)) if result.error is not None else _parsed(result.value or "")
        for name, result in results.items()
    }


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, HostError) else str(error)


def _parsed(text: str) -> HostHeads:
    heads = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != _FIELDS or not words[1].isdigit():
            return HostHeads(error=f"a line is no head: {line[:80]!r}")
        heads.append(Head(words[0], int(words[1]), words[2], words[3]))
    return HostHeads(tuple(heads))


def anchored_hosts(chain: list[events.Event]) -> dict[str, str]:
    """Return what the run itself says about leaving its head: of each host "" or why not; {} when it did not try."""
    said: Mapping[str, Any] = next((event.data for event in reversed(chain) if event.kind == "anchored"), {})
    hosts = said.get("hosts")
    return {str(name): str(error) for name, error in hosts.items()} if isinstance(hosts, dict) else {}
