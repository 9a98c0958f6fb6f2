"""What the load process asks of its machine: open files, time without a core, the words of a failed connect. Linux."""

from __future__ import annotations

import resource

from runbook_lib.errors import LoadError

_BILLION = 1_000_000_000


def waited_s() -> float:
    """Seconds that this thread was ready to run and had no CPU; 0 where the kernel does not count them."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:  # noqa: PTH123 - pathlib costs an import
            return int(file.read().split()[1]) / _BILLION
    except (OSError, IndexError, ValueError):
        return 0.0


def connect_error(error: OSError) -> tuple[str, str]:
    """Return class and words of a failed connect."""
    if hasattr(error, "library"):  # an ssl.SSLError
        return "unreachable", f"TLS: {error}"
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    if isinstance(error, TimeoutError):
        return "timeout", "no connection: timed out"
    return "unreachable", str(error)


def raise_file_limit(needed: int) -> None:
    """Allow so many open files. Raises LoadError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise LoadError(f"{needed} open files are needed, the limit is {hard}", next_command=f"ulimit -n {needed}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
