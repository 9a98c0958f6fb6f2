"""Every fault of the list: it strikes, it is listed once, and nothing of it is left after `clear`."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import TwinError
from runbook_lib.twin import faults
from runbook_lib.twin.fault_list import FAULTS
from runbook_lib.twin.tools.hccn_tool import hccn_tool
from runbook_lib.twin.world import ToolCall
from tests.twin.conftest import bare_world

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import Reply, World

    Call = Callable[..., Reply]


class Power:
    """Switches hosts on and off without processes."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def power_off(self, node: Node) -> None:
        node.up = False

    async def power_on(self, node: Node) -> None:
        node.up = True


@pytest.fixture(scope="module")
def whole_power(tmp_path_factory: pytest.TempPathFactory) -> Power:
    """Return a world for all faults, one after the other: none leaves anything behind."""
    return _configured(bare_world(tmp_path_factory.mktemp("world")))


@pytest.fixture
def power(world: World) -> Power:
    """Return a world of one's own."""
    return _configured(world)


def _configured(world: World) -> Power:
    """Set the cards as the params want."""
    for host in world.params.cluster.hosts:
        conf = world.fabric.conf(host.name)
        for card in host.cards:
            values = {
                "address": card.ip,
                "netmask": card.netmask,
                "gateway": card.ip,
                "netdetect": world.params.peer(host, card),
                "tls_enable": "0",
            }
            for key, value in values.items():
                conf.set(key, card.id, value)
        conf.write()
        (world.nodes[host.name].files / world.params.paths.work.lstrip("/")).mkdir(mode=0o700)
        world.fabric.power_on(host.name)
        (world.nodes[host.name].twin / "bin").mkdir(parents=True)
        for tool, place in (("npu-smi", "sbin"), ("hccn_tool", "Ascend/driver/tools")):
            (world.nodes[host.name].twin / "bin" / tool).symlink_to("twin-shim")
            (world.nodes[host.name].files / "usr/local" / place / tool).symlink_to(f"/opt/twin/bin/{tool}")
    world.fabric.note_links(dict.fromkeys(world.fabric.links(), False))
    return Power(world)


def _settings(world: World) -> dict[str, Any]:
    return {
        f"{node} {card}": (
            [state.ip, state.netmask, state.gateway, state.netdetect, state.tls, state.mtu, state.fec, state.admin_up],
            [what for _, what in state.changes],
        )
        for node, cards in world.fabric.cards.items()
        for card, state in cards.items()
    }


def _whole(world: World) -> dict[str, Any]:
    """Return all that a fault may touch: settings, conditions, and the content and mode of files."""
    files = {}
    for node in world.nodes.values():
        for pattern in (
            "etc/*",
            "sys/**/scaling_governor",
            "usr/local/Ascend/**/*",
            "usr/local/sbin/*",
            "usr/local/mpich/lib/*",
            "data/**/*",
        ):
            for path in node.files.glob(pattern):
                lines = sorted(path.read_bytes().splitlines()) if path.is_file() and not path.is_symlink() else []
                files[str(path)] = (path.is_symlink() and str(path.readlink()), lines)
        work = node.files / world.params.paths.work.lstrip("/")
        files[str(work)] = (False, [oct(work.stat().st_mode).encode()])
    conditions = {
        part: {host: {key: value for key, value in cards.items() if value} for host, cards in found.items()}
        for part, found in copy.deepcopy(world.state).items()
        if part in {"cards", "machine", "units"}
    }
    return {"settings": _settings(world), "conditions": conditions, "files": files}


NEEDS_NODE = {"port-taken", "disk-full", "disk-fills"}  # processes and mounts of a real node
SERVICE = "around the start"  # faults of a service that a bare world has not
OFFLINE = [
    fault
    for fault in FAULTS.values()
    if fault.name not in NEEDS_NODE and "direct" not in fault.skip and fault.moment != SERVICE
]


@pytest.mark.parametrize("name", [fault.name for fault in OFFLINE])
def test_strikes_once_and_leaves_nothing(whole_power: Power, name: str) -> None:
    power = whole_power
    world, card = power.world, 3 if FAULTS[name].needs_card else None
    for node in world.nodes.values():
        (node.files / "data/weights").mkdir(exist_ok=True)
    for host in world.nodes:  # a condition that was asked for is there, though empty
        world.machine(host)
        world.tool_state("units", host)
        for each in world.fabric.cards[host]:
            world.fabric.hardware(host, each)
    before = _whole(world)

    async def work() -> None:
        for _ in range(2):
            assert not await faults.inject(power, name, "node1", card, "L1a")
            listed = [(each["fault"], each["host"], each["card"]) for each in faults.active(power)]
            assert listed == [(name, "node1", card)]
        assert _whole(world) != before or any(world.hbm.values()) or not all(node.up for node in world.nodes.values())
        assert [each["fault"] for each in await faults.clear(power, None, None, None)] == [name]

    asyncio.run(work())
    assert faults.active(power) == []
    assert _whole(world) == before
    assert all(node.up for node in world.nodes.values())
    assert not any(world.hbm.values())


def test_what_a_direct_cable_cannot_have_is_skipped_with_its_reason(power: Power) -> None:
    said = {
        name: asyncio.run(faults.inject(power, name, "node1", 0, "L1a"))
        for name, fault in FAULTS.items()
        if "direct" in fault.skip
    }
    assert said["optics-absent"] == "a copper cable has no optical module"
    assert all(said.values())
    assert faults.active(power) == []


def test_the_technician_mends_only_what_needs_hands(power: Power) -> None:
    async def work() -> None:
        for name in ("link-down", "gateway-missing", "health-alarm"):
            await faults.inject(power, name, "node1", 3, "L1a")
        with pytest.raises(TwinError, match="gateway-missing is no work for a technician"):
            await faults.hands(power, "gateway-missing", None, None)
        with pytest.raises(TwinError, match="no fault card-lost is there"):
            await faults.hands(power, "card-lost", None, None)
        assert [each["fault"] for each in await faults.hands(power, "link-down", None, None)] == ["link-down"]
        assert [each["fault"] for each in await faults.hands(power, None, None, None)] == ["health-alarm"]

    asyncio.run(work())
    assert [each["fault"] for each in faults.active(power)] == ["gateway-missing"]


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("link-admin-down", "-link -g", "link status: DOWN"),
        ("speed-low", "-speed -g", "Speed: 100000 Mb/s"),
        ("fec-off", "-fec -g", "fec mode: no FEC mode"),
        ("mtu-mismatch", "-mtu -g", "mtu:1280"),
        ("mtu-mismatch", "-ping -g address 192.168.11.203 pkt 1400", "Message too long"),
        ("mask-wrong", "-ip -g", "netmask:255.255.255.252"),
        ("gateway-other-segment", "-gateway -g", "default gateway:172.31.9.1, Iface:eth3"),
        ("netdetect-self", "-net_health -g", "net health status: Success"),
        ("health-thread-error", "-net_health -g", "net health status: Thread error"),
        ("health-detect-ip-set", "-net_health -g", "net health status: Detect ip set"),
        ("cable-in-switch", "-lldp -g", "Ifname: 400GE1/1/2:2"),
        ("link-flapping", "-link_stat -g", "[devid 3]link down count     : 7"),
        ("bit-errors", "-stat -g", "mac_rx_fcs_err_pkt_num:101"),
        ("link-lossy", "-ping -g address 192.168.11.203", "3 packets transmitted, 2 received, 33.33% packet loss"),
        ("link-one-way", "-ping -g address 192.168.11.203", "3 packets transmitted, 0 received, 100.00% packet loss"),
        ("cables-swapped", "-ping -g address 192.168.11.203", "3 packets transmitted, 0 received, 100.00% packet loss"),
        ("cables-swapped", "-ping -g address 192.168.11.204", "3 packets transmitted, 3 received, 0.00% packet loss"),
        ("tool-denied", "-link -g", "permission denied: pls check this cmd run permission."),
        ("tool-busy", "-link -g", "hccn_tool is busy, please try again."),
    ],
)
def test_words_of_the_tool(power: Power, call: Call, name: str, line: str, words: str) -> None:
    asyncio.run(faults.inject(power, name, "node1", 3 if FAULTS[name].needs_card else None, "L1a"))
    reply = call(hccn_tool, "node1", f"hccn_tool -i 3 {line}")
    assert words in str(reply.out) + str(reply.err)


def test_a_new_cable_ends_the_flaps_of_both_ends_also_while_the_other_host_is_off(power: Power, call: Call) -> None:
    asyncio.run(faults.inject(power, "link-flapping", "node2", 3, "L1a"))
    asyncio.run(faults.inject(power, "host-down", "node2", None, "L1a"))
    said = str(call(hccn_tool, "node1", "hccn_tool -i 3 -link_stat -g").out)
    assert said.splitlines()[4].endswith("LINK DOWN")
    asyncio.run(faults.hands(power, "link-flapping", "node2", 3))
    said = str(call(hccn_tool, "node1", "hccn_tool -i 3 -link_stat -g").out)
    assert "link up count       : 1" in said
    assert "link down count     : 1" in said


def test_counters_rise_between_two_reads_only_on_a_bad_link(power: Power, call: Call) -> None:
    asyncio.run(faults.inject(power, "link-lossy", "node1", 3, "L1a"))

    def counts(card: int) -> dict[str, int]:
        lines = str(call(hccn_tool, "node1", f"hccn_tool -i {card} -stat -g").out).splitlines()[1:]
        return {name: int(value) for name, _, value in (line.partition(":") for line in lines)}

    def risen(card: int) -> set[str]:
        first = counts(card)
        return {name for name, value in counts(card).items() if value > first[name]}

    assert "roce_new_pkt_rty_num" in risen(3)
    assert risen(2)
    assert {name for name in risen(2) if "err" in name or "rty" in name or "bad" in name} == set()


def test_a_one_way_loss_leaves_the_other_way(power: Power, call: Call) -> None:
    asyncio.run(faults.inject(power, "link-one-way", "node1", 3, "L1a"))
    back = call(hccn_tool, "node2", "hccn_tool -i 3 -ping -g address 192.168.11.103")
    assert back.code == 0
    assert power.world.fabric.health("node1", 3) == "Receive timeout"
    assert power.world.fabric.health("node2", 3) == "Success"
    assert not power.world.fabric.reachable("192.168.11.203", "192.168.11.103")  # collectives need both ways


def test_recovery_starts_a_stuck_detection_again(power: Power, call: Call) -> None:
    asyncio.run(faults.inject(power, "health-unreachable", "node1", 3, "L1a"))
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -cfg recovery").out == "dev:3 recovery success\n"
    assert faults.active(power) == []


def test_garbage_is_bytes_that_are_no_text(power: Power, world: World) -> None:
    asyncio.run(faults.inject(power, "tool-garbage", "node1", 3, "L1a"))
    reply = asyncio.run(hccn_tool(ToolCall(world, world.nodes["node1"], ["hccn_tool", "-i", "3", "-ip", "-g"])))
    assert isinstance(reply.out, str)
    with pytest.raises(UnicodeEncodeError):
        reply.out.encode()
