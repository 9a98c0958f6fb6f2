"""Container: the MindIE image on every host, and one container made from params and facts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import docker, images
from runbook_lib.model import Change, Command, Finding, Job, ProbeScript, Risk, Section, Subject, Verdict
from runbook_lib.stages.base import Findings, apply_command, params_file
from runbook_lib.stages.push import source
from runbook_lib.stages.service.probe import in_container

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
_LEAST_SHM = 2**30  # below it the daemon ends with a futex error (hiascend image guide)
_ASCEND_RUNTIME = "ascend"
_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}  # uname's word -> docker's
_LOAD_DEADLINE_S = 3600.0
_START_DEADLINE_S = 30.0
_STOP_IF_THERE = '[ ! -f "$1/stop.sh" ] || exec bash "$1/stop.sh" "$1"'
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
    """Read images, containers, which devices and mounts exist, and whether a daemon runs in the container."""
    pid_file = f"{paths.inside(paths.service)}/daemon.pid"
    return ProbeScript(
        (
            Section("images", ("docker", "images", "--no-trunc", "--format", "{{json .}}")),
            Section("containers", ("docker", "ps", "-a", "--no-trunc", "--format", "{{json .}}")),
            Section("container", ("docker", "inspect", params.container.name)),
            # ls names what exists on stdout and what does not on stderr
            Section("devices", ("ls", "-d", *_devices(host, paths))),
            Section("mounts", ("ls", "-d", *_optional_mounts(paths))),
            Section("memory", ("free", "-b")),
            Section("machine", ("uname", "-m")),
            Section("arch", ("docker", "image", "inspect", "--format", "{{.Architecture}}", params.container.image)),
            Section("runtime", ("docker", "info", "--format", "{{json .}}")),
            Section("tar", ("ls", "-d", paths.image_tar or "/nonexistent")),
            Section("work", ("ls", "-d", paths.work)),
            Section("service", ("ls", "-d", paths.service)),
            Section("weights", ("ls", "-d", f"{paths.weights}/config.json")),
            Section("daemon", in_container(params, "sh", "-c", source("alive.sh"), "sh", pid_file)),
        )
    )


def facts(params: Params, probes: Probes) -> ContainerFacts:
    """Parse what every host said."""
    return ContainerFacts(
        {name: _host_facts(params.host(name), seen) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


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
        devices=_existing(seen.get("devices"), _devices(host, seen.paths)),
        existing=_existing(seen.get("mounts"), _optional_mounts(seen.paths)),
        tar_present=seen.get("tar").ok,
        memory_bytes=_memory(seen.get("memory")),
        machine=seen.get("machine").stdout.strip() if seen.get("machine").ok else "",
        image_arch=seen.get("arch").stdout.strip() if seen.get("arch").ok else "",
        runtimes=frozenset(runtime.value.runtimes) if runtime.value is not None else None,
        work_present=seen.get("work").ok,
        service=_existing(seen.get("service"), (seen.paths.service,)),
        weights_present=seen.get("weights").ok,
        daemon=seen.get("daemon").stdout.strip() if seen.get("daemon").ok else "",
    )


def wanted(params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> Wanted | None:
    """Return the container for one host: only devices and mounts that exist there; None when that is not known."""
    if seen.devices is None or seen.existing is None or seen.service is None or seen.runtimes is None:
        return None
    container = params.container
    shm = shm_wanted(params, seen)
    devices = tuple(
        place
        for place in (*(f"/dev/davinci{card.id}" for card in host.cards), *_MANAGERS)
        if paths.root + place in seen.devices
    )
    mounts = [(place, paths.inside(place)) for place in _optional_mounts(paths) if place in seen.existing]
    mounts += [(place, paths.inside(place)) for place in (paths.weights, paths.service)]
    argv = ["docker", "run", "-itd", f"--name={container.name}", "--net=host", "--shm-size", shm]
    runtime = _ASCEND_RUNTIME if _ASCEND_RUNTIME in seen.runtimes else ""
    if runtime:
        cards = ",".join(str(card.id) for card in host.cards)
        argv += [f"--runtime={runtime}", "-e", f"ASCEND_VISIBLE_DEVICES={cards}"]
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
        ("runtime", has.runtime if has.runtime == _ASCEND_RUNTIME else "", want.runtime),
        ("privileged", has.privileged, want.privileged),
        ("devices", tuple(sorted(has.devices)), tuple(sorted(want.devices))),
        ("mounts", mounts, want.mounts),
        (f"{MARKER}", has.env.get(MARKER), cluster),
        ("mounted service folder", "deleted" if service_gone else "there", "there"),
    ]
    return [f"{what}: {seen} -> {right}" for what, seen, right in pairs if seen != right]


def _other_name(params: Params, seen: HostFacts) -> str:
    """Return an image that has the tag of the params under another name: what is loaded may be named otherwise."""
    tag = params.container.image.rpartition(":")[2]
    return next((row.reference for row in seen.images.value or () if row.tag == tag), "")


def _has_image(params: Params, seen: HostFacts) -> bool:
    return any(f"{row.repository}:{row.tag}" == params.container.image for row in seen.images.value or ())


def check(facts: ContainerFacts, params: Params) -> list[Finding]:
    """Judge image and container of every host."""
    findings = Findings(NAME, apply_command(params, NAME))
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
    ids = {
        row.image_id
        for seen in facts.hosts.values()
        for row in seen.images.value or ()
        if row.reference == params.container.image
    }
    if ids:
        said = "one image id" if len(ids) == 1 else f"{len(ids)} ids: {', '.join(sorted(each[7:19] for each in ids))}"
        findings.judge("CON-IMAGE-SAME", Subject(), ok=len(ids) == 1, seen=said, expected="one image id on all hosts")
    for host in params.cluster.hosts:
        if host.name in facts.hosts:
            _check_devices(findings, host, facts.paths[host.name], facts.hosts[host.name])
            _check_architecture(findings, params, host, facts.hosts[host.name])
            _check_host(findings, params, host, facts.paths[host.name], facts.hosts[host.name])
    return findings.items


def _lost(host: Host, paths: HostPaths, seen: HostFacts) -> list[str]:
    """Return the devices that the host shall have and has not; none when they could not be read."""
    there = seen.devices
    return (
        [] if there is None else [each.removeprefix(paths.root) for each in _devices(host, paths) if each not in there]
    )


def _check_devices(findings: Findings, host: Host, paths: HostPaths, seen: HostFacts) -> None:
    """Judge what the host has, and what of it the container was given."""
    subject, expected = Subject(host.name), "every card and manager device on the host and in the container"
    if seen.devices is None:
        said = "the devices of the host could not be read"
        findings.add("CON-DEVICES", subject, Verdict.UNKNOWN, seen=said, expected=expected)
        return
    lost = _lost(host, paths, seen)
    has = seen.container.value
    given = has is None or has.privileged or has.runtime == _ASCEND_RUNTIME
    hidden = [
        place.removeprefix(paths.root)
        for place in _devices(host, paths)
        if place in seen.devices and not given and has is not None and place.removeprefix(paths.root) not in has.devices
    ]
    said = f"not on the host: {', '.join(lost)}" if lost else ""
    said += f"{'; ' if said and hidden else ''}not in the container: {', '.join(hidden)}" if hidden else ""
    findings.add(
        "CON-DEVICES",
        subject,
        Verdict.FAIL if lost or hidden else Verdict.OK,
        seen=said or f"{len(host.cards)} cards",
        expected=expected,
        next_command=f"ls -l /dev/davinci*; npu-smi info   # on {host.name}: driver and cards" if lost else None,
    )


def _check_architecture(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    if not _has_image(params, seen):
        return
    right = _ARCHITECTURES.get(seen.machine, seen.machine)
    known = bool(right and seen.image_arch)
    findings.add(
        "CON-IMAGE-ARCH",
        Subject(host.name),
        Verdict.UNKNOWN if not known else Verdict.OK if seen.image_arch == right else Verdict.FAIL,
        seen=seen.image_arch or "the architecture of the image could not be read",
        expected=f"{right or 'that of the host'}, else exec format error",
        next_command=f"load the {right} image on {host.name}, and set container.image_tar in {params_file(params)}",
    )


def _check_shm(findings: Findings, params: Params, host: Host, seen: HostFacts, has: Container) -> None:
    asked, want = params.container.shm_size, shm_wanted(params, seen)
    why = "" if want == asked else f"; {asked} is more than the {(seen.memory_bytes or 0) // 2**30} GiB of this host"
    size = has.shm_size_bytes
    unknown = "unreadable" if size is None else ""
    unknown = unknown or ("" if seen.memory_bytes is not None else "the memory of the host could not be read")
    findings.add(
        "CON-SHM",
        Subject(host.name),
        Verdict.UNKNOWN if unknown else Verdict.OK if size is not None and size >= _LEAST_SHM else Verdict.FAIL,
        seen=unknown or f"{(size or 0) / 2**30:.2f} GiB{why}",
        expected=f"{want}, at least 1 GiB: queues between the processes lie there",
    )


def _check_host(findings: Findings, params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> None:
    subject = Subject(host.name)
    expected = params.container.image
    if seen.images.value is None:
        findings.add("CON-IMAGE", subject, Verdict.UNKNOWN, seen=seen.images.message, expected=expected)
    else:
        present = _has_image(params, seen)
        said = "present" if present else "missing" if seen.tar_present else f"missing, and {paths.image_tar} too"
        other = "" if present else _other_name(params, seen)
        said += f"; {other} has its tag" if other else ""
        command = None if seen.tar_present else f"copy the image tar to {paths.image_tar} on {host.name}"
        command = f"docker tag {other} {expected}   # on {host.name}, if it is that image" if other else command
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
    _check_shm(findings, params, host, seen, has)
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
    unread = "devices, mounts, runtimes or service folder of the host could not be read"
    said = unread if unlike is None else "; ".join(unlike)
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
        )
    ]


def _argv_again(has: Container) -> tuple[str, ...]:
    """Return the command that makes a container of ours again as it is now; the form is that of `wanted`."""
    argv = ["docker", "run", "-itd", f"--name={has.name}", f"--net={has.network_mode or 'host'}"]
    argv += ["--shm-size", str(has.shm_size_bytes)] if has.shm_size_bytes else []
    if has.runtime == _ASCEND_RUNTIME:
        argv += [
            f"--runtime={has.runtime}",
            "-e",
            f"ASCEND_VISIBLE_DEVICES={has.env.get('ASCEND_VISIBLE_DEVICES', '')}",
        ]
    argv += ["--privileged"] if has.privileged else []
    argv += ["-e", f"{MARKER}={has.env[MARKER]}"]
    argv += [f"--device={device}" for device in has.devices]
    for mount in has.mounts:
        argv += ["-v", f"{mount.source}:{mount.destination}{'' if mount.writable else ':ro'}"]
    return (*argv, has.image or "", "bash")


def _load_argv(params: Params, paths: HostPaths) -> tuple[str, ...]:
    """Return the command that loads the tar; where params give its sum, not before that is right."""
    load = ("docker", "load", "-i", paths.image_tar)
    if not params.container.image_sha256:
        return load
    script = 'printf "%s  %s\\n" "$1" "$2" | sha256sum -c - && exec docker load -i "$2"'
    return ("sh", "-c", script, "sh", params.container.image_sha256, paths.image_tar)


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
                action=Job("docker-load", _load_argv(params, paths), _LOAD_DEADLINE_S),
                undo=Command(("docker", "rmi", params.container.image)),
                fixes=("CON-IMAGE",),
            )
        )
    want = wanted(params, host, paths, seen)
    if want is None or (has is not None and _foreign(params, has)) or _lost(host, paths, seen):
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
        if not seen.service:
            changes.append(
                Change(
                    subject=subject,
                    summary=f"make {paths.service}, which the container mounts",
                    before="missing",
                    after="750 directory",
                    action=Command(("install", "-d", "-m", "0750", paths.service, paths.plog, paths.mindie_log)),
                    undo=Command(("rm", "-rf", paths.service)),
                    phase=2,
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
                phase=2,
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
