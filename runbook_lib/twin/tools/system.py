"""Services, clock, power mode, network of the host itself: systemctl, chronyc, cpupower, ip, ss and their like."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.twin import hardware
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import ToolCall

# what a fresh openEuler server with Docker runs: unit -> active, enabled
_UNITS = {
    "chronyd": (True, True),
    "crond": (True, True),
    "docker": (True, True),
    "firewalld": (False, False),
    "irqbalance": (True, True),
    "NetworkManager": (True, True),
    "sshd": (True, True),
    "tuned": (False, False),
}
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_GOVERNORS = ("performance", "ondemand", "powersave", "schedutil")
_LISTEN = "0A"
_SYSCTL = {
    "net.ipv4.ip_forward": "1",
    "vm.swappiness": "60",
    "vm.max_map_count": "65530",
    "kernel.pid_max": "4194304",
    "kernel.osrelease": hardware.KERNEL,
    "net.core.somaxconn": "4096",
}


async def systemctl(call: ToolCall) -> Reply:
    """is-active, is-enabled, status, start, stop, restart, enable, disable of the known units."""
    words = [word for word in call.argv[1:] if not word.startswith("-")]
    quiet = bool({"-q", "--quiet"} & set(call.argv))
    if words == ["is-system-running"]:
        return Reply(0, "running\n")
    if words == ["reboot"]:
        return await reboot(call)
    if len(words) < 2:  # noqa: PLR2004 - verb, unit
        return Reply(1, err="Too few arguments.\n")
    verb, *units = words
    code, out, err = 0, "", ""
    codes = []
    for given in units:
        unit = given.removesuffix(".service")
        if unit not in _UNITS:
            code, said = _unknown_unit(verb, unit)
            codes.append(code)
            out, err = (out + said, err) if verb.startswith("is-") else (out, err + said)
            continue
        one, said = _unit(call, verb, unit)
        out += "" if quiet else said
        code = one or code
        codes.append(one)
    # of several units, is-active and is-enabled ask whether any is
    return Reply(0 if verb.startswith("is-") and 0 in codes else code, out, err)


def _unknown_unit(verb: str, unit: str) -> tuple[int, str]:
    if verb == "is-active":
        return 3, "inactive\n"
    if verb == "is-enabled":
        return 1, f"Failed to get unit file state for {unit}.service: No such file or directory\n"
    if verb == "status":
        return 4, f"Unit {unit}.service could not be found.\n"
    return 5, f"Failed to {verb} {unit}.service: Unit {unit}.service not found.\n"


def unit_active(call: ToolCall, unit: str) -> bool:
    """Whether a service of the host runs."""
    return bool(call.world.tool_state("units", call.node.name).get(unit, _UNITS[unit])[0])


def _unit(call: ToolCall, verb: str, unit: str) -> tuple[int, str]:
    state = call.world.tool_state("units", call.node.name)
    active, enabled = state.get(unit, _UNITS[unit])
    if verb == "is-active":
        return (0, "active\n") if active else (3, "inactive\n")
    if verb == "is-enabled":
        return (0, "enabled\n") if enabled else (1, "disabled\n")
    if verb == "status":
        word = "active (running)" if active else "inactive (dead)"
        loaded = "enabled" if enabled else "disabled"
        text = f"* {unit}.service\n     Loaded: loaded (/usr/lib/systemd/system/{unit}.service; {loaded})\n"
        return (0 if active else 3), f"{text}     Active: {word}\n"
    now = "--now" in call.argv
    if verb in {"start", "restart"} or (verb == "enable" and now):
        active = True
    if verb == "stop" or (verb == "disable" and now):
        active = False
    enabled = {"enable": True, "disable": False}.get(verb, enabled)
    if verb not in {"start", "restart", "stop", "enable", "disable", "reload"}:
        return 1, f"Unknown command verb {verb}.\n"
    state[unit] = [active, enabled]
    call.world.save()
    return 0, ""


async def reboot(call: ToolCall) -> Reply:
    """Reboot the host (reboot, shutdown -r, systemctl reboot): the caller's connection drops with it."""
    if call.argv[0] == "shutdown" and "-r" not in call.argv:
        return Reply(1, err="shutdown: the emulated server reboots only (-r): nobody would switch it on again\n")
    if call.world.reboot is None:
        return Reply(1, err="Failed to talk to init daemon.\n")
    call.world.reboot(call.node.name)
    return Reply(0)


async def timedatectl(call: ToolCall) -> Reply:
    """Print the clock's state."""
    now = call.world.emulated_now(call.node.name)
    if call.argv[1:2] == ["show"]:
        return Reply(0, "Timezone=UTC\nLocalRTC=no\nCanNTP=yes\nNTP=yes\nNTPSynchronized=yes\n")
    stamp = now.strftime("%a %Y-%m-%d %H:%M:%S")
    rows = {
        "Local time": f"{stamp} UTC",
        "Universal time": f"{stamp} UTC",
        "RTC time": stamp,
        "Time zone": "UTC (UTC, +0000)",
        "System clock synchronized": "no" if _skew(call) else "yes",
        "NTP service": "active" if unit_active(call, "chronyd") else "inactive",
        "RTC in local TZ": "no",
    }
    return Reply(0, "".join(f"{key:>25}: {value}\n" for key, value in rows.items()))


def _skew(call: ToolCall) -> float:
    return float(call.world.machine(call.node.name).get("skew_s", 0.0))


async def chronyc(call: ToolCall) -> Reply:
    """Print `tracking`, set the clock right (`makestep`); the other words say only that the daemon answers."""
    if not unit_active(call, "chronyd"):
        return Reply(1, "506 Cannot talk to daemon\n")
    if "makestep" in call.argv:
        call.world.machine(call.node.name).pop("skew_s", None)
        call.world.save()
    if "tracking" not in call.argv:
        return Reply(0, "200 OK\n")
    offset = _skew(call)
    synced = not offset
    rows = {
        "Reference ID": "AC10000B (172.16.0.11)" if synced else "00000000 ()",
        "Stratum": "4" if synced else "0",
        "Ref time (UTC)": call.world.emulated_now(call.node.name).strftime("%a %b %d %H:%M:%S %Y"),
        "System time": f"{abs(offset) or 0.000021:.9f} seconds {'fast' if offset > 0 else 'slow'} of NTP time",
        "Last offset": f"{offset or 0.000013:+.9f} seconds",
        "RMS offset": f"{abs(offset) or 0.000034:.9f} seconds",
        "Frequency": "8.112 ppm slow",
        "Residual freq": "+0.001 ppm",
        "Skew": "0.021 ppm",
        "Root delay": "0.000512 seconds",
        "Root dispersion": "0.000901 seconds",
        "Update interval": "1024.3 seconds",
        "Leap status": "Normal" if synced else "Not synchronised",
    }
    return Reply(0, "".join(f"{key:<16}: {value}\n" for key, value in rows.items()))


async def cpupower(call: ToolCall) -> Reply:
    """frequency-info, and frequency-set -g GOVERNOR."""
    file = call.node.files / _GOVERNOR.lstrip("/")
    words = call.argv[1:]
    if words[:1] == ["frequency-set"]:
        governor = words[-1]
        if len(words) != 3 or words[1] not in {"-g", "--governor"} or governor not in _GOVERNORS:  # noqa: PLR2004
            return Reply(1, err="invalid or unknown argument\n")
        file.write_text(f"{governor}\n", encoding="utf-8")
        return Reply(0, "".join(f"Setting cpu: {cpu}\n" for cpu in range(hardware.CPUS)))
    if words[:1] != ["frequency-info"]:
        return Reply(1, err="Supported commands are:\n\tfrequency-info\n\tfrequency-set\n")
    governor = file.read_text(encoding="utf-8").strip()
    if "-p" in words or "--policy" in words:
        text = ""
    else:
        text = (
            "  driver: cppc_cpufreq\n  CPUs which run at the same hardware frequency: 0\n"
            "  hardware limits: 200 MHz - 2.60 GHz\n"
            f"  available cpufreq governors: {' '.join(_GOVERNORS)}\n"
        )
    policy = (
        "  current policy: frequency should be within 200 MHz and 2.60 GHz.\n"
        f'                  The governor "{governor}" may decide which speed to use\n'
        "                  within this range.\n"
    )
    return Reply(0, f"analyzing CPU 0:\n{text}{policy}")


async def getenforce(call: ToolCall) -> Reply:
    """Print the SELinux mode."""
    del call
    return Reply(0, "Disabled\n")


async def sysctl(call: ToolCall) -> Reply:
    """Print or set (`-w key=value`) the known keys; what is set lasts until the host's reboot at most."""
    state = call.world.tool_state("sysctl", call.node.name)
    bare = {"-n", "-e"} & set(call.argv)
    out, err = "", ""
    for word in [each for each in call.argv[1:] if not each.startswith("-")]:
        key, sign, value = word.partition("=")
        key = key.strip()
        if key not in _SYSCTL:
            err += f"sysctl: cannot stat /proc/sys/{key.replace('.', '/')}: No such file or directory\n"
            continue
        if sign:
            state[key] = value.strip()
            call.world.save()
        shown = state.get(key, _SYSCTL[key])
        out += f"{shown}\n" if bare else f"{key} = {shown}\n"
    return Reply(255 if err else 0, out, err)


async def ip(call: ToolCall) -> Reply:
    """Addr, link, route of lo and the one NIC; other words are refused."""
    words = [word for word in call.argv[1:] if not word.startswith("-")]
    options = [word for word in call.argv[1:] if word.startswith("-")]
    topic = (words or [""])[0]
    brief = bool({"-br", "-brief"} & set(options))
    network = call.node.address.rsplit(".", 1)[0]
    if topic in {"a", "ad", "addr", "address"} and brief:
        return Reply(
            0, f"{'lo':<17}UNKNOWN        127.0.0.1/8 \n{hardware.NIC:<17}UP             {call.node.address}/24 \n"
        )
    if topic in {"a", "ad", "addr", "address", "l", "link"}:
        with_address = not topic.startswith("l")
        lo = "    inet 127.0.0.1/8 scope host lo\n       valid_lft forever preferred_lft forever\n"
        nic = (
            f"    inet {call.node.address}/24 brd {network}.255 scope global noprefixroute {hardware.NIC}\n"
            "       valid_lft forever preferred_lft forever\n"
        )
        mac = _mac(call.node)
        return Reply(
            0,
            "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000\n"
            "    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00\n"
            f"{lo if with_address else ''}"
            f"2: {hardware.NIC}: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP group default qlen 1000\n"
            f"    link/ether {mac} brd ff:ff:ff:ff:ff:ff\n{nic if with_address else ''}",
        )
    if topic in {"r", "ro", "route"}:
        if words[1:2] == ["get"]:
            return Reply(0, f"{words[2]} dev {hardware.NIC} src {call.node.address} uid 0 \n    cache \n")
        return Reply(
            0, f"{network}.0/24 dev {hardware.NIC} proto kernel scope link src {call.node.address} metric 100 \n"
        )
    return Reply(1, err=f'Object "{topic}" is unknown, try "ip help".\n')


def _mac(node: Node) -> str:
    last = int(node.address.rsplit(".", 1)[1])
    return f"9c:b2:e8:00:1f:{last:02x}"


def listening(node: Node) -> list[tuple[str, int, int]]:
    """Return (address, port, inode) of the TCP sockets that listen on the node's address."""
    found = []
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        host, _, port = fields[1].partition(":")
        address = socket.inet_ntoa(struct.pack("<I", int(host, 16)))
        if fields[3] == _LISTEN and address == node.address:
            found.append((address, int(port, 16), int(fields[9])))
    return sorted(found, key=lambda each: each[1])


def _holders(node: Node, inodes: set[int]) -> dict[int, tuple[str, int]]:
    """Return the program and its pid inside the node for each socket that a process of the node holds."""
    holders: dict[int, tuple[str, int]] = {}
    depth = 0 if node.level == "L0" else 1
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            status = (process / "status").read_text(encoding="utf-8", errors="replace")
            pids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if len(pids) <= depth:
                continue
            for inode in inodes & _sockets(process):
                holders[inode] = ((process / "comm").read_text(encoding="utf-8").strip(), int(pids[depth]))
        except (OSError, StopIteration):
            continue  # it ended meanwhile, or belongs to somebody else
    return holders


def _sockets(process: Path) -> set[int]:
    targets = [str(descriptor.readlink()) for descriptor in (process / "fd").iterdir()]
    return {int(target[8:-1]) for target in targets if target.startswith("socket:[")}


async def ss(call: ToolCall) -> Reply:
    """Print the listening TCP sockets of this host; every other filter prints the header only."""
    letters = set("".join(word[1:] for word in call.argv[1:] if word.startswith("-") and not word.startswith("--")))
    head = "" if "H" in letters else "State  Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
    if "l" not in letters or ("u" in letters and "t" not in letters):
        return Reply(0, head)
    sockets = listening(call.node)
    holders = _holders(call.node, {inode for _, _, inode in sockets}) if "p" in letters else {}
    lines = ""
    for address, port, inode in sockets:
        name, pid = holders.get(inode, ("sshd", 1211) if port == call.world.params.cluster.ssh.port else ("", 0))
        users = f'users:(("{name}",pid={pid},fd=3))' if "p" in letters and name else ""
        lines += f"LISTEN 0      128    {f'{address}:{port}':>18}      0.0.0.0:*     {users}".rstrip() + "\n"
    return Reply(0, head + lines)


async def netstat(call: ToolCall) -> Reply:
    """Print the listening TCP sockets of this host."""
    head = (
        "Active Internet connections (only servers)\n"
        "Proto Recv-Q Send-Q Local Address           Foreign Address         State      \n"
    )
    lines = [
        f"tcp        0      0 {f'{a}:{p}':<23} {'0.0.0.0:*':<23} LISTEN     \n" for a, p, _ in listening(call.node)
    ]
    return Reply(0, head + "".join(lines))
