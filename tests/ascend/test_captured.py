"""Whole captures of other machines: what they say, and that nothing is made of what they do not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runbook_lib.ascend.captured import TOOLS, Parsed, parse_text
from runbook_lib.errors import UsageError

DATA = Path(__file__).parent / "data"
REFUSED = {"docker.version.down", "hccn_tool.link.busy", "npu-smi.info.driver", "mixed..session"}
GOOD = [path.stem for path in sorted(DATA.glob("*.txt")) if path.stem not in REFUSED]


def capture(name: str) -> tuple[str, str, str]:
    tool = next(tool for tool in TOOLS if name.startswith(f"{tool}."))
    return tool, name[len(tool) + 1 :].partition(".")[0], (DATA / f"{name}.txt").read_bytes().decode()


def parsed(name: str) -> Parsed:
    tool, subcommand, text = capture(name)
    return parse_text(tool, text, subcommand)


def answer(result: Parsed, position: int = 0) -> Any:
    return result.facts["answers"][position]


@pytest.mark.parametrize("name", GOOD)
def test_good_capture_is_read_whole(name: str) -> None:
    """With its subcommand, without it, with Windows line ends, and as part of a terminal."""
    tool, subcommand, text = capture(name)
    whole = parse_text(tool, text, subcommand)
    assert whole.problems == ()
    for again in (parse_text(tool, text), parse_text(tool, text.replace("\n", "\r\n"), subcommand)):
        assert (again.problems, again.facts) == ((), whole.facts)
    assert parse_text("mixed", text).problems == ()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refusal_is_not_ok(name: str) -> None:
    assert not parsed(name).ok


VALUES = {
    "hccn_tool.ip.plain": {"address": "172.21.9.118", "netmask": "255.255.240.0"},
    "hccn_tool.ip.inet6": {"address": "fd00:21::118", "netmask": "64"},
    "hccn_tool.ip.banner": {"address": "172.21.9.119", "netmask": "255.255.240.0"},
    "hccn_tool.gateway.old": {"address": "172.21.0.1", "iface": "eth11"},
    "hccn_tool.gateway.new": {"address": "172.21.0.1", "iface": None},
    "hccn_tool.gateway.none": None,
    "hccn_tool.netdetect.old": "172.21.0.1",
    "hccn_tool.netdetect.new": "172.21.0.2",
    "hccn_tool.netdetect.unset": None,
    "hccn_tool.net_health.case": "Success",
    "hccn_tool.net_health.timeout": "Receive timeout",
    "hccn_tool.link.down": False,
    "hccn_tool.speed.full": 200000,
    "hccn_tool.duplex.full": "full",
    "hccn_tool.fec.rs": "rs",
    "hccn_tool.mtu.jumbo": 4200,
    "hccn_tool.mac.upper": "3c:15:fb:0a:77:e1",
    "hccn_tool.bandwidth.idle": {"tx_mb_s": 3.07, "rx_mb_s": 12.4},
    "hccn_tool.vnic.up": {"up": True, "address": "192.168.2.199", "netmask": "255.255.255.0"},
    "hccn_tool.version.both": {"driver": "24.1.0.3", "firmware": "7.5.0.1.129"},
    "hccn_tool.pci.bdf": "0000:81:00.0",
    "hccn_tool.shaping.limits": {"bw_limit": 150000, "bw_max": 200000},
    "hccn_tool.udp.custom": 4791,
    "hccn_tool.cfg.recovery": True,
    "hccn_tool.set.done": True,
    "hccn_tool.tls.none": None,
    "hccn_tool.optical.copper": {"present": False, "values": {}},
    "hccn_tool.hw_stats.one": {"pd_alloc": 3, "mr_alloc": 41},
    "hccn_tool.lldp.full": {
        "ifname": "400GE2/0/31:2", "chassis_mac": "9c:71:3a:44:20:0d", "system": "LEAF-07",
    },
    "hccn_tool.lldp.grep": {"ifname": "400GE2/0/31:2", "chassis_mac": None, "system": None},
    "npu-smi.l.servers": {"total": 2, "ids": [0, 1]},
    "npu-smi.proc-mem.a3": [
        {"chip": 0, "processes": []},
        {"chip": 1, "processes": [{"pid": 448812, "name": "python3.11", "memory_mb": 51234}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_value(name: str, value: Any) -> None:
    seen = answer(parsed(name))
    assert (seen["value"], seen["state"]) == (value, "unset" if value is None else "set")


def test_cards_named_by_the_answer_itself() -> None:
    names = ("hccn_tool.tls.grep", "hccn_tool.link_stat.devid", "hccn_tool.ping.good", "npu-smi.board.card")
    assert [answer(parsed(name))["card"] for name in names] == [6, 12, 9, 5]


def test_tls_with_certificates() -> None:
    value = answer(parsed("hccn_tool.tls.certs"))["value"]
    assert (value["switch"], value["preconfigured"], value["alarm_days"]) == (0, 1, 60)
    assert value["fields"]["pub cert"]["end_time"] == "Jan  5 08:00:00 2035 GMT"
    expired = answer(parsed("hccn_tool.tls.expired"))["value"]["fields"]
    assert [expired[cert]["tls expiration status"] for cert in ("pub cert", "ca1 cert")] == ["0", "2"]


def test_optical_numbers_have_units() -> None:
    values = answer(parsed("hccn_tool.optical.module"))["value"]["values"]
    assert values["Rx Power0"] == {"number": 0.9932, "unit": "mW"}
    assert values["Tx Los Flag"] == "0x0"


def test_table_of_a3_with_two_chips_a_card() -> None:
    value = answer(parsed("npu-smi.info.a3"))["value"]
    chips = [(card["id"], card["chip"], card["phy_id"], card["power_w"]) for card in value["cards"]]
    assert chips == [(0, 0, 0, 163.2), (0, 1, 1, None), (1, 0, 2, 163.2), (1, 1, 3, None)]
    assert value["cards"][0]["processes"] == []
    assert value["cards"][3]["processes"][0]["pid"] == 9921


def test_table_of_a_busy_host() -> None:
    value = answer(parsed("npu-smi.info.b4_busy"))["value"]
    first, second = value["cards"]
    assert (first["name"], first["hbm_used_mb"], first["hbm_total_mb"]) == ("910B4", 31011, 32768)
    assert first["processes"][0]["memory_mb"] == 28210
    assert (second["name"], second["health"], second["processes"]) == ("910B4-1", "Alarm", [])
    assert value["warnings"] == ["[WARNING]The driver package may not be completely installed."]


def test_health_says_codes_only_when_it_shows_them() -> None:
    value = answer(parsed("npu-smi.health.alarm"))["value"]
    assert (value["status"], value["codes"]) == ("Alarm", ["80E18402", "80CB8009"])
    assert answer(parse_text("npu-smi", "\tHealth Status : OK\n", "health"))["value"]["codes"] is None


def test_values_of_one_kind_are_typed() -> None:
    usages = answer(parsed("npu-smi.usages.card"))
    assert (usages["card"], usages["value"]["sections"][0]["HBM Capacity(MB)"]) == (3, 65536)
    common = answer(parsed("npu-smi.common.card"))["value"]["sections"]
    assert [section["Temperature(C)"] for section in common] == [51, 39]


def test_conf_values_are_typed() -> None:
    facts = parsed("hccn.conf..two").facts
    assert facts["cards"]["0"]["send_arp_status"] == 1
    assert facts["cards"]["1"]["address"] == "172.21.9.119"
    assert facts["other"]["udhcpc_enable"] == 0


def test_both_forms_of_the_rank_table() -> None:
    old, new = parsed("rank-table..two").facts, parsed("rank-table..pods").facts
    assert (old["version"], old["servers"][1]["devices"][1]["rank_id"]) == ("1.0", 3)
    assert new["super_pods"] == [{"super_pod_id": "3", "server_ids": ["10.61.0.5", "10.61.0.6"]}]
    assert new["servers"][0]["devices"][0]["super_device_id"] == "77000"


def test_rank_table_with_a_placeholder_names_its_line() -> None:
    text = (DATA / "rank-table..two.txt").read_text(encoding="utf-8").replace("172.21.5.11", "-.-.-.-")
    result = parse_text("rank-table", text)
    line = next(n for n, words in enumerate(text.splitlines(), 1) if "-.-.-.-" in words)
    assert [problem.line for problem in result.problems if "-.-.-.-" in problem.seen] == [line]
    assert not parse_text("rank-table", text.replace('"status"', '"version": "2", "status"')).ok


def test_docker_tables_for_people() -> None:
    rows = answer(parsed("docker.ps.table"))["value"]
    assert [(row["names"], row["state"]) for row in rows] == [(["mindie-a"], "running"), (["old"], "exited")]
    assert answer(parsed("docker.images.table"))["value"][0]["tag"] == "2.0.T3"
    assert answer(parsed("docker.info.plain"))["value"]["default_runtime"] == "ascend"


@pytest.mark.parametrize("kind", ["driver", "firmware", "os", "install", "toolkit"])
def test_version_files_are_told_apart(kind: str) -> None:
    name = next(name for name in GOOD if name.startswith(f"versions.{kind}"))
    assert parse_text("versions", capture(name)[2]).facts["kind"] == kind
    wrong = "os" if kind == "driver" else "driver"
    assert not parse_text("versions", capture(name)[2], wrong).ok


def test_logs() -> None:
    plog = parsed("plog..link").facts
    assert (plog["lines"], plog["error_count"], plog["first_error"]["line"]) == (4, 3, 2)
    assert plog["link_errors"][0]["dest_ip"] == "172.21.9.118"
    assert parsed("mindie..endpoint").facts["first_error"]["code"] == "MIE04E02011C"
    assert not parse_text("plog", "hello\n").ok
    assert not parse_text("plog", "").ok


NOT_VALUES = [
    ("hccn_tool", "mtu", "mtu:15"),
    ("hccn_tool", "mtu", "mtu:1500\nmtu:9000\n"),
    ("hccn_tool", "mtu", "mtu:1500\nmtu:\n"),
    ("hccn_tool", "ip", "ipaddr:10.20.0.1\nnetmask:255.255.25"),
    ("hccn_tool", "ip", "ipaddr:10.20.0.1\nnetmask:255.255.250.0\n"),
    ("hccn_tool", "gateway", "default gateway:10.20.0.1"),
    ("hccn_tool", "gateway", "default gateway:10.20.0.1, Iface:eth1"),
    ("hccn_tool", "netdetect", "netdetect addr: 10.20.0.25"),
    ("hccn_tool", "speed", "Speed: 20000"),
    ("hccn_tool", "net_health", "net health status: Succes\n"),
    ("hccn_tool", "net_health", "net health status: Success\nnet health status: Fault\n"),
    ("hccn_tool", "tls", "dev_id:0, tls switch[0"),
    ("hccn_tool", "tls", "dev_id:0, tls switch[0](x)\ndev_id:0, tls switch[1](x)\n"),
    ("hccn_tool", "lldp", "\tIfname: 400GE1/0/1"),
    ("hccn_tool", "lldp", ""),
    ("hccn_tool", "link", "link status: U\n"),
    ("hccn_tool", "link", "net health status: Success\n"),
    ("hccn_tool", "no_such", "link status: UP\n"),
    ("npu-smi", "l", "\tTotal Count : 8\n\tNPU ID : 0\n"),
    ("npu-smi", "health", "\tHealth Status : Fine\n"),
    ("npu-smi", "proc-mem", "\tProcess id:12 Process name:x Process memory(MB):4"),
    ("docker", "info", "json\n"),
    ("docker", "", "hello\n"),
]


@pytest.mark.parametrize(("tool", "subcommand", "text"), NOT_VALUES)
def test_what_is_half_or_says_two_things_is_no_value(tool: str, subcommand: str, text: str) -> None:
    result = parse_text(tool, text, subcommand)
    assert not result.ok
    assert [each["value"] for each in result.facts["answers"] if each["value"] is not None] == []


@pytest.mark.parametrize(
    ("subcommand", "text"),
    [
        ("mtu", "mtu:9000"),
        ("netdetect", "netdetect addr: 10.20.0.99"),
        ("gateway", "default gateway:10.20.0.1, Iface:eth7"),
        ("link", "link status: UP"),
        ("ip", "ipaddr:10.20.0.1\nnetmask:255.255.255.0"),
    ],
)
def test_a_missing_line_end_is_no_harm_where_nothing_can_follow(subcommand: str, text: str) -> None:
    assert parse_text("hccn_tool", text, subcommand).ok


def test_lines_that_nobody_understands_are_named() -> None:
    result = parse_text("hccn_tool", "link status: UP\nsomething else\n", "link")
    assert (result.ok, answer(result)["value"]) == (False, True)
    assert [(problem.line, problem.seen) for problem in result.problems] == [(2, "something else")]


def test_table_without_its_last_frame_is_cut() -> None:
    text = (DATA / "npu-smi.info.b1_four.txt").read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    for end in (7, 8, len(lines) - 1, len(lines) - 2, len(lines) - 3):
        assert not parse_text("npu-smi", "".join(lines[:end]), "info").ok
    shortened = "".join([*lines[:-1], lines[-1][:40]])
    assert not parse_text("npu-smi", shortened, "info").ok


def test_two_tables_that_differ_leave_the_difference_unknown() -> None:
    text = (DATA / "npu-smi.info.b1_four.txt").read_text(encoding="utf-8")
    card = answer(parse_text("npu-smi", text + text.replace("| OK ", "| Alarm "), "info"))["value"]["cards"][0]
    assert (card["health"], card["hbm_used_mb"]) == (None, 4175)


def test_rows_on_both_sides_of_an_elision_are_not_joined() -> None:
    lines = (DATA / "npu-smi.info.b1_four.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    cut = [*lines[:7], "......\n", *lines[11:]]  # the first row of card 0, the second row of card 1
    result = parse_text("npu-smi", "".join(cut), "info")
    assert not result.ok
    assert answer(result)["value"]["cards"][0]["hbm_used_mb"] is None


def test_a_tool_without_parser() -> None:
    with pytest.raises(UsageError):
        parse_text("nvidia-smi", "")


def test_facts_are_plain_json() -> None:
    for name in [*GOOD, *REFUSED]:
        json.dumps(parsed(name).facts)
