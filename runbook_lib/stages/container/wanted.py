"""The container that params and facts ask for, and how one that is there differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.stages.container.probe import MANAGERS, brought_by_runtime, devices_of, optional_mounts

if TYPE_CHECKING:
    from runbook_lib.ascend.docker import Container
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.container.facts import HostFacts

MARKER = "ASCEND_RUNBOOK_CLUSTER"  # environment variable by which a container of ours is known
_UNITS = {"g": 2**30, "m": 2**20}
ASCEND_RUNTIME = "ascend"
OPEN_FILES = "nofile=65536:65536"  # every client is an open file: up to 3 x maxLinkNum, beside shards and queues


@dataclass(frozen=True, slots=True)
class Wanted:
    """The container that params ask for on one host."""

    image: str
    shm_bytes: int
    runtime: str
    privileged: bool
    devices: tuple[str, ...]
    mounts: tuple[tuple[str, str], ...]
    argv: tuple[str, ...]


def wanted(params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> Wanted | None:
    """Return the container for one host: only devices and mounts that exist there; None when that is not known.

    Where ascend-docker-runtime is installed it brings cards, manager devices and driver (docker_run reference, 3).
    """
    if seen.devices is None or seen.existing is None or seen.service is None or seen.runtimes is None:
        return None
    container = params.container
    shm = shm_wanted(params, seen)
    runtime = ASCEND_RUNTIME if ASCEND_RUNTIME in seen.runtimes else ""
    devices = tuple(
        place
        for place in (*(f"/dev/davinci{card.id}" for card in host.cards), *MANAGERS)
        if paths.root + place in seen.devices and not runtime
    )
    brought = brought_by_runtime(paths) if runtime else ()
    there = (place for place in optional_mounts(paths) if place in seen.existing and place not in brought)
    mounts = [(place, paths.inside(place)) for place in there]
    mounts += [(place, paths.inside(place)) for place in (paths.weights, paths.service)]
    argv = ["docker", "run", "-itd", f"--name={container.name}", "--net=host", "--shm-size", shm]
    if runtime:
        cards = ",".join(str(card.id) for card in host.cards)
        argv += [f"--runtime={runtime}", "-e", f"ASCEND_VISIBLE_DEVICES={cards}"]
    argv += ["--ulimit", OPEN_FILES]
    argv += ["--privileged"] if container.privileged else []
    argv += ["-e", f"{MARKER}={params.cluster.name}"]
    argv += [f"--device={device}" for device in devices]
    for place, destination in mounts:
        argv += ["-v", f"{place}:{destination}"]
    argv += [container.image, "bash"]
    return Wanted(
        image=container.image,
        shm_bytes=_bytes(shm),
        runtime=runtime,
        privileged=container.privileged,
        devices=devices,
        mounts=tuple(sorted(mounts)),
        argv=tuple(argv),
    )


def _bytes(size: str) -> int:
    return int(size[:-1]) * _UNITS[size[-1]]


def shm_wanted(params: Params, seen: HostFacts) -> str:
    """Return --shm-size: what params ask for, and on a host with less memory than that half of its memory."""
    asked = params.container.shm_size
    if seen.memory_bytes is None or _bytes(asked) <= seen.memory_bytes:
        return asked
    return f"{max(1, seen.memory_bytes // 2 // _UNITS['g'])}g"


def differences(want: Wanted, has: Container, cluster: str, *, service_gone: bool) -> list[str]:
    """Return what a container has otherwise than params want, as `what: has -> wanted`.

    A container whose mounted folder was deleted keeps showing the deleted one, so it must be made again.
    """
    mounts = tuple(sorted((mount.source, mount.destination) for mount in has.mounts))
    pairs: list[tuple[str, object, object]] = [
        ("image", has.image, want.image),
        ("shm size", has.shm_size_bytes, want.shm_bytes),
        ("network", has.network_mode, "host"),
        ("open files", next((each for each in has.ulimits if each.startswith("nofile=")), "default"), OPEN_FILES),
        ("runtime", has.runtime if has.runtime == ASCEND_RUNTIME else "", want.runtime),
        ("privileged", has.privileged, want.privileged),
        ("devices", tuple(sorted(has.devices)), tuple(sorted(want.devices))),
        ("mounts", mounts, want.mounts),
        (f"{MARKER}", has.env.get(MARKER), cluster),
        ("mounted service folder", "deleted" if service_gone else "there", "there"),
    ]
    return [f"{what}: {seen} -> {right}" for what, seen, right in pairs if seen != right]


def has_image(params: Params, seen: HostFacts) -> bool:
    """Whether the image of the params is loaded."""
    return any(f"{row.repository}:{row.tag}" == params.container.image for row in seen.images.value or ())


def lost_devices(host: Host, paths: HostPaths, seen: HostFacts) -> list[str]:
    """Return the devices that the host shall have and has not; none when they could not be read."""
    there = seen.devices
    return (
        []
        if there is None
        else [each.removeprefix(paths.root) for each in devices_of(host, paths) if each not in there]
    )


def foreign(params: Params, has: Container) -> bool:
    """Whether a container is not this cluster's own: made by hand, or for another cluster."""
    return has.env.get(MARKER) != params.cluster.name
