"""What each fault breaks, that it is over when repaired, and that nothing else changes."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import asyncssh
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


def test_a_leftover_process_can_be_killed_by_its_pid(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "hbm-held", "node1", 3)
    row = "npu-smi info | grep -E '^. 3 +0 +. [0-9]'"
    pid = healthy.run("node1", row).out.split()[4]
    assert healthy.run("node1", f"ps -o args= -p {pid}").out.startswith("mindie_llm_backend_server")
    ran = healthy.run("node1", f"kill {pid}; sleep 0.2; npu-smi info | grep -c 'found in NPU 3'")
    assert ran.out == "1\n"
    assert lifecycle.status(healthy.params, healthy.root).faults == []


def test_a_taken_port_shows_its_holder(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "port-taken", "node2", None)
    line = healthy.run("node2", "ss -Hlntp | grep :1025").out
    assert line.startswith("LISTEN")
    pid = line.partition("pid=")[2].partition(",")[0]
    healthy.run("node2", f"kill {pid}; sleep 0.2")
    assert lifecycle.status(healthy.params, healthy.root).faults == []


def test_a_reboot_mends_what_ends_with_the_power(healthy: Rig) -> None:
    for fault, card in (("dcmi-8005", None), ("hbm-dead-container", 3), ("health-unknown", 4)):
        lifecycle.inject(healthy.params, healthy.root, fault, "node1", card)
    assert healthy.run("node1", "npu-smi info; echo $?").out == "dcmi module initialize failed. ret is -8005\n250\n"
    lifecycle.reboot(healthy.params, healthy.root, "node1")
    assert lifecycle.status(healthy.params, healthy.root).faults == []
    # what hccn.conf does not hold is lost, the rest is there again
    assert healthy.run("node1", "hccn_tool -i 3 -ip -g; hccn_tool -i 3 -tls -g | grep -c 'switch.0'").out == (
        "ipaddr:192.168.11.103\nnetmask:255.255.255.0\n1\n"
    )


def test_the_host_reboots_at_its_own_command(healthy: Rig) -> None:
    before = lifecycle.status(healthy.params, healthy.root).hosts[1].boot_id
    healthy.run("node2", "reboot; sleep 5")
    for _ in range(100):
        host = lifecycle.status(healthy.params, healthy.root).hosts[1]
        if host.up and host.boot_id != before:
            break
        time.sleep(0.1)
    for _ in range(100):  # the card says Init and Detect ip set until its first detect packet came back
        said = healthy.run("node2", "hccn_tool -i 3 -net_health -g").out
        if said not in {"net health status: Init\n", "net health status: Detect ip set\n"}:
            break
        time.sleep(0.1)
    assert said == "net health status: Success\n"


def test_a_refused_login(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "login-refused", "node1", None)
    with pytest.raises(asyncssh.PermissionDenied):
        healthy.run("node1", "true")
    assert lifecycle.hands(healthy.params, healthy.root, "login-refused").mended[0]["host"] == "node1"
    assert healthy.run("node1", "echo in").out == "in\n"


def test_a_tool_that_is_not_installed(healthy: Rig) -> None:
    lifecycle.inject(healthy.params, healthy.root, "tool-missing", "node1", None)
    ran = healthy.run("node1", "/usr/local/Ascend/driver/tools/hccn_tool -i 0 -link -g; hccn_tool; echo $?")
    assert ran.out == "127\n"
    assert "No such file or directory" in ran.err


def test_a_full_disk_is_really_full(healthy: Rig) -> None:
    if lifecycle.status(healthy.params, healthy.root).level == "L0":
        pytest.skip("a host without namespaces has no disk of its own, as inject says")
    healthy.run(
        "node1", "mkdir -p /data/w; head -c 300000 /dev/urandom >/data/w/kept; sha256sum /data/w/kept >/root/sum"
    )
    lifecycle.inject(healthy.params, healthy.root, "disk-full", "node1", None)
    ran = healthy.run("node1", "df -B1 --output=avail /data | tail -1; head -c 4000000 /dev/zero >/data/w/more")
    assert int(ran.out) < 1_000_000
    assert "No space left on device" in ran.err
    assert healthy.run("node1", "rm /data/w/more; echo new >/data/w/new; sha256sum -c --quiet /root/sum").code == 0
    lifecycle.hands(healthy.params, healthy.root, "disk-full")
    ran = healthy.run("node1", "sha256sum -c --quiet /root/sum; ls /data/w; head -c 4000000 /dev/zero >/data/w/more")
    assert (ran.out, ran.err) == ("kept\nnew\n", "")
    healthy.run("node1", "rm -r /data/w")


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
    assert len(names) == len(set(names)) >= 45
    for fault in lifecycle.faults():
        # what shows nothing must at least hide something, or pass by itself
        assert fault.reports or fault.masks or fault.remedy == "none", fault.name
        assert fault.scope in {"host", "card", "pair"}
        assert fault.remedy in {"run", "command", "hands", "none"}
        assert bool(fault.hardware) + bool(fault.machine) + bool(fault.setting) + bool(fault.deed) == 1, fault.name
