"""Judge image, devices and container of every host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend import images
from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.stages.base import Findings, params_file
from runbook_lib.stages.container.facts import NAME, ContainerFacts, HostFacts
from runbook_lib.stages.container.image import lacks_tar, loaded_as, obstacle, source_host
from runbook_lib.stages.container.probe import devices_of
from runbook_lib.stages.container.wanted import (
    ASCEND_RUNTIME,
    MARKER,
    differences,
    foreign,
    has_image,
    lost_devices,
    shm_wanted,
    wanted,
)

if TYPE_CHECKING:
    from runbook_lib.ascend.docker import Container
    from runbook_lib.params import Host, HostPaths, Params

_LEAST_SHM = 2**30  # below it the daemon ends with a futex error (hiascend image guide)
_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}  # uname's word -> docker's


def check(facts: ContainerFacts, params: Params) -> list[Finding]:
    """Judge image and container of every host."""
    findings = Findings(params, NAME)
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
            _check_image(findings, facts, params, host)
            _check_architecture(findings, params, host, facts.hosts[host.name])
            _check_host(findings, params, host, facts.paths[host.name], facts.hosts[host.name])
    return findings.items


def _check_devices(findings: Findings, host: Host, paths: HostPaths, seen: HostFacts) -> None:
    """Judge what the host has, and what of it the container was given."""
    subject, expected = Subject(host.name), "every card and manager device on the host and in the container"
    if seen.devices is None:
        said = "the devices of the host could not be read"
        findings.add("CON-DEVICES", subject, Verdict.UNKNOWN, seen=said, expected=expected)
        return
    lost = lost_devices(host, paths, seen)
    has = seen.container.value
    given = has is None or has.privileged or has.runtime == ASCEND_RUNTIME
    hidden = [
        place.removeprefix(paths.root)
        for place in devices_of(host, paths)
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
        next_command=f"ls -l /dev/davinci*; npu-smi info   # on {host.name}; driver and cards" if lost else None,
    )


def _check_architecture(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    if not has_image(params, seen):
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


def _check_image(findings: Findings, facts: ContainerFacts, params: Params, host: Host) -> None:
    """Judge the image of one host; where it is not loaded, say what of it is there, and where it can come from."""
    subject, seen, expected = Subject(host.name), facts.hosts[host.name], params.container.image
    place = facts.paths[host.name].image_tar
    if seen.images.value is None:
        findings.add("CON-IMAGE", subject, Verdict.UNKNOWN, seen=seen.images.message, expected=expected)
        return
    present, ident = has_image(params, seen), loaded_as(facts, params, host.name)
    stop = "" if present or ident else obstacle(facts, params, host.name)
    said = "present" if present else f"missing; image {ident[7:19]} is it, by another name" if ident else "missing"
    said += f"; {stop}" if stop else ""
    command = _image_command(params, host, place) if stop else None
    verdict = Verdict.OK if present else Verdict.FAIL
    findings.add("CON-IMAGE", subject, verdict, seen=said, expected=expected, next_command=command)
    if not place:
        return
    tar, at = seen.tar, source_host(facts, params)
    wants, told, verdict = "the image's tar, or the image", "not needed: the image is loaded", Verdict.OK
    if not present and not ident:
        verdict = Verdict.UNKNOWN if tar is None or tar.error else Verdict.FAIL if stop else Verdict.OK
        there = "missing" if tar is None or tar.size is None else f"{tar.size} bytes, sha256 {tar.sha256 or 'not read'}"
        told = stop or there
        if not stop and lacks_tar(facts, params, host.name):
            verdict, told, wants = Verdict.FAIL, f"{there}; {at} has it", f"the same tar as on {at}"
    findings.add("CON-IMAGE-TAR", subject, verdict, seen=told, expected=wants, next_command=command)


def _image_command(params: Params, host: Host, place: str) -> str:
    if not place:
        return f"set container.image_tar in {params_file(params)}, or: docker pull {params.container.image}"
    return f"ls -l {place}; sha256sum {place}   # on {host.name}; put the right tar there, on one host is enough"


def _check_host(findings: Findings, params: Params, host: Host, paths: HostPaths, seen: HostFacts) -> None:
    subject = Subject(host.name)
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
    if foreign(params, has):
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
