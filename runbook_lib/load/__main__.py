"""`python -m runbook_lib.load`: the load process. It takes one message from stdin and talks in JSON lines.

stdin stays open as long as somebody waits for the result. The command for people is `runbook bench`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import LoadError, RunbookError
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.worker import load, measure

if TYPE_CHECKING:
    from runbook_lib.load.client import Progress


def main() -> int:
    """Measure what stdin asks for: a whole point, or one process's part of it; return the exit code."""
    message = json.loads(_line(0))
    spec = PointSpec(**message["spec"])
    try:
        if "part" in message:
            _part(spec, message)
        else:
            _say({"point": measure(spec, on_progress=_report, lifeline=0).to_json()})
    except RunbookError as error:
        _say({"error": {"message": error.message, "next": error.next_command}})
        return error.exit_code
    return 0


def _part(spec: PointSpec, message: dict[str, Any]) -> None:
    """Load together with others: say when ready, begin when told, leave the raw times in a file."""

    def wait() -> None:
        _say({"ready": True})
        if not _line(0):
            raise LoadError("the process that asked for this load is gone; the load was not begun")

    trace, warmup = load(spec, seed=message["seed"], part=message["part"], on_progress=_report, lifeline=0, wait=wait)
    with open(message["file"], "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs an import
        json.dump({"trace": trace.pack(), "warmup": type(trace)(warmup, trace.lateness_ns[:0], "loop").pack()}, file)
    _say({"done": True})


def _line(fd: int) -> bytes:
    """Read one line without buffering beyond it: the rest of the pipe is the lifeline."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 64 * 1024)
        if not more:
            break
        data += more
    return data


def _report(progress: Progress) -> None:
    _say({"progress": {name: getattr(progress, name) for name in ("phase", "done", "failed", "total")}})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
