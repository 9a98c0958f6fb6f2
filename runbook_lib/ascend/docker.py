"""Parsers for the docker client. Every parser takes one Capture and never raises."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Never

from runbook_lib.ascend.plain import labelled, lines_of, plain
from runbook_lib.ascend.reading import Reading, first_words, found, not_run, refusal, unreadable, unset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.model import Capture


@dataclass(frozen=True, slots=True)
class DockerVersion:
    """Versions of client and server; `server` is None when the daemon did not answer."""

    client: str | None
    server: str | None
    arch: str | None = None


@dataclass(frozen=True, slots=True)
class DockerInfo:
    """What matters of `docker info`."""

    server_version: str | None
    root_dir: str | None
    default_runtime: str | None
    runtimes: tuple[str, ...]
    storage_driver: str | None
    architecture: str | None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One line of `docker images`; an untagged image has tag `<none>`."""

    repository: str
    tag: str
    image_id: str
    size: str | None = None

    @property
    def reference(self) -> str:
        """The name that `docker run` takes."""
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """One line of `docker ps -a`; `state` is docker's word (running, exited, created, ...) or None."""

    container_id: str
    names: tuple[str, ...]
    image: str
    state: str | None
    status: str


@dataclass(frozen=True, slots=True)
class Mount:
    """One bind mount or volume of a container."""

    source: str
    destination: str
    writable: bool


@dataclass(frozen=True, slots=True)
class Container:
    """What `docker inspect` says about one container. None means that it does not say."""

    container_id: str
    name: str
    image: str | None
    image_id: str | None
    state: str | None
    pid: int | None
    exit_code: int | None
    oom_killed: bool | None
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[str, ...] = ()
    shm_size_bytes: int | None = None
    network_mode: str | None = None
    privileged: bool | None = None
    runtime: str | None = None
    init: bool | None = None
    ulimits: tuple[str, ...] = ()  # as docker run takes them: nofile=65536:65536


def _text(value: Any) -> str | None:  # noqa: ANN401 - a value out of foreign JSON
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:  # noqa: ANN401 - see _text
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(value: Any) -> bool | None:  # noqa: ANN401 - see _text
    return value if isinstance(value, bool) else None


def _dict(value: Any) -> dict[str, Any]:  # noqa: ANN401 - see _text
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - see _text
    return value if isinstance(value, list) else []


def _json(text: str) -> Any:  # noqa: ANN401 - see _text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: a hostile depth of brackets
        return None


def _refused(capture: Capture) -> Reading[Never] | None:
    """Look for a refusal on stderr only: docker's data may hold any words (a container's last error)."""
    return refusal(replace(capture, stdout=""))


def _plain_version(text: str) -> DockerVersion:
    """Read the plain form: `Client:` and `Server:` blocks, old ones with `Server Version` in between."""
    versions: dict[str, str] = {}
    arch: str | None = None
    block = ""
    for each in lines_of(plain(text)):
        line = each.text
        head = re.match(r"(Client|Server)\b", line)
        if head:
            block = head.group(1)
        pair = None if each.open else re.fullmatch(r"\s+(Version|OS/Arch):\s*(\S+)\s*", line)
        if pair and pair.group(1) == "Version" and block:
            versions.setdefault(block, pair.group(2))  # the engine comes first, its parts follow
        elif pair and block == "Server" and arch is None:
            arch = pair.group(2).rpartition("/")[2]
    return DockerVersion(versions.get("Client"), versions.get("Server"), arch)


def parse_version(capture: Capture) -> Reading[DockerVersion]:
    """Read `docker version`, as JSON or plain. A client without a daemon is the error `daemon-down`."""
    refused = _refused(capture)
    if refused:
        return refused
    data = _json(capture.stdout)
    if isinstance(data, dict):
        client, server = _dict(data.get("Client")), _dict(data.get("Server"))
        version = DockerVersion(_text(client.get("Version")), _text(server.get("Version")), _text(server.get("Arch")))
    else:
        version = _plain_version(capture.stdout)
    if version.server is None:
        return unreadable(capture)
    return found(version, first_words(capture))


def _plain_info(capture: Capture) -> Reading[DockerInfo]:
    """Read `docker info` without a format: `Label: value` lines, those of plugins further in than ours."""

    def value(label: str) -> str | None:
        return labelled(capture.stdout, label, r"\S.*")

    info = DockerInfo(
        server_version=value("server version"),
        root_dir=value("docker root dir"),
        default_runtime=value("default runtime"),
        runtimes=tuple(sorted((value("runtimes") or "").split())),
        storage_driver=value("storage driver"),
        architecture=value("architecture"),
    )
    down = re.search(r"^errors?: ", plain(capture.stdout), re.IGNORECASE | re.MULTILINE)
    known = info.server_version or info.runtimes  # a grep for the runtimes leaves only them
    return found(info) if known and not down else unreadable(capture)


def parse_info(capture: Capture) -> Reading[DockerInfo]:
    """Read `docker info`, as JSON (`--format json`, `{{json .}}`) or plain."""
    refused = _refused(capture)
    if refused:
        return refused
    data = _json(capture.stdout)
    if data is None:
        return _plain_info(capture)
    if not isinstance(data, dict) or data.get("ServerErrors"):
        return unreadable(capture)
    info = DockerInfo(
        server_version=_text(data.get("ServerVersion")),
        root_dir=_text(data.get("DockerRootDir")),
        default_runtime=_text(data.get("DefaultRuntime")),
        runtimes=tuple(sorted(_dict(data.get("Runtimes")))),
        storage_driver=_text(data.get("Driver")),
        architecture=_text(data.get("Architecture")),
    )
    return found(info) if info.server_version else unreadable(capture)


def _json_rows(text: str) -> list[dict[str, Any]] | None:
    """Read one JSON object per line; one bad line spoils the whole list."""
    rows = [_json(line) for line in text.splitlines() if line.strip()]
    return rows if all(isinstance(row, dict) for row in rows) else None


def _table_rows(text: str, columns: Mapping[str, str]) -> list[dict[str, Any]] | None:
    """Read a table for people by the places of its headings. `columns`: heading -> the name in the JSON form.

    None when a heading is missing or a word of a row stands across two columns.
    """
    lines = [line for line in lines_of(plain(text)) if line.text.strip()]
    heading = lines[0].text if lines else ""
    starts = {match.start(): match.group() for match in re.finditer(r"\S+(?: \S+)*", heading)}
    if not set(columns) <= set(starts.values()):
        return None
    places = sorted(starts)
    rows: list[dict[str, Any]] = []
    for line in lines[1:]:
        words = line.text
        across = any(place < len(words) and (words[place] == " " or words[place - 1] != " ") for place in places[1:])
        # PORTS is the one column that may be empty
        if line.open or (across and not _only_ports_empty(words, starts)) or len(words) <= places[-1]:
            return None
        ends = [*places[1:], len(words)]
        cells = {starts[place]: words[place:end].strip() for place, end in zip(places, ends, strict=True)}
        rows.append({columns[name]: cell for name, cell in cells.items() if name in columns})
    return rows


def _only_ports_empty(words: str, starts: Mapping[int, str]) -> bool:
    """Whether every column but PORTS begins where its heading stands."""
    return all(
        place < len(words) and words[place] != " " and (not place or words[place - 1] == " ")
        for place, name in starts.items()
        if name != "PORTS"
    )


def _rows(capture: Capture, columns: Mapping[str, str]) -> Reading[list[dict[str, Any]]]:
    """Read rows, as JSON lines or as a table for people."""
    refused = _refused(capture)
    if refused:
        return refused
    rows = _json_rows(capture.stdout)
    if rows is None:
        rows = _table_rows(capture.stdout, columns)
    return unreadable(capture) if rows is None else found(rows)


def parse_images(capture: Capture) -> Reading[tuple[ImageRow, ...]]:
    """Read `docker images`, as JSON lines or as the table; no image at all is an empty tuple."""
    columns = {"REPOSITORY": "Repository", "TAG": "Tag", "IMAGE ID": "ID", "SIZE": "Size"}
    reading = _rows(capture, columns)
    if reading.value is None:
        return Reading(None, reading.state, reading.message, reading.reason)
    images: list[ImageRow] = []
    for row in reading.value:
        repository, tag, image_id = _text(row.get("Repository")), _text(row.get("Tag")), _text(row.get("ID"))
        if repository is None or tag is None or image_id is None:
            return unreadable(capture)
        images.append(ImageRow(repository, tag, image_id, _text(row.get("Size"))))
    return found(tuple(images))


def parse_ps(capture: Capture) -> Reading[tuple[ContainerRow, ...]]:
    """Read `docker ps -a`, as JSON lines or as the table; where State is missing it follows from Status."""
    reading = _rows(capture, {"CONTAINER ID": "ID", "IMAGE": "Image", "STATUS": "Status", "NAMES": "Names"})
    if reading.value is None:
        return Reading(None, reading.state, reading.message, reading.reason)
    containers: list[ContainerRow] = []
    for row in reading.value:
        container_id, names, image = _text(row.get("ID")), _text(row.get("Names")), _text(row.get("Image"))
        if container_id is None or names is None or image is None:
            return unreadable(capture)
        status = _text(row.get("Status")) or ""
        state = _text(row.get("State"))
        if state is None:
            words = {
                "Up": "running",
                "Exited": "exited",
                "Created": "created",
                "Restarting": "restarting",
                "Dead": "dead",
            }
            state = words.get(status.split(" ", 1)[0])
        containers.append(ContainerRow(container_id, tuple(names.split(",")), image, state, status))
    return found(tuple(containers))


def _ulimit(item: dict[str, Any]) -> str:
    return f"{item.get('Name')}={item.get('Soft')}:{item.get('Hard')}"


def _container(data: dict[str, Any]) -> Container | None:
    container_id = _text(data.get("Id"))
    if container_id is None:
        return None
    config, host, state = _dict(data.get("Config")), _dict(data.get("HostConfig")), _dict(data.get("State"))
    env = [item.partition("=") for item in _list(config.get("Env")) if isinstance(item, str)]
    mounts = tuple(
        Mount(source, destination, bool(item.get("RW")))
        for item in map(_dict, _list(data.get("Mounts")))
        if (source := _text(item.get("Source"))) and (destination := _text(item.get("Destination")))
    )
    devices = tuple(path for item in map(_dict, _list(host.get("Devices"))) if (path := _text(item.get("PathOnHost"))))
    pid = _number(state.get("Pid"))
    return Container(
        container_id=container_id,
        name=(_text(data.get("Name")) or "").lstrip("/"),
        image=_text(config.get("Image")),
        image_id=_text(data.get("Image")),
        state=_text(state.get("Status")),
        pid=pid or None,  # docker writes 0 for a container that does not run
        exit_code=_number(state.get("ExitCode")),
        oom_killed=_flag(state.get("OOMKilled")),
        env={name: value for name, _, value in env},
        labels={key: value for key, value in _dict(config.get("Labels")).items() if isinstance(value, str)},
        mounts=mounts,
        devices=devices,
        shm_size_bytes=_number(host.get("ShmSize")),
        network_mode=_text(host.get("NetworkMode")),
        privileged=_flag(host.get("Privileged")),
        runtime=_text(host.get("Runtime")),
        init=_flag(host.get("Init")),
        ulimits=tuple(_ulimit(_dict(item)) for item in _list(host.get("Ulimits"))),
    )


def parse_inspect(capture: Capture) -> Reading[Container]:
    """Read `docker inspect NAME`; `unset` when there is no such container."""
    absent = not_run(capture)
    if absent:
        return absent
    if capture.exit_code and re.search(r"no such (?:object|container)", capture.stderr, re.IGNORECASE):
        return unset(first_words(capture))
    refused = _refused(capture)
    if refused:
        return refused
    data = _json(capture.stdout)
    container = _container(data[0]) if isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict) else None
    return unreadable(capture) if container is None else found(container)
