"""The changes that bring the service up: write what differs, and restart all daemons only when one must be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from runbook_lib.ascend.hccn import NetHealth
from runbook_lib.model import Change, Command, Job, Risk, Subject, Upload
from runbook_lib.stages.service.files import CODES, ENV_CODE
from runbook_lib.stages.service.probe import in_container
from runbook_lib.stages.service.rules import MODEL_SOURCE, config_problems
from runbook_lib.stages.service.wanted import STARTED_WITH, due_in_network, stale, wanted_files, wanted_rank_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Host, Params
    from runbook_lib.stages.service.facts import HostFacts, Listener, ServiceFacts

_START_DEADLINE_S = 30.0
# stopped before its files are written, so that the way back (stop, old files, start) starts it with the old ones
_BEFORE_STOP, _STOP, _WRITE, _START = range(4)
_FIXES = {"rank_table.json": ("SVC-RANK-TABLE", "SVC-RANK-TABLE-LIVE")}


def plan(facts: ServiceFacts, params: Params) -> list[Change]:
    """Write files that differ; when a daemon reads one of them at its start, or one is not alive, restart all.

    Nothing is started while the configuration breaks a rule or a stranger has one of the ports, and nothing is changed
    while something that decides about it could not be read.
    """
    uploads: list[Change] = []
    restart = False
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        want = wanted_files(facts, params, host) if seen is not None else None
        if seen is None or want is None or any(map(seen.unread, want)):
            return []  # also a file that was not read may be as wanted, and undo could not bring it back
        config = json.loads(want[facts.paths[host.name].config_json][0])
        fraction, tls = params.service.npu_memory_fraction, seen.tls_missing == ()
        broken = config_problems(config, params, fraction, certificates=tls)
        if any(each.source != MODEL_SOURCE for each in broken):  # what the memory model says is worth a try
            return []  # nothing is started into a failure that is known, and what runs goes on with its old files
        uploads += _uploads(host, seen, want)
        restart = restart or _read_at_start(seen, want)
    master = facts.hosts[params.master.name]
    if not all(map(_daemon_seen, facts.hosts.values())) or (master.listening is None and master.alive != "alive"):
        return []
    if taken_ports(master, params):
        return uploads
    alive = [name for name, seen in facts.hosts.items() if seen.alive == "alive"]
    older = [name for name in alive if stale(facts.hosts[name], facts.paths[name])]
    if not older and len(alive) == len(params.cluster.hosts) and not restart:
        return uploads
    stops = [
        _stop(params, host, facts) for host in params.cluster.hosts if facts.hosts[host.name].alive in {"alive", "dead"}
    ]
    starts = [_start(params, host, facts) for host in params.cluster.hosts]
    return sorted([*uploads, *stops, *starts], key=lambda change: change.phase)


def _daemon_seen(seen: HostFacts) -> bool:
    """Whether a daemon is known to run, and with which files, or not to: else it may run as wanted."""
    return seen.daemon_known and (seen.alive != "alive" or seen.started_with is not None)


def _read_at_start(seen: HostFacts, want: Mapping[str, tuple[str, int]]) -> bool:
    """Whether a daemon that runs keeps another text of one of its files; a mode or stop.sh can change beside it."""
    return any(
        seen.files.get(path) != text for path, (text, _) in want.items() if path.rpartition("/")[2] in STARTED_WITH
    )


def _uploads(host: Host, seen: HostFacts, want: Mapping[str, tuple[str, int]]) -> list[Change]:
    changes = []
    for path, (text, mode) in want.items():
        name, has = path.rpartition("/")[2], seen.files.get(path)
        same = has == text
        undo: Upload | Command = Command(("rm", "-f", path))
        before = "missing"
        if has is not None:
            had, owner = seen.modes[path], seen.owners[path]
            if same and had == mode and owner == "0:0":
                continue
            undo = Upload(path, has, had)
            before = f"mode {had:o}, owner {owner}" if same else has
        changes.append(
            Change(
                subject=Subject(host.name),
                summary=f"write {path}",
                before=before,
                after=f"mode {mode:o}, owner 0:0" if same else text,
                action=Upload(path, text, mode),
                undo=undo,
                risk=Risk.REVERSIBLE,
                phase=_WRITE if name != "stop.sh" else _BEFORE_STOP,
                fixes=(*_FIXES.get(name, (CODES.get(name, ENV_CODE),)), "SVC-FILE-MODE"),
            )
        )
    return changes


def _script(params: Params, host: Host, facts: ServiceFacts, name: str) -> tuple[str, ...]:
    paths = facts.paths[host.name]
    folder = paths.inside(paths.service)
    return in_container(params, "bash", f"{folder}/{name}", folder)


def _stop(params: Params, host: Host, facts: ServiceFacts) -> Change:
    alive = facts.hosts[host.name].alive == "alive"
    return Change(
        subject=Subject(host.name),
        summary="stop the daemon by its recorded pid",
        before=facts.hosts[host.name].alive,
        after="stopped; requests in flight are cut",
        action=Command(_script(params, host, facts, "stop.sh"), timeout_s=90.0),
        undo=_start_job(params, host, facts) if alive else None,
        irreversible="" if alive else "it had ended by itself; only its pid file goes",
        risk=Risk.DISRUPTIVE,
        phase=_STOP,
    )


def _stands(seen: HostFacts) -> str:
    return "alive" if seen.alive == "alive" else "not running"


def _start_job(params: Params, host: Host, facts: ServiceFacts) -> Job:
    return Job("mindie-daemon", _script(params, host, facts, "start.sh"), _START_DEADLINE_S, wait=False)


def _start(params: Params, host: Host, facts: ServiceFacts) -> Change:
    master = host == params.master
    return Change(
        subject=Subject(host.name),
        summary="start the daemon, together with those of the other hosts",
        before=_stands(facts.hosts[host.name]),
        after="alive and ready" if master else "alive",
        action=_start_job(params, host, facts),
        undo=Command(_script(params, host, facts, "stop.sh"), timeout_s=90.0),
        risk=Risk.DISRUPTIVE,
        phase=_START,
        fixes=("SVC-DAEMON", "SVC-READY", "SVC-ANSWER") if master else ("SVC-DAEMON",),
    )


def taken_ports(seen: HostFacts, params: Params) -> list[Listener]:
    """Return who else listens on a port of the service on the master; nobody while a daemon of ours runs."""
    if seen.listening is None or seen.alive == "alive":
        return []
    service = params.service
    ports = {service.port, service.management_port, service.metrics_port}
    own = f"{params.master.service_ip}:"
    return [each for each in seen.listening if each.port in ports and (each.everywhere or each.place.startswith(own))]


def waits_for(facts: ServiceFacts, params: Params) -> tuple[str, ...]:
    """Return the stages whose work the daemons need: live IPs, healthy cards, a running container."""
    waits = []
    seen = facts.hosts.values()
    if wanted_rank_table(facts, params) is None or due_in_network(facts, params):
        waits.append("network")
    if any(health.value is not NetHealth.SUCCESS for each in seen for health in each.health.values()):
        waits.append("gateway")
    if any(each.container.value is None or each.container.value.state != "running" for each in seen):
        waits.append("container")
    return tuple(waits)
