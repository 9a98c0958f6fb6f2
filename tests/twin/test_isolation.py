"""A node shows the emulated server, and nothing of the machine that the twin runs on."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.twin.conftest import Rig

FACTS = (
    "uname -a; uname -m; arch; hostname; hostname -I; nproc; lscpu; free -k; free -g; df -P; df -h /data; ip addr; "
    "ip route; ss -lnt; netstat -lnt; cat /etc/os-release /etc/hosts /etc/passwd; dmesg; lspci; "
    "uptime; lsblk; hostnamectl; date; timedatectl; chronyc tracking; cpupower frequency-info; "
    "systemctl status docker; systemctl is-active docker firewalld; "
    "cat /sys/class/dmi/id/product_name /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; "
    "sysctl kernel.osrelease; cat /proc/version /proc/meminfo /proc/cmdline /proc/sys/kernel/osrelease "
    "/proc/sys/kernel/hostname /proc/sys/kernel/random/boot_id; grep -c processor /proc/cpuinfo; "
    "head -9 /proc/cpuinfo; ps ax -o args"
)


@pytest.fixture(autouse=True)
def _needs_namespaces(rig: Rig) -> None:
    from runbook_lib.twin import lifecycle  # noqa: PLC0415 - only here

    if lifecycle.status(rig.params, rig.root).level == "L0":
        pytest.skip("no user namespaces on this machine: level L0 shows its /proc, as `twin status` says")


def _own_facts() -> dict[str, str]:
    meminfo = Path("/proc/meminfo").read_text().split()
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    facts = {
        "kernel": platform.release(),
        "host name": socket.gethostname(),
        "memory": meminfo[1],
        "boot id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "disk size": str(os.statvfs("/").f_blocks * os.statvfs("/").f_frsize // 1024),
        "architecture": platform.machine() if platform.machine() != "aarch64" else "",
        "cpu": cpu[0].partition(":")[2].strip() if cpu else "",
        "project folder": str(Path(__file__).parents[2]),
    }
    return {name: value for name, value in facts.items() if len(value) > 3}


def test_no_fact_of_this_machine(rig: Rig) -> None:
    shown = rig.run("node1", FACTS)
    assert shown.err == ""
    assert {name for name, value in _own_facts().items() if value in shown.out} == set()


def test_the_facts_of_the_server(rig: Rig) -> None:
    ran = rig.run(
        "node1", "uname -m; nproc; grep -c ^processor /proc/cpuinfo; hostname; id -u; echo $HOME $PWD; free -g"
    )
    lines = ran.out.splitlines()
    assert lines[:6] == ["aarch64", "192", "192", "node1", "0", "/root /root"]
    assert int(lines[7].split()[1]) > 2000


def test_own_root_processes_and_files(rig: Rig) -> None:
    rig.run("node1", "echo mine >/srv/only-here")
    ran = rig.run(
        "node2", "cat /srv/only-here; ls /; ps ax -o pid= | head -1; touch /usr/x; ls /var/lib/ascend-runbook"
    )
    assert "mine" not in ran.out
    assert ran.out.split()[-1] == "1"
    assert "Read-only file system" in ran.err
    assert "'/var/lib/ascend-runbook': No such file or directory" in ran.err
    assert rig.run("node1", "cat /srv/only-here").out == "mine\n"


def test_the_real_kernel_cannot_be_changed(rig: Rig) -> None:
    ran = rig.run("node1", "echo 1 >/proc/sys/vm/swappiness; echo b >/proc/sysrq-trigger; echo survived")
    assert "Read-only file system" in ran.err or "Permission denied" in ran.err
    assert ran.out == "survived\n"


def test_path_of_a_node_is_the_same_file(rig: Rig) -> None:
    """What the resident writes through Node.path is what a command reads, symlinks and all."""
    rig.run("node1", "mkdir -p /data/t; ln -sfn /data/t /srv/t; echo shell >/data/t/f")
    assert (rig.root / "nodes/node1/files/data/t/f").read_text() == "shell\n"


def test_python_in_the_node(rig: Rig) -> None:
    ran = rig.run("node1", 'cd /tmp; python3 -c "import sys, json, runbook_lib.twin.ask, numpy; print(sys.executable)"')
    assert (ran.out, ran.err) == ("/opt/twin/bin/python3\n", "")


def test_a_node_cannot_ask_the_admin_port(rig: Rig) -> None:
    """The token that shims use opens no admin requests."""
    script = (
        "read -r address port node token </opt/twin/link; exec 3<>/dev/tcp/$address/$port; "
        'printf \'admin\\0%s\\0{"action": "status"}\\0\' "$token" >&3; cat <&3'
    )
    ran = rig.run("node1", script)
    assert (ran.code, ran.out) == (0, "")


def test_many_commands_at_once(rig: Rig) -> None:
    async def work() -> list[object]:
        async with await rig.connect("node1") as connection:
            runs = [connection.run(f"uname -m; exit {number}") for number in range(8)]
            finished = await asyncio.gather(*runs)
        return [(done.exit_status, done.stdout) for done in finished]

    assert asyncio.run(work()) == [(number, "aarch64\n") for number in range(8)]


def test_a_question_that_nobody_answers_is_an_error(rig: Rig) -> None:
    script = """python3 -c "from runbook_lib.twin.ask import AskError, ask
try:
    print(ask({'question': 'what-is-this'}))
except AskError as error:
    print(error)"
"""
    ran = rig.run("node1", script)
    assert ran.out == "nobody answers 'what-is-this'\n"
