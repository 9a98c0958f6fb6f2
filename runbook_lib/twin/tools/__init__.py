"""The emulated tools, by the name under which they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.twin.tools import hccl_test, machine, ownership, system
from runbook_lib.twin.tools.disks import df
from runbook_lib.twin.tools.docker import docker
from runbook_lib.twin.tools.hccn_tool import hccn_tool
from runbook_lib.twin.tools.npu_smi import npu_smi

if TYPE_CHECKING:
    from runbook_lib.twin.world import Tool

TOOLS: dict[str, Tool] = {
    "arch": machine.arch,
    "chgrp": ownership.chown,
    "chown": ownership.chown,
    "chronyc": system.chronyc,
    "cpupower": system.cpupower,
    "date": machine.date,
    "df": df,
    "dmesg": machine.dmesg,
    "docker": docker,
    "free": machine.free,
    "getenforce": system.getenforce,
    "hccn_tool": hccn_tool,
    "hostname": machine.hostname,
    "hostnamectl": machine.hostnamectl,
    "install": ownership.install,
    "ip": system.ip,
    "lsblk": machine.lsblk,
    "lscpu": machine.lscpu,
    "lspci": machine.lspci,
    "netstat": system.netstat,
    "nproc": machine.nproc,
    "npu-smi": npu_smi,
    "reboot": system.reboot,
    "shutdown": system.reboot,
    "ss": system.ss,
    "stat": ownership.stat,
    "sysctl": system.sysctl,
    "systemctl": system.systemctl,
    "timedatectl": system.timedatectl,
    "uname": machine.uname,
    "uptime": machine.uptime,
    "mpirun": hccl_test.mpirun,
    **dict.fromkeys(hccl_test.TESTS, hccl_test.alone),
}

# not in the PATH: they lie where MPI and the toolkit were installed
INSTALLED_APART = frozenset({"mpirun", *hccl_test.TESTS})

# with real owners in the file system the real programs do
WITHOUT_REAL_OWNERS = frozenset({"chgrp", "chown", "install", "stat"})
