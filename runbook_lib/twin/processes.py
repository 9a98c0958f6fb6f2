"""Which process is meant by a recorded pid: the one that started at the recorded moment."""

from __future__ import annotations

from pathlib import Path


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 when there is none, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


def alive(pid: int, start: int) -> bool:
    """Whether that very process still runs."""
    return start != 0 and start_ticks(pid) == start
