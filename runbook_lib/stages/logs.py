"""The logs of the service and of CANN on one host: how to read them, and what their first error is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runbook_lib.ascend import logs, signatures
from runbook_lib.model import Section
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.logs import LogError
    from runbook_lib.model import Capture
    from runbook_lib.params import HostPaths, Params

_HEADER = ("==> ", " <==")  # how tail -v names a file
_LOADED = re.compile(r"(?:Loading safetensors checkpoint shards|load weights from \S+):\s*(\d{1,3})\s*%")
_SHOWN_LINKS = 2


def section(paths: HostPaths, lines: int) -> Section:
    """Return the command that prints the early errors and the end of every log of the present start."""
    places = (f"{paths.service}/daemon.log", paths.mindie_log, paths.plog)
    return Section("logs", ("sh", "-c", source("logs.sh"), "sh", str(lines), *places), 30.0)


def by_file(capture: Capture) -> dict[str, str]:
    """Split what was printed into file name and text."""
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
    fine = capture.ok or capture.absent
    return fine and (not text or text.startswith(_HEADER[0]))


def first(texts: Mapping[str, str]) -> LogError | None:
    """Return the earliest error of one host, None when there is none. A request that was refused is no error of it."""
    ours = {name: "\n".join(_without_clients(text.splitlines())) for name, text in texts.items()}
    return logs.first_error(ours)


def _without_clients(lines: list[str]) -> list[str]:
    clients = [each for each in signatures.load_signatures() if each.client]
    return [line for line in lines if not any(each.regex.search(line) for each in clients)]


def earliest(firsts: Mapping[str, LogError | None]) -> str:
    """Return the host whose first error is the earliest; "" when no two can be compared by their stamps."""
    stamped = {host: error.at for host, error in firsts.items() if error is not None and error.at}
    return min(stamped, key=lambda host: stamped[host]) if len(stamped) > 1 else ""


def told(error: LogError, texts: Mapping[str, str], params: Params, *, earliest: str = "") -> str:
    """Return an error in words: where it stands, what is known about it, who waits for whom, which host was first."""
    host = _host_that_waits(texts, params)
    parts = [f"{error.source}: {error.text}", *causes(texts)[:2], *host]
    if earliest:
        parts.append(f"the first error of all hosts is that of {earliest}")
    return " | ".join(parts)


def causes(texts: Mapping[str, str]) -> list[str]:
    """Return what is known about the errors in the logs: cause and remedy of every signature that matches."""
    return [f"{match.cause.en} {match.remedy.en}" for match in signatures.match("\n".join(texts.values()))]


def loaded_percent(texts: Mapping[str, str]) -> int | None:
    """Return how much of the weights is loaded by the last line that says it; None before the first."""
    found = [int(percent) for text in texts.values() for percent in _LOADED.findall(text)]
    return max(found, default=None)


def _host_that_waits(texts: Mapping[str, str], params: Params) -> list[str]:
    """Name the cards of HCCL's tables of links that were not set up: who waited for whom."""
    names = {card.ip: f"{host.name} card {card.id}" for host in params.cluster.hosts for card in host.cards}
    rows = [row for text in texts.values() for row in logs.parse_link_errors(text)]
    waits = dict.fromkeys(
        f"{names.get(row.src_ip, row.src_ip)} waited for {names.get(row.dest_ip, row.dest_ip)}" for row in rows
    )
    more = f" and {len(waits) - _SHOWN_LINKS} more" if len(waits) > _SHOWN_LINKS else ""
    return [", ".join(list(waits)[:_SHOWN_LINKS]) + more] if waits else []
