"""Breaking and mending: what each fault of the list does to the world.

A fault of a setting is done once and is over as soon as the setting is right again, by whatever means; a fault of
hardware lasts until `clear`, which is the technician's hands.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Protocol

from runbook_lib.errors import TwinError
from runbook_lib.twin.fabric import UNSET
from runbook_lib.twin.fault_list import FAULTS, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import World

SKEW_S = 95.0
ALARM_CODE = "0x80CB8002"
ALARM_TEXT = "The HBM multi-bit ECC error count exceeds the threshold"
VNIC_TARGET = "192.168.1.2"
# hccn.conf key of each setting of a CardState
_KEYS = {
    "ip": "address",
    "netmask": "netmask",
    "gateway": "gateway",
    "netdetect": "netdetect",
    "tls": "tls_enable",
}


class Power(Protocol):
    """Who can switch hosts on and off: the resident process."""

    world: World

    async def power_off(self, node: Node) -> None:
        """Cut a host's power."""

    async def power_on(self, node: Node) -> None:
        """Boot a host."""


def node_of(world: World, host: str | None) -> Node:
    """Return a node. Raises TwinError for a name that the twin has not."""
    if host is None or host not in world.nodes:
        raise TwinError(f"the twin has no host {host!r}; it has {', '.join(world.nodes)}")
    return world.nodes[host]


def active(world: World) -> list[dict[str, Any]]:
    """Return the faults that are there now; those that a setting repaired are dropped from the list."""
    known: list[dict[str, Any]] = world.state.get("faults", [])
    left = [entry for entry in known if _still(world, entry)]
    if left != known:
        world.state["faults"] = left
        world.save()
    return [
        {
            **{key: entry[key] for key in ("fault", "host", "card")},
            "what": FAULTS[entry["fault"]].what,
            "expected": list(FAULTS[entry["fault"]].expected),
        }
        for entry in left
    ]


def down(world: World, host: str) -> bool:
    """Whether a host is switched off by a fault."""
    return any(entry["fault"] == "host-down" and entry["host"] == host for entry in world.state.get("faults", []))


async def inject(power: Power, name: str, host: str, card: int | None) -> None:
    """Break something once; a fault that is already there stays as it is."""
    world = power.world
    fault = FAULTS.get(name)
    if fault is None:
        raise TwinError(f"no fault {name!r}; there are {', '.join(FAULTS)}", next_command="runbook twin faults")
    node = node_of(world, host)
    card = _card(world, fault, node, card)
    entry: dict[str, Any] = {"fault": name, "host": host, "card": card}
    active(world)
    if any({key: old[key] for key in entry} == entry for old in world.state.get("faults", [])):
        return
    before = world.fabric.links()
    if name == "clock-skew":
        world.state.setdefault("clock", {})[host] = {"skew_s": SKEW_S}
    elif name == "host-down":
        if node.up:
            await power.power_off(node)
    elif card is not None and name in _HARDWARE:
        world.fabric.hardware(host, card).update(_HARDWARE[name])
    elif card is not None:
        _damage(world, host, card, entry, _SETTINGS[name](world, host, card))
    world.fabric.note_links(before)
    world.state.setdefault("faults", []).append(entry)
    world.save()


async def clear(power: Power, name: str | None, host: str | None, card: int | None) -> int:
    """Mend every fault that matches; settings go back to what they were. Returns how many."""
    world = power.world
    active(world)
    matching = [
        entry
        for entry in world.state.get("faults", [])
        if name in {None, entry["fault"]} and host in {None, entry["host"]} and card in {None, entry["card"]}
    ]
    before = world.fabric.links()
    for entry in matching:
        world.state["faults"].remove(entry)
        fault, where, which = entry["fault"], entry["host"], entry["card"]
        if fault == "clock-skew":
            world.state["clock"].pop(where, None)
        elif fault == "host-down":
            await power.power_on(world.nodes[where])
        elif fault in _HARDWARE:
            for key in _HARDWARE[fault]:
                world.fabric.hardware(where, which).pop(key, None)
        else:
            _apply(world, where, which, entry["before"])
    world.fabric.note_links(before)
    world.save()
    return len(matching)


def _card(world: World, fault: Fault, node: Node, card: int | None) -> int | None:
    if not fault.needs_card:
        return None
    cards = world.fabric.cards[node.name]
    if card is None or card not in cards:
        raise TwinError(f"{fault.name} needs a card of {node.name}: one of {', '.join(map(str, cards))}")
    return card


_HARDWARE: dict[str, dict[str, Any]] = {
    "link-down": {"unplugged": True},
    "card-lost": {"lost": True},
    "health-alarm": {"health": "Alarm", "error_code": ALARM_CODE, "error_text": ALARM_TEXT},
    "tool-hangs": {"hangs": True},
}


def _other_address(world: World, host: str, card: int) -> str:
    """Return an address of the card's segment that is neither its own nor its gateway. Raises TwinError."""
    state = world.fabric.cards[host][card]
    if state.segment is None:
        raise TwinError(f"{host} card {card} has no address yet, so no gateway can be wrong")
    taken = {state.ip, state.gateway}
    return next(str(each) for each in reversed(list(state.segment.hosts())[-4:]) if str(each) not in taken)


def _neighbour(world: World, host: str, card: int) -> dict[str, str]:
    hosts = world.params.cluster.hosts
    names = [each.name for each in hosts]
    other = names[(names.index(host) + 1) % len(names)]
    if other == host or card not in world.fabric.cards[other]:
        raise TwinError(f"no other host has a card {card}")
    own = world.fabric.cards[host][card]
    theirs = world.fabric.cards[other][card]
    wanted = next(each for each in world.params.host(other).cards if each.id == card)
    ip, netmask = theirs.ip or wanted.ip, theirs.netmask or wanted.netmask
    gateway = ip if own.gateway and own.gateway == own.ip else own.gateway
    if gateway and ipaddress.IPv4Address(gateway) not in ipaddress.IPv4Interface(f"{ip}/{netmask}").network:
        gateway = ""
    return {"ip": ip, "netmask": netmask, "gateway": gateway}


_SETTINGS: dict[str, Callable[[World, str, int], dict[str, Any]]] = {
    "gateway-missing": lambda _world, _host, _card: {"gateway": ""},
    "gateway-foreign": lambda world, host, card: {"gateway": _other_address(world, host, card)},
    "netdetect-unset": lambda _world, _host, _card: {"netdetect": ""},
    "netdetect-vnic": lambda _world, _host, _card: {"netdetect": VNIC_TARGET},
    "ip-missing": lambda _world, _host, _card: {"ip": "", "netmask": "", "gateway": ""},
    "ip-duplicate": _neighbour,
    "tls-on": lambda _world, _host, _card: {"tls": 1},
}


def _damage(world: World, host: str, card: int, entry: dict[str, Any], change: dict[str, Any]) -> None:
    state = world.fabric.cards[host][card]
    entry["before"] = {key: getattr(state, key) for key in change}
    entry["after"] = change
    _apply(world, host, card, change)


def _apply(world: World, host: str, card: int, settings: dict[str, Any]) -> None:
    """Set live state and hccn.conf together, without the tool's own rules."""
    state = world.fabric.cards[host][card]
    conf = world.fabric.conf(host)
    for key, value in settings.items():
        if key == "netdetect":
            world.fabric.set_netdetect(host, card, value or UNSET)
        else:
            setattr(state, key, value)
        conf.set(_KEYS[key], card, str(value))
    conf.write()


def _still(world: World, entry: dict[str, Any]) -> bool:
    """Whether a fault is still there: a setting, until one of its values has been changed."""
    if "after" not in entry:
        return True
    state = world.fabric.cards[entry["host"]][entry["card"]]
    return all(getattr(state, key) == value for key, value in entry["after"].items())
