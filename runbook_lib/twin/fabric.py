"""The one model of the NPU network: links, addresses, gateways, detection, TLS switches, optics, flaps.

Live settings live here and die with the host's power; /etc/hccn.conf on the host's disk is replayed at boot.
Broken hardware (a cable, a card) is in `world.state["cards"]` and outlasts a reboot.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.params import Topology
from runbook_lib.twin import hardware
from runbook_lib.twin.hccn_conf import HccnConf

if TYPE_CHECKING:
    from datetime import datetime

    from runbook_lib.twin.world import World

UNSET = "0.0.0.0"
# hccntool_019 (HDK): 192.168.0.x to 192.168.7.x belong to the on-board vNICs
VNIC_RANGE = ipaddress.ip_network("192.168.0.0/21")
DETECT_S = 2.0
MTU_RANGE = range(68, 9703)
_PORTS_PER_SWITCH_PORT = 2


@dataclass(slots=True)
class CardState:
    """What one card's RoCE port is set to now; "" is unset."""

    ip: str = ""
    netmask: str = ""
    gateway: str = ""
    netdetect: str = ""
    tls: int = 0
    mtu: int = 1500
    fec: str = "rs"
    admin_up: bool = True
    link_up: bool = True  # as computed when asked for
    netdetect_at: float = -1e9  # World.monotonic of the last set
    changes: list[tuple[datetime, str]] = field(default_factory=list)  # newest first

    @property
    def segment(self) -> ipaddress.IPv4Network | None:
        """The card's own network; None without an address."""
        return ipaddress.IPv4Interface(f"{self.ip}/{self.netmask}").network if self.ip else None


class Fabric:
    """All RoCE ports of the twin. Cards are named by host name and card id."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.topology = world.params.cluster.topology
        self.cards: dict[str, dict[int, CardState]] = {
            host.name: {card.id: CardState() for card in host.cards} for host in world.params.cluster.hosts
        }
        self.gateways = {
            ipaddress.IPv4Address(card.gateway)
            for host in world.params.cluster.hosts
            for card in host.cards
            if card.gateway and self.topology is Topology.SWITCH
        }

    def card(self, node: str, card: int) -> CardState:
        """Return a card's state, with `link_up` as it is now. KeyError for a card that the host never had."""
        state = self.cards[node][card]
        state.link_up = self.link_up(node, card)
        return state

    def hardware(self, node: str, card: int) -> dict[str, Any]:
        """Return the persisted condition of a card: unplugged, lost, health, errors, hangs, speed, fec, flaps."""
        condition: dict[str, Any] = self.world.state.setdefault("cards", {}).setdefault(node, {})
        mine: dict[str, Any] = condition.setdefault(str(card), {})
        return mine

    def lost(self, node: str, card: int) -> bool:
        """Whether the host no longer sees the card."""
        return bool(self.hardware(node, card).get("lost"))

    def present(self, node: str) -> list[int]:
        """Return the ids of the cards that the host sees."""
        return [card for card in self.cards[node] if not self.lost(node, card)]

    def hbm_used(self, node: str, card: int) -> int:
        """Return the used HBM in MB: what the firmware keeps, and what processes hold."""
        return hardware.HBM_IDLE_MB + card % 3 + sum(self.world.hbm.get((node, card), {}).values())

    def peer(self, node: str, card: int) -> tuple[str, int] | None:
        """Return the port at the other end of a direct cable; None on a switch."""
        if self.topology is not Topology.DIRECT:
            return None
        return next(((other, card) for other in self.cards if other != node and card in self.cards[other]), None)

    def _end_up(self, node: str, card: int) -> bool:
        lit = self.world.nodes[node].up and not self.lost(node, card) and self.cards[node][card].admin_up
        return lit and not self.hardware(node, card).get("unplugged")

    def link_up(self, node: str, card: int) -> bool:
        """Whether light passes: both ends on, and the cable plugged in at both."""
        peer = self.peer(node, card)
        return self._end_up(node, card) and (peer is None or self._end_up(*peer))

    def find_ip(self, ip: str) -> tuple[str, int] | None:
        """Return the first card that has this address."""
        return next(iter(self.owners(ip)), None)

    def owners(self, ip: str) -> list[tuple[str, int]]:
        """Return every card that has this address and is seen by a running host."""
        return [
            (node, card)
            for node, cards in self.cards.items()
            for card, state in cards.items()
            if ip and state.ip == ip and self.world.nodes[node].up and not self.lost(node, card)
        ]

    def reachable(self, ip_from: str, ip_to: str) -> bool:
        """Whether a packet from one address comes to the other and back. An address in use twice is not reachable."""
        sources = self.owners(ip_from)
        return len(sources) == 1 and self.answers(*sources[0], ip_to)

    def answers(self, node: str, card: int, target: str) -> bool:
        """Whether `target` answers this card."""
        own = self.cards[node][card]
        if own.segment is None or not self.link_up(node, card) or len(self.owners(own.ip)) != 1:
            return False
        address = ipaddress.IPv4Address(target)
        if address in self.gateways:
            return address in own.segment
        found = self.owners(target)
        if len(found) != 1:
            return False
        # the tool answers for cards of the same host, whatever the cables
        return found[0][0] == node or self._crosses((node, card), found[0])

    def _crosses(self, near: tuple[str, int], far: tuple[str, int]) -> bool:
        if not self.link_up(*far) or (self.topology is Topology.DIRECT and self.peer(*near) != far):
            return False
        own, other = self.cards[near[0]][near[1]], self.cards[far[0]][far[1]]
        return own.segment == other.segment or (self._routed(own) and self._routed(other))

    def _routed(self, card: CardState) -> bool:
        return bool(card.gateway) and ipaddress.IPv4Address(card.gateway) in self.gateways

    def health(self, node: str, card: int) -> str:
        """Return the word of `-net_health -g`.

        A missing gateway gives Receive timeout even on a direct cable (field report).
        """
        state = self.cards[node][card]
        if not self.link_up(node, card):
            return "Fault"
        if not state.netdetect:
            return "Init"
        if self.world.monotonic() - state.netdetect_at < DETECT_S:
            return "Detect ip set"
        reserved = ipaddress.IPv4Address(state.netdetect) in VNIC_RANGE
        if reserved or not state.gateway or not self.answers(node, card, state.netdetect):
            return "Receive timeout"
        return "Success"

    def set_netdetect(self, node: str, card: int, target: str) -> None:
        """Set the detection target; 0.0.0.0 unsets it."""
        state = self.cards[node][card]
        state.netdetect = "" if target == UNSET else target
        state.netdetect_at = self.world.monotonic()

    def set_ip(self, node: str, card: int, ip: str, netmask: str) -> None:
        """Set the address; a gateway of another segment is dropped, as the tool does."""
        state = self.cards[node][card]
        state.ip, state.netmask = ip, netmask
        if state.gateway and ipaddress.IPv4Address(state.gateway) not in (state.segment or ()):
            state.gateway = ""

    def note_links(self, before: dict[tuple[str, int], bool]) -> None:
        """Write into the cards' records every link that changed since `before` (from `links`)."""
        for (node, card), up in self.links().items():
            if before.get((node, card)) not in {None, up} and self.world.nodes[node].up:
                moment = self.world.emulated_now(node)
                self.cards[node][card].changes.insert(0, (moment, "LINK UP" if up else "LINK DOWN"))

    def links(self) -> dict[tuple[str, int], bool]:
        """Return the state of every link."""
        return {(node, card): self.link_up(node, card) for node, cards in self.cards.items() for card in cards}

    def conf(self, node: str) -> HccnConf:
        """Return the host's real /etc/hccn.conf, read anew."""
        return HccnConf(self.world.nodes[node].path("/etc/hccn.conf"))

    def power_on(self, node: str) -> None:
        """Forget the live settings and replay /etc/hccn.conf, as a boot does."""
        for card in self.cards[node]:
            self.cards[node][card] = CardState()
            self.recover(node, card)

    def recover(self, node: str, card: int) -> bool:
        """Replay one card's lines of /etc/hccn.conf; False when one of them does not hold."""
        try:
            conf = self.conf(node)
        except (OSError, UnicodeDecodeError):
            return False
        self.cards[node][card].admin_up = True
        try:
            self._replay(node, card, conf)
        except ValueError:
            return False
        return True

    def _replay(self, node: str, card: int, conf: HccnConf) -> None:
        state = self.cards[node][card]
        state.tls = 1 if conf.get("tls_enable", card) == "1" else 0
        mtu = conf.get("mtu", card)
        if mtu and int(mtu) in MTU_RANGE:
            state.mtu = int(mtu)
        ip, netmask = conf.get("address", card), conf.get("netmask", card)
        if ip and netmask:
            interface = ipaddress.IPv4Interface(f"{ip}/{netmask}")
            self.set_ip(node, card, str(interface.ip), str(interface.netmask))
        if target := conf.get("netdetect", card):
            self.set_netdetect(node, card, str(ipaddress.IPv4Address(target)))
        if gateway := conf.get("gateway", card):
            address = ipaddress.IPv4Address(gateway)
            if state.segment is None or address not in state.segment:
                raise ValueError(f"gateway {gateway} is not in the segment")
            state.gateway = str(address)

    def mac(self, node: str, card: int) -> str:
        """Return the port's MAC address."""
        return f"9c:b2:e8:{list(self.cards).index(node) + 16:02x}:4f:{card * 2 + 160:02x}"

    def switch_port(self, node: str, card: int) -> str:
        """Return the switch interface of a card: each 400GE port is split into two of 200GE."""
        number = list(self.cards).index(node) * len(self.cards[node]) + card
        return f"400GE1/1/{number // _PORTS_PER_SWITCH_PORT + 1}:{number % _PORTS_PER_SWITCH_PORT + 1}"
