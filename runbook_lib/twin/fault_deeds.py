"""Faults that are deeds: files changed, tools taken away, services stopped, power cut; and all deeds by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.errors import TwinError
from runbook_lib.twin import hardware
from runbook_lib.twin.fault_base import At, Deed
from runbook_lib.twin.fault_disks import DISK_FILLS, DISK_FULL, WEIGHTS_IN_HOME
from runbook_lib.twin.fault_processes import HBM_HELD, PORT_TAKEN
from runbook_lib.twin.fault_settings import OTHER_SEGMENT
from runbook_lib.twin.service_faults import SERVICE_DEEDS
from runbook_lib.twin.tools.hccl_test import MPI_LIBRARY

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import World

GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_OS_RELEASE = "/etc/os-release"
_OTHER_SYSTEM = 'NAME="CentOS Linux"\nVERSION="7"\nID="centos"\nVERSION_ID="7"\nPRETTY_NAME="CentOS Linux 7"\n'
_VERSION_FILES = ("driver/version.info", "firmware/version.info")
_CONF_KEYS = ("address", "netmask", "gateway", "netdetect")


def _libmpi(at: At) -> Path:
    return at.node.files / "usr/local/mpich/lib" / MPI_LIBRARY


async def _lose_libmpi(at: At) -> None:
    _libmpi(at).unlink()


async def _bring_libmpi(at: At) -> None:
    _libmpi(at).touch()


async def _lose_conf(at: At) -> None:
    conf = at.world.fabric.conf(at.node.name)
    at.kept["lines"] = {key: conf.get(key, at.card) for key in _CONF_KEYS}
    if not at.kept["lines"]["address"]:
        raise TwinError(f"{at.node.name} card {at.card} has no lines in hccn.conf that could be lost")
    for key in _CONF_KEYS:
        conf.set(key, at.card, "")
    conf.write()


async def _change_conf(at: At) -> None:
    conf = at.world.fabric.conf(at.node.name)
    at.kept["lines"] = {"address": conf.get("address", at.card)}
    if not at.kept["lines"]["address"]:
        raise TwinError(f"{at.node.name} card {at.card} has no address in hccn.conf that could be another")
    conf.set("address", at.card, f"{OTHER_SEGMENT}.{200 + at.card}")
    conf.write()


async def _restore_conf(at: At) -> None:
    conf = at.world.fabric.conf(at.node.name)
    for key, value in at.kept["lines"].items():
        conf.set(key, at.card, value)
    conf.write()


def _conf_lost(at: At) -> bool:
    return not at.world.fabric.conf(at.node.name).get("address", at.card)


def _conf_changed(at: At) -> bool:
    return at.world.fabric.conf(at.node.name).get("address", at.card).startswith(f"{OTHER_SEGMENT}.")


def hide_tools(world: World, node: Node) -> None:
    """Take away the tools that this host lacks; called at every boot, which lays them down anew."""
    places = {"hccn_tool": "Ascend/driver/tools/hccn_tool", "npu-smi": "sbin/npu-smi"}
    for tool in world.machine(node.name).get("missing", ()):
        (node.twin / "bin" / tool).unlink(missing_ok=True)
        (node.files / "usr/local" / places[tool]).unlink(missing_ok=True)


def _without(tool: str) -> Deed:
    places = {"hccn_tool": "Ascend/driver/tools/hccn_tool", "npu-smi": "sbin/npu-smi"}

    async def do(at: At) -> None:
        at.kept["target"] = str((at.node.files / "usr/local" / places[tool]).readlink())
        at.condition["missing"] = sorted({*at.condition.get("missing", ()), tool})
        hide_tools(at.world, at.node)

    async def undo(at: At) -> None:
        at.condition["missing"] = [each for each in at.condition.get("missing", ()) if each != tool]
        (at.node.twin / "bin" / tool).symlink_to("twin-shim")
        (at.node.files / "usr/local" / places[tool]).symlink_to(at.kept["target"])

    return Deed(do, undo, lambda at: tool in at.condition.get("missing", ()))


def _versions(driver: str, firmware: str) -> Deed:
    async def write(at: At, driver: str, firmware: str, package: str) -> None:
        texts = (hardware.driver_info(driver), hardware.firmware_info(firmware, package))
        for name, text in zip(_VERSION_FILES, texts, strict=True):
            (at.node.files / "usr/local/Ascend" / name).write_text(text, encoding="utf-8")

    async def do(at: At) -> None:
        at.condition.update({"driver": driver, "firmware": firmware})
        await write(at, driver, firmware, driver)

    async def undo(at: At) -> None:
        for key in ("driver", "firmware"):
            at.condition.pop(key, None)
        await write(at, hardware.DRIVER, hardware.FIRMWARE, hardware.DRIVER)

    return Deed(do, undo, lambda at: at.condition.get("firmware") == firmware)


async def _switch_off(at: At) -> None:
    if at.node.up:
        await at.power.power_off(at.node)


async def _switch_on(at: At) -> None:
    if not at.node.up:
        await at.power.power_on(at.node)


def _flag(key: str) -> Deed:
    async def do(at: At) -> None:
        at.condition[key] = True

    async def undo(at: At) -> None:
        at.condition.pop(key, None)

    return Deed(do, undo, lambda at: bool(at.condition.get(key)))


def _file(path: str, text: str) -> Deed:
    async def do(at: At) -> None:
        file = at.node.files / path.lstrip("/")
        at.kept["text"] = file.read_text(encoding="utf-8")
        file.write_text(text, encoding="utf-8")

    async def undo(at: At) -> None:
        (at.node.files / path.lstrip("/")).write_text(at.kept["text"], encoding="utf-8")

    return Deed(do, undo, lambda at: (at.node.files / path.lstrip("/")).read_text(encoding="utf-8") == text)


def _unit(name: str, *, active: bool) -> Deed:
    async def do(at: At) -> None:
        at.world.tool_state("units", at.node.name)[name] = [active, True]

    async def undo(at: At) -> None:
        at.world.tool_state("units", at.node.name).pop(name, None)  # as a fresh server has it

    def there(at: At) -> bool:
        known = at.world.tool_state("units", at.node.name).get(name)
        return known is not None and bool(known[0]) is active

    return Deed(do, undo, there)


async def _open_workdir(at: At) -> None:
    work = at.node.files / at.world.params.paths.work.lstrip("/")
    if not work.is_dir():
        raise TwinError(
            f"{at.node.name} has no {at.world.params.paths.work} yet, so it cannot be open",
            next_command=f"runbook run params/{at.world.params.cluster.name}.yaml --stage preflight --mode apply",
        )
    work.chmod(0o755)


async def _close_workdir(at: At) -> None:
    (at.node.files / at.world.params.paths.work.lstrip("/")).chmod(0o700)


def _workdir_is_open(at: At) -> bool:
    work = at.node.files / at.world.params.paths.work.lstrip("/")
    return work.is_dir() and bool(work.stat().st_mode & 0o077)


DEEDS: dict[str, Deed] = {
    "hbm_held": HBM_HELD,
    "port_taken": PORT_TAKEN,
    "mpi_missing": Deed(_lose_libmpi, _bring_libmpi, lambda at: not _libmpi(at).exists()),
    "conf_lost": Deed(_lose_conf, _restore_conf, _conf_lost),
    "conf_other": Deed(_change_conf, _restore_conf, _conf_changed),
    "hccn_tool_missing": _without("hccn_tool"),
    "npu_smi_missing": _without("npu-smi"),
    "driver_older": _versions(hardware.OLDER_DRIVER, hardware.OLDER_FIRMWARE),
    "firmware_foreign": _versions(hardware.DRIVER, hardware.FOREIGN_FIRMWARE),
    "host_down": Deed(_switch_off, _switch_on, lambda at: not at.node.up),
    "login_refused": _flag("login_refused"),
    "governor_low": _file(GOVERNOR, "powersave\n"),
    "os_other": _file(_OS_RELEASE, _OTHER_SYSTEM),
    "docker_down": _unit("docker", active=False),
    "firewall_on": _unit("firewalld", active=True),
    "disk_full": DISK_FULL,
    "disk_fills": DISK_FILLS,
    "weights_in_home": WEIGHTS_IN_HOME,
    "workdir_open": Deed(_open_workdir, _close_workdir, _workdir_is_open),
    **SERVICE_DEEDS,
}
