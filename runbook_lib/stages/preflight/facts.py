"""What the preflight probe showed, typed. None stands for what could not be read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import docker, npu_smi, versions
from runbook_lib.stages.container import MARKER
from runbook_lib.stages.preflight.probe import FIREWALLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.docker import Container, ContainerRow, DockerInfo, DockerVersion
    from runbook_lib.ascend.npu_smi import NpuInfo
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

_LOCAL = 3  # State Recv-Q Send-Q Local:Port Peer:Port
_INACTIVE = 3  # systemctl is-active: none of the units is active
_NOT_FOUND = 127  # the shell's word that there is no such program
_STOPPED = frozenset({"created", "exited", "dead"})


@dataclass(frozen=True, slots=True)
class Disk:
    """Free bytes of one file system and where it is mounted."""

    free_bytes: int
    mount: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What one host is. None: could not be read.

    ahead_s: the host's clock minus ours; its own clock where it is not known when it was asked.
    release: what os-release says of the version at length, with the service pack.
    named: the container of our name. runs_ours, our_pids: whether this cluster's own container runs, and the
    processes in it, () when it is not there or stopped.
    weights_bytes: what lies in the folder of the weights, whatever it is; 0 when there is no such folder.
    ports: who listens; () for a port whose holder `ss` does not name.
    governors: of all CPUs; () when the kernel has no cpufreq. python: () when the shell finds none.
    """

    ahead_s: float | None
    dated: bool
    npus: Reading[NpuInfo]
    driver: versions.VersionInfo | None
    firmware: versions.VersionInfo | None
    system: versions.OsRelease
    release: str
    product: str
    architecture: str
    docker: Reading[DockerVersion]
    runtime: Reading[DockerInfo]
    containers: Reading[tuple[ContainerRow, ...]]
    named: Container | None
    runs_ours: bool | None
    our_pids: frozenset[int] | None
    disk: Disk | None
    home: Disk | None
    weights_bytes: int | None
    memory_bytes: int | None
    ports: Mapping[int, tuple[Holder, ...]] | None
    firewalls: tuple[str, ...] | None
    governors: tuple[str, ...] | None
    work: str | None
    python: tuple[int, ...] | None
    lfs: bool


@dataclass(frozen=True, slots=True)
class PreflightFacts:
    """Facts of every host that was reached; errors of the others; paths of all."""

    hosts: Mapping[str, HostFacts]
    errors: Mapping[str, str]
    paths: Mapping[str, HostPaths]


def facts(params: Params, probes: Probes) -> PreflightFacts:
    """Parse what every host said."""
    return PreflightFacts(
        {name: _host_facts(params, seen) for name, seen in probes.items() if not seen.error},
        {name: seen.error for name, seen in probes.items() if seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _host_facts(params: Params, seen: HostProbe) -> HostFacts:
    clock = _number(seen.get("clock"))
    ours = docker.parse_inspect(seen.get("ours"))
    runs_ours = _runs_ours(ours, params.cluster.name)
    weights, home = _disks(seen.get("disk"))
    system = seen.get("system").stdout if seen.get("system").ok else ""  # whole: a last line without an end is cut
    return HostFacts(
        ahead_s=None if clock is None else clock - (seen.asked_s or 0.0),
        dated=seen.asked_s is not None,
        npus=npu_smi.parse_info(seen.get("npus")),
        driver=_version(seen.get("driver")),
        firmware=_version(seen.get("firmware")),
        system=versions.parse_os_release(system),
        release=_release(system),
        product=_text(seen.get("product")),
        architecture=_text(seen.get("architecture")),
        docker=docker.parse_version(seen.get("docker")),
        runtime=docker.parse_info(seen.get("runtime")),
        containers=docker.parse_ps(seen.get("containers")),
        named=ours.value,
        runs_ours=runs_ours,
        our_pids=frozenset() if runs_ours is False else _pids(seen.get("pids")) if runs_ours else None,
        disk=weights,
        home=home,
        weights_bytes=_present(seen.get("present")),
        memory_bytes=_memory(seen.get("memory")),
        ports=_ports(seen.get("ports")),
        firewalls=_active(seen.get("firewall")),
        governors=_governors(seen.get("governor")),
        work=_work(seen.get("work")),
        python=_python(seen.get("python")),
        lfs=seen.get("lfs").ok and seen.get("lfs").stdout.startswith("git-lfs/"),
    )


def _runs_ours(ours: Reading[Container], cluster: str) -> bool | None:
    """Whether the container that this cluster's run made runs; None unless docker says so, or that it does not."""
    if ours.value is None:
        return False if ours.state == "unset" else None
    if ours.value.env.get(MARKER) != cluster or ours.value.state in _STOPPED:
        return False
    return True if ours.value.state == "running" else None


def _text(capture: Capture) -> str:
    return capture.stdout.strip() if capture.ok else ""


def _release(text: str) -> str:
    """Return VERSION and PRETTY_NAME of os-release; either may carry the service pack: `22.03 (LTS-SP4)`."""
    return " ".join(re.findall(r'^(?:VERSION|PRETTY_NAME)="?([^"\n]+)"?$', text, re.MULTILINE))


def _number(capture: Capture) -> float | None:
    try:
        value = float(capture.stdout.strip()) if capture.ok else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _present(capture: Capture) -> int | None:
    """Return the bytes that du counts; with an error beside its number it has not counted all."""
    word = capture.stdout.split(maxsplit=1)[:1]
    if not word and capture.absent:
        return 0
    return int(word[0]) if capture.ok and word and re.fullmatch(r"[0-9]{1,18}", word[0]) else None


def _version(capture: Capture) -> versions.VersionInfo | None:
    return versions.parse_version_info(capture.stdout) if capture.ok else None


def _disks(capture: Capture) -> tuple[Disk | None, Disk | None]:
    """Read the two answers of df: the weights' file system, then the home's."""
    found = [
        Disk(int(free), mount.strip())
        for free, mount in re.findall(r"^\s*([0-9]{1,18})\s+(/.*)$", capture.stdout, re.MULTILINE)
    ]
    whole = capture.ok and len(found) == 2  # noqa: PLR2004 - weights and home
    return (found[0], found[1]) if whole else (None, None)


def _memory(capture: Capture) -> int | None:
    found = re.search(r"^Mem:\s+([0-9]{1,18})\b", capture.stdout, re.MULTILINE) if capture.ok else None
    return int(found.group(1)) if found else None


def _ports(capture: Capture) -> dict[int, tuple[Holder, ...]] | None:
    if not capture.ok:
        return None
    ports: dict[int, tuple[Holder, ...]] = {}
    for line in capture.stdout.splitlines():
        words = line.split()
        _, _, port = (words[_LOCAL] if len(words) > _LOCAL else "").rpartition(":")
        if not re.fullmatch(r"[0-9]{1,5}", port):
            return None
        holders = tuple(
            Holder(name, int(pid)) for name, pid in re.findall(r'\("([^"]*)",pid=([0-9]{1,9}),fd=[0-9]+\)', line)
        )
        ports[int(port)] = ports.get(int(port), ()) + holders
    return ports or None  # a host that answers over SSH listens on something


def _pids(capture: Capture) -> frozenset[int] | None:
    head, *rows = capture.stdout.split() or [""]
    if not capture.ok or head != "PID" or not all(re.fullmatch(r"[0-9]{1,9}", row) for row in rows):
        return None
    return frozenset(map(int, rows))


def _active(capture: Capture) -> tuple[str, ...] | None:
    """Return the firewalls that are active; one word for each unit is asked for, else nobody knows."""
    words = capture.stdout.split()
    if capture.exit_code not in {0, _INACTIVE, 4} or len(words) != len(FIREWALLS):
        return None
    if not set(words) <= {"active", "inactive", "unknown", "failed", "activating", "deactivating"}:
        return None
    return tuple(unit for unit, word in zip(FIREWALLS, words, strict=True) if word in {"active", "activating"})


def _governors(capture: Capture) -> tuple[str, ...] | None:
    words = capture.stdout.split()
    if capture.exit_code is not None and not words and "No such file" in capture.stderr:
        return ()
    if not capture.ok or len(words) < 2 or words[-1] != "end":  # noqa: PLR2004 - a governor and the end
        return None
    return tuple(sorted(set(words[:-1])))


def _work(capture: Capture) -> str | None:
    if capture.ok:
        return capture.stdout.strip() or None
    return "missing" if capture.absent else None


def _python(capture: Capture) -> tuple[int, ...] | None:
    if capture.exit_code == _NOT_FOUND:
        return ()
    found = re.match(r"Python ([0-9]{1,3})\.([0-9]{1,3})\b", capture.stdout or capture.stderr)
    return (int(found.group(1)), int(found.group(2))) if found and capture.ok else None
