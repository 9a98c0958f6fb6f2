"""npu-smi, df, free, date, systemctl and their like, in the formats of the real programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runbook_lib.twin.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.world import Reply, World

    Call = Callable[..., Reply]


def say(call: Call, line: str, host: str = "node1") -> str:
    """Return what a tool prints; it must succeed."""
    reply = call(TOOLS[line.split(maxsplit=1)[0]], host, line)
    assert (reply.code, reply.err) == (0, "")
    return str(reply.out)


def test_npu_smi_table_of_an_idle_host(call: Call) -> None:
    lines = say(call, "npu-smi info").splitlines()
    assert {len(line) for line in lines} == {98}
    assert lines[1] == f"| {'npu-smi 24.1.0':<32} {'Version: 24.1.0':<61} |"
    assert (
        lines[6] == "| 0     910B3               | OK            | 92.0        40                0    / 0             |"
    )
    assert (
        lines[7] == "| 0                         | 0000:C1:00.0  | 0           0    / 0          3314 / 65536         |"
    )
    assert sum("No running processes found in NPU" in line for line in lines) == 8


def test_npu_smi_rows_of_a_held_card(call: Call, world: World) -> None:
    world.hbm[("node1", 2)] = {4242: 56373}
    text = say(call, "npu-smi info")
    assert (
        "| 2       0                 | 4242          |                          | 56373                   |\n" in text
    )
    assert "59689/ 65536" in text
    assert "found in NPU 2" not in text
    assert {len(line) for line in text.splitlines()} == {98}


def test_npu_smi_forms(call: Call, world: World) -> None:
    assert say(call, "npu-smi info -t health -i 0 -c 0").splitlines()[0] == "\tHealth Status                  : OK"
    assert "Software Version               : 24.1.0\n" in say(call, "npu-smi info -t board -i 7")
    assert say(call, "npu-smi info -m").count("Mcu") == 8
    assert "HBM Usage Rate(%)              : 5\n" in say(call, "npu-smi info -t usages -i 0")
    assert say(call, "npu-smi info -t topo").count("HCCS") == 8 * 7 + 2
    assert call(TOOLS["npu-smi"], "node1", "npu-smi info -t health -i 8").out == "Invalid card id.\n"
    for card in range(8):
        world.fabric.hardware("node1", card)["lost"] = True
    assert call(TOOLS["npu-smi"], "node1", "npu-smi info").out == "There is no NPU card on this server.\n"


def test_df_tells_the_data_disk_from_the_system_disk(call: Call) -> None:
    assert say(call, "df -P /data").splitlines()[1].split() == [
        "/dev/nvme0n1",
        "7501476528",
        "1884160",
        "7124518542",
        "1%",
        "/data",
    ]
    assert say(call, "df -B1 --output=avail,target /data").splitlines()[1].split() == ["7295506986599", "/data"]
    assert say(call, "df -h /root").splitlines()[1].split() == [
        "/dev/mapper/openeuler-root",
        "100G",
        "18G",
        "82G",
        "19%",
        "/",
    ]
    missing = call(TOOLS["df"], "node1", "df /nowhere")
    assert (missing.code, missing.err) == (1, "df: /nowhere: No such file or directory\n")


def test_df_counts_what_is_written(call: Call, world: World) -> None:
    (world.nodes["node1"].files / "data/big").write_bytes(b"x" * 3_000_000)
    used = int(say(call, "df -B1 --output=used /data").splitlines()[1]) - 1_884_160 * 1024
    assert 3_000_000 <= used < 3_100_000


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("uname -m", "aarch64\n"),
        ("uname -snm", "Linux node1 aarch64\n"),
        ("nproc", "192\n"),
        ("hostname", "node1\n"),
        ("hostname -I", "127.90.250.1 \n"),
        ("getenforce", "Disabled\n"),
        ("systemctl is-active docker", "active\n"),
        ("sysctl -n net.ipv4.ip_forward", "1\n"),
        ("date +plain", "plain\n"),
    ],
)
def test_one_line_answers(call: Call, line: str, text: str) -> None:
    assert say(call, line) == text


def test_free_units(call: Call) -> None:
    assert say(call, "free").splitlines()[:2] == [
        "               total        used        free      shared  buff/cache   available",
        "Mem:      2113462016    21233664  2053431040      102400    38797312  2092228352",
    ]
    assert say(call, "free -g").split()[7] == "2015"


def test_units_keep_their_state(call: Call, world: World) -> None:
    stopped = call(TOOLS["systemctl"], "node1", "systemctl is-active firewalld")
    assert (stopped.code, stopped.out) == (3, "inactive\n")
    say(call, "systemctl enable --now firewalld")
    assert say(call, "systemctl is-active firewalld") == "active\n"
    assert world.state["units"]["node1"]["firewalld"] == [True, True]
    assert call(TOOLS["systemctl"], "node2", "systemctl is-active firewalld").code == 3


def test_power_mode_is_a_real_file(call: Call, world: World) -> None:
    say(call, "cpupower frequency-set -g powersave")
    assert 'The governor "powersave"' in say(call, "cpupower frequency-info -p")
    say(call, "cpupower frequency-set -g performance")
    file = world.nodes["node1"].path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    assert file.read_text() == "performance\n"
