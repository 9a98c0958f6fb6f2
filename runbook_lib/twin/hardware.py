"""What the emulated servers are: Atlas 800I A2 with 192 Kunpeng cores, 2 TiB, openEuler 22.03 LTS-SP4, driver 24.1.0.

Nothing here is read from the machine that the twin runs on; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ARCH = "aarch64"
PRODUCT = "Atlas 800I A2"
KERNEL = "5.10.0-216.0.0.115.oe2203sp4.aarch64"
KERNEL_BUILD = "#1 SMP Thu Jun 27 15:22:10 CST 2024"
CPUS = 192
CORES_PER_SOCKET = 48
SOCKETS = 4
NUMA_NODES = 8
CPU_MODEL = "Kunpeng-920"
MEM_TOTAL_KB = 2_113_462_016
MEM_USED_KB = 21_233_664
MEM_CACHE_KB = 38_797_312
SWAP_TOTAL_KB = 4_194_300
DATA_DISK_KB = 7_501_476_528  # an NVMe of 7.68 TB with ext4
ROOT_DISK_KB = 104_806_400
ROOT_USED_KB = 18_874_368
DRIVER = "24.1.0"
FIRMWARE = "7.5.0.3.220"
HBM_TOTAL_MB = 65_536
HBM_IDLE_MB = 3_314
CHIP = "910B3"
# order of the official sample of an 8x910B3 server
BUS_IDS = ("C1", "C2", "81", "82", "01", "02", "41", "42")
NIC = "enp189s0f0"

OS_RELEASE = """NAME="openEuler"
VERSION="22.03 (LTS-SP4)"
ID="openEuler"
VERSION_ID="22.03"
PRETTY_NAME="openEuler 22.03 (LTS-SP4)"
ANSI_COLOR="0;31"

"""

OLDER_DRIVER, OLDER_FIRMWARE = "24.1.rc2", "7.3.0.1.231"
FOREIGN_FIRMWARE = "6.4.12.1.241"  # outside what the driver is compatible with


def versions(condition: Mapping[str, Any]) -> tuple[str, str]:
    """Return driver and firmware of a server in this condition (World.machine)."""
    return str(condition.get("driver", DRIVER)), str(condition.get("firmware", FIRMWARE))


def driver_info(driver: str = DRIVER) -> str:
    """Return driver/version.info."""
    return f"""Version={driver}
ascendhal_version=7.35.23
aicpu_version=1.0
tdt_version=1.0
log_version=1.0
prof_version=2.0
dvppkernels_version=1.1
tsfw_version=1.0
Innerversion=V100R001C19SPC001B208
compatible_version=[V100R001C29],[V100R001C30],[V100R001C13],[V100R001C15],[V100R001C17],[V100R001C18],[V100R001C19]
compatible_version_fw=[7.0.0,7.5.99]
package_version={driver}
"""


def firmware_info(firmware: str = FIRMWARE, driver: str = DRIVER) -> str:
    """Return firmware/version.info of the package that belongs to a driver."""
    return f"""Version={firmware}
firmware_version=1.0
package_version={driver}
compatible_version_drv=[23.0.rc3,23.0.rc3.],[23.0.0,23.0.0.],[{driver},{driver}.]
"""


INSTALL_INFO = """UserName=HwHiAiUser
UserGroup=HwHiAiUser
Driver_Install_Type=full
Driver_Install_Path_Param=/usr/local/Ascend
Driver_Install_For_All=yes
Driver_Install_Mode=normal
Driver_Install_Status=complete
Firmware_Install_Type=full
Firmware_Install_Path_Param=/usr/local/Ascend
"""

USERS = """root:x:0:0:root:/root:/bin/bash
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
nobody:x:65534:65534:Kernel Overflow User:/:/sbin/nologin
sshd:x:74:74:Privilege-separated SSH:/usr/share/empty.sshd:/sbin/nologin
HwHiAiUser:x:1000:1000::/home/HwHiAiUser:/bin/bash
"""

GROUPS = """root:x:0:
bin:x:1:
daemon:x:2:
wheel:x:10:
nobody:x:65534:
sshd:x:74:
docker:x:990:
HwHiAiUser:x:1000:
"""


def meminfo() -> str:
    """Return /proc/meminfo of a server without load."""
    free = MEM_TOTAL_KB - MEM_USED_KB - MEM_CACHE_KB
    rows = {
        "MemTotal": MEM_TOTAL_KB,
        "MemFree": free,
        "MemAvailable": MEM_TOTAL_KB - MEM_USED_KB,
        "Buffers": 512_000,
        "Cached": MEM_CACHE_KB - 512_000,
        "SwapCached": 0,
        "SwapTotal": SWAP_TOTAL_KB,
        "SwapFree": SWAP_TOTAL_KB,
        "Shmem": 102_400,
    }
    lines = [f"{name + ':':<16}{value:>11} kB" for name, value in rows.items()]
    return "\n".join(
        [*lines, "HugePages_Total:       0", "HugePages_Free:        0", "Hugepagesize:       2048 kB", ""]
    )


def cpuinfo() -> str:
    """Return /proc/cpuinfo."""
    block = (
        "BogoMIPS\t: 200.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid "
        "asimdrdm jscvt fcma dcpop asimddp asimdfhm ssbs\nCPU implementer\t: 0x48\n"
        "CPU architecture: 8\nCPU variant\t: 0x1\n"
        "CPU part\t: 0xd01\nCPU revision\t: 0\n\n"
    )
    return "".join(f"processor\t: {cpu}\n{block}" for cpu in range(CPUS))


def version() -> str:
    """Return /proc/version."""
    return (
        f"Linux version {KERNEL} (root@dc-64g.compass-ci) (gcc_old (GCC) 10.3.1, GNU ld (GNU Binutils) 2.37) "
        f"{KERNEL_BUILD}\n"
    )
