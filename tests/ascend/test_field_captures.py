"""Forms of captures that once lost a fault or gave one card's answer to another. The values are made up."""

from __future__ import annotations

from typing import Any

import pytest

from runbook_lib.ascend.captured import Parsed, parse_text

UP, DOWN = "link status: UP\n", "link status: DOWN\n"
END = "[root@n1 ~]# \n"
FRAME = (
    "+---------------------------+---------------+----------------------------------------------------------------+\n"
)


def read(text: str) -> Parsed:
    return parse_text("mixed", text)


def answers(result: Parsed) -> list[Any]:
    return [each["value"] for each in result.facts["answers"]]


def by_card(result: Parsed) -> list[tuple[str, Any, Any]]:
    return [(each["host"], each["card"], each["value"]) for each in result.facts["answers"]]


def reasons(result: Parsed) -> list[str]:
    return [problem.reason for problem in result.problems]


def table(heading: str, rows: str, processes: str = "") -> str:
    return (
        f"{FRAME}| npu-smi 26.0.9  Version: 26.0.9 |\n{FRAME}| NPU Name | Health | Power(W) Temp(C) |\n"
        f"{heading}{FRAME}{rows}{FRAME}{processes}"
    )


@pytest.mark.parametrize(
    "typed",
    ["hccn_tool -i 4 -lnk\b \b\b \bink -g", "hccn_tool -i 4 -\b\x1b[K-link -g", "hccn_tool -i 9\b4 -link -g",
     "hccn_tool -i 4 -lonk -g\b\b\b\b\b\bi", "hccn_tool -i 9\x1b[0m\b4 -link -g",
     "hccn_tool -i 4 link -g\b\b\b\b\b\b\b-link -g", "\x1b[01;32m\x1b[00mhccn_tool -i 45\b\x1b[K -link -g"],
)  # fmt: skip
def test_what_was_typed_again_is_the_command(typed: str) -> None:
    result = read(f"[root@n1 ~]# {typed}\r\n{DOWN}[root@n1 ~]# hccn_tool -i 5 -link -g\r\n{UP}{END}")
    assert (result.ok, by_card(result)) == (True, [("n1", 4, False), ("n1", 5, True)])


def test_a_moved_cursor_is_not_worked_out() -> None:
    result = read(f"[root@n1 ~]# hccn_tool -i 4\b\x1b[1@5 -link -g\n{UP}{END}")
    assert reasons(result) == ["command"]
    assert by_card(result) == [("", None, True)]


def test_the_pid_in_a_container_is_no_memory() -> None:
    text = table(
        "| Chip | Bus-Id | AICore(%) Memory-Usage(MB) HBM-Usage(MB) |\n",
        "| 3 910B3 | OK | 99.1 41 |\n| 0 | 0000:C1:00.0 | 7 0 / 0 50111/ 65536 |\n",
        f"{FRAME}| NPU Chip | Process id | Process name | Process memory(MB) | Process id in container |\n{FRAME}"
        f"| 3 0 | 71001 | a|b | 47002 | 613 |\n{FRAME}",
    )
    result = parse_text("npu-smi", text)
    process = answers(result)[0]["cards"][0]["processes"][0]
    assert (result.ok, process["pid"], process["name"], process["memory_mb"]) == (True, 71001, "a|b", 47002)
    without = parse_text("npu-smi", text.replace("Process memory(MB)", "Something else"))
    assert (without.ok, answers(without)[0]["cards"][0]["processes"]) == (False, None)


def test_cards_without_hbm() -> None:
    text = table(
        "| Chip Device | Bus-Id | AICore(%) Memory-Usage(MB) |\n",
        "| 8 310P3 | OK | NA 44 |\n| 1 5 | 0000:02:00.0 | 0 1633 / 44001 |\n",
    )
    result = parse_text("npu-smi", text)
    card = answers(result)[0]["cards"][0]
    assert result.ok
    assert (card["memory_used_mb"], card["memory_total_mb"], card["hbm_used_mb"]) == (1633, 44001, None)
    assert (card["chip"], card["phy_id"]) == (1, None)
    assert not parse_text("npu-smi", text.replace("1633 / 44001", "-")).ok
    assert not parse_text("npu-smi", text.replace("Memory-Usage(MB) |", "Memory-Usage(MB) HBM-Usage(MB) |")).ok


@pytest.mark.parametrize(
    ("command", "host"),
    [
        ("ssh n7 'for i in {2..3}; do hccn_tool -i $i -link -g; done'", "n7"),
        ('ssh n7 "for i in {2..3}; do hccn_tool -i \\$i -link -g; done"', "n7"),
        ("docker exec -it box bash -c 'for i in {2..3}; do hccn_tool -i $i -link -g; done'", "n1"),
        ('for h in n7; do ssh $h "for i in 2 3; do hccn_tool -i \\$i -link -g; done"; done', "n7"),
        ("ssh n7 'for i in 2 3\n> do hccn_tool -i $i -link -g\n> done'", "n7"),
    ],
)
def test_a_quoted_loop_ends_with_its_line(command: str, host: str) -> None:
    result = read(f"[root@n1 ~]# {command}\n{UP}{DOWN}[root@n1 ~]# hccn_tool -i 9 -mtu -g\nmtu:4100\n{END}")
    assert (result.ok, by_card(result)) == (True, [(host, 2, True), (host, 3, False), ("n1", 9, 4100)])


def test_a_loop_of_another_tool_keeps_what_follows() -> None:
    result = read(
        f"[root@n1 ~]# ansible all -a 'for i in 0 1; do x $i; done'\nn1 | OK\n{UP}[root@n1 ~]# hostname\nn1\n"
    )
    assert (result.ok, answers(result)) == (False, ["n1"])


@pytest.mark.parametrize("follows", ["[root@n1 ~]# hccn_tool -i 5 -link -g\n", ""])
def test_a_loop_that_never_ends_takes_no_output(follows: str) -> None:
    result = read(f"[root@n1 ~]# for i in 0 1; do hccn_tool -i $i -link -g;\n{follows}{DOWN}{END}")
    assert "command" in reasons(result)
    assert by_card(result)[-1] == (("n1", 5, False) if follows else ("", None, False))


def test_a_word_in_quotes_ends_no_loop() -> None:
    loop = 'for i in 0 1; do hccn_tool -i $i -link -g; echo "card done"; done'
    result = read(f"[root@n1 ~]# {loop}\n{UP}card done\n{DOWN}card done\n{END}")
    assert (result.ok, by_card(result)) == (True, [("n1", 0, True), ("n1", 1, False)])


def test_what_was_typed_ahead_comes_again_behind_its_prompt() -> None:
    text = (
        f"[root@n1 ~]# hccn_tool -i 0 -link -g\nhostname\nhccn_tool -i 1 -link -g\n{DOWN}"
        f"[root@n1 ~]# hostname\nn1\n[root@n1 ~]# hccn_tool -i 1 -link -g\n{UP}{END}"
    )
    result = read(text)
    assert result.ok
    assert by_card(result) == [("n1", 0, False), ("n1", None, "n1"), ("n1", 1, True)]


@pytest.mark.parametrize("between", ["", "wget something\n", "\n"])
@pytest.mark.parametrize("prompt", ["[root@n1 ~]# ", ""])
def test_what_was_typed_ahead_and_never_comes_again_gets_no_answer(between: str, prompt: str) -> None:
    result = read(f"{prompt}hccn_tool -i 0 -link -g\n{between}hccn_tool -i 1 -link -g\n{DOWN}{END}")
    assert not result.ok
    assert by_card(result) == [("", None, False)]


def test_a_device_in_use_is_an_error_of_its_own() -> None:
    used = "dcmi model initialized failed, because the device is used. ret is -8020\n"
    for text in (f"SomeLogLevel failed. (level=3)\n{used}", f"{used}npu get board type failed. ret is -9005\n"):
        for result in (parse_text("npu-smi", text), read(f"[root@n1 ~]# npu-smi info\n{text}"), read(text)):
            seen = result.facts["answers"][0]
            assert (result.ok, seen["tool"], seen["state"], seen["reason"]) == (False, "npu-smi", "error", "in-use")
            assert "device is used" in seen["message"]
    alone = parse_text("npu-smi", "npu get board type failed. ret is -9005\n").facts["answers"][0]
    assert (alone["state"], alone["reason"]) == ("error", "failed")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("OK", "Alarm", "OK"), "Alarm"), (("Warning", "OK", "Critical"), "Critical"),
        (("OK", "OK", "UNKNOWN"), "UNKNOWN"), (("OK", "OK", "OK"), "OK"), (("OK", "Odd", "OK"), None),
    ],
)  # fmt: skip
def test_the_worst_chip_is_the_health_of_a_card(words: tuple[str, str, str], status: str | None) -> None:
    chips = ("Chip ID : 0", "Chip ID : 1", "Chip Name : MCU")
    parts = "".join(f"\n\tHealth : {word}\n\t{chip}\n" for word, chip in zip(words, chips, strict=True))
    result = read(f"[root@n1 ~]# npu-smi info -t health -i 6\n\tNPU ID : 6\n\tChip Count : 2\n{parts}{END}")
    seen = result.facts["answers"][0]
    assert (seen["card"], (seen["value"] or {}).get("status")) == (6, status)
    assert result.ok == (status is not None)


def test_a_cut_health_is_not_the_best_of_what_is_left() -> None:
    text = "\tHealth : OK\n\tChip ID : 0\n\n\tHealth : Al"
    assert answers(parse_text("npu-smi", text, "health")) == [None]
    assert answers(parse_text("npu-smi", "Health : OK\nHealth : Alarm\n", "health")) == [None]


def test_refusals_of_a_chinese_shell() -> None:
    text = (
        "[root@n1 ~]# hccn_tool -i 3 -ip -g\nbash: hccn_tool\uff1a未找到命令\n"
        "[root@n1 ~]# npu-smi info\n-bash: /usr/local/sbin/npu-smi: 没有那个文件或目录\n"
        "[root@n1 ~]# hccn_tool -i 3 -link -g\n-bash: /usr/bin/hccn_tool: 权限不够\n"
        "[root@n1 ~]# cat /etc/hccn.conf\ncat: /etc/hccn.conf: 没有那个文件或目录\n"
    )
    result = read(text)
    assert [each["reason"] for each in result.facts["answers"]][:3] == ["not-installed", "not-installed", "permission"]
    assert reasons(result)[-1] == "no-file"


def test_the_mcu_is_a_section_of_its_own() -> None:
    text = (
        "\tNPU ID : 5\n\tChip Count : 2\n\n\tChip ID : 0\n\tTemperature(C) : 44\n\n\tChip ID : 1\n"
        "\tTemperature(C) : 49\n\tAicore Count : 24\n\n\tChip Name : mcu\n\tTemperature(C) : 37\n"
    )
    sections = answers(parse_text("npu-smi", text, "common"))[0]["sections"]
    assert sections[1:] == [
        {"Chip ID": 1, "Temperature(C)": 49, "Aicore Count": 24}, {"Chip Name": "mcu", "Temperature(C)": 37},
    ]  # fmt: skip
    behind = "\tNPU ID : 5\n\tNPU Temperature (C) : 41\n\tChip ID : 0\n\n\tBOARD (C) : 33\n\tChip Name : MCU\n"
    assert len(answers(parse_text("npu-smi", behind, "temp"))[0]["sections"]) == 1


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("vnic", "vnic link status: UP\nvnic ipaddr: 192.168.7.{}\nvnic netmask: 255.255.255.0\n"),
        ("version", "Network Driver Version: 25.0.1\nNetwork Firmware Version: 7.7.{}\n"),
    ],
)
def test_several_cards_are_not_one(kind: str, text: str) -> None:
    for result in (
        parse_text("hccn_tool", text.format(1) + text.format(2), kind),
        read(text.format(1) + text.format(2)),
    ):
        assert (answers(result), reasons(result)) == ([None], ["conflict"])
    assert parse_text("hccn_tool", text.format(1) + text.format(1), kind).ok


def test_an_expired_certificate_does_not_vanish() -> None:
    cert = "dev_id:4, [{} cert] info:\n\t issuer[/CN=made up]\n\t tls expiration status[{}](0:normal, 2:has expired)\n"
    head = "dev_id:4, tls switch[1](0:disable, 1:enable), tls preconfigured[0](0:non-preset, 1:preset)\n"
    fields = answers(parse_text("hccn_tool", head + cert.format("pub", 0) + cert.format("ca1", 2), "tls"))[0]["fields"]
    assert fields == {
        f"{name} cert": {"issuer": "/CN=made up", "tls expiration status": status}
        for name, status in (("pub", "0"), ("ca1", "2"))
    }  # fmt: skip
    twice = head + cert.format("pub", 0) + cert.format("pub", 2)
    assert answers(parse_text("hccn_tool", twice, "tls")) == [None]


def test_words_of_collectors_are_no_answers() -> None:
    processes = (
        "\tNPU ID : 2\n\tGet pid name failed.\n\tProcess id:515 Process name: Process memory(MB):4711\n\tChip ID : 0\n"
    )
    result = read(
        f"Every 2.0s: npu-smi info   n1: Mon\n\nNPU:\n[root@n1 ~]# npu-smi info -t proc-mem -i 2\n{processes}"
    )
    assert (result.ok, answers(result)[0][0]["processes"][0]["memory_mb"]) == (True, 4711)


def test_remarks_signs_and_folders() -> None:
    remark = answers(parse_text("npu-smi", "HBM Capacity(MB) : 65000   # made up\n", "memory"))[0]
    assert remark["sections"] == [{"HBM Capacity(MB)": 65000}]
    gateway = answers(parse_text("hccn_tool", "default gateway\uff1a10.9.8.1\uff0cIface\uff1aeth3\n", "gateway"))[0]
    assert gateway == {"address": "10.9.8.1", "iface": "eth3"}
    folders = (
        "/opt/driver# cat version.info\nascendhal_version=7.1\n/opt/firmware# cat version.info\nfirmware_version=2.0\n"
    )
    assert [value["kind"] for value in answers(read(folders))] == ["driver", "firmware"]


def test_a_grep_for_the_runtimes_of_docker() -> None:
    result = read("[root@n1 ~]# docker info | grep Runtime\n Runtimes: made-up runc\n Default Runtime: runc\n" + END)
    value = answers(result)[0]
    assert (value["runtimes"], value["default_runtime"], value["server_version"]) == (["made-up", "runc"], "runc", None)
    assert not read("[root@n1 ~]# docker info | grep Root\n Docker Root Dir: /data\n" + END).ok
