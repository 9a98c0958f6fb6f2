"""`docker top`: the processes of a container, with the pids that the host knows."""

from __future__ import annotations

from pathlib import Path

_NAMESPACE = Path("ns/pid")


def pids_of(first: int, *, level: str) -> list[int]:
    """Return the node's pids of all processes in the container whose first process we see as `first`.

    At L0 a container has no pid namespace of its own: the first process' session stands for it.
    """
    try:
        mine = _mark(Path("/proc", str(first)), level)
    except (OSError, IndexError):
        return []
    depth = 0 if level == "L0" else 1
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if _mark(process, level) != mine:
                continue
            status = (process / "status").read_text(encoding="utf-8", errors="replace")
            found.append(
                int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1 + depth])
            )
        except (OSError, IndexError, StopIteration):
            continue  # it ended meanwhile, or belongs to somebody else
    return sorted(found)


def _mark(process: Path, level: str) -> str:
    if level != "L0":
        return str((process / _NAMESPACE).readlink())
    return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[3]
