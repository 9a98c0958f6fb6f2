"""`df` of the emulated server: a small system disk and a large NVMe where the weights go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runbook_lib.twin import hardware
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import ToolCall

_DATA_BASE_KB = 1_884_160  # what a fresh ext4 of this size calls used
_RESERVED = 20  # ext4 keeps a twentieth for root
_INODES = {"/": 6_553_600, "/data": 468_844_544, "/dev/shm": 132_091_376}  # noqa: S108 - a name, not a file
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "k": 1024, "m": 1024**2}


@dataclass(frozen=True, slots=True)
class Disk:
    """One mounted file system; sizes in bytes."""

    source: str
    kind: str
    target: str
    size: int
    used: int
    avail: int

    @property
    def percent(self) -> str:
        """Used part as df prints it, rounded up."""
        return f"{-(-100 * self.used // (self.used + self.avail)) if self.used + self.avail else 0}%"


def _content(folder: Path) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(here, name).lstat().st_blocks * 512
            except OSError:
                continue
    return total


def disks(call: ToolCall) -> list[Disk]:
    """Return the server's file systems."""
    big = "/" + PurePosixPath(call.world.params.model.weights.directory).parts[1]
    shm = "/dev/shm"  # noqa: S108 - a mount point's name
    root_size, data_size = hardware.ROOT_DISK_KB * 1024, hardware.DATA_DISK_KB * 1024
    root_used = hardware.ROOT_USED_KB * 1024
    data_used = _DATA_BASE_KB * 1024 + _content(call.node.files / big.lstrip("/"))
    if call.world.machine(call.node.name).get("data_full"):
        data_used = data_size - data_size // _RESERVED
    half = hardware.MEM_TOTAL_KB * 1024 // 2
    return [
        Disk("/dev/mapper/openeuler-root", "ext4", "/", root_size, root_used, root_size - root_used),
        Disk("/dev/nvme0n1", "ext4", big, data_size, data_used, data_size - data_size // _RESERVED - data_used),
        Disk("tmpfs", "tmpfs", shm, half, 0, half),
    ]


def _find(node: Node, all_disks: list[Disk], path: str, cwd: str) -> Disk | None:
    absolute = os.path.normpath(PurePosixPath(cwd, path))
    prefix = str(node.files)
    if node.level == "L0" and (absolute + "/").startswith(prefix + "/"):
        absolute = absolute[len(prefix) :] or "/"
    if not node.path(absolute).exists():
        return None
    real = "/" + str(node.path(absolute).relative_to(node.base))
    inside = [disk for disk in all_disks if (real.rstrip("/") + "/").startswith(disk.target.rstrip("/") + "/")]
    return max(inside, key=lambda disk: len(disk.target))


def _human(size: int) -> str:
    value, letters = float(size), ["", "K", "M", "G", "T"]
    while value >= 1024 and len(letters) > 1:  # noqa: PLR2004 - binary prefixes
        value /= 1024
        letters.pop(0)
    return f"{value:.1f}{letters[0]}" if value < 10 and letters[0] else f"{-(-value // 1):.0f}{letters[0]}"  # noqa: PLR2004


async def df(call: ToolCall) -> Reply:
    """Print the file systems of the given paths, or all."""
    unit, human, posix, inodes, kind = 1024, False, False, False, False
    columns: list[str] = []
    paths: list[str] = []
    words = list(call.argv[1:])
    while words:
        word = words.pop(0)
        if word.startswith("--output="):
            columns = word.removeprefix("--output=").split(",")
        elif word.startswith("--block-size=") or (word.startswith("-B") and word != "-B"):
            unit = _block(word.removeprefix("--block-size=").removeprefix("-B"))
        elif word == "-B" and words:
            unit = _block(words.pop(0))
        elif word == "--":
            paths += words
            break
        elif word.startswith("-") and not word.startswith("--"):
            letters = set(word[1:])
            human, posix = human or "h" in letters, posix or "P" in letters
            inodes, kind = inodes or "i" in letters, kind or "T" in letters
            unit = _UNITS["M"] if "m" in letters else unit
            if letters - set("hPiTkmal"):
                return Reply(1, err=f"df: invalid option -- '{word[1:]}'\nTry 'df --help' for more information.\n")
        elif word.startswith("--"):
            return Reply(1, err=f"df: unrecognized option '{word}'\nTry 'df --help' for more information.\n")
        else:
            paths.append(word)
    return _print(call, paths, columns or _default(inodes=inodes, kind=kind), _Show(unit, human, posix))


@dataclass(frozen=True, slots=True)
class _Show:
    unit: int
    human: bool
    posix: bool

    def size(self, value: int) -> str:
        return _human(value) if self.human else str(-(-value // self.unit))

    @property
    def header(self) -> str:
        if self.human:
            return "Size"
        if self.posix:
            return f"{self.unit}-blocks"
        names = {1: "1B", 1024: "1K", 1024**2: "1M", 1024**3: "1G", 1024**4: "1T"}
        return f"{names.get(self.unit, str(self.unit))}-blocks"


def _block(text: str) -> int:
    number = text.rstrip("KMGTkmB")
    return int(number or 1) * _UNITS.get(text[len(number) :][:1], 1)


def _default(*, inodes: bool, kind: bool) -> list[str]:
    first = ["source", "fstype"] if kind else ["source"]
    rest = ["itotal", "iused", "iavail", "ipcent"] if inodes else ["size", "used", "avail", "pcent"]
    return [*first, *rest, "target"]


def _print(call: ToolCall, paths: list[str], columns: list[str], show: _Show) -> Reply:
    everything = disks(call)
    errors, chosen = "", []
    for path in paths:
        found = _find(call.node, everything, path, call.cwd)
        if found is None:
            errors += f"df: {path}: No such file or directory\n"
        else:
            chosen.append(found)
    if not paths:
        chosen = everything
    titles = {
        "source": "Filesystem",
        "fstype": "Type",
        "size": show.header,
        "used": "Used",
        "avail": "Avail" if show.human or set(columns) - {"source"} == {"avail"} else "Available",
        "pcent": "Capacity" if show.posix else "Use%",
        "itotal": "Inodes",
        "iused": "IUsed",
        "iavail": "IFree",
        "ipcent": "IUse%",
        "target": "Mounted on",
        "file": "File",
    }
    if set(columns) - set(titles):
        return Reply(1, err=f"df: option --output: field '{min(set(columns) - set(titles))}' unknown\n")
    rows = [[titles[column] for column in columns]]
    rows += [[_cell(disk, column, show) for column in columns] for disk in chosen]
    if not chosen:
        return Reply(1, err=errors)
    left = {"source", "fstype", "target", "file"}
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    lines = [
        " ".join(
            f"{cell:<{width}}" if column in left else f"{cell:>{width}}"
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in rows
    ]
    return Reply(1 if errors else 0, "\n".join(lines) + "\n", errors)


def _cell(disk: Disk, column: str, show: _Show) -> str:
    inodes = _INODES.get(disk.target, _INODES["/data"])
    return {
        "source": disk.source,
        "fstype": disk.kind,
        "size": show.size(disk.size),
        "used": show.size(disk.used),
        "avail": show.size(disk.avail),
        "pcent": disk.percent,
        "itotal": str(inodes),
        "iused": str(inodes // 50),
        "iavail": str(inodes - inodes // 50),
        "ipcent": "2%",
        "target": disk.target,
        "file": "-",
    }[column]
