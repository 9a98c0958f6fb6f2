"""Software of one host: driver and firmware, system, docker, Python, download tools, firewall, power mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend import support, versions
from runbook_lib.model import Subject, Verdict

if TYPE_CHECKING:
    from runbook_lib.params import Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.preflight.facts import HostFacts

MIN_PYTHON = (3, 7)  # what the pushed downloader is written for
ARCHITECTURE = "aarch64"
RUNTIMES = frozenset({"runc", "ascend"})


def check_software(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    """Judge every piece of software of one host."""
    _check_driver(findings, host, seen)
    _check_system(findings, params, host, seen)
    _check_docker(findings, host, seen)
    _check_tools(findings, params, host, seen)
    _check_firewall(findings, params, host, seen)
    _check_power(findings, params, host, seen)


def _check_driver(findings: Findings, host: Host, seen: HostFacts) -> None:
    subject, expected = Subject(host.name), "a firmware that the driver names as compatible, from the same package"
    command = f"cat /usr/local/Ascend/driver/version.info /usr/local/Ascend/firmware/version.info   # on {host.name}"
    if seen.driver is None or seen.firmware is None:
        gone = " and ".join(
            name for name, each in (("driver", seen.driver), ("firmware", seen.firmware)) if each is None
        )
        findings.add(
            "PRE-DRIVER-PAIR",
            subject,
            Verdict.UNKNOWN,
            seen=f"version.info of {gone} not readable",
            expected=expected,
            next_command=command,
        )
        return
    pair = versions.pairing(seen.driver, seen.firmware)
    said = f"driver {seen.driver.version}, firmware {seen.firmware.version}: {pair.why}"
    findings.add("PRE-DRIVER-PAIR", subject, pair.verdict, seen=said, expected=expected, next_command=command)


def _check_system(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    name, version = seen.system.id, (seen.system.version_id or "").strip()
    known = any(
        name == each and version.startswith(number)
        for each, number in (words.split(maxsplit=1) for words in params.preflight.systems)
    )
    trap = support.unsupported(seen.product, name or "", seen.release)
    verdict = Verdict.UNKNOWN if name is None or not version else Verdict.OK if known and not trap else Verdict.WARN
    findings.add(
        "PRE-OS",
        subject,
        verdict,
        seen=(seen.system.pretty_name or "unreadable") + (f" on {seen.product}: {trap}" if trap else ""),
        expected=f"one of preflight.systems: {', '.join(params.preflight.systems)}",
        next_command=f"cat /etc/os-release   # on {host.name}; "
        "nothing to repair at once: expect surprises of deployers and drivers",
    )
    verdict = Verdict.OK if seen.architecture == ARCHITECTURE else Verdict.FAIL
    findings.add(
        "PRE-ARCH",
        subject,
        verdict if seen.architecture else Verdict.UNKNOWN,
        seen=seen.architecture or "unreadable",
        expected=ARCHITECTURE,
        next_command=f"uname -m   # on {host.name}; images and toolkits are built for {ARCHITECTURE}",
    )


def _check_docker(findings: Findings, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
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
    info = seen.runtime.value
    expected = f"default runtime {' or '.join(sorted(RUNTIMES))}"
    if info is None or info.default_runtime is None:
        said = seen.runtime.message or "docker info names no default runtime"
        findings.add("PRE-DOCKER-RUNTIME", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)
        return
    fit = info.default_runtime in RUNTIMES and (not info.runtimes or info.default_runtime in info.runtimes)
    findings.add(
        "PRE-DOCKER-RUNTIME",
        subject,
        Verdict.OK if fit else Verdict.FAIL,
        seen=f"{info.default_runtime}; there are {', '.join(info.runtimes) or 'none'}",
        expected=expected,
        next_command=f"docker info | grep -i runtime   # on {host.name}; then default-runtime in daemon.json",
    )


def _check_tools(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    python = ".".join(map(str, seen.python)) if seen.python else "not found"
    findings.add(
        "PRE-PYTHON",
        subject,
        Verdict.OK if seen.python is not None and seen.python >= MIN_PYTHON else Verdict.FAIL,
        seen=python,
        expected="Python 3.7 or newer",
        next_command=f"python3 --version   # on {host.name}; then: dnf install python3",
    )
    traps = support.download_pitfalls(seen.python, lfs=seen.lfs)
    findings.add(
        "PRE-DOWNLOAD-TOOLS",
        subject,
        Verdict.SKIPPED,
        seen="; ".join(traps) or "git-lfs is there, Python suits the hubs' tools",
        expected=f"nothing: the runbook's own downloader serves source kind {params.model.weights.source.kind}",
    )


def _check_firewall(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject, expected = Subject(host.name), "no active firewall between the hosts"
    if params.preflight.firewall == "any":
        findings.add("PRE-FIREWALL", subject, Verdict.SKIPPED, seen="preflight.firewall is any", expected="any")
        return
    active = seen.firewalls
    verdict = Verdict.UNKNOWN if active is None else Verdict.FAIL if active else Verdict.OK
    unit = (active or ("firewalld",))[0]
    findings.add(
        "PRE-FIREWALL",
        subject,
        verdict,
        seen="unreadable" if active is None else f"active: {', '.join(active)}" if active else "none is active",
        expected=expected,
        next_command=f"systemctl stop {unit}   # on {host.name}, with its owner's consent; or open the cluster's "
        "network in it and set preflight.firewall: any",
    )


def _check_power(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    if params.preflight.power == "any":
        findings.add("PRE-POWER-MODE", subject, Verdict.SKIPPED, seen="preflight.power is any", expected="any")
        return
    governors = seen.governors
    if not governors:
        said = "unreadable" if governors is None else "the kernel has no cpufreq: see the BMC's power policy"
        verdict = Verdict.UNKNOWN if governors is None else Verdict.WARN
    else:
        said = ", ".join(governors)
        verdict = Verdict.OK if set(governors) == {"performance"} else Verdict.WARN
    findings.add(
        "PRE-POWER-MODE",
        subject,
        verdict,
        seen=said,
        expected="performance (about 20 % more throughput)",
        next_command=f"cpupower frequency-set -g performance   # on {host.name}",
    )
