"""What preflight reads from one host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import ProbeScript, Section

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params

# the weights may not be there yet: the nearest folder that is tells the file system
_DISKS = (
    'p=$1; while [ ! -e "$p" ]; do p=$(dirname "$p"); done; '
    'df -B1 --output=avail,target "$p" && df -B1 --output=avail,target "${HOME:-/root}"'
)
_GOVERNORS = 'cat "$1"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor && echo end'
FIREWALLS = ("firewalld", "ufw", "nftables")


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read what the host is, what it has free, and what runs on it."""
    name = params.container.name
    return ProbeScript(
        (
            Section("clock", ("date", "+%s.%N")),
            Section("npus", ("npu-smi", "info"), 30.0),
            Section("driver", ("cat", paths.driver_version)),
            Section("firmware", ("cat", paths.firmware_version)),
            Section("system", ("cat", f"{paths.root}/etc/os-release")),
            Section("product", ("cat", f"{paths.root}/sys/class/dmi/id/product_name")),
            Section("architecture", ("uname", "-m")),
            Section("docker", ("docker", "version", "--format", "{{json .}}")),
            Section("runtime", ("docker", "info", "--format", "{{json .}}")),
            Section("containers", ("docker", "ps", "-a", "--no-trunc", "--format", "{{json .}}")),
            Section("ours", ("docker", "inspect", name)),
            Section("pids", ("docker", "top", name, "-eo", "pid")),
            Section("disk", ("sh", "-c", _DISKS, "sh", paths.weights)),
            Section("present", ("du", "-sbD", paths.weights), 60.0),
            Section("memory", ("free", "-b")),
            Section("ports", ("ss", "-Hlntp")),
            Section("firewall", ("systemctl", "is-active", *FIREWALLS)),
            Section("governor", ("sh", "-c", _GOVERNORS, "sh", paths.root)),
            Section("work", ("stat", "-c", "%a %F", paths.work)),
            Section("python", ("python3", "--version")),
            Section("lfs", ("git", "lfs", "version")),
        )
    )
