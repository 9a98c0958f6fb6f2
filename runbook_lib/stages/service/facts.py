"""What a host said about the service, parsed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import docker, hccn, mindie_config
from runbook_lib.stages import logs
from runbook_lib.stages.service.probe import HOME, file_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.docker import Container
    from runbook_lib.ascend.hccn import IpConfig, NetHealth
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

NAME = "service"
_OCTAL = re.compile(r"[0-7]{3,4}")
_PROCESS = re.compile(r'\(\("([^"]+)",pid=(\d+)')
_LOCAL_COLUMN = 3  # State Recv-Q Send-Q Local Peer Process


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens: its address with port, and who holds it ("" when ss does not say)."""

    place: str
    holder: str = ""

    @property
    def port(self) -> int:
        """The port number."""
        return int(self.place.rpartition(":")[2])

    @property
    def everywhere(self) -> bool:
        """Whether it listens on all addresses."""
        return self.place.startswith(("0.0.0.0:", "*:", "[::]:"))


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What one host has of the service. `master` only: ready to listening; others: outside.

    files: text by path. missing: files that are said not to be there; one that is in neither could not be read.
    owners: `uid:gid` by path. library_mode: of the engine's library, None when it could not be read.
    tls_missing: certificate files that the image lacks, None when not asked or not readable.
    started_with: checksum by file name, None when it could not be read.
    """

    container: Reading[Container]
    default_config: Reading[dict[str, Any]]
    files: Mapping[str, str]
    missing: frozenset[str]
    modes: Mapping[str, int]
    owners: Mapping[str, str]
    library_mode: int | None
    tls_missing: tuple[str, ...] | None
    started_with: Mapping[str, str] | None
    alive: str
    ips: Mapping[int, Reading[IpConfig]]
    health: Mapping[int, Reading[NetHealth]]
    logs: Mapping[str, str]
    ready: Mapping[str, Any]
    answer: Mapping[str, Any]
    serving: Mapping[str, Any]
    metrics: Mapping[str, Any]
    outside: Mapping[str, Any]
    listening: tuple[Listener, ...] | None

    @property
    def daemon_known(self) -> bool:
        """Whether it is known that a daemon runs, or that none does."""
        return self.alive in {"alive", "dead", "none"} or self.container.state == "unset" or bool(self.stopped)

    @property
    def stopped(self) -> str:
        """Docker's word for the state of a container that does not run, "" for one that does or may."""
        state = self.container.value.state if self.container.value is not None else None
        return state if state is not None and state != "running" else ""

    def unread(self, path: str) -> tuple[str, ...]:
        """Return what of a file could not be read: text, mode, owner; nothing of one that is not there."""
        parts = {"text": self.files, "mode": self.modes, "owner": self.owners}
        return () if path in self.missing else tuple(part for part, known in parts.items() if path not in known)


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Facts of every host that was reached, and their paths."""

    hosts: Mapping[str, HostFacts]
    paths: Mapping[str, HostPaths]


def facts(params: Params, probes: Probes) -> ServiceFacts:
    """Parse what every host said."""
    return ServiceFacts(
        {name: _host_facts(params.host(name), seen) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _host_facts(host: Host, seen: HostProbe) -> HostFacts:
    modes = _modes(seen.get("modes"))
    default = mindie_config.parse(_text(seen.get("default")))
    files = {name: seen.get(f"file.{name}") for name in file_names(seen.paths)}
    serving = _answer(seen.get("serving"))
    return HostFacts(
        container=docker.parse_inspect(seen.get("container")),
        default_config=default,
        files={name: capture.stdout for name, capture in files.items() if capture.ok},
        missing=frozenset(name for name, capture in files.items() if capture.absent and name not in modes),
        modes=modes,
        owners=_stat(seen.get("owners")),
        library_mode=next(iter(_modes(seen.get("library")).values()), None),
        tls_missing=_tls_missing(seen.get("tls"), default),
        started_with=_sums(seen.get("started")),
        alive=_text(seen.get("alive")).strip(),
        ips={card.id: hccn.parse_ip(seen.get(f"ip.{card.id}")) for card in host.cards},
        health={card.id: hccn.parse_net_health(seen.get(f"net_health.{card.id}")) for card in host.cards},
        logs=logs.by_file(seen.get("logs")),
        ready=_answer(seen.get("ready")),
        answer=_first_answer(serving),
        serving=serving,
        metrics=_answer(seen.get("metrics")),
        outside=_answer(seen.get("outside")),
        listening=_listening(seen.get("listening")),
    )


def _sums(capture: Capture) -> dict[str, str] | None:
    """Return name -> checksum; nothing when there is no such list, None when it could not be read."""
    if not capture.ok:
        return {} if capture.absent else None
    lines = [line.split() for line in capture.stdout.splitlines()]
    return {words[1]: words[0] for words in lines if len(words) == 2}  # noqa: PLR2004 - sum and name


def _stat(capture: Capture) -> dict[str, str]:
    """Return path -> first word; stat ends with 1 while a file is missing, and still says the others."""
    ended = capture.ok or capture.absent
    lines = [line.partition(" ") for line in capture.stdout.splitlines()] if ended else []
    return {name: word for word, _, name in lines}


def _modes(capture: Capture) -> dict[str, int]:
    return {name: int(mode, 8) for name, mode in _stat(capture).items() if _OCTAL.fullmatch(mode)}


def _tls_missing(capture: Capture, default: Reading[dict[str, Any]]) -> tuple[str, ...] | None:
    """Return the certificate files that the keys of the image's config.json name and its security folder has not."""
    if default.value is None or not (capture.ok or capture.absent):
        return None
    there = {place.removeprefix(f"{HOME}/") for place in capture.stdout.splitlines()}
    wanted = mindie_config.tls_files(default.value) or ("tlsCert",)  # without such keys there is none
    return tuple(name for name in wanted if name not in there)


def _text(capture: Capture) -> str:
    return capture.stdout if capture.ok else ""


def _answer(capture: Capture) -> dict[str, Any]:
    try:
        value = json.loads(capture.stdout) if capture.ok else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first_answer(serving: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to the first question; why there is none, when nothing was asked."""
    answer = serving.get("answer")
    return answer if isinstance(answer, dict) else {"error": serving.get("error")} if serving else {}


def _listening(capture: Capture) -> tuple[Listener, ...] | None:
    if not capture.ok:
        return None
    found = []
    for line in capture.stdout.splitlines():
        words = line.split()
        place = words[_LOCAL_COLUMN] if len(words) > _LOCAL_COLUMN else ""
        if not place.rpartition(":")[2].isdigit():
            return None
        holder = _PROCESS.search(line)
        found.append(Listener(place, f"{holder[1]} (pid {holder[2]})" if holder else ""))
    return tuple(found) or None  # a host that answers over SSH listens on something
