"""Version files of driver, firmware and operating system, and whether driver and firmware pair."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.ascend.plain import DAMAGED, lines_of, plain
from runbook_lib.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A `version.info` file of driver or firmware.

    version: the part's own number (`Version`); package: the number of the package it came in.
    firmware_range: lowest and highest firmware that a driver names as compatible, None when it names none.
    """

    version: str | None
    package: str | None
    firmware_range: tuple[str, str] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Whether driver and firmware belong together, and why we say so."""

    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class OsRelease:
    """What /etc/os-release names. None where the file does not say."""

    id: str | None
    version_id: str | None
    pretty_name: str | None


@dataclass(frozen=True, slots=True)
class Assignments:
    """The `key=value` lines of a file.

    values: what is certain. bad_lines: (line number, text) of lines that are no setting, of settings that are
    there twice with different values, and of the line in which the input ended.
    """

    values: Mapping[str, str]
    bad_lines: tuple[tuple[int, str], ...] = ()


def parse_assignments(text: str) -> Assignments:
    """Read `key=value` lines with `#` comments."""
    values: dict[str, str] = {}
    doubtful: set[str] = set()
    bad: list[tuple[int, str]] = []
    for line in lines_of(plain(text)):
        words = line.text.strip()
        if not words or words.startswith("#"):
            continue
        key, equals, value = (part.strip() for part in words.partition("="))
        if not equals or line.open or DAMAGED in words or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            bad.append((line.number, words))
        elif values.setdefault(key, value) != value:
            bad.append((line.number, words))
            doubtful.add(key)
    return Assignments({key: value for key, value in values.items() if key not in doubtful}, tuple(bad))


def _assignments(text: str) -> dict[str, str]:
    return dict(parse_assignments(text).values)


def parse_version_info(text: str) -> VersionInfo:
    """Read a version.info file; anything missing is None."""
    values = _assignments(text)
    bounds = re.fullmatch(r"\[\s*([^,\[\]]+?)\s*,\s*([^,\[\]]+?)\s*\]", values.get("compatible_version_fw", ""))
    return VersionInfo(
        version=values.get("Version") or None,
        package=values.get("package_version") or None,
        firmware_range=(bounds.group(1), bounds.group(2)) if bounds else None,
        fields=values,
    )


def _numbers(version: str) -> Numbers | None:
    """Turn `7.1.0.11.220` into numbers; None when a part is not a plain number (release candidates)."""
    parts = version.split(".")
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        return None
    return tuple(int(part) for part in parts)


def _within(version: str, bounds: tuple[str, str]) -> bool | None:
    """Tell whether a version lies in [low, high]; `7.1.0.11` counts as inside up to `7.1.99`."""
    value, low, high = _numbers(version), _numbers(bounds[0]), _numbers(bounds[1])
    if value is None or low is None or high is None:
        return None
    return low <= value + (0,) * (len(low) - len(value)) and value[: len(high)] <= high


def _package_pairing(driver: VersionInfo, firmware: VersionInfo, inside: str) -> Pairing:
    if not driver.package or not firmware.package:
        return Pairing(Verdict.UNKNOWN, "a package_version is missing")
    if driver.package != firmware.package:
        why = f"driver package {driver.package} and firmware package {firmware.package} differ, although {inside}"
        return Pairing(Verdict.WARN, why)
    return Pairing(Verdict.OK, f"{inside}, package {driver.package}")


def pairing(driver: VersionInfo, firmware: VersionInfo) -> Pairing:
    """Judge a driver and a firmware by the range that the driver names and by their package numbers.

    The firmware's own list of drivers is not used: a shipped 23.0.7 pair does not name itself in it.
    """
    if not driver.version or not firmware.version:
        return Pairing(Verdict.UNKNOWN, "a version.info file is missing or cannot be read")
    if driver.firmware_range is None:
        return Pairing(Verdict.UNKNOWN, f"driver {driver.version} names no compatible firmware range")
    span = "[{}, {}]".format(*driver.firmware_range)
    inside = _within(firmware.version, driver.firmware_range)
    if inside is None:
        return Pairing(Verdict.UNKNOWN, f"firmware {firmware.version} cannot be compared with {span}")
    if not inside:
        return Pairing(Verdict.FAIL, f"firmware {firmware.version} is outside {span} of driver {driver.version}")
    return _package_pairing(driver, firmware, f"firmware {firmware.version} lies in {span}")


def agree(one: str, other: str) -> bool:
    """Whether two version numbers can be of one release; a build or patch at the end of only one is no difference."""
    first, second = f"{one}.".lower(), f"{other}.".lower()
    return first.startswith(second) or second.startswith(first)


def parse_os_release(text: str) -> OsRelease:
    """Read /etc/os-release; quotes are taken off."""
    values = {key: value.strip("\"'") for key, value in _assignments(text).items()}
    return OsRelease(
        id=values.get("ID") or None,
        version_id=values.get("VERSION_ID") or None,
        pretty_name=values.get("PRETTY_NAME") or None,
    )


@dataclass(frozen=True, slots=True)
class Versions:
    """One version file: driver, firmware, os, toolkit or install. `kind` is None when its keys do not tell.

    kinds: all that the keys speak of, more than one for files that were printed one after the other.
    """

    kind: str | None
    kinds: tuple[str, ...]
    values: Mapping[str, str]
    bad_lines: tuple[tuple[int, str], ...] = ()


_KINDS = (  # kind, and keys that only this file has
    ("driver", {"ascendhal_version", "tdt_version", "compatible_version_fw", "dvppkernels_version"}),
    ("firmware", {"firmware_version", "compatible_version_drv"}),
    ("toolkit", {"package_name", "innerversion", "arch"}),
    ("install", {"UserName", "UserGroup", "Driver_Install_Path_Param", "Driver_Install_Type", "Firmware_Install_Type"}),
    ("os", {"ID", "VERSION_ID", "PRETTY_NAME", "NAME"}),
)


def parse_versions(text: str) -> Versions:
    """Read any version file and say which it is; two files in one text are told apart by none of them."""
    read = parse_assignments(text)
    kinds = [kind for kind, keys in _KINDS if keys & set(read.values)]
    values = {key: value.strip("\"'") for key, value in read.values.items()}
    return Versions(kinds[0] if len(kinds) == 1 else None, tuple(kinds), values, read.bad_lines)
