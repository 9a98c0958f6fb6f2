"""Where the emulated daemon writes: stdout, MindIE's log files, CANN's plog (failures.md section 1).

Standard library only: this runs inside the container.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PROCESS = "mindie_llm_back"  # a process name holds 15 characters


class DaemonLog:
    """The logs of one daemon. `place` maps an absolute path of the container to one of this process."""

    def __init__(self, env: Mapping[str, str], pid: int, place: Callable[[str], Path], skew_s: float = 0.0) -> None:
        self.env = env
        self.pid = pid
        self.skew_s = skew_s
        self._place = place
        self._to_stdout = env.get("MINDIE_LOG_TO_STDOUT", "0").lower() in {"1", "true"}
        self._to_file = env.get("MINDIE_LOG_TO_FILE", "1").lower() not in {"0", "false"}
        stamp = f"{self.now():%Y%m%d%H%M%S%f}"[:-3]
        self._folder = self._mindie_folder()
        self._plog_folder = self._cann_folder() / "debug" / "plog"
        self._suffix = f"{pid}_{stamp}.log"

    def now(self) -> datetime:
        """Return the time of this host."""
        return (datetime.now(tz=UTC) + timedelta(seconds=self.skew_s)).astimezone()

    def _mindie_folder(self) -> Path:
        home = self.env.get("HOME", "/root")
        given = self.env.get("MINDIE_LOG_PATH", "")
        if not given:
            return self._place(f"{home}/mindie/log/debug")
        return self._place(given if given.startswith("/") else f"{home}/{given}")

    def _cann_folder(self) -> Path:
        if path := self.env.get("ASCEND_PROCESS_LOG_PATH"):
            return self._place(path)
        if path := self.env.get("ASCEND_WORK_PATH"):
            return self._place(f"{path}/log")
        return self._place(f"{self.env.get('HOME', '/root')}/ascend/log")

    def say(self, text: str) -> None:
        """Print on stdout, whatever the log settings are."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def mindie(self, level: str, source: str, text: str, *, log: str = "server") -> None:
        """Write one MindIE line. `source` is file.cpp:line, `text` begins with [code] [module] where it has one."""
        stamp = self.now()
        zone = f"{stamp:%z}"
        line = (
            f"[{stamp:%Y-%m-%d %H:%M:%S.%f}{zone[:3]}:{zone[3:]}] [{self.pid}] [{self.pid}] [{log}] [{level}] "
            f"[{source}] : {text}"
        )
        if self._to_stdout:
            self.say(line)
        if self._to_file:
            _append(self._folder / f"mindie-{log}_{self._suffix}", line)

    def plog(self, source: str, text: str, *, level: str = "ERROR", module: str = "HCCL") -> None:
        """Write one line of the CANN host log."""
        stamp = self.now()
        when = f"{stamp:%Y-%m-%d-%H:%M:%S}.{stamp.microsecond // 1000:03d}.{stamp.microsecond % 1000:03d}"
        line = f"[{level}] {module}({self.pid},{PROCESS}):{when} [{source}] [{self.pid}]{text}"
        _append(self._plog_folder / f"plog-{self._suffix}", line)

    def cann_block(self, text: str) -> None:
        """Print an on-screen CANN error block."""
        stamp = self.now()
        when = f"{stamp:%Y-%m-%d-%H:%M:%S}.{stamp.microsecond // 1000:03d}.{stamp.microsecond % 1000:03d}"
        self.say(f"[PID: {self.pid}] {when} {text}")


def _append(path: Path, line: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError:
        return  # as the real one: a log that cannot be written does not stop the service
    try:
        os.write(descriptor, f"{line}\n".encode())
    except OSError:
        pass  # the disk is full: the same
    finally:
        os.close(descriptor)
