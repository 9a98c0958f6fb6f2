"""Container: the MindIE image on every host, and one container made from params and facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import docker, images
from runbook_lib.model import Change, Command, Finding, Job, ProbeScript, Risk, Section, Subject, Verdict
from runbook_lib.stages.base import Findings, apply_command, params_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.docker import Container, ContainerRow, ImageRow
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

NAME = "container"
MARKER = "ASCEND_RUNBOOK_CLUSTER"  # environment variable by which a container of ours is known
_MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
_UNITS = {"g": 2**30, "m": 2**20}
_LOAD_DEADLINE_S = 3600.0
_NPU_SMI = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi")  # the place differs by system (npu-smi reference)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Images, containers and what the container needs, of one host. None: could not be read."""

    images: Reading[tuple[ImageRow, ...]]
    containers: Reading[tuple[ContainerRow, ...]]
    container: Reading[Container]
    devices: frozenset[str] | None
    existing: frozenset[str] | None
    tar_present: bool
    work_present: bool
    service: frozenset[str] | None
    weights_present: bool


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """Facts of every host that was reached, and their paths."""

    hosts: Mapping[str, HostFacts]
    paths: Mapping[str, HostPaths]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The container that params ask for on one host."""

    image: str
    shm_bytes: int
    privileged: bool
    devices: tuple[str, ...]
    mounts: tuple[tuple[str, str], ...]
    argv: tuple[str, ...]


def _optional_mounts(paths: HostPaths) -> tuple[str, ...]:
    """Return what is mounted where the host has it (docker_run reference, section 2)."""
    return (
        f"{paths.ascend_root}/driver",
        f"{paths.ascend_root}/firmware",
        *(paths.root + place for place in _NPU_SMI),
        f"{paths.root}/usr/local/dcmi",
        paths.install_info,
        paths.hccn_conf,
    )


def _devices(host: Host, paths: HostPaths) -> tuple[str, ...]:
    cards = (f"{paths.root}/dev/davinci{card.id}" for card in host.cards)
    return (*cards, *(paths.root + place for place in _MANAGERS))


def _existing(capture: Capture, asked: tuple[str, ...]) -> frozenset[str] | None:
    """Return which of the asked places `ls -d` found; None when it did not say of each whether it is there."""
    there = frozenset(capture.stdout.splitlines())
    absent = capture.stderr.count("No such file")
    ended = capture.exit_code == 0 if not absent else capture.exit_code in {1, 2}
    whole = ended and there <= set(asked) and len(there) + absent == len(asked)
    return there if whole else None


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:
    """Read images, containers, and which devices and mounts exist."""
    return ProbeScript(
        (
            Section("images", ("docker", "images", "--no-trunc", "--format", "{{json .}}")),
            Section("containers", ("docker", "ps", "-a", "--no-trunc", "--format", "{{json .}}")),
            Section("container", ("docker", "inspect", params.container.name)),
            # ls names what exists on stdout and what does not on stderr
            Section("devices", ("ls", "-d", *_devices(host, paths))),
            Section("mounts", ("ls", "-d", *_optional_mounts(paths))),
            Section("tar", ("ls", "-d", paths.image_tar or "/nonexistent")),
            Section("work", ("ls", "-d", paths.work)),
            Section("service", ("ls", "-d", paths.service)),
            Section("weights", ("ls", "-d", f"{paths.weights}/config.json")),
        )
    )


def facts(params: Params, probes: Probes) -> ContainerFacts:
    """Parse what every host said."""
    return ContainerFacts(
        {name: _host_facts(params.host(name), seen) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _host_facts(host: Host, seen: HostProbe) -> HostFacts:
    return HostFacts(
        images=docker.parse_images(seen.get("images")),
        containers=docker.parse_ps(seen.get("containers")),
        container=docker.parse_inspect(seen.get("container")),
        devices=_existing(seen.get("devices"), _devices(host, seen.paths)),
        existing=_existing(seen.get("mounts"), _optional_mounts(seen.paths)),
        tar_present=seen.get("tar").ok,
        work_present=seen.get("work").ok,
        service=_existing(seen.get("service"), (seen.paths.service,)),
        weights_present=seen.get("weights").ok,
    )


def wanted(params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> Wanted | None:
    """Return the container for one host: only devices and mounts that exist there; None when that is not known."""
    if seen.devices is None or seen.existing is None or seen.service is None:
        return None
    container = params.container
    size, unit = int(container.shm_size[:-1]), container.shm_size[-1]
    devices = tuple(
        place
        for place in (*(f"/dev/davinci{card.id}" for card in host.cards), *_MANAGERS)
        if paths.root + place in seen.devices
    )
    mounts = [(place, paths.inside(place)) for place in _optional_mounts(paths) if place in seen.existing]
    mounts += [(place, paths.inside(place)) for place in (paths.weights, paths.service)]
    argv = ["docker", "run", "-itd", f"--name={container.name}", "--net=host", "--shm-size", container.shm_size]
    argv += ["--privileged"] if container.privileged else []
    argv += ["-e", f"{MARKER}={params.cluster.name}"]
    argv += [f"--device={device}" for device in devices]
    for source, destination in mounts:
        argv += ["-v", f"{source}:{destination}"]
    argv += [container.image, "bash"]
    return Wanted(
        image=container.image,
        shm_bytes=size * _UNITS[unit],
        privileged=container.privileged,
        devices=devices,
        mounts=tuple(sorted(mounts)),
        argv=tuple(argv),
    )


def differences(want: Wanted, has: Container, cluster: str, *, service_gone: bool) -> list[str]:
    """Return what a container has otherwise than params want, as `what: has -> wanted`.

    A container whose mounted folder was deleted keeps showing the deleted one, so it must be made again.
    """
    mounts = tuple(sorted((mount.source, mount.destination) for mount in has.mounts))
    pairs: list[tuple[str, object, object]] = [
        ("image", has.image, want.image),
        ("shm size", has.shm_size_bytes, want.shm_bytes),
        ("network", has.network_mode, "host"),
        ("privileged", has.privileged, want.privileged),
        ("devices", tuple(sorted(has.devices)), tuple(sorted(want.devices))),
        ("mounts", mounts, want.mounts),
        (f"{MARKER}", has.env.get(MARKER), cluster),
        ("mounted service folder", "deleted" if service_gone else "there", "there"),
    ]
    return [f"{what}: {seen} -> {right}" for what, seen, right in pairs if seen != right]


def _has_image(params: Params, seen: HostFacts) -> bool:
    return any(f"{row.repository}:{row.tag}" == params.container.image for row in seen.images.value or ())


def check(facts: ContainerFacts, params: Params) -> list[Finding]:
    """Judge image and container of every host."""
    findings = Findings(NAME, apply_command(params))
    findings.unreachable(params, tuple(facts.hosts))
    tag = params.container.image.rpartition(":")[2]
    problems = images.image_problems(tag, len(params.cluster.hosts), params.model.format)
    for problem in problems:
        findings.add(
            "CON-IMAGE-KNOWN-BAD",
            Subject(),
            problem.verdict,
            seen=f"{problem.what} ({problem.source})",
            expected="an image that is known to run this many hosts and this format",
            next_command=f"change container.image in {params_file(params)}: {problem.remedy}",
        )
    if not problems:
        findings.add("CON-IMAGE-KNOWN-BAD", Subject(), Verdict.OK, seen=tag, expected="no known trouble")
    for host in params.cluster.hosts:
        if host.name in facts.hosts:
            _check_host(findings, params, host, facts.paths[host.name], facts.hosts[host.name])
    return findings.items


def _check_host(findings: Findings, params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> None:
    subject = Subject(host.name)
    expected = params.container.image
    if seen.images.value is None:
        findings.add("CON-IMAGE", subject, Verdict.UNKNOWN, seen=seen.images.message, expected=expected)
    else:
        present = _has_image(params, seen)
        said = "present" if present else "missing" if seen.tar_present else f"missing, and {paths.image_tar} too"
        command = None if seen.tar_present else f"copy the image tar to {paths.image_tar} on {host.name}"
        verdict = Verdict.OK if present else Verdict.FAIL
        findings.add("CON-IMAGE", subject, verdict, seen=said, expected=expected, next_command=command)
    name = params.container.name
    has = seen.container.value
    if has is None:
        gone = seen.container.state == "unset"
        said = "no such container" if gone else seen.container.message
        verdict = Verdict.FAIL if gone else Verdict.UNKNOWN
        findings.add("CON-MISSING", subject, verdict, seen=said, expected=f"{name}, running")
        return
    findings.add("CON-MISSING", subject, Verdict.OK, seen=name, expected=name)
    verdict = Verdict.UNKNOWN if has.state is None else Verdict.OK if has.state == "running" else Verdict.FAIL
    findings.add("CON-STOPPED", subject, verdict, seen=has.state or "unreadable", expected="running")
    want = wanted(params, host, paths, seen)
    unlike = None if want is None else differences(want, has, params.cluster.name, service_gone=not seen.service)
    _check_differences(findings, host, unlike)
    if _foreign(params, has):
        findings.add(
            "CON-FOREIGN",
            subject,
            Verdict.FAIL,
            seen=f"{name} was made for cluster {has.env[MARKER]}" if MARKER in has.env else f"{name} is not ours",
            expected="a container of ours, or none of that name",
            next_command=f"docker inspect {name}   # on {host.name}; remove it, or set container.name in params",
        )


def _check_differences(findings: Findings, host: Host, unlike: list[str] | None) -> None:
    verdict = Verdict.UNKNOWN if unlike is None else Verdict.FAIL if unlike else Verdict.OK
    said = "devices, mounts or service folder of the host could not be read" if unlike is None else "; ".join(unlike)
    findings.add(
        "CON-DIFFERS",
        Subject(host.name),
        verdict,
        seen=said or "as params want it",
        expected="as params want it",
    )


def _foreign(params: Params, has: Container) -> bool:
    """Whether a container is not this cluster's own: made by hand, or for another cluster."""
    return has.env.get(MARKER) != params.cluster.name


def plan(facts: ContainerFacts, params: Params) -> list[Change]:
    """Load the image, then make, start or replace the container. A foreign container is left alone."""
    changes: list[Change] = []
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is not None:
            changes += _host_changes(params, host, facts.paths[host.name], seen)
    return changes


def _host_changes(params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> list[Change]:
    subject = Subject(host.name)
    name = params.container.name
    has = seen.container.value
    changes: list[Change] = []
    if seen.images.value is not None and not _has_image(params, seen) and seen.tar_present:
        changes.append(
            Change(
                subject=subject,
                summary=f"load {params.container.image} from {paths.image_tar}",
                before="no such image",
                after=params.container.image,
                action=Job("docker-load", ("docker", "load", "-i", paths.image_tar), _LOAD_DEADLINE_S),
                undo=Command(("docker", "rmi", params.container.image)),
                fixes=("CON-IMAGE",),
            )
        )
    want = wanted(params, host, paths, seen)
    if want is None or (has is not None and _foreign(params, has)):
        return changes
    unlike = [] if has is None else differences(want, has, params.cluster.name, service_gone=not seen.service)
    if unlike:
        changes.append(
            Change(
                subject=subject,
                summary=f"remove {name}, which differs from params",
                before="; ".join(unlike),
                after="no such container",
                action=Command(("docker", "rm", "-f", name), timeout_s=120.0),
                irreversible="what was changed inside the old container is lost",
                risk=Risk.DISRUPTIVE,
                phase=1,
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
                phase=2,
                fixes=("CON-STOPPED",),
            )
        )
    gone = seen.container.state == "unset" or seen.container.value is not None
    if has is None and gone and (_has_image(params, seen) or seen.tar_present):
        changes += [
            Change(
                subject=subject,
                summary=f"make {paths.service}, which the container mounts",
                before="may be missing",
                after="750 directory",
                action=Command(("install", "-d", "-m", "0750", paths.service, paths.plog, paths.mindie_log)),
                undo=Command(("rmdir", "--ignore-fail-on-non-empty", paths.plog, paths.mindie_log, paths.service)),
                phase=2,
            ),
            Change(
                subject=subject,
                summary=f"make and start {name}",
                before="no such container",
                after=f"{params.container.image}, running",
                action=Command(want.argv, timeout_s=120.0),
                undo=Command(("docker", "rm", "-f", name), timeout_s=120.0),
                risk=Risk.DISRUPTIVE,
                phase=2,
                fixes=("CON-MISSING", "CON-DIFFERS", "CON-STOPPED"),
            ),
        ]
    return changes


def waits_for(facts: ContainerFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return preflight while a work folder is missing, weights while a host has none (docker would make it)."""
    waits = []
    if not all(seen.work_present for seen in facts.hosts.values()):
        waits.append("preflight")
    if not all(seen.weights_present for seen in facts.hosts.values()):
        waits.append("weights")
    return tuple(waits)
