"""The logs of the service and of CANN on one host: how to read them, and what their first error is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend import logs, signatures
from runbook_lib.model import Section

if TYPE_CHECKING:
    from runbook_lib.model import Capture
    from runbook_lib.params import HostPaths

_HEADER = ("==> ", " <==")  # how tail -v names a file


def section(paths: HostPaths, lines: int) -> Section:
    """Return the command that prints the end of every log of the present start, each under its name."""
    places = (f"{paths.service}/daemon.log", paths.mindie_log, paths.plog)
    return Section(
        "logs",
        ("find", *places, "-type", "f", "-name", "*.log", "-exec", "tail", "-v", "-n", str(lines), "{}", "+"),
        30.0,
    )


def by_file(capture: Capture) -> dict[str, str]:
    """Split what `tail -v` printed into file name and text."""
    texts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in capture.stdout.splitlines():
        if line.startswith(_HEADER[0]) and line.endswith(_HEADER[1]):
            lines = texts.setdefault(line[len(_HEADER[0]) : -len(_HEADER[1])], [])
        else:
            lines.append(line)
    return {name: "\n".join(text) for name, text in texts.items()}


def whole(capture: Capture) -> bool:
    """Whether the logs were read to their end; `find` ends with 1 when a log folder is not there yet."""
    text = capture.stdout.strip()
    fine = capture.ok or (capture.exit_code == 1 and "No such file" in capture.stderr)
    return fine and (not text or text.startswith(_HEADER[0]))


def first_error(texts: dict[str, str]) -> str:
    """Return the earliest error with its file, "" when there is none."""
    error = logs.first_error(texts)
    return f"{error.source}: {error.text}" if error is not None else ""


def causes(texts: dict[str, str]) -> list[str]:
    """Return what is known about the errors in the logs: cause and remedy of every signature that matches."""
    return [f"{match.cause.en} {match.remedy.en}" for match in signatures.match("\n".join(texts.values()))]
