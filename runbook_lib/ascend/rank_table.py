"""The rank table: which card of which server has which rank. Format: MindIE-LLM ranktable_config.cpp, HCCL docs."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.reading import Reading, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MAX_DEVICE_ID = 63  # ranktable_config.cpp
MAX_RANK_ID = 511  # ranktable_config.cpp
_VERSION = "1.0"
_VERSION_PODS = "1.2"  # with super_pod_list, for A3
_STATUS = "completed"


@dataclass(frozen=True, slots=True)
class RankHost:
    """One server for `build`: its address and the card addresses in card order.

    container_ip: "" for host network, where it is the server's address.
    device_ids: card numbers, () for 0..n-1.
    """

    server_id: str
    device_ips: tuple[str, ...]
    container_ip: str = ""
    device_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RankDevice:
    """One card in a table; `super_device_id` stands in the 1.2 form, for A3's super pods."""

    device_id: int
    device_ip: str
    rank_id: int
    super_device_id: str | None = None


@dataclass(frozen=True, slots=True)
class RankServer:
    """One server in a table."""

    server_id: str
    container_ip: str
    devices: tuple[RankDevice, ...]


@dataclass(frozen=True, slots=True)
class SuperPod:
    """One super pod of the 1.2 form, and the servers in it."""

    super_pod_id: str
    server_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RankTable:
    """A table that has the right shape; `servers[0]` is the master."""

    version: str
    status: str
    server_count: int
    servers: tuple[RankServer, ...]
    super_pods: tuple[SuperPod, ...] = ()

    @property
    def world_size(self) -> int:
        """Number of cards in the table."""
        return sum(len(server.devices) for server in self.servers)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def build(hosts: Sequence[RankHost]) -> str:
    """Return the table as JSON text: all values strings, servers in the given order, the first is the master.

    The same hosts always give the same bytes. Raises ValueError for no hosts, unequal card counts, card ids
    that do not match the addresses, or an address that is none (a placeholder would only fail at start).
    """
    if not hosts or len({len(host.device_ips) for host in hosts}) != 1 or not hosts[0].device_ips:
        raise ValueError("a rank table needs at least one server, and the same number of cards on every server")
    servers: list[dict[str, object]] = []
    rank = 0
    for host in hosts:
        ids = host.device_ids or tuple(range(len(host.device_ips)))
        if len(ids) != len(host.device_ips) or len(set(ids)) != len(ids):
            raise ValueError(f"{host.server_id}: card ids {ids} do not match {len(host.device_ips)} addresses")
        for address in (host.server_id, host.container_ip or host.server_id, *host.device_ips):
            if not _is_ip(address):
                raise ValueError(f"{host.server_id}: {address!r} is not an IP address")
        devices = []
        for card, address in zip(ids, host.device_ips, strict=True):
            devices.append({"device_id": str(card), "device_ip": address, "rank_id": str(rank)})
            rank += 1
        servers.append({
            "server_id": host.server_id,
            "container_ip": host.container_ip or host.server_id,
            "device": devices,
        })  # fmt: skip
    table = {"version": _VERSION, "status": _STATUS, "server_count": str(len(hosts)), "server_list": servers}
    return json.dumps(table, indent=2) + "\n"


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice: which of the two a reader takes is its own affair."""
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("an object names a key twice")
    return data


def _load(text: str) -> tuple[dict[str, Any] | None, str]:
    try:
        data = json.loads(text, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError) as error:  # RecursionError: a hostile depth of brackets
        return None, f"not valid JSON ({str(error)[:120]}); comments and trailing commas are not allowed"
    if not isinstance(data, dict):
        return None, "the JSON is not an object"
    return data, ""


def _objects(value: Any) -> list[dict[str, Any]] | None:  # noqa: ANN401 - a value out of foreign JSON
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    return None


def _not_text(where: str, value: Any, *, digits: bool = False) -> Iterator[str]:  # noqa: ANN401 - see _objects
    """Say when a value is not a string, or not one of digits: the daemon takes strings only."""
    if not isinstance(value, str):
        yield f"{where}: expected a string, seen {value!r}"
    elif digits and not re.fullmatch(r"[0-9]{1,6}", value):
        yield f"{where}: expected digits, seen {value!r}"


def _server_shape(where: str, server: dict[str, Any]) -> Iterator[str]:
    yield from _not_text(f"{where}.server_id", server.get("server_id"))
    yield from _not_text(f"{where}.container_ip", server.get("container_ip", ""))
    devices = _objects(server.get("device"))
    if devices is None:
        yield f"{where}.device: expected a list of cards"
        return
    for position, device in enumerate(devices):
        inner = f"{where}.device[{position}]"
        yield from _not_text(f"{inner}.device_ip", device.get("device_ip"))
        yield from _not_text(f"{inner}.device_id", device.get("device_id"), digits=True)
        yield from _not_text(f"{inner}.rank_id", device.get("rank_id"), digits=True)
        yield from _not_text(f"{inner}.super_device_id", device.get("super_device_id", ""))


def _pod_shape(data: dict[str, Any]) -> Iterator[str]:
    pods = _objects(data.get("super_pod_list", []))
    if pods is None:
        yield "super_pod_list: expected a list of super pods"
        return
    for number, pod in enumerate(pods):
        where = f"super_pod_list[{number}]"
        yield from _not_text(f"{where}.super_pod_id", pod.get("super_pod_id"))
        members = _objects(pod.get("server_list"))
        if members is None:
            yield f"{where}.server_list: expected a list of servers"
            continue
        for position, member in enumerate(members):
            yield from _not_text(f"{where}.server_list[{position}].server_id", member.get("server_id"))


def _shape(data: dict[str, Any]) -> Iterator[str]:
    """Name what keeps the data from being a table at all."""
    yield from _not_text("version", data.get("version"))
    yield from _not_text("status", data.get("status"))
    yield from _not_text("server_count", data.get("server_count"), digits=True)
    servers = _objects(data.get("server_list"))
    if servers is None:
        yield "server_list: expected a list of servers"
        return
    for number, server in enumerate(servers):
        yield from _server_shape(f"server_list[{number}]", server)
    yield from _pod_shape(data)


def parse(text: str) -> Reading[RankTable]:
    """Read a table of the right shape; whether its values hold is `validate`'s business."""
    data, why = _load(text)
    if data is None:
        return Reading(None, "unreadable", why, "text")
    problem = next(_shape(data), "")
    if problem:
        return Reading(None, "unreadable", problem, "text")
    servers = tuple(
        RankServer(
            server["server_id"],
            server.get("container_ip", ""),
            tuple(
                RankDevice(
                    int(device["device_id"]),
                    device["device_ip"],
                    int(device["rank_id"]),
                    device.get("super_device_id"),
                )
                for device in server["device"]
            ),
        )
        for server in data["server_list"]
    )
    pods = tuple(
        SuperPod(pod["super_pod_id"], tuple(member["server_id"] for member in pod["server_list"]))
        for pod in data.get("super_pod_list", [])
    )
    return found(RankTable(data["version"], data["status"], int(data["server_count"]), servers, pods))


def _version_problems(table: RankTable) -> Iterator[str]:
    version = _VERSION_PODS if table.super_pods else _VERSION
    if table.version != version:
        yield f'version: expected "{version}", seen "{table.version}"'
    named = {server_id for pod in table.super_pods for server_id in pod.server_ids}
    if table.super_pods and named != {server.server_id for server in table.servers}:
        yield "super_pod_list and server_list name different servers"


def _table_problems(table: RankTable) -> Iterator[str]:
    yield from _version_problems(table)
    if table.status != _STATUS:
        yield f'status: expected "{_STATUS}", seen "{table.status}"'
    if table.server_count != len(table.servers) or not table.servers:
        yield f"server_count is {table.server_count}, server_list has {len(table.servers)} servers"
    counts = {len(server.devices) for server in table.servers}
    if len(counts) > 1 or 0 in counts:
        yield f"the servers have different numbers of cards, or none: {sorted(counts)}"
    ranks = [device.rank_id for server in table.servers for device in server.devices]
    if ranks != list(range(len(ranks))):
        yield f"rank_id must run 0, 1, 2, ... through the servers in order, seen {ranks[:8]}..."
    if len(ranks) > MAX_RANK_ID + 1:
        yield f"more than {MAX_RANK_ID + 1} ranks"
    for name, values in (
        ("server_id", [server.server_id for server in table.servers]),
        ("device_ip", [device.device_ip for server in table.servers for device in server.devices]),
    ):
        for value in sorted({value for value in values if values.count(value) > 1}):
            yield f"{name} {value!r} appears more than once"
    families = {
        ipaddress.ip_address(device.device_ip).version
        for server in table.servers
        for device in server.devices
        if _is_ip(device.device_ip)
    }
    if len(families) > 1:
        yield "device_ip mixes IPv4 and IPv6"


def _server_problems(server: RankServer) -> Iterator[str]:
    if not _is_ip(server.server_id):
        yield f"server_id {server.server_id!r} is not an IP address"
    if not server.container_ip:
        yield f"server {server.server_id}: container_ip is missing; service mode needs it"
    elif not _is_ip(server.container_ip):
        yield f"server {server.server_id}: container_ip {server.container_ip!r} is not an IP address"
    ids = [device.device_id for device in server.devices]
    if len(set(ids)) != len(ids):
        yield f"server {server.server_id}: a device_id appears more than once"
    for device in server.devices:
        where = f"server {server.server_id} card {device.device_id}"
        if device.device_id > MAX_DEVICE_ID:
            yield f"{where}: device_id is outside [0, {MAX_DEVICE_ID}]"
        if not _is_ip(device.device_ip):
            yield f"{where}: device_ip {device.device_ip!r} is not an IP address (a card without address?)"


def _live_problems(table: RankTable, live: Mapping[str, Mapping[int, str]]) -> Iterator[str]:
    named = {server.server_id for server in table.servers}
    for server_id in live:
        if server_id not in named:
            yield f"server {server_id} is part of the cluster but not in the table"
    for server in table.servers:
        if server.server_id in live:
            yield from _unlike_live(server, live[server.server_id])
        else:
            yield f"server {server.server_id} is in the table but no live addresses of it are known"


def _unlike_live(server: RankServer, addresses: Mapping[int, str]) -> Iterator[str]:
    for card in sorted(addresses.keys() - {device.device_id for device in server.devices}):
        yield f"server {server.server_id} card {card} is on the host but not in the table"
    for device in server.devices:
        where = f"server {server.server_id} card {device.device_id}"
        seen = addresses.get(device.device_id)
        if seen is None:
            yield f"{where} is in the table but is no card of the cluster"
        elif not seen:
            yield f"{where}: the live address is not known, the table says {device.device_ip}"
        elif seen != device.device_ip:
            yield f"{where}: the table says {device.device_ip}, the card has {seen}"


def validate(text: str, live: Mapping[str, Mapping[int, str]]) -> list[str]:
    """Return every problem of a table, and every difference from the cards as they are.

    live: for each server_id the live addresses by card number, "" where one is not known; an unknown address
    is a problem, since it cannot be compared. An empty mapping compares nothing.
    """
    data, why = _load(text)
    if data is None:
        return [why]
    shape = list(_shape(data))
    table = parse(text).value
    if shape or table is None:
        return shape or ["the table cannot be read"]
    problems = list(_table_problems(table))
    for server in table.servers:
        problems.extend(_server_problems(server))
    if live:
        problems.extend(_live_problems(table, live))
    return problems
