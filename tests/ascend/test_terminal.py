"""Terminal captures: which output belongs to which command, as far as that is certain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runbook_lib.ascend.captured import Parsed, parse_text
from runbook_lib.ascend.commands import steps_of, typed

DATA = Path(__file__).parent / "data"
LINKS = "root@n1:~# for i in {0..3}; do hccn_tool -i $i -link -g; done\n"
UP, DOWN = "link status: UP\n", "link status: DOWN\n"
END = "root@n1:~# \n"


def read(text: str) -> Parsed:
    return parse_text("mixed", text)


def cards(result: Parsed) -> dict[Any, Any]:
    return {each["card"]: each["value"] for each in result.facts["answers"] if each["card"] is not None}


def loose(result: Parsed) -> list[Any]:
    return [each["value"] for each in result.facts["answers"] if each["card"] is None]


@pytest.mark.parametrize(
    ("line", "host", "command"),
    [
        ("root@n1:~# hccn_tool -i 0 -ip -g", "n1", "hccn_tool -i 0 -ip -g"),
        ("[root@n-2 ~]# npu-smi info", "n-2", "npu-smi info"),
        ("(base) [root@n-2 /etc]$ ls", "n-2", "ls"),
        ("[10:20:30 root@n3 ~]# ls", "n3", "ls"),
        ("HwHiAiUser@n4:/usr/local$ ls", "n4", "ls"),
        ("sh-5.1# ls", "", "ls"),
        ("$ ls", "", "ls"),
        ("# hccn_tool -i 0 -ip -g", "", "hccn_tool -i 0 -ip -g"),
        ("+ hccn_tool -i 0 -ip -g", "", "hccn_tool -i 0 -ip -g"),
        ("/opt/tools/hccn_tool -i 0 -ip -g", "", "/opt/tools/hccn_tool -i 0 -ip -g"),
        ("root@n1:~# ", "n1", ""),
    ],
)  # fmt: skip
def test_prompts(line: str, host: str, command: str) -> None:
    said = typed(line)
    assert said is not None
    assert (said.host, said.command) == (host, command)


@pytest.mark.parametrize(
    "line",
    ["# hccn_tool -i 0 -ip -g shows the address", "# node 1", "hccn_tool is busy, please try again.", "link status: UP",
     "| npu-smi 24.1.0   Version: 24.1.0 |", "address_0=1.2.3.4", "Get unknown option!"],
)  # fmt: skip
def test_output_and_comments_are_no_commands(line: str) -> None:
    assert typed(line) is None


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("for i in {0..2}; do hccn_tool -i $i -ip -g; done", [0, 1, 2]),
        ("for i in 0 3 5; do hccn_tool -i ${i} -ip -g; done", [0, 3, 5]),
        ("for i in $(seq 0 2); do hccn_tool -i $i -ip -g; done", [0, 1, 2]),
        ("for i in `seq 2`; do hccn_tool -i $i -ip -g; done", [1, 2]),
        ("for ((i=0; i<3; i++)); do hccn_tool -i $i -ip -g; done", [0, 1, 2]),
        ("for i in {0..1}\ndo\n  hccn_tool -i $i -ip -g\ndone", [0, 1]),
        ("sudo hccn_tool -i 4 -ip -g 2>&1 | tee log", [4]),
        ("hccn_tool -i 4 -ip -g; hccn_tool -i 5 -ip -g", [4, 5]),
        ("hccn_tool -i $card -ip -g", [None]),
    ],
)
def test_cards_that_a_command_asks(command: str, asked: list[int | None]) -> None:
    steps = steps_of(command)
    assert steps is not None
    assert [step.card for step in steps] == asked
    assert not any(step.filtered for step in steps)


@pytest.mark.parametrize(
    "command", ["for i in $(ls); do hccn_tool -i $i -ip -g; done", "while true; do hccn_tool -i 0 -ip -g; done",
                "for i in {0..3}; do hccn_tool -i $i", "hccn_tool -i '0", "for i in {0..9999}; do echo; done"],
)  # fmt: skip
def test_what_only_a_shell_knows_is_not_guessed(command: str) -> None:
    assert steps_of(command) is None


def test_loop_in_order() -> None:
    result = read(LINKS + UP + DOWN + UP + UP + END)
    assert (result.ok, cards(result)) == (True, {0: True, 1: False, 2: True, 3: True})


@pytest.mark.parametrize("answers", [UP + DOWN + UP, UP * 4 + DOWN, DOWN, ""])
@pytest.mark.parametrize("end", [END, ""])
def test_loop_with_another_number_of_answers_names_no_card(answers: str, end: str) -> None:
    result = read(LINKS + answers + end)
    assert not result.ok
    assert set(cards(result).values()) == {None}
    assert len(loose(result)) == answers.count("link")


def test_loop_with_lines_left_out_is_certain_up_to_there() -> None:
    for mark in ("...", "……", "(omitted)", "[5 lines omitted]"):
        result = read(LINKS + DOWN + f"{mark}\n" + UP + END)
        assert not result.ok
        assert cards(result) == {0: False, 1: None, 2: None, 3: None}
        assert loose(result) == [True]


def test_answers_that_name_their_card_need_no_order() -> None:
    line = "dev_id:{}, tls switch[{}](0:disable, 1:enable)\n"
    text = "$ for i in {0..2}; do hccn_tool -i $i -tls -g | grep switch; done\n" + line.format(2, 1) + line.format(0, 0)
    switches = {card: value and value["switch"] for card, value in cards(read(text + "$ \n")).items()}
    assert switches == {0: 0, 1: None, 2: 1}


def test_refusal_inside_a_loop_keeps_its_place() -> None:
    result = read(LINKS + UP + "hccn_tool is busy, please try again.\n" + UP + DOWN + END)
    assert (result.ok, cards(result)) == (False, {0: True, 1: None, 2: True, 3: False})


def test_silence_is_an_answer_only_when_something_follows() -> None:
    asked = "root@n1:~# hccn_tool -i 2 -lldp -g | grep Ifname\n"
    assert [each["state"] for each in read(asked + END).facts["answers"]] == ["unset"]
    assert [each["state"] for each in read(asked).facts["answers"]] == ["unreadable"]


def test_headings_of_a_loop_tell_the_cards() -> None:
    text = (
        '$ for i in 0 1 2; do echo "--- card $i"; hccn_tool -i $i -lldp -g | grep Ifname; done\n'
        "--- card 0\n\tIfname: 400GE1/0/3:1\n--- card 1\n--- card 2\n\tIfname: 400GE1/0/4:1\n$ \n"
    )
    ports = {card: value and value["ifname"] for card, value in cards(read(text)).items()}
    assert ports == {0: "400GE1/0/3:1", 1: None, 2: "400GE1/0/4:1"}
    cut = read(text.replace("--- card 1\n", ""))
    assert (cut.ok, set(cards(cut).values()) - {None}) == (False, set())


def test_hosts_come_from_prompts_and_ssh() -> None:
    text = "$ for h in n1 n2; do ssh root@$h 'hccn_tool -i 0 -link -g'; done\n" + UP + DOWN + "$ \n"
    assert [(each["host"], each["value"]) for each in read(text).facts["answers"]] == [("n1", True), ("n2", False)]


def test_answer_of_another_kind_is_no_answer() -> None:
    result = read("root@n1:~# hccn_tool -i 0 -link -g\nnet health status: Success\n" + END)
    assert (result.ok, cards(result)) == (False, {0: None})


def test_whole_session() -> None:
    result = read((DATA / "mixed..session.txt").read_text(encoding="utf-8"))
    seen = {(each["host"], each["subcommand"], each["card"]): each for each in result.facts["answers"]}
    assert seen["ascend-a01", "ip", 3]["value"]["address"] == "10.77.3.13"
    assert seen["ascend-a01", "ip", 2]["state"] == "unset"
    assert seen["ascend-a01", "link", 1]["value"] is False
    assert seen["ascend-a01", "link", 7]["reason"] == "left-out"
    assert seen["ascend-a02", "gateway", 0]["value"]["address"] == "10.77.2.1"
    assert [problem.reason for problem in result.problems] == ["left-out"]


def test_tables_files_and_loops_in_one_capture() -> None:
    result = read((DATA / "mixed..table.txt").read_text(encoding="utf-8"))
    kinds = [(each["tool"], each["subcommand"], each["card"]) for each in result.facts["answers"]]
    assert result.ok
    assert kinds == [
        ("npu-smi", "info", None), ("hccn_tool", "tls", 0), ("hccn_tool", "net_health", 0), ("hccn_tool", "tls", 1),
        ("hccn_tool", "net_health", 1), ("npu-smi", "health", 0), ("npu-smi", "health", 1),
        ("versions", "firmware", None), ("docker", "ps", None),
    ]  # fmt: skip


def test_command_without_parser_is_said() -> None:
    result = read("root@n1:~# lsblk\nsda 1T\n" + END)
    assert [(problem.line, problem.reason) for problem in result.problems] == [(2, "no-parser")]


def test_text_before_and_after_each_answer() -> None:
    inline = '$ for i in {0..1}; do echo -n "card $i: "; hccn_tool -i $i -link -g; done\n'
    assert cards(read(f"{inline}card 0: {UP}card 1: {DOWN}$ \n")) == {0: True, 1: False}
    ruled = '$ for i in {0..1}; do hccn_tool -i $i -link -g; echo "-----"; done\n'
    assert cards(read(f"{ruled}{UP}-----\n{DOWN}-----\n$ \n")) == {0: True, 1: False}
    assert set(cards(read(f"{ruled}{UP}{DOWN}-----\n$ \n")).values()) <= {None}


def test_colours_titles_remarks_and_fences_are_no_output() -> None:
    text = (
        "```shell\n# first host\n"
        "\x1b]0;root@n1: ~\x07\x1b[01;32mroot@n1\x1b[00m:~# hccn_tool -i 0 -link -g  # the link\r\n"
        "\x1b[?2004l\rlink status: UP   # good\r\n```\n"
    )
    result = read(text)
    assert (result.ok, cards(result)) == (True, {0: True})


def test_several_commands_in_one_line() -> None:
    text = (
        "$ npu-smi info -t health -i 3 -c 0; hccn_tool -i 3 -link -g; hostname\n\tHealth Status : OK\n"
        + UP
        + "n9\n$ \n"
    )
    seen = {(each["tool"], each["subcommand"]): each for each in read(text).facts["answers"]}
    assert seen["npu-smi", "health"]["value"]["status"] == "OK"
    assert (seen["hccn_tool", "link"]["value"], seen["hccn_tool", "link"]["card"]) == (True, None)


def test_paste_of_a_loop_without_its_command() -> None:
    result = parse_text("hccn_tool", "ipaddr:10.1.1.1\nnetmask:255.0.0.0\nipaddr:10.1.1.2\nnetmask:255.0.0.0\n", "ip")
    assert [each["reason"] for each in result.facts["answers"]] == ["conflict"]
    assert [problem.reason for problem in result.problems] == ["conflict"]


def test_address_alone_is_read_as_far_as_it_goes() -> None:
    result = read("$ hccn_tool -i 2 -ip -g | grep ipaddr\nipaddr:10.9.8.70\n$ \n")
    assert (result.ok, cards(result)) == (False, {2: {"address": "10.9.8.70", "netmask": None}})


def test_ping_over_hccs() -> None:
    text = (
        "$ hccn_tool -i 1 -hccs_ping -g address 10.1.2.3\n"
        "recv seq 0, time = 12.345us, L1 plane check result = 0x0\n"
        "recv seq 1, time = 11.001us, L1 plane check result = 0x0\n"
        "2 packets transmitted, 2 received, 0.00% packets loss\nmax 12.345us min 11.001us\n$ \n"
    )
    result = read(text)
    assert (result.ok, cards(result)[1]["times_ms"]) == (True, [0.012345, 0.011001])
