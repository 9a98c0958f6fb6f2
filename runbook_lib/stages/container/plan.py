"""The changes that load the image, and make, start or replace the container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Job, Risk, Subject
from runbook_lib.stages.container.image_plan import LOAD, image_changes
from runbook_lib.stages.container.wanted import (
    ASCEND_RUNTIME,
    MARKER,
    differences,
    foreign,
    has_image,
    lost_devices,
    wanted,
)
from runbook_lib.stages.service.probe import in_container

if TYPE_CHECKING:
    from runbook_lib.ascend.docker import Container
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.container.facts import ContainerFacts

_START_DEADLINE_S = 30.0
_REMOVE, _START = LOAD + 1, LOAD + 2  # phases, after those of the image
_STOP_IF_THERE = '[ ! -f "$1/stop.sh" ] || exec bash "$1/stop.sh" "$1"'


def plan(facts: ContainerFacts, params: Params) -> list[Change]:
    """Load the image, then make, start or replace the container. A foreign container is left alone."""
    changes: list[Change] = []
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is not None:
            changes += _host_changes(facts, params, host)
    return changes


def _daemon_stop(params: Params, host: Host, paths: HostPaths) -> list[Change]:
    """Stop a daemon that would die with its container, so that the way back starts it again."""
    folder = paths.inside(paths.service)
    start = in_container(params, "bash", f"{folder}/start.sh", folder)
    return [
        Change(
            subject=Subject(host.name),
            summary="stop the daemon, whose container is replaced",
            before="alive",
            after="stopped; requests in flight are cut",
            action=Command(in_container(params, "sh", "-c", _STOP_IF_THERE, "sh", folder), timeout_s=90.0),
            undo=Job("mindie-daemon", start, _START_DEADLINE_S, wait=False),
            risk=Risk.DISRUPTIVE,
            phase=LOAD,
        )
    ]


def _argv_again(has: Container) -> tuple[str, ...]:
    """Return the command that makes a container of ours again as it is now; the form is that of `wanted`."""
    argv = ["docker", "run", "-itd", f"--name={has.name}", f"--net={has.network_mode or 'host'}"]
    argv += ["--shm-size", str(has.shm_size_bytes)] if has.shm_size_bytes else []
    if has.runtime == ASCEND_RUNTIME:
        argv += [
            f"--runtime={has.runtime}",
            "-e",
            f"ASCEND_VISIBLE_DEVICES={has.env.get('ASCEND_VISIBLE_DEVICES', '')}",
        ]
    for limit in has.ulimits:
        argv += ["--ulimit", limit]
    argv += ["--privileged"] if has.privileged else []
    argv += ["-e", f"{MARKER}={has.env[MARKER]}"]
    argv += [f"--device={device}" for device in has.devices]
    for mount in has.mounts:
        argv += ["-v", f"{mount.source}:{mount.destination}{'' if mount.writable else ':ro'}"]
    return (*argv, has.image or "", "bash")


def _host_changes(facts: ContainerFacts, params: Params, host: Host) -> list[Change]:
    seen, paths, subject = facts.hosts[host.name], facts.paths[host.name], Subject(host.name)
    name = params.container.name
    has = seen.container.value
    changes = image_changes(facts, params, host)
    image = has_image(params, seen) or any("CON-IMAGE" in change.fixes for change in changes)
    want = wanted(params, host, paths, seen)
    if want is None or (has is not None and foreign(params, has)) or lost_devices(host, paths, seen):
        return changes  # a container of fewer cards than params name would only hide that one is gone
    unlike = [] if has is None else differences(want, has, params.cluster.name, service_gone=not seen.service)
    if has is not None and unlike:
        changes += _daemon_stop(params, host, paths) if seen.daemon == "alive" else []
        changes.append(
            Change(
                subject=subject,
                summary=f"remove {name}, which differs from params",
                before="; ".join(unlike),
                after="no such container; what was changed inside it is lost",
                action=Command(("docker", "rm", "-f", name), timeout_s=120.0),
                undo=Command(_argv_again(has), timeout_s=120.0),
                risk=Risk.DISRUPTIVE,
                phase=_REMOVE,
            )
        )
        has = None
    elif has is not None and has.state not in {"running", None}:
        changes.append(
            Change(
                subject=subject,
                summary=f"start {name}",
                before=has.state or "not running",
                after="running",
                action=Command(("docker", "start", name)),
                undo=Command(("docker", "stop", name), timeout_s=120.0),
                risk=Risk.DISRUPTIVE,
                phase=_START,
                fixes=("CON-STOPPED",),
            )
        )
    gone = seen.container.state == "unset" or seen.container.value is not None
    if has is None and gone and image:
        if not seen.service:
            changes.append(
                Change(
                    subject=subject,
                    summary=f"make {paths.service}, which the container mounts",
                    before="missing",
                    after="750 directory",
                    action=Command(("install", "-d", "-m", "0750", paths.service, paths.plog, paths.mindie_log)),
                    undo=Command(("rm", "-rf", paths.service)),
                    phase=_START,
                )
            )
        changes.append(
            Change(
                subject=subject,
                summary=f"make and start {name}",
                before="no such container",
                after=f"{params.container.image}, running",
                action=Command(want.argv, timeout_s=120.0),
                undo=Command(("docker", "rm", "-f", name), timeout_s=120.0),
                risk=Risk.DISRUPTIVE,
                phase=_START,
                fixes=("CON-MISSING", "CON-DIFFERS", "CON-STOPPED", "CON-SHM"),
            )
        )
    return changes


def waits_for(facts: ContainerFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return preflight while a work folder is missing, weights while a host has none (docker would make it)."""
    waits = []
    if not all(seen.work_present for seen in facts.hosts.values()):
        waits.append("preflight")
    if not all(seen.weights_present for seen in facts.hosts.values()):
        waits.append("weights")
    return tuple(waits)
