"""Who runs this, and which process is meant."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import tempfile
from pathlib import Path


def operator() -> str:
    """Return who runs this, for the record."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def interactive() -> bool:
    """Whether a person sits before this kernel: JupyterLab names the notebook to the kernel, papermill does not."""
    return "JPY_SESSION_NAME" in os.environ


def process_start(pid: int) -> int:
    """Return when a process started, in ticks since boot; 0 when there is none, only a zombie, or no /proc."""
    try:
        # the name of the program stands in parentheses and may hold blanks and parentheses itself
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


_KERNEL_FOLDER = "runbook-kernel-"


def kernel_folder_prefix() -> str:
    """Return how the name of a kernel's temp folder begins: it names the process that owns it."""
    return f"{_KERNEL_FOLDER}{os.getpid()}-{process_start(os.getpid())}-"


def remove_dead_kernel_folders() -> None:
    """Remove the temp folders of this user's kernels whose runner was killed and could not."""
    for path in Path(tempfile.gettempdir()).glob(f"{_KERNEL_FOLDER}*-*-*"):
        pid, start = path.name.removeprefix(_KERNEL_FOLDER).split("-")[:2]
        if pid.isdigit() and start.isdigit() and process_start(int(pid)) != int(start):
            shutil.rmtree(path, ignore_errors=True)  # that of another user cannot be removed, and is let be
