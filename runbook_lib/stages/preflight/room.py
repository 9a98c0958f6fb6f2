"""Room on one host: disk, memory, ports, the runbook's own folder, other containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Subject, Verdict
from runbook_lib.params import WEIGHTS_GB
from runbook_lib.stages.container import MARKER

if TYPE_CHECKING:
    from runbook_lib.params import Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.preflight.facts import HostFacts

CONFIG_PORTS = frozenset({1120, 1121})  # multi-node and inner ports of MindIE's default config.json
_DISK_MARGIN = 0.05  # of the weights, stays free beside them
_SYSTEM_GIB = 12  # what the host itself needs beside the shared memory
_UNITS = {"g": 2**30, "m": 2**20}


def check_room(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    """Judge what must be free."""
    _check_disk(findings, params, host, seen)
    _check_memory(findings, params, host, seen)
    _check_work(findings, params, host, seen)
    _check_ports(findings, params, host, seen)
    _check_containers(findings, params, host, seen)


def _check_work(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    verdict = Verdict.UNKNOWN if seen.work is None else Verdict.OK if seen.work == "700 directory" else Verdict.FAIL
    command = None  # the stage's own: its plan makes the folder, or closes it
    if seen.work is None:
        command = f"ls -ld {params.paths.work}   # on {host.name}"
    elif seen.work != "missing" and not seen.work.endswith(" directory"):
        command = f"ls -ld {params.paths.work}   # on {host.name}; move it away, or set another paths.work in params"
    findings.add(
        "PRE-WORKDIR",
        Subject(host.name),
        verdict,
        seen=seen.work or "unreadable",
        expected="700 directory",
        next_command=command,
    )


def _check_disk(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    """Judge the room for what is missing of the weights; whose files are there already is for the weights stage."""
    directory, form = params.model.weights.directory, params.model.format
    weights = WEIGHTS_GB[form] * 10**9
    margin = int(weights * _DISK_MARGIN)
    present = seen.weights_bytes
    needed = max(margin, weights + margin - (present or 0))
    disk, home = seen.disk, seen.home
    said = "unreadable"
    if disk is not None and home is not None:
        said = f"{disk.free_bytes / 1e9:.0f} GB free on {disk.mount}; home: {home.free_bytes / 1e9:.0f} GB on "
        said += "the same" if disk.mount == home.mount else home.mount
        if present is None:
            said += f"; what is in {directory} could not be counted"
        elif present >= margin:
            said += f"; {present / 1e9:.0f} GB in {directory} counted as weights"
    command = f"df -h {directory.rpartition('/')[0]} ~   # on {host.name}; free space, or set another "
    command += "model.weights.directory"
    if disk is None:
        verdict = Verdict.UNKNOWN
    elif disk.free_bytes >= needed:
        verdict = Verdict.OK
    elif present is None:
        verdict, command = Verdict.UNKNOWN, f"du -shD {directory}   # on {host.name}"
    elif present < weights - margin:
        verdict = Verdict.FAIL
    else:  # as much as the weights, which may be all there
        verdict, command = Verdict.WARN, f"ls -l {directory}   # on {host.name}; free space if this is something else"
    findings.add(
        "PRE-DISK-WEIGHTS",
        Subject(host.name),
        verdict,
        seen=said,
        expected=f"{needed / 1e9:.0f} GB free for {directory} ({form} and 5 %); the home is not used",
        next_command=command,
    )


def _check_memory(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    size = params.container.shm_size
    needed = int(size[:-1]) * _UNITS[size[-1]] / 2**30 + _SYSTEM_GIB
    memory = seen.memory_bytes
    gib = (memory or 0) / 2**30
    verdict = Verdict.UNKNOWN if memory is None else Verdict.OK if gib >= needed else Verdict.WARN
    findings.add(
        "PRE-MEMORY",
        Subject(host.name),
        verdict,
        seen=f"{gib:.0f} GiB" if memory is not None else "unreadable",
        expected=f"at least {needed:.0f} GiB, so that --shm-size {size} fits",
        next_command=f"free -g   # on {host.name}; set container.shm_size below its memory",
    )


def _check_ports(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    """Judge the ports of the service; one that a process of our own container holds is no leftover."""
    service = params.service
    wanted = CONFIG_PORTS | {service.port, service.management_port, service.metrics_port}
    expected = f"ports {', '.join(map(str, sorted(wanted)))} free"
    command = f"ss -lntp   # on {host.name}"
    verdict, said = Verdict.UNKNOWN, "unreadable"
    if seen.ports is not None:
        words, verdicts, pids = [], [Verdict.OK], []
        for port in sorted(wanted & set(seen.ports)):
            one, who = _holder(seen, port)
            verdicts.append(one)
            words.append(f"{port} {who}")
            if one is Verdict.FAIL:
                pids += [str(each.pid) for each in seen.ports[port] if each.pid not in (seen.our_pids or ())]
        verdict = Verdict.FAIL if Verdict.FAIL in verdicts else max(verdicts, key=lambda each: each is Verdict.UNKNOWN)
        said = f"taken: {', '.join(words)}" if words else "free"
        if pids:
            pids = list(dict.fromkeys(pids))
            command = f"ps -fp {','.join(pids)}; kill {' '.join(pids)}   # on {host.name}"
        command += "; or change the port in params"
    findings.add("PRE-PORTS", Subject(host.name), verdict, seen=said, expected=expected, next_command=command)


def _holder(seen: HostFacts, port: int) -> tuple[Verdict, str]:
    holders = (seen.ports or {})[port]
    who = " ".join(f"{each.name} (pid {each.pid})" for each in holders)
    if seen.our_pids is None or (seen.runs_ours and not holders):
        may = "runs" if seen.runs_ours else "may run"
        return Verdict.UNKNOWN, f"{who or 'by nobody knows whom'}, our container {may}"
    if holders and seen.our_pids and all(each.pid in seen.our_pids for each in holders):
        return Verdict.OK, f"{who} (ours)"
    return Verdict.FAIL, f"by {who or 'an unnamed process'}"


def _check_containers(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject, expected, wanted = Subject(host.name), "no foreign container", params.container.name
    rows = seen.containers.value
    if rows is None:
        findings.add(
            "PRE-LEFTOVER-CONTAINER",
            subject,
            Verdict.UNKNOWN,
            seen=seen.containers.message or "unreadable",
            expected=expected,
            next_command=f"docker ps -a   # on {host.name}",
        )
        return
    if seen.named is None and any(wanted in row.names for row in rows):
        said = f"{wanted} is there, and docker inspect could not be read"
        command = f"docker inspect {wanted}   # on {host.name}"
        findings.add(
            "PRE-LEFTOVER-CONTAINER", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command
        )
        return
    foreign = sorted(name for row in rows for name in row.names if name != wanted)
    clash = seen.named is not None and seen.named.env.get(MARKER) != params.cluster.name
    verdict = Verdict.FAIL if clash else Verdict.WARN if foreign else Verdict.OK
    findings.add(
        "PRE-LEFTOVER-CONTAINER",
        subject,
        verdict,
        seen=f"a container {wanted} that this runbook did not make" if clash else ", ".join(foreign) or "none",
        expected=expected,
        next_command=f"docker ps -a   # on {host.name}; decide by name, or set container.name in params",
    )
