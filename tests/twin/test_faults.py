"""What each fault breaks, that it is over when repaired, and that nothing else changes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import TwinError
from runbook_lib.twin import lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.twin.conftest import Rig


@pytest.fixture(scope="module")
def healthy(rig: Rig) -> Rig:
    """Return a twin whose cards are all set as a runbook would."""
    for host, own, peer in (("node1", 1, 2), ("node2", 2, 1)):
        lines = [
            f"hccn_tool -i {card} -{word} >/dev/null"
            for card in range(8)
            for word in (
                f"ip -s address 192.168.11.{own}0{card} netmask 255.255.255.0",
                f"gateway -s gateway 192.168.11.{own}0{card}",
                f"netdetect -s address 192.168.11.{peer}0{card}",
                "tls -s enable 0",
            )
        ]
        assert rig.run(host, " && ".join(lines)).code == 0
    return rig


@pytest.fixture(autouse=True)
def _mended(healthy: Rig) -> Iterator[None]:
    yield
    lifecycle.clear(healthy.params, healthy.root)


TLS_ON = (
    "dev_id:3, tls switch[1](0:disable, 1:enable), tls preconfigured[1](0:non-preset, 1:preset), "
    "tls alarm time threshold[60]days"
)
READ = (
    "sleep 0.06; for i in 2 3 4; do "
    "for w in link ip gateway netdetect net_health; do hccn_tool -i $i -$w -g; done; hccn_tool -i $i -tls -g | "
    "grep switch; done 2>&1; npu-smi info -t health -i 3 -c 0; npu-smi info -l | head -1"
)


def _diff(healthy: Rig, before: str) -> list[str]:
    after = healthy.run("node1", READ).out
    old, new = before.splitlines(), after.splitlines()
    return [line for line in new if line not in old]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (
            "gateway-missing",
            ["Get gateway failed, because no gateway was preset there!", "net health status: Receive timeout"],
        ),
        ("gateway-foreign", ["default gateway:192.168.11.254, Iface:eth3"]),
        ("netdetect-unset", ["netdetect address: 0.0.0.0", "net health status: Init"]),
        ("netdetect-vnic", ["netdetect address: 192.168.1.2", "net health status: Receive timeout"]),
        (
            "ip-missing",
            [
                "Get ipconf failed, because no ip was preset there!",
                "Get gateway failed, because no gateway was preset there!",
                "net health status: Receive timeout",
            ],
        ),
        (
            "ip-duplicate",
            [
                "ipaddr:192.168.11.203",
                "default gateway:192.168.11.203, Iface:eth3",
                "net health status: Receive timeout",
            ],
        ),
        (
            "tls-on",
            [TLS_ON],
        ),
        ("link-down", ["link status: DOWN", "net health status: Fault"]),
        (
            "health-alarm",
            [
                "\tHealth Status                  : Alarm",
                "\tError Code                     : 0x80CB8002",
                "\tError Information              : The HBM multi-bit ECC error count exceeds the threshold",
            ],
        ),
    ],
)
def test_a_fault_of_a_card_shows_on_that_card_only(healthy: Rig, fault: str, seen: list[str]) -> None:
    before = healthy.run("node1", READ).out
    assert before.count("net health status: Success") == 3
    status = lifecycle.inject(healthy.params, healthy.root, fault, "node1", 3)
    assert [(each["fault"], each["host"], each["card"]) for each in status.faults] == [(fault, "node1", 3)]
    assert _diff(healthy, before) == seen
    assert lifecycle.clear(healthy.params, healthy.root).faults == []
    assert healthy.run("node1", READ).out == before


def test_the_right_setting_repairs_it(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "gateway-missing", "node1", 3)
    healthy.run("node1", "hccn_tool -i 3 -gateway -s gateway 192.168.11.103")
    assert lifecycle.status(healthy.params, healthy.root).faults == []


def test_a_lost_card(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "card-lost", "node1", 3)
    ran = healthy.run("node1", "npu-smi info | grep -c 910B3; lspci | grep -c acce; hccn_tool -i 3 -link -g; echo $?")
    assert (ran.out, ran.err) == ("7\n7\n4\n", "The device is not exist!\n")


def test_a_hanging_tool_hangs_until_it_is_killed(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "tool-hangs", "node1", 3)
    script = "timeout -k 1 0.3 hccn_tool -i 3 -link -g; echo $?; sleep 0.05; hccn_tool -i 2 -link -g"
    assert healthy.run("node1", script).out == "124\nlink status: UP\n"


def test_a_clock_ahead(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "clock-skew", "node2", None)
    one, two = (int(healthy.run(host, "date +%s").out) for host in ("node1", "node2"))
    assert 94 <= two - one <= 98
    assert "System clock synchronized: no" in healthy.run("node2", "timedatectl").out


def test_a_host_that_is_off(healthy: Rig) -> None:
    status = lifecycle.inject(healthy.params, healthy.root, "host-down", "node2", None)
    assert [host.up for host in status.hosts] == [True, False]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((healthy.params.host("node2").address, 2222), timeout=2).close()
    assert healthy.run("node1", "hccn_tool -i 3 -link -g").out == "link status: DOWN\n"
    with pytest.raises(TwinError, match="node2 is switched off"):
        lifecycle.reboot(healthy.params, healthy.root, "node2")
    lifecycle.clear(healthy.params, healthy.root)
    assert healthy.run("node2", "hccn_tool -i 3 -ip -g").out == "ipaddr:192.168.11.203\nnetmask:255.255.255.0\n"


@pytest.mark.parametrize(
    ("fault", "host", "card", "says"),
    [
        ("nonsense", "node1", 0, "no fault 'nonsense'"),
        ("link-down", "node9", 0, "no host 'node9'"),
        ("link-down", "node1", None, "needs a card of node1"),
        ("link-down", "node1", 8, "needs a card of node1"),
    ],
)
def test_what_cannot_be_injected(healthy: Rig, fault: str, host: str, card: int | None, says: str) -> None:
    with pytest.raises(TwinError, match=says):
        lifecycle.inject(healthy.params, healthy.root, fault, host, card)


def test_the_list_is_complete() -> None:
    names = [fault.name for fault in lifecycle.faults()]
    assert len(names) == len(set(names)) >= 12
    assert all(fault.expected for fault in lifecycle.faults())
