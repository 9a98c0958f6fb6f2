"""What a host said about its images and containers, parsed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import docker
from runbook_lib.stages.container.probe import devices_of, optional_mounts
from runbook_lib.stages.weights.probe import tool_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.docker import Container, ContainerRow, ImageRow
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

NAME = "container"


@dataclass(frozen=True, slots=True)
class Carried:
    """One image in a tar: its id, and the names that it gets when it is loaded."""

    image_id: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tar:
    """What lies under the name of the image's tar.

    size: bytes, None when nothing is there. sha256: as it was recorded of this very file, "" when it never was.
    free_bytes: of its file system. images: None when the tar is compressed, or could not be read (error says why).
    """

    size: int | None
    sha256: str
    free_bytes: int | None
    images: tuple[Carried, ...] | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Images, containers and what the container needs, of one host. None: could not be read."""

    images: Reading[tuple[ImageRow, ...]]
    containers: Reading[tuple[ContainerRow, ...]]
    container: Reading[Container]
    devices: frozenset[str] | None
    existing: frozenset[str] | None
    tar: Tar | None
    tool_present: bool
    memory_bytes: int | None
    machine: str
    image_arch: str
    runtimes: frozenset[str] | None
    work_present: bool
    service: frozenset[str] | None
    weights_present: bool
    daemon: str = ""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """Facts of every host that was reached, and their paths."""

    hosts: Mapping[str, HostFacts]
    paths: Mapping[str, HostPaths]


def _existing(capture: Capture, asked: tuple[str, ...]) -> frozenset[str] | None:
    """Return which of the asked places `ls -d` found; None when it did not say of each whether it is there."""
    there = frozenset(capture.stdout.splitlines())
    absent = capture.stderr.count("No such file")
    ended = capture.exit_code == 0 if not absent else capture.exit_code in {1, 2}
    whole = ended and there <= set(asked) and len(there) + absent == len(asked)
    return there if whole else None


def facts(params: Params, probes: Probes) -> ContainerFacts:
    """Parse what every host said."""
    return ContainerFacts(
        {name: _host_facts(params.host(name), seen) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _tar(capture: Capture) -> Tar | None:
    """Return what push/image_tar.py said; None when it did not end, or said anything else."""
    try:
        said = json.loads(capture.stdout) if capture.ok else {}
        images = said["images"]
        carried = None if images is None else tuple(Carried(str(each["id"]), tuple(each["names"])) for each in images)
        return Tar(said["size"], str(said["sha256"]), said["free"], carried, str(said["error"]))
    except (ValueError, KeyError, TypeError):
        return None


def _memory(capture: Capture) -> int | None:
    """Return the memory of a host in bytes, from `free -b`."""
    found = re.search(r"^Mem:\s+(\d+)", capture.stdout, re.MULTILINE) if capture.ok else None
    return int(found[1]) if found else None


def _host_facts(host: Host, seen: HostProbe) -> HostFacts:
    runtime = docker.parse_info(seen.get("runtime"))
    return HostFacts(
        images=docker.parse_images(seen.get("images")),
        containers=docker.parse_ps(seen.get("containers")),
        container=docker.parse_inspect(seen.get("container")),
        devices=_existing(seen.get("devices"), devices_of(host, seen.paths)),
        existing=_existing(seen.get("mounts"), optional_mounts(seen.paths)),
        tar=_tar(seen.get("tar")),
        tool_present=seen.get("tool").ok and seen.get("tool").stdout == tool_text(),
        memory_bytes=_memory(seen.get("memory")),
        machine=seen.get("machine").stdout.strip() if seen.get("machine").ok else "",
        image_arch=seen.get("arch").stdout.strip() if seen.get("arch").ok else "",
        runtimes=frozenset(runtime.value.runtimes) if runtime.value is not None else None,
        work_present=seen.get("work").ok,
        service=_existing(seen.get("service"), (seen.paths.service,)),
        weights_present=seen.get("weights").ok,
        daemon=seen.get("daemon").stdout.strip() if seen.get("daemon").ok else "",
    )
