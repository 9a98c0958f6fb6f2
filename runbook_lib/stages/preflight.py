"""Preflight: is this cluster fit for the work; makes the work folder on every host."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import docker, npu_smi, versions
from runbook_lib.model import Change, Command, Finding, ProbeScript, Section, Subject, Verdict
from runbook_lib.params import WEIGHTS_GB
from runbook_lib.stages.base import Findings, apply_command
from runbook_lib.stages.container import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.docker import Container, ContainerRow, DockerVersion
    from runbook_lib.ascend.npu_smi import NpuInfo
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

NAME = "preflight"
HBM_MB = 65536  # DeepSeek 671B on A2 needs the 64 GB parts (npu-smi reference, section 1)
IDLE_HBM_MB = 4500  # an idle 64 GB card shows 3.3-4.2 GB used (npu-smi reference, section 1)
MIN_MEMORY_GIB = 512  # --shm-size 500g must fit
MIN_PYTHON = (3, 7)  # what the pushed downloader is written for
MAX_CLOCK_SPREAD_S = 10.0
ARCHITECTURE = "aarch64"
KNOWN_SYSTEMS = {("openEuler", "22.03"), ("openEuler", "24.03"), ("ubuntu", "22.04"), ("kylin", "V10")}
_DISK_MARGIN = 1.05
_NEAREST_DF = 'p=$1; while [ ! -e "$p" ]; do p=$(dirname "$p"); done; df -B1 --output=avail,target "$p"'


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What one host is. None: could not be read."""

    clock_s: float | None
    npus: Reading[NpuInfo]
    driver: versions.VersionInfo | None
    firmware: versions.VersionInfo | None
    system: versions.OsRelease
    architecture: str
    docker: Reading[DockerVersion]
    containers: Reading[tuple[ContainerRow, ...]]
    ours: Container | None
    disk_free_bytes: int | None
    disk_mount: str
    weights_bytes: int
    memory_bytes: int | None
    busy_ports: frozenset[int] | None
    work: str | None
    python: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class PreflightFacts:
    """Facts of every host that was reached; errors of the others; paths of all."""

    hosts: Mapping[str, HostFacts]
    errors: Mapping[str, str]
    paths: Mapping[str, HostPaths]


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read what the host is, what it has free, and what runs on it."""
    return ProbeScript(
        (
            Section("clock", ("date", "+%s.%N")),
            Section("npus", ("npu-smi", "info"), 30.0),
            Section("driver", ("cat", paths.driver_version)),
            Section("firmware", ("cat", paths.firmware_version)),
            Section("system", ("cat", f"{paths.root}/etc/os-release")),
            Section("architecture", ("uname", "-m")),
            Section("docker", ("docker", "version", "--format", "{{json .}}")),
            Section("containers", ("docker", "ps", "-a", "--no-trunc", "--format", "{{json .}}")),
            Section("ours", ("docker", "inspect", params.container.name)),
            Section("disk", ("sh", "-c", _NEAREST_DF, "sh", paths.weights)),
            Section("present", ("du", "-sb", paths.weights), 60.0),
            Section("memory", ("free", "-b")),
            Section("ports", ("ss", "-Hlnt")),
            Section("work", ("stat", "-c", "%a %F", paths.work)),
            Section("python", ("python3", "--version")),
        )
    )


def facts(params: Params, probes: Probes) -> PreflightFacts:  # noqa: ARG001 - the same form for every stage
    """Parse what every host said."""
    return PreflightFacts(
        {name: _host_facts(seen) for name, seen in probes.items() if not seen.error},
        {name: seen.error for name, seen in probes.items() if seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _host_facts(seen: HostProbe) -> HostFacts:
    free_bytes, mount = _disk(seen.get("disk"))
    return HostFacts(
        clock_s=_number(seen.get("clock")),
        npus=npu_smi.parse_info(seen.get("npus")),
        driver=_version(seen.get("driver")),
        firmware=_version(seen.get("firmware")),
        system=versions.parse_os_release(_text(seen.get("system"))),
        architecture=_text(seen.get("architecture")),
        docker=docker.parse_version(seen.get("docker")),
        containers=docker.parse_ps(seen.get("containers")),
        ours=docker.parse_inspect(seen.get("ours")).value,
        disk_free_bytes=free_bytes,
        disk_mount=mount,
        weights_bytes=_first_number(seen.get("present")) or 0,
        memory_bytes=_memory(seen.get("memory")),
        busy_ports=_ports(seen.get("ports")),
        work=_work(seen.get("work")),
        python=_python(seen.get("python")),
    )


def _text(capture: Capture) -> str:
    return capture.stdout.strip() if capture.ok else ""


def _number(capture: Capture) -> float | None:
    try:
        value = float(capture.stdout.strip()) if capture.ok else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _first_number(capture: Capture) -> int | None:
    word = capture.stdout.split(maxsplit=1)[:1] if capture.ok else []
    return int(word[0]) if word and word[0].isdigit() else None


def _version(capture: Capture) -> versions.VersionInfo | None:
    return versions.parse_version_info(capture.stdout) if capture.ok else None


def _disk(capture: Capture) -> tuple[int | None, str]:
    last = capture.stdout.strip().splitlines()[-1:] if capture.ok else []
    free, _, mount = (last[0].strip() if last else "").partition(" ")
    return (int(free), mount.strip()) if free.isdigit() else (None, "")


def _memory(capture: Capture) -> int | None:
    for line in capture.stdout.splitlines() if capture.ok else ():
        words = line.split()
        if words[:1] == ["Mem:"] and len(words) > 1 and words[1].isdigit():
            return int(words[1])
    return None


def _ports(capture: Capture) -> frozenset[int] | None:
    if not capture.ok:
        return None
    ports = set()
    for line in capture.stdout.splitlines():
        words = line.split()
        local = words[3] if len(words) > 3 else ""  # noqa: PLR2004 - State Recv-Q Send-Q Local:Port Peer:Port
        _, _, port = local.rpartition(":")
        if not port.isdigit():
            return None
        ports.add(int(port))
    return frozenset(ports) or None  # a host that answers over SSH listens on something


def _work(capture: Capture) -> str | None:
    if capture.ok:
        return capture.stdout.strip()
    return "missing" if capture.exit_code == 1 and "No such file" in capture.stderr else None


def _python(capture: Capture) -> tuple[int, ...] | None:
    words = (capture.stdout or capture.stderr).split()
    if not capture.ok or len(words) < 2 or words[0] != "Python":  # noqa: PLR2004 - "Python 3.9.9"
        return None
    numbers = words[1].split(".")[:2]
    return tuple(int(number) for number in numbers) if all(number.isdigit() for number in numbers) else None


def check(facts: PreflightFacts, params: Params) -> list[Finding]:
    """Judge every host, then what must be equal on all of them."""
    findings = Findings(NAME, apply_command(params))
    for name, error in facts.errors.items():
        findings.add(
            "PRE-HOST-UNREACHABLE",
            Subject(name),
            Verdict.FAIL,
            seen=error,
            expected="the host answers over SSH with its pinned key",
            next_command=f"ssh -p {params.cluster.ssh.port} {params.cluster.ssh.user}@{params.host(name).address} true",
        )
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is not None:
            findings.add("PRE-HOST-UNREACHABLE", Subject(host.name), Verdict.OK, seen="answers", expected="answers")
            _check_cards(findings, params, host, seen)
            _check_software(findings, host, seen)
            _check_room(findings, params, host, seen)
            _check_leftovers(findings, params, host, seen)
    _check_clocks(findings, params, facts)
    _check_drivers(findings, params, facts)
    return findings.items


def runs_ours(params: Params, seen: HostFacts) -> bool:
    """Whether this cluster's own container runs there: its ports and its HBM are no leftovers."""
    ours = seen.ours
    return ours is not None and ours.state == "running" and ours.env.get(MARKER) == params.cluster.name


def _check_cards(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    expected = f"{len(host.cards)} cards"
    info = seen.npus.value
    if info is None or info.unreadable_rows:
        said = seen.npus.message or seen.npus.state
        findings.add(
            "PRE-CARDS",
            subject,
            Verdict.UNKNOWN,
            seen=said,
            expected=expected,
            next_command=f"npu-smi info   # on {host.name}",
        )
        return
    ids = [card.id for card in info.cards]
    wanted = [card.id for card in host.cards]
    missing = [card for card in wanted if card not in ids]
    findings.add(
        "PRE-CARDS",
        subject,
        Verdict.FAIL if missing else Verdict.OK,
        seen=f"{len(ids)} cards" + (f", without {missing}" if missing else ""),
        expected=expected,
        next_command=f"npu-smi info; lspci | grep acce   # on {host.name}; then a power cycle",
    )
    ours = runs_ours(params, seen)
    for card in info.cards:
        on_card = Subject(host.name, card.id)
        healthy = card.health == "OK"
        verdict = Verdict.UNKNOWN if card.health is None else Verdict.OK if healthy else Verdict.FAIL
        command = f"npu-smi info -t health -i {card.id} -c 0   # on {host.name}"
        findings.add(
            "PRE-CARD-HEALTH", on_card, verdict, seen=card.health or "unreadable", expected="OK", next_command=command
        )
        total = card.hbm_total_mb
        verdict = Verdict.UNKNOWN if total is None else Verdict.OK if total >= HBM_MB else Verdict.FAIL
        findings.add(
            "PRE-CARD-HBM-SIZE", on_card, verdict, seen=f"{total} MB", expected=f"{HBM_MB} MB", next_command=command
        )
        used = card.hbm_used_mb
        rows = info.processes_of(card.id)  # None: the table does not say, which is not "none"
        free = used is not None and used <= IDLE_HBM_MB and not rows
        verdict = Verdict.OK if free or ours else Verdict.FAIL
        if used is None or (rows is None and free):
            # a build that prints no process table at all (24.1.rc1 was seen to) leaves the memory as evidence
            table = bool(info.processes or info.said_idle)
            verdict = Verdict.UNKNOWN if used is None or table else Verdict.WARN
        said = f"{used} MB used"
        if rows:
            said += f" by pid {', '.join('unreadable' if each.pid is None else str(each.pid) for each in rows)}"
        elif rows is None:
            said += ", processes not said"
        findings.add(
            "PRE-HBM-LEFTOVER",
            on_card,
            verdict,
            seen=said + (" (ours)" if ours and not free else ""),
            expected=f"at most {IDLE_HBM_MB} MB and no process",
            next_command=f"npu-smi info   # on {host.name}; stop that process by its pid, or reset the card",
        )


def _check_software(findings: Findings, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    if seen.driver is None or seen.firmware is None:
        findings.add(
            "PRE-DRIVER-PAIR", subject, Verdict.UNKNOWN, seen="version files not readable", expected="a matching pair"
        )
    else:
        pair = versions.pairing(seen.driver, seen.firmware)
        said = f"driver {seen.driver.version}, firmware {seen.firmware.version}: {pair.why}"
        findings.add("PRE-DRIVER-PAIR", subject, pair.verdict, seen=said, expected="a matching pair")
    name, version = seen.system.id, (seen.system.version_id or "").strip()
    known = any(name == each and version.startswith(number) for each, number in KNOWN_SYSTEMS)
    verdict = Verdict.UNKNOWN if name is None else Verdict.OK if known else Verdict.WARN
    findings.add(
        "PRE-OS",
        subject,
        verdict,
        seen=seen.system.pretty_name or "unreadable",
        expected="a system that MindIE images were seen to run on: openEuler 22.03 or 24.03, Ubuntu 22.04, Kylin V10",
        next_command="nothing to repair: expect surprises of deployers and drivers",
    )
    verdict = (
        Verdict.UNKNOWN if not seen.architecture else Verdict.OK if seen.architecture == ARCHITECTURE else Verdict.FAIL
    )
    findings.add("PRE-ARCH", subject, verdict, seen=seen.architecture or "unreadable", expected=ARCHITECTURE)
    server = seen.docker.value.server if seen.docker.value is not None else None
    verdict = Verdict.OK if server else Verdict.UNKNOWN if seen.docker.state == "unreadable" else Verdict.FAIL
    command = f"systemctl start docker   # on {host.name}"
    findings.add(
        "PRE-DOCKER",
        subject,
        verdict,
        seen=server or seen.docker.message,
        expected="a running docker",
        next_command=command,
    )
    python = ".".join(map(str, seen.python)) if seen.python else "not found"
    findings.judge(
        "PRE-PYTHON",
        subject,
        ok=seen.python is not None and seen.python >= MIN_PYTHON,
        seen=python,
        expected="Python 3.7 or newer",
    )


def _check_room(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    needed = max(0, int(WEIGHTS_GB[params.model.format] * 1e9 * _DISK_MARGIN) - seen.weights_bytes)
    free = seen.disk_free_bytes
    said = f"{(free or 0) / 1e9:.0f} GB free on {seen.disk_mount}" if free is not None else "unreadable"
    verdict = Verdict.UNKNOWN if free is None else Verdict.OK if free >= needed else Verdict.FAIL
    findings.add(
        "PRE-DISK-WEIGHTS",
        subject,
        verdict,
        seen=said,
        expected=f"{needed / 1e9:.0f} GB free for {params.model.weights.directory} ({params.model.format} and 5 %)",
        next_command=f"df -h   # on {host.name}; free space, or set another model.weights.directory",
    )
    memory = seen.memory_bytes
    gib = (memory or 0) / 2**30
    verdict = Verdict.UNKNOWN if memory is None else Verdict.OK if gib >= MIN_MEMORY_GIB else Verdict.WARN
    findings.add(
        "PRE-MEMORY",
        subject,
        verdict,
        seen=f"{gib:.0f} GiB" if memory is not None else "unreadable",
        expected=f"at least {MIN_MEMORY_GIB} GiB, so that --shm-size {params.container.shm_size} fits",
        next_command="set container.shm_size below the memory of the host",
    )
    verdict = Verdict.UNKNOWN if seen.work is None else Verdict.OK if seen.work == "700 directory" else Verdict.FAIL
    findings.add("PRE-WORKDIR", subject, verdict, seen=seen.work or "unreadable", expected="700 directory")


def _check_leftovers(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    ours = runs_ours(params, seen)
    service = params.service
    wanted = {
        service.port,
        service.management_port,
        service.metrics_port,
        1120,
        1121,
    }  # the last two: config.json defaults
    expected = f"ports {', '.join(map(str, sorted(wanted)))} free"
    if seen.busy_ports is None:
        findings.add("PRE-PORTS", subject, Verdict.UNKNOWN, seen="unreadable", expected=expected)
    else:
        taken = sorted(wanted & seen.busy_ports)
        said = f"taken: {', '.join(map(str, taken))}" if taken else "free"
        findings.add(
            "PRE-PORTS",
            subject,
            Verdict.OK if not taken or ours else Verdict.FAIL,
            seen=said + (" (ours)" if taken and ours else ""),
            expected=expected,
            next_command=f"ss -lntp   # on {host.name}; stop that process by its pid, or change the port in params",
        )
    rows = seen.containers.value
    if rows is None:
        findings.add(
            "PRE-LEFTOVER-CONTAINER",
            subject,
            Verdict.UNKNOWN,
            seen=seen.containers.message,
            expected="no foreign container",
        )
        return
    foreign = sorted(name for row in rows for name in row.names if name != params.container.name)
    clash = seen.ours is not None and seen.ours.env.get(MARKER) != params.cluster.name
    unseen = seen.ours is None and any(params.container.name in row.names for row in rows)
    if unseen:
        findings.add(
            "PRE-LEFTOVER-CONTAINER",
            subject,
            Verdict.UNKNOWN,
            seen=f"{params.container.name} is there, and docker inspect could not be read",
            expected="no foreign container",
        )
        return
    verdict = Verdict.FAIL if clash else Verdict.WARN if foreign else Verdict.OK
    said = (
        f"a container {params.container.name} that this runbook did not make" if clash else ", ".join(foreign) or "none"
    )
    findings.add(
        "PRE-LEFTOVER-CONTAINER",
        subject,
        verdict,
        seen=said,
        expected="no foreign container",
        next_command=f"docker ps -a   # on {host.name}; decide by name, or set container.name in params",
    )


def _check_clocks(findings: Findings, params: Params, facts: PreflightFacts) -> None:
    """Blame the clocks that differ from the most; with two that differ nobody knows which is right."""
    clocks = [seen.clock_s for seen in facts.hosts.values()]
    known = [clock for clock in clocks if clock is not None]
    expected = f"within {MAX_CLOCK_SPREAD_S:.0f} s of each other"
    middle = sorted(known)[len(known) // 2] if known else 0.0
    for host, seen in facts.hosts.items():
        if seen.clock_s is None or (len(known) == 1 and len(params.cluster.hosts) > 1):
            said = "unreadable" if seen.clock_s is None else "no other clock to compare with"
            findings.add("PRE-CLOCK", Subject(host), Verdict.UNKNOWN, seen=said, expected=expected)
            continue
        near = sum(abs(seen.clock_s - clock) <= MAX_CLOCK_SPREAD_S for clock in known)
        said = f"{seen.clock_s - middle:+.0f} s from the others"
        findings.judge("PRE-CLOCK", Subject(host), ok=near * 2 > len(known), seen=said, expected=expected)


def _check_drivers(findings: Findings, params: Params, facts: PreflightFacts) -> None:
    cluster = Subject()
    drivers = Counter(
        f"driver {seen.driver.version}, firmware {seen.firmware.version}"
        for seen in facts.hosts.values()
        if seen.driver is not None and seen.firmware is not None and seen.driver.version and seen.firmware.version
    )
    complete = sum(drivers.values()) == len(params.cluster.hosts)
    verdict = (Verdict.OK if len(drivers) == 1 else Verdict.FAIL) if complete else Verdict.UNKNOWN
    findings.add(
        "PRE-DRIVER-SAME",
        cluster,
        verdict,
        seen="; ".join(sorted(drivers)) or "unreadable",
        expected="the same on all hosts",
    )


def plan(facts: PreflightFacts, params: Params) -> list[Change]:  # noqa: ARG001 - the same form for every stage
    """Make the work folder where it is missing, and close it where it is open."""
    changes = []
    for host, seen in facts.hosts.items():
        work = facts.paths[host].work
        if seen.work == "missing":
            action, undo = Command(("install", "-d", "-m", "0700", work)), Command(("rmdir", work))
        elif seen.work is not None and seen.work.endswith(" directory") and seen.work != "700 directory":
            mode = seen.work.split(maxsplit=1)[0]
            action, undo = Command(("chmod", "0700", work)), Command(("chmod", mode, work))
        else:
            continue
        changes.append(
            Change(
                subject=Subject(host),
                summary=f"make the runbook's work folder {work}",
                before=seen.work,
                after="700 directory",
                action=action,
                undo=undo,
                fixes=("PRE-WORKDIR",),
            )
        )
    return changes


def waits_for(facts: PreflightFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: this stage is the first."""
    return ()
