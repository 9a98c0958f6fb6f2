"""The one model of the NPU network: links, addresses, gateways, detection, TLS switches, optics, flaps.

Live settings live here and die with the host's power; /etc/hccn.conf on the host's disk is replayed at boot.
Broken hardware (a cable, a card) is in `world.state["cards"]` and outlasts a reboot.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import timedelta
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
_HOSTS_PER_LEAF = 8  # a leaf switch of 32 ports of 400GE serves 64 cards
_FLAPS = 6
_FLAP_GAP_S = 47
# what ends with the power, or with the card's reset, although it is hardware's condition
_VOLATILE = ("net_health", "hbm_left_mb")


@dataclass(frozen=True, slots=True)
class SwitchPort:
    """What LLDP tells about the far end of a card's cable."""

    chassis: str
    management: str
    ifname: str


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
    reads: int = 0  # of the packet counters

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
        """Return the used HBM in MB: what the firmware keeps, what processes hold, what dead ones left behind."""
        left = int(self.hardware(node, card).get("hbm_left_mb", 0))
        return hardware.HBM_IDLE_MB + card % 3 + left + sum(self.world.hbm.get((node, card), {}).values())

    def neighbour(self, node: str, card: int) -> int:
        """Return the next card of the host, the one before for the last: whose cable is swapped with a card's."""
        cards = list(self.cards[node])
        place = cards.index(card)
        return cards[place + 1] if place + 1 < len(cards) else cards[place - 1]

    def _position(self, node: str, card: int) -> int:
        """Return whose cable hangs on a card: its own, unless two are swapped."""
        if self.hardware(node, card).get("swapped"):
            return self.neighbour(node, card)
        for other in self.cards[node]:
            if self.hardware(node, other).get("swapped") and self.neighbour(node, other) == card:
                return other
        return card

    def peer(self, node: str, card: int) -> tuple[str, int] | None:
        """Return the port at the other end of a direct cable; None on a switch."""
        if self.topology is not Topology.DIRECT:
            return None
        other = next((each for each in self.cards if each != node), None)
        if other is None:
            return None
        cable = self._position(node, card)
        return next(((other, each) for each in self.cards[other] if self._position(other, each) == cable), None)

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
        sources, targets = self.owners(ip_from), self.owners(ip_to)
        if len(sources) != 1 or not self.answers(*sources[0], ip_to):
            return False
        return not targets or targets[0][0] == sources[0][0] or not self._mute(*targets[0])

    def _mute(self, node: str, card: int) -> bool:
        """Whether what a card sends to other hosts is lost."""
        return bool(self.hardware(node, card).get("mute"))

    def lossy(self, node: str, card: int, target: str) -> bool:
        """Whether a part of the packets between a card and an address is lost."""
        ends = [(node, card), *self.owners(target)]
        return any(self.hardware(*end).get("lossy") for end in ends)

    def path_mtu(self, node: str, card: int, target: str) -> int:
        """Return the smallest MTU between a card and an address."""
        return min(self.cards[where][which].mtu for where, which in [(node, card), *self.owners(target)])

    def answers(self, node: str, card: int, target: str) -> bool:
        """Whether `target` answers this card."""
        own = self.cards[node][card]
        if own.segment is None or not self.link_up(node, card) or len(self.owners(own.ip)) != 1:
            return False
        address = ipaddress.IPv4Address(target)
        if address in self.gateways:
            return address in own.segment and not self._mute(node, card)
        found = self.owners(target)
        if len(found) != 1:
            return False
        # the tool answers for cards of the same host, whatever the cables
        return found[0][0] == node or self._crosses((node, card), found[0])

    def _crosses(self, near: tuple[str, int], far: tuple[str, int]) -> bool:
        if self._mute(*near) or not self.link_up(*far):
            return False
        if self.topology is Topology.DIRECT and self.peer(*near) != far:
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
        if stuck := self.hardware(node, card).get("net_health"):
            return str(stuck)
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
        self.hardware(node, card).pop("net_health", None)  # the detection is started anew

    def set_ip(self, node: str, card: int, ip: str, netmask: str) -> None:
        """Set the address; a gateway of another segment is dropped, as the tool does."""
        state = self.cards[node][card]
        state.ip, state.netmask = ip, netmask
        if state.gateway and ipaddress.IPv4Address(state.gateway) not in (state.segment or ()):
            state.gateway = ""

    def note_links(self, before: dict[tuple[str, int], bool]) -> None:
        """Write into the cards' records every link that changed since `before` (from `links`)."""
        for (node, card), up in self.links().items():
            known, word = self.cards[node][card].changes, "LINK UP" if up else "LINK DOWN"
            told = bool(known) and known[0][1] == word  # by somebody who saw the same change
            if before.get((node, card)) not in {None, up} and self.world.nodes[node].up and not told:
                known.insert(0, (self.world.emulated_now(node), word))

    def flap(self, node: str, card: int, times: int = 1) -> None:
        """Write `times` short interruptions into the records of both ends of a card's cable, the last one just now."""
        ends = [(node, card)] + ([peer] if (peer := self.peer(node, card)) else [])
        for where, which in ends:
            changes = self.cards[where][which].changes
            for number in reversed(range(times)):
                moment = self.world.emulated_now(where) - timedelta(seconds=number * _FLAP_GAP_S)
                changes[:0] = [(moment, "LINK UP"), (moment - timedelta(seconds=2), "LINK DOWN")]

    def start_flapping(self, node: str, card: int) -> None:
        """Make a link's record that of one that has flapped for some minutes."""
        self.flap(node, card, _FLAPS)

    def forget_changes(self) -> None:
        """Make every link's record that of a port that came up once, and is now down if its link is."""
        for (node, card), up in self.links().items():
            known = self.cards[node][card].changes
            self.cards[node][card].changes = known[-1:] if up else [*known[:-1][:1], *known[-1:]]

    def flaps(self, node: str, card: int) -> bool:
        """Whether a card's link goes up and down, for a bad end of its cable; one that stays down does not."""
        ends = [(node, card)] + ([peer] if (peer := self.peer(node, card)) else [])
        return self.link_up(node, card) and any(self.hardware(*end).get("flapping") for end in ends)

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
            self.reset(node, card)

    def reset(self, node: str, card: int) -> None:
        """Forget what a reset of the card ends."""
        for key in _VOLATILE:
            self.hardware(node, card).pop(key, None)

    def recover(self, node: str, card: int) -> bool:
        """Replay one card's lines of /etc/hccn.conf; False when one of them does not hold."""
        self.hardware(node, card).pop("net_health", None)
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

    def lldp(self, node: str, card: int) -> SwitchPort | None:
        """Return the switch port that a card's cable leads to; None where nobody speaks LLDP.

        A leaf switch serves eight hosts; each of its 400GE ports is split into two of 200GE.
        """
        behind = any(self.world.machine(each).get("behind_switch") for each in self.cards)
        switch = self.topology is Topology.SWITCH or behind
        condition = self.hardware(node, card).get("lldp", "switch" if switch else "silent")
        if condition == "silent" or not self.link_up(node, card):
            return None
        if condition == "elsewhere":
            return SwitchPort("10:24:07:6a:00:7f", "172.16.0.99", "400GE1/2/7:1")
        leaf, place = divmod(list(self.cards).index(node), _HOSTS_PER_LEAF)
        port, half = divmod(place * len(self.cards[node]) + self._position(node, card), _PORTS_PER_SWITCH_PORT)
        return SwitchPort(f"10:24:07:6a:00:{leaf + 1:02x}", f"172.16.0.{11 + leaf}", f"400GE1/1/{port + 1}:{half + 1}")

    def count(self, node: str, card: int) -> dict[str, int]:
        """Return the packet counters; traffic counts always rise, error counts on a bad link only."""
        state, condition = self.cards[node][card], self.hardware(node, card)
        state.reads += 1
        traffic = 37 * state.reads
        counted = {
            "roce_rx_all_pkt_num": 5_120 + traffic,
            "roce_tx_all_pkt_num": 5_118 + traffic,
            "nic_tx_all_pkg_num": 12_240 + traffic,
            "nic_tx_all_oct_num": 16_921_741 + 90 * traffic,
            "nic_rx_all_pkg_num": 64_148 + traffic,
            "nic_rx_all_oct_num": 48_223_780 + 90 * traffic,
        }
        if condition.get("lossy"):
            counted["roce_new_pkt_rty_num"] = 412 + 17 * state.reads
        if condition.get("bit_errors"):
            counted["mac_rx_fcs_err_pkt_num"] = counted["mac_rx_bad_pkt_num"] = 96 + 5 * state.reads
        return counted
