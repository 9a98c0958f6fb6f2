"""The emulated hccn_tool: words, streams, codes, and that it tells one consistent story."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook_lib.params import load_params
from runbook_lib.twin.disk import make_disk
from runbook_lib.twin.tools.hccn_get import GETS
from runbook_lib.twin.tools.hccn_tool import hccn_tool
from runbook_lib.twin.world import Reply, ToolCall, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.twin.conftest import Rig

    Call = Callable[..., Reply]

DONE = Reply(0, "Cmd executed successfully!\n")


def _usage(word: str, needs: str) -> str:
    return f"[ hccn_tool -i devid {word} ] needs the following parameters:\n{needs}\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("-ip -g", Reply(13, "", "Get ipconf failed, because no ip was preset there!\n")),
        ("-gateway -g", Reply(2, "", "Get gateway failed, because no gateway was preset there!\n")),
        ("-netdetect -g", Reply(0, "netdetect address: 0.0.0.0\n")),
        ("-net_health -g", Reply(0, "net health status: Init\n")),
        ("-link -g", Reply(0, "link status: UP\n")),
        ("-lldp -g", Reply(0, "")),
        ("-speed -g", Reply(0, "Speed: 200000 Mb/s\n")),
        ("-mtu -g", Reply(0, "mtu:1500\n")),
        ("-fec -g", Reply(0, "fec mode: rs FEC mode\n")),
        ("-optical -g", Reply(0, "optical info:\npresent              : not present\n")),
        (
            "-gateway -s gateway 192.168.11.103",
            Reply(26, "", "Unable to configure gateway, because ip is not configured!\n"),
        ),
        ("-ip -s address 1.2.3 netmask 255.0.0.0", Reply(6, "", "The ip address you configured is invalid!\n")),
        ("-netdetect -s address foo", Reply(6, "", "The ip address you configured is invalid!\n")),
        (
            "-ip -s address 192.168.11.103",
            Reply(
                4,
                "",
                "The total count of input parameters is wrong!\n" + _usage("-ip", "-g\n-s address <ip> netmask <mask>"),
            ),
        ),
        ("-tls -s enable 2", Reply(1, "", "Get invalid parameters!\n" + _usage("-tls", "-g\n-s enable <0|1>"))),
        ("-mtu -s size 9999", Reply(1, "", "Get invalid parameters!\n" + _usage("-mtu", "-g\n-s size <68~9702>"))),
        ("-link", Reply(2, "", "Get invalid major cmd number. Please check your input.\n")),
        ("-nonsense -g", Reply(3, "", "Get invalid major cmd.\n")),
        ("-link -x", Reply(1, "", "Get unknown option!\n")),
        ("-cfg recovery", Reply(0, "dev:3 recovery success\n")),
    ],
)
def test_words_and_codes_on_a_bare_card(call: Call, line: str, reply: Reply) -> None:
    assert call(hccn_tool, "node1", f"hccn_tool -i 3 {line}") == reply


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("hccn_tool -link -g", 1, 'Get invalid major cmd type. The valid major cmd type should be "-a" or "-i".\n'),
        ("hccn_tool -i 16 -link -g", 4, "Get invalid device id.\n"),
        ("hccn_tool -i x -link -g", 4, "Get invalid device id.\n"),
        ("hccn_tool -i 8 -link -g", 4, "The device is not exist!\n"),
    ],
)
def test_wrong_device(call: Call, line: str, code: int, words: str) -> None:
    reply = call(hccn_tool, "node1", line)
    assert (reply.code, reply.out) == (code, "")
    assert str(reply.err).startswith(words)


def test_set_is_live_and_in_the_file(call: Call, world: World) -> None:
    set_ip = "hccn_tool -i 3 -ip -s address 192.168.11.103 netmask 255.255.255.0"
    assert call(hccn_tool, "node1", set_ip) == DONE
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -gateway -s gateway 192.168.11.103") == DONE
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -ip -g").out == "ipaddr:192.168.11.103\nnetmask:255.255.255.0\n"
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -gateway -g").out == "default gateway:192.168.11.103, Iface:eth3\n"
    text = (world.nodes["node1"].files / "etc/hccn.conf").read_text()
    assert text == "address_3=192.168.11.103\nnetmask_3=255.255.255.0\ngateway_3=192.168.11.103\n"


def test_another_segment_drops_the_gateway_live_and_in_the_file(call: Call, world: World) -> None:
    test_set_is_live_and_in_the_file(call, world)
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -gateway -s gateway 10.0.0.1") == Reply(
        8, "", "The segment of configured gateway doesn't match that of the configured ip adress!\n"
    )
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -ip -s address 10.0.0.3 netmask 255.255.255.0") == DONE
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -gateway -g").code == 2
    assert "gateway_3" not in (world.nodes["node1"].files / "etc/hccn.conf").read_text()


def test_an_address_of_another_card_of_the_host_conflicts(call: Call) -> None:
    call(hccn_tool, "node1", "hccn_tool -i 3 -ip -s address 192.168.11.103 netmask 255.255.255.0")
    assert call(hccn_tool, "node1", "hccn_tool -i 4 -ip -s address 192.168.11.103 netmask 255.255.255.0") == Reply(
        7, "", "The ip address configured is conflicted!\n"
    )


def test_the_file_keeps_comments_and_what_it_does_not_know(call: Call, world: World) -> None:
    conf = world.nodes["node1"].files / "etc/hccn.conf"
    conf.write_text("# ours\nsend_arp_status_0=1\naddress_3=1.1.1.1\n")
    call(hccn_tool, "node1", "hccn_tool -i 3 -ip -s address 192.168.11.103 netmask 255.255.255.0")
    assert conf.read_text() == "# ours\nsend_arp_status_0=1\naddress_3=192.168.11.103\nnetmask_3=255.255.255.0\n"


def _pair(call: Call, *, gateway: bool) -> None:
    for host, own, peer in (("node1", 103, 203), ("node2", 203, 103)):
        call(hccn_tool, host, f"hccn_tool -i 3 -ip -s address 192.168.11.{own} netmask 255.255.255.0")
        if gateway:
            call(hccn_tool, host, f"hccn_tool -i 3 -gateway -s gateway 192.168.11.{own}")
        call(hccn_tool, host, f"hccn_tool -i 3 -netdetect -s address 192.168.11.{peer}")


def _health(call: Call, world: World, host: str) -> str:
    time.sleep(2.1 / world.time_factor)
    return str(call(hccn_tool, host, "hccn_tool -i 3 -net_health -g").out).removeprefix("net health status: ").strip()


def test_health_goes_from_init_over_set_to_success(call: Call, world: World) -> None:
    assert _health(call, world, "node1") == "Init"
    _pair(call, gateway=True)
    world.fabric.set_netdetect("node1", 3, "192.168.11.203")
    assert world.fabric.health("node1", 3) == "Detect ip set"
    assert _health(call, world, "node1") == "Success"


@pytest.mark.parametrize("broken", ["no gateway", "vnic", "peer without address", "cable"])
def test_health_fails_for_every_reason(call: Call, world: World, broken: str) -> None:
    _pair(call, gateway=broken != "no gateway")
    if broken == "vnic":
        call(hccn_tool, "node1", "hccn_tool -i 3 -netdetect -s address 192.168.1.2")
    elif broken == "peer without address":
        world.fabric.set_ip("node2", 3, "", "")
    elif broken == "cable":
        world.fabric.hardware("node2", 3)["unplugged"] = True
    assert _health(call, world, "node1") == ("Fault" if broken == "cable" else "Receive timeout")


def test_ping_crosses_the_cable_only(call: Call) -> None:
    _pair(call, gateway=False)
    call(hccn_tool, "node2", "hccn_tool -i 4 -ip -s address 192.168.11.204 netmask 255.255.255.0")
    assert call(hccn_tool, "node1", "hccn_tool -i 3 -ping -g address 192.168.11.203").out == (
        "device 3 PING 192.168.11.203\nrecv seq=0,time=1.418000ms\nrecv seq=1,time=0.034000ms\n"
        "recv seq=2,time=0.040000ms\n3 packets transmitted, 3 received, 0.00% packet loss\n"
    )
    lost = call(hccn_tool, "node1", "hccn_tool -i 3 -ping -g address 192.168.11.204 pkt 1000")
    assert lost.code == 1
    assert "recv time out seq=2\n3 packets transmitted, 0 received, 100.00% packet loss\n" in str(lost.out)


def test_ping_with_the_cable_out(call: Call, world: World) -> None:
    _pair(call, gateway=False)
    world.fabric.hardware("node1", 3)["unplugged"] = True
    assert call(hccn_tool, "node2", "hccn_tool -i 3 -ping -g address 192.168.11.103") == Reply(
        1, "", "Execute failed: Link status is down.\n"
    )


def test_tls_of_the_second_bare_host_is_on(call: Call) -> None:
    assert "dev_id:0, tls switch[0](" in str(call(hccn_tool, "node1", "hccn_tool -i 0 -tls -g").out)
    assert "dev_id:7, tls switch[1](" in str(call(hccn_tool, "node2", "hccn_tool -i 7 -tls -g").out)


def test_link_record_names_the_flaps_newest_first(call: Call, world: World) -> None:
    for up in (False, True):
        before = world.fabric.links()
        world.fabric.hardware("node1", 3)["unplugged"] = not up
        world.fabric.note_links(before)
    lines = str(call(hccn_tool, "node2", "hccn_tool -i 3 -link_stat -g").out).splitlines()
    assert lines[1:3] == ["[devid 3]link up count       : 1", "[devid 3]link down count     : 1"]
    assert [line.split()[-1] for line in lines[4:]] == ["UP", "DOWN"]


def test_a_call_during_another_one_is_refused(world: World) -> None:
    async def both() -> list[Reply]:
        calls = [
            ToolCall(world, world.nodes["node1"], ["hccn_tool", "-i", str(card), "-link", "-g"]) for card in (0, 1)
        ]
        other = ToolCall(world, world.nodes["node2"], ["hccn_tool", "-i", "0", "-link", "-g"])
        return list(await asyncio.gather(*map(hccn_tool, [*calls, other])))

    first, second, other = asyncio.run(both())
    assert (first.code, other.code) == (0, 0)
    assert second == Reply(11, "hccn_tool is busy, please try again.\n")


def test_through_the_shim_streams_and_codes_are_kept(rig: Rig) -> None:
    ran = rig.run("node1", "hccn_tool -i 0 -ip -g; echo code $?")
    assert (ran.out, ran.err) == ("code 13\n", "Get ipconf failed, because no ip was preset there!\n")


def test_busy_through_the_shim(rig: Rig) -> None:
    for host, last in (("node1", 100), ("node2", 200)):
        rig.run(host, f"hccn_tool -i 0 -ip -s address 192.168.11.{last} netmask 255.255.255.0")
    slow = "hccn_tool -i 0 -ping -g address 192.168.11.9 >/dev/null 2>&1 & sleep 0.03; "
    ran = rig.run("node1", f"{slow} hccn_tool -i 1 -link -g; echo $?; wait")
    assert ran.out == "hccn_tool is busy, please try again.\n11\n"


def test_behind_a_switch(tmp_path: Path) -> None:
    """Every card sees its switch port, the gateway answers, and cards of different hosts reach each other."""
    world = World(load_params(Path(__file__).parents[2] / "params/twin-4x8-switch.yaml"), tmp_path)
    ports = set()
    for host in world.params.cluster.hosts:
        node = world.nodes[host.name]
        make_disk(node, world.params, ())
        node.up = True
    for host in world.params.cluster.hosts:
        for card in host.cards:
            world.fabric.set_ip(host.name, card.id, card.ip, card.netmask)
            world.fabric.cards[host.name][card.id].gateway = card.gateway or ""
            world.fabric.set_netdetect(host.name, card.id, card.gateway or "")
            world.fabric.cards[host.name][card.id].netdetect_at = -1e9
            lldp = str(GETS["-lldp"](world.fabric, host.name, card.id))
            ports.add(next(line.strip() for line in lldp.splitlines() if "Ifname" in line))
    names = list(world.nodes)
    assert len(ports) == 32
    assert ports >= {"Ifname: 400GE1/1/1:1", "Ifname: 400GE1/1/16:2"}
    assert {world.fabric.health(name, card) for name in names for card in range(8)} == {"Success"}
    first, last = world.fabric.cards[names[0]][0].ip, world.fabric.cards[names[3]][7].ip
    assert world.fabric.reachable(first, last)
    world.fabric.cards[names[3]][7].ip = first
    assert not world.fabric.reachable(first, world.fabric.cards[names[1]][1].ip)


def test_roce_test_between_two_cards(world: World) -> None:
    """The server waits for its client; both print the same report."""
    for host, last in (("node1", 103), ("node2", 203)):
        world.fabric.set_ip(host, 3, f"192.168.11.{last}", "255.255.255.0")
    words = "hccn_tool -i 3 -roce_test ib_send_bw -s 1024 -n 1000 -tcp"

    async def work() -> list[Reply]:
        server = asyncio.create_task(hccn_tool(ToolCall(world, world.nodes["node1"], words.split())))
        await asyncio.sleep(0.05)
        again = await hccn_tool(ToolCall(world, world.nodes["node1"], words.split()))
        line = f"{words} address 192.168.11.103"
        client = await hccn_tool(ToolCall(world, world.nodes["node2"], line.split()))
        alone = await hccn_tool(ToolCall(world, world.nodes["node2"], line.split()))
        return [await server, client, again, alone]

    server, client, again, alone = asyncio.run(work())
    assert server == client
    assert str(client.out).startswith("roce_report:\n---")
    assert again == Reply(1, "Roce perftest is doing, please try later.\n")
    assert "Couldn't connect to 192.168.11.103:18515" in str(alone.out)
    assert asyncio.run(hccn_tool(ToolCall(world, world.nodes["node1"], words.replace("ib_send_bw", "x").split()))) == (
        Reply(1, "", "Get invalid parameters!\n")
    )
