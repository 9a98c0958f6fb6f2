"""Log lines, the first error over all hosts, and the table of known failures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import logs
from runbook_lib.ascend.logs import load_signatures, match

PLOG = (
    "[ERROR] HCCL(77,python3):2026-02-03-04:05:06.007.089 [manager.cc:1] [88][Wait][LinkEstablish]"
    "wait socket establish timeout, role[1] rank[1] timeout[120 s]"
)
MINDIE = "[2026-02-03 04:05:05.500000+08:00] [10] [11] [server] [ERROR] [e.cpp:3] : [MIE04E02011C] [endpoint] bad"
SCREEN = "[PID: 7] 2026-02-03-04:05:07.000.001 Get_Socket_Timeout(EI0006): Getting socket times out. Reason: ..."
OLD = "EI0005: 2026-02-03-04:05:08.000.001 arguments differ"
ATB = "[2026-02-03 04:05:09.64217] [error] [12] [a.cpp:4] operation failed"
TABLE = """[ERROR] HCCL(7,p):2026-02-03-04:05:06.1.2 [m.cc:6] [8]  |  dest_ip(user_rank)  |   dest_port   | x
[ERROR] HCCL(7,p):2026-02-03-04:05:06.1.2 [m.cc:5] [8] | 10.2.0.9(8) | 16666 | 10.2.0.1(0) | 4711 | client \
| time out | DISABLE | LinkInfo
"""


@pytest.mark.parametrize(
    ("line", "at", "module", "code"),
    [
        (PLOG, "2026-02-03T04:05:06.007089", "HCCL", ""),
        (MINDIE, "2026-02-03T04:05:05.500000", "server", "MIE04E02011C"),
        (SCREEN, "2026-02-03T04:05:07.000001", "Get_Socket_Timeout", "EI0006"),
        (OLD, "2026-02-03T04:05:08.000001", "", "EI0005"),
        (ATB, "2026-02-03T04:05:09.064217", "ATB", ""),
    ],
)
def test_every_format_is_read(line: str, at: str, module: str, code: str) -> None:
    parsed = logs.parse_line(line, "src", 3)
    assert parsed is not None
    assert (parsed.at, parsed.module, parsed.code, parsed.level) == (at, module, code, "ERROR")
    assert (parsed.source, parsed.line) == ("src", 3)


def test_the_earliest_error_is_first_whatever_its_format() -> None:
    info = PLOG.replace("[ERROR]", "[INFO]").replace("04:05:06", "01:00:00")
    first = logs.first_error({"host1": f"{info}\n{PLOG}\n{SCREEN}\n", "host2": f"x\n{MINDIE}\n{ATB}\n"})
    assert first is not None
    assert (first.source, first.line, first.code) == ("host2", 2, "MIE04E02011C")


def test_a_cause_comes_before_an_end_when_no_line_has_a_stamp() -> None:
    text = "Failed to init endpoint! Please check\nSocket bind failed, bind_result is -1. Address already in use\n"
    first = logs.first_error({"a": text})
    assert first is not None
    assert first.text.startswith("Socket bind")
    only = logs.first_error({"a": "Failed to init endpoint!\n"})
    assert only is not None


def test_plain_lines_count_too() -> None:
    stamped = logs.parse_line("2026-02-03 04:05:01,250 - root - ERROR - no config")
    assert stamped is not None
    assert (stamped.at, stamped.level) == ("2026-02-03T04:05:01.250000", "ERROR")
    first = logs.first_error({"a": "Traceback (most recent call last):\nValueError: bad\n"})
    assert first is not None
    assert first.text == "ValueError: bad"


def test_quiet_logs_have_no_error() -> None:
    assert logs.first_error({"a": PLOG.replace("[ERROR]", "[INFO]"), "b": "Daemon start success!\n", "c": ""}) is None


def test_a_date_that_does_not_exist_has_no_stamp() -> None:
    parsed = logs.parse_line(PLOG.replace("2026-02-03", "2026-02-33"))
    assert parsed is not None
    assert not parsed.at


def test_link_error_table() -> None:
    assert logs.parse_link_errors(TABLE) == (
        logs.LinkError("10.2.0.9", 8, 16666, "10.2.0.1", 0, 4711, "client", "time out", tls=False),
    )


def test_the_table_is_large_and_complete_in_both_languages() -> None:
    rows = load_signatures()
    assert len(rows) >= 40
    assert len({row.id for row in rows}) == len(rows)
    for row in rows:
        assert row.source
        for words in (row.cause, row.check, row.remedy):
            assert words.en.strip()
            assert words.zh.strip()
        assert any("\u4e00" <= letter <= "\u9fff" for letter in row.cause.zh + row.remedy.zh)


@pytest.mark.parametrize("row", load_signatures(), ids=lambda row: row.id)
def test_every_signature_finds_its_own_sample_first(row: logs.Signature) -> None:
    assert match(row.sample)[0].id == row.id
    assert row.regex.search("") is None


@pytest.mark.parametrize(
    "line",
    ["Daemon start success!", "link status: UP", "net health status: Success", "fec mode: rs FEC mode", "all is well"],
)
def test_good_lines_match_nothing(line: str) -> None:
    assert match(line) == []


@settings(max_examples=80, deadline=None)
@given(
    line=st.sampled_from([PLOG, MINDIE, SCREEN, OLD, ATB, TABLE]), cut=st.integers(0, 200), junk=st.text(max_size=30)
)
def test_no_line_raises(line: str, cut: int, junk: str) -> None:
    for text in (line[:cut] + junk, junk + line, line[:cut] + junk + line[cut:], junk):
        logs.parse_line(text)
        logs.parse_link_errors(text)
        logs.first_error({"a": text})
