"""The disk of a bare server, and what the twin adds below /opt/twin: shims and a python3."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.twin import hardware
from runbook_lib.twin.tools.hccl_test import HCCL_LIBRARY, MPI_LIBRARY, TESTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runbook_lib.params import Params
    from runbook_lib.twin.node import Node

CANN = "8.0.RC3"
_TOOLKIT = "usr/local/Ascend/ascend-toolkit"
_TESTS = "*/tools/hccl_test/bin/*_test"
SHIM = Path(__file__).with_name("shim.sh")
_FOLDERS = (
    "boot",
    "data",
    "dev",
    "etc",
    "etc/docker",
    "home",
    "media",
    "mnt",
    "opt/twin",
    "proc",
    "run",
    "srv",
    "sys/class/dmi/id",
    "sys/devices/system/cpu/cpu0/cpufreq",
    "usr/local",
    "usr/local/Ascend/driver/tools",
    "usr/local/Ascend/driver/lib64",
    "usr/local/Ascend/firmware",
    "usr/local/bin",
    "usr/local/dcmi",
    "usr/local/lib",
    "usr/local/sbin",
    "usr/local/share",
    "var/cache",
    "var/lib",
    "var/log/hccn_tool",
    "var/log/npu",
    "var/tmp",
)


def make_disk(node: Node, params: Params, tls_cards: Iterable[int]) -> None:
    """Write the disk of a bare server, unless there is one. `tls_cards`: cards whose TLS switch was left on."""
    if node.files.exists():
        return
    node.files.mkdir(parents=True)
    for folder in _FOLDERS:
        (node.files / folder).mkdir(parents=True, exist_ok=True)
    for folder, mode in (("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)):
        (node.files / folder).mkdir(exist_ok=True)
        (node.files / folder).chmod(mode)
    for link, target in (("var/run", "../run"), ("var/lock", "../run/lock")):
        (node.files / link).symlink_to(target)
    for name, text in _etc(node, params, tls_cards).items():
        _write(node.files / "etc" / name, text)
    (node.files / "etc/hccn.conf").chmod(0o640)
    _copy_what_usr_needs(node.files / "etc")
    ascend = node.files / "usr/local/Ascend"
    _write(ascend / "driver/version.info", hardware.driver_info())
    _write(ascend / "firmware/version.info", hardware.firmware_info())
    _write(ascend / "driver/lib64/libdcmi.so", "")
    _write(node.files / "usr/local/dcmi/libdcmi.so", "")
    _write(node.files / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    _write(node.files / "sys/class/dmi/id/product_name", f"{hardware.PRODUCT}\n")
    _write(node.files / "root/.bashrc", "# .bashrc\n")
    _install_collective_tests(node)


def _install_collective_tests(node: Node) -> None:
    """Lay down the CANN toolkit with its collective tests, and an MPI."""
    toolkit = node.files / _TOOLKIT
    tests, libraries = toolkit / f"{CANN}/tools/hccl_test/bin", toolkit / f"{CANN}/aarch64-linux/lib64"
    programs, mpi = node.files / "usr/local/mpich/bin", node.files / "usr/local/mpich/lib"
    for folder in (tests, libraries, programs, mpi):
        folder.mkdir(parents=True)
    (toolkit / "latest").symlink_to(CANN)
    for program in (programs / "mpirun", *(tests / test for test in TESTS)):
        program.symlink_to("/opt/twin/bin/twin-shim")
    for library in (libraries / HCCL_LIBRARY, mpi / MPI_LIBRARY):
        _write(library, "")
    _write(
        toolkit / CANN / "aarch64-linux/ascend_toolkit_install.info",
        f"package_name=Ascend-cann-toolkit\nversion={CANN}\narch=aarch64\nos=linux\n"
        f"path=/usr/local/Ascend/ascend-toolkit/{CANN}/aarch64-linux\n",
    )


def _etc(node: Node, params: Params, tls_cards: Iterable[int]) -> dict[str, str]:
    hosts = "".join(f"{host.address} {host.name}\n" for host in params.cluster.hosts)
    return {
        "ascend_install.info": hardware.INSTALL_INFO,
        "group": hardware.GROUPS,
        "hccn.conf": "".join(f"tls_enable_{card}=1\n" for card in tls_cards),
        "hostname": f"{node.name}\n",
        "hosts": f"127.0.0.1   localhost localhost.localdomain\n{hosts}",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        "openEuler-release": "openEuler release 22.03 (LTS-SP4)\n",
        "os-release": hardware.OS_RELEASE,
        "passwd": hardware.USERS,
        "profile": "",
        "resolv.conf": "",
        "system-release": "openEuler release 22.03 (LTS-SP4)\n",
    }


def _copy_what_usr_needs(etc: Path) -> None:
    """Copy what programs of this machine's /usr need from its /etc: the linker's cache and the alternatives."""
    for name in ("ld.so.cache", "ld.so.conf"):
        source = Path("/etc") / name
        if source.is_file():
            shutil.copyfile(source, etc / name)
    alternatives = Path("/etc/alternatives")
    if alternatives.is_dir():
        (etc / "alternatives").mkdir()
        for link in alternatives.iterdir():
            if link.is_symlink():
                (etc / "alternatives" / link.name).symlink_to(link.readlink())


def make_facts(node: Node, cards: Iterable[int]) -> None:
    """Write what is mounted over /proc, and the names of the device nodes."""
    node.facts.mkdir(parents=True, exist_ok=True)
    _write(node.facts / "meminfo", hardware.meminfo())
    _write(node.facts / "cpuinfo", hardware.cpuinfo())
    _write(node.facts / "version", hardware.version())
    _write(node.facts / "cmdline", f"BOOT_IMAGE=/vmlinuz-{hardware.KERNEL} root=/dev/mapper/openeuler-root ro\n")
    _write(node.facts / "osrelease", f"{hardware.KERNEL}\n")
    devices = [*(f"davinci{card}" for card in cards), "davinci_manager", "hisi_hdc", "devmm_svm"]
    _write(node.facts / "devices", "".join(f"{device}\n" for device in devices))


def make_twin_folder(node: Node, tools: Iterable[str], link: str) -> None:
    """Write the node's /opt/twin: the shim, a link to it for each tool, a python3, and how to reach the tool port.

    Made anew at every power-on; `link` is the line `address port node token`.
    """
    shutil.rmtree(node.twin, ignore_errors=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = node.twin / "lib" / version / "site-packages"
    for folder in (node.twin / "bin", site, *(node.twin / each for each in ("proc", "python", "site"))):
        folder.mkdir(parents=True)
    (node.twin / "project/runbook_lib").mkdir(parents=True)
    at_l0 = node.level == "L0"
    home = str(node.twin) if at_l0 else "/opt/twin"
    _write(node.twin / "link", f"{link}\n")
    shim = node.twin / "bin/twin-shim"
    _write(shim, SHIM.read_text(encoding="utf-8").replace("@HOME@", home))
    shim.chmod(0o755)
    for tool in tools:
        (node.twin / "bin" / tool).symlink_to("twin-shim")
    for place, tool in (("sbin/npu-smi", "npu-smi"), ("Ascend/driver/tools/hccn_tool", "hccn_tool")):
        known = node.files / "usr/local" / place
        if known.is_symlink() or not known.exists():
            known.unlink(missing_ok=True)
            known.symlink_to(f"{home}/bin/{tool}")
    for program in (*(node.files / "usr/local/mpich/bin").glob("*"), *(node.files / _TOOLKIT).glob(_TESTS)):
        if program.is_symlink():  # where the shim is depends on the level
            program.unlink()
            program.symlink_to(shim if at_l0 else "/opt/twin/bin/twin-shim")
    package_root = Path(__file__).resolve().parents[2]
    if at_l0:
        _make_python(node.twin, version, Path(sys.base_prefix).resolve())
        _write(site / "twin.pth", f"{sysconfig.get_path('purelib')}\n{package_root}\n")
    else:
        bound = Path(sys.base_prefix).resolve() != Path("/usr")
        _make_python(node.twin, version, Path("/opt/twin/python" if bound else "/usr"))
        _write(site / "twin.pth", "/opt/twin/site\n/opt/twin/project\n")


def _make_python(twin: Path, version: str, prefix: Path) -> None:
    """Make the folder a virtual environment, so that python3 needs no variable to find the project."""
    _write(twin / "pyvenv.cfg", f"home = {prefix}/bin\ninclude-system-site-packages = false\n")
    wrapper = twin / "bin/python3"
    library = f"LD_LIBRARY_PATH={prefix}/lib " if sysconfig.get_config_var("Py_ENABLE_SHARED") else ""
    # a wrapper and not a link: a shared libpython lies where the node's loader does not look
    _write(wrapper, f'#!/bin/bash\n{library}exec -a "${{BASH_SOURCE[0]}}" {prefix}/bin/{version} "$@"\n')
    wrapper.chmod(0o755)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
