"""Faults of a card's settings: what each changes, live and in hccn.conf, without the tool's own rules."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import TwinError
from runbook_lib.twin.fabric import UNSET

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.world import World

VNIC_TARGET = "192.168.1.2"
OTHER_SEGMENT = "172.31.9"
SMALL_MTU = 1280
NARROW_MASK = "255.255.255.252"
# hccn.conf key of each setting of a CardState; the others are live only
_KEYS = {
    "ip": "address",
    "netmask": "netmask",
    "gateway": "gateway",
    "netdetect": "netdetect",
    "tls": "tls_enable",
    "mtu": "mtu",
}


def apply(
    world: World, host: str, card: int, settings: dict[str, Any], lines: dict[str, str] | None = None
) -> dict[str, str]:
    """Set live state and hccn.conf together; `lines` are the values for hccn.conf, if not those of the settings.

    Returns the values that hccn.conf had.
    """
    state = world.fabric.cards[host][card]
    conf = world.fabric.conf(host)
    had = {_KEYS[key]: conf.get(_KEYS[key], card) for key in settings if key in _KEYS}
    for key, value in settings.items():
        if key == "netdetect":
            world.fabric.set_netdetect(host, card, value or UNSET)
            state.netdetect_at = -1e9  # it was so for long
        else:
            setattr(state, key, value)
        if key in _KEYS:
            conf.set(_KEYS[key], card, str(value) if lines is None else lines[_KEYS[key]])
    conf.write()
    return had


def there(world: World, host: str, card: int, settings: dict[str, Any]) -> bool:
    """Whether a card still has these settings."""
    state = world.fabric.cards[host][card]
    return all(getattr(state, key) == value for key, value in settings.items())


def before(world: World, host: str, card: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the card has now of these settings."""
    return {key: getattr(world.fabric.cards[host][card], key) for key in settings}


def _configured(world: World, host: str, card: int) -> tuple[str, ipaddress.IPv4Network]:
    state = world.fabric.cards[host][card]
    if state.segment is None:
        raise TwinError(f"{host} card {card} has no address yet, so nothing of it can be wrong")
    return state.ip, state.segment


def _spare(world: World, host: str, card: int) -> str:
    """Return an address of the card's segment that no card and no gateway has."""
    _, segment = _configured(world, host, card)
    state = world.fabric.cards[host][card]
    first, last = int(segment.network_address) + 1, int(segment.broadcast_address) - 1
    for number in range(last, first, -1):
        address = str(ipaddress.IPv4Address(number))
        gateway = ipaddress.IPv4Address(number) in world.fabric.gateways
        if address != state.gateway and not gateway and not world.fabric.owners(address):
            return address
    raise TwinError(f"{segment} has no free address")


def holder(world: World, host: str, card: int) -> tuple[str, int]:
    """Return the card whose address `ip_duplicate` takes. Raises TwinError when there is none."""
    names = [each.name for each in world.params.cluster.hosts]
    other = names[(names.index(host) + 1) % len(names)]
    if other == host or card not in world.fabric.cards[other]:
        raise TwinError(f"no other host has a card {card}")
    return other, card


def _ip_duplicate(world: World, host: str, card: int) -> dict[str, Any]:
    other, _ = holder(world, host, card)
    own = world.fabric.cards[host][card]
    theirs = world.fabric.cards[other][card]
    wanted = next(each for each in world.params.host(other).cards if each.id == card)
    ip, netmask = theirs.ip or wanted.ip, theirs.netmask or wanted.netmask
    gateway = ip if own.gateway and own.gateway == own.ip else own.gateway
    if gateway and ipaddress.IPv4Address(gateway) not in ipaddress.IPv4Interface(f"{ip}/{netmask}").network:
        gateway = ""
    return {"ip": ip, "netmask": netmask, "gateway": gateway}


def _mask_wrong(world: World, host: str, card: int) -> dict[str, Any]:
    ip, _ = _configured(world, host, card)
    own = world.fabric.cards[host][card]
    narrow = ipaddress.IPv4Interface(f"{ip}/{NARROW_MASK}").network
    fits = own.gateway and ipaddress.IPv4Address(own.gateway) in narrow
    return {"netmask": NARROW_MASK, "gateway": own.gateway if fits else ""}


def _other_segment(world: World, host: str, card: int) -> dict[str, Any]:
    number = 10 + len(world.fabric.cards[host]) * list(world.fabric.cards).index(host) + card
    return {"ip": f"{OTHER_SEGMENT}.{number}", "netmask": "255.255.255.0", "gateway": ""}


def _own_ip(world: World, host: str, card: int) -> dict[str, Any]:
    return {"netdetect": _configured(world, host, card)[0]}


SETTINGS: dict[str, Callable[[World, str, int], dict[str, Any]]] = {
    "admin_down": lambda _world, _host, _card: {"admin_up": False},
    "fec_off": lambda _world, _host, _card: {"fec": "no"},
    "mtu_small": lambda _world, _host, _card: {"mtu": SMALL_MTU},
    "ip_missing": lambda _world, _host, _card: {"ip": "", "netmask": "", "gateway": ""},
    "mask_wrong": _mask_wrong,
    "ip_other_segment": _other_segment,
    "ip_duplicate": _ip_duplicate,
    "gateway_missing": lambda _world, _host, _card: {"gateway": ""},
    "gateway_foreign": lambda world, host, card: {"gateway": _spare(world, host, card)},
    "gateway_other_segment": lambda _world, _host, _card: {"gateway": f"{OTHER_SEGMENT}.1"},
    "netdetect_unset": lambda _world, _host, _card: {"netdetect": ""},
    "netdetect_wrong": lambda world, host, card: {"netdetect": _spare(world, host, card)},
    "netdetect_self": _own_ip,
    "netdetect_vnic": lambda _world, _host, _card: {"netdetect": VNIC_TARGET},
    "tls_on": lambda _world, _host, _card: {"tls": 1},
}
