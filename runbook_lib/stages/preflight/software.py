"""Software of one host: driver and firmware, system, docker, Python, download tools, firewall, power mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend import support, versions
from runbook_lib.model import Subject, Verdict
from runbook_lib.stages.preflight.probe import FIREWALLS

if TYPE_CHECKING:
    from runbook_lib.params import Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.preflight.facts import HostFacts

MIN_PYTHON = (3, 7)  # what the pushed downloader is written for
ARCHITECTURE = "aarch64"
RUNTIMES = frozenset({"runc", "ascend"})
_DEBIAN = frozenset({"debian", "ubuntu"})


def check_software(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    """Judge every piece of software of one host."""
    _check_driver(findings, params, host, seen)
    _check_system(findings, params, host, seen)
    _check_docker(findings, host, seen)
    _check_tools(findings, params, host, seen)
    _check_firewall(findings, params, host, seen)
    _check_power(findings, params, host, seen)


def _install(system: str | None, package: str, debian: str = "") -> str:
    """Return what installs a package; where the system is not known, whichever of the two tools is there."""
    dnf, apt = f"dnf install {package}", f"apt-get install {debian or package}"
    return f"{dnf} || {apt}" if system is None else apt if system in _DEBIAN else dnf


def _check_driver(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject, expected = Subject(host.name), "a firmware that the driver names as compatible, from the same package"
    root = params.paths.ascend_root
    command = f"cat {root}/driver/version.info {root}/firmware/version.info   # on {host.name}"
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
    verdict, running = pair.verdict, _running(seen)
    # npu-smi asks the card for its version (hicann/driver, dsmi_get_version), version.info is what was installed
    if verdict is Verdict.OK and running and not versions.agree(running, seen.driver.version or ""):
        verdict, command = Verdict.WARN, f"reboot   # on {host.name}; the driver was changed without it"
        said = f"driver {seen.driver.version} is installed, but npu-smi says that {running} runs"
    findings.add("PRE-DRIVER-PAIR", subject, verdict, seen=said, expected=expected, next_command=command)


def _running(seen: HostFacts) -> str:
    """Return the driver's version as npu-smi says it, "" when it does not."""
    version = (seen.npus.value.version if seen.npus.value is not None else None) or ""
    return version if version[:1].isdigit() else ""


def _check_system(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    name, version = seen.system.id, (seen.system.version_id or "").strip()
    known = any(
        name == each and version.startswith(number)
        for each, number in (words.split(maxsplit=1) for words in params.preflight.systems)
    )
    trap = support.unsupported(seen.product, name or "", seen.release)
    said = seen.system.pretty_name or "unreadable"
    command = f"cat /etc/os-release   # on {host.name}; nothing to repair at once: expect surprises of deployers and "
    command += "drivers"
    if name is None or not version:
        verdict, command = Verdict.UNKNOWN, f"cat /etc/os-release   # on {host.name}"
    elif trap is None:
        verdict, said = Verdict.UNKNOWN, f"{said} on {seen.product or 'a server whose model is unreadable'}"
        command = (
            f"cat /etc/os-release /sys/class/dmi/id/product_name   # on {host.name}; some models have a known trap"
        )
    else:
        verdict = Verdict.OK if known and not trap else Verdict.WARN
        said += f" on {seen.product}: {trap}" if trap else ""
    findings.add(
        "PRE-OS",
        subject,
        verdict,
        seen=said,
        expected=f"one of preflight.systems: {', '.join(params.preflight.systems)}",
        next_command=command,
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
    command = f"docker version   # on {host.name}"
    if seen.docker.reason == "not-installed":
        command = f"{_install(seen.system.id, 'docker', 'docker.io')}; systemctl enable --now docker   # on {host.name}"
    elif seen.docker.reason == "daemon-down":
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
        command = f"docker info   # on {host.name}" if server else command
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
    verdict, said, command = Verdict.UNKNOWN, "unreadable", f"python3 --version   # on {host.name}"
    if seen.python is not None:
        verdict = Verdict.OK if seen.python >= MIN_PYTHON else Verdict.FAIL
        said = ".".join(map(str, seen.python)) or "not found"
        command = f"{_install(seen.system.id, 'python3')}   # on {host.name}; python3 --version must say 3.7 or newer"
    findings.add("PRE-PYTHON", subject, verdict, seen=said, expected="Python 3.7 or newer", next_command=command)
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
    command = f"systemctl is-active {' '.join(FIREWALLS)}   # on {host.name}"
    if active:
        command = f"systemctl stop {active[0]}   # on {host.name}; with its owner's consent, or open the cluster's "
        command += "network in it and set preflight.firewall: any"
    findings.add(
        "PRE-FIREWALL",
        subject,
        verdict,
        seen="unreadable" if active is None else f"active: {', '.join(active)}" if active else "none is active",
        expected=expected,
        next_command=command,
    )


def _check_power(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    if params.preflight.power == "any":
        findings.add("PRE-POWER-MODE", subject, Verdict.SKIPPED, seen="preflight.power is any", expected="any")
        return
    governors = seen.governors
    command = f"cpupower frequency-set -g performance   # on {host.name}"
    if not governors:
        command = f"ls /sys/devices/system/cpu/cpu0/cpufreq   # on {host.name}"
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
        next_command=command,
    )
