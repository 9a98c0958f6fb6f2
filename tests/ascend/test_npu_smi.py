"""npu-smi's tables with the traps of real captures: glued slashes, empty names, half tables."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import npu_smi
from runbook_lib.model import Capture

HEAD = """+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.0                   Version: 24.1.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
"""
CARDS = """| 0     910B3               | OK            | 95.5        41                0    / 0             |
| 0                         | 0000:C1:00.0  | 3           0    / 0          58001/ 65536         |
+===========================+===============+====================================================+
| 1     910B3               | Warning       | -           NA                0    / 0             |
| 0                         | 0000:C2:00.0  | 0           0    / 0          3311 / 65536         |
+===========================+===============+====================================================+
"""
PROCESSES = """+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 0       0                 | 4242          |                          | 55000                   |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
+===========================+===============+====================================================+
"""
BOARD = """\tNPU ID                         : 3
\tSoftware Version               : 24.1.0
\tFirmware Version               : 7.5.0.1.129
\tCompatibility                  : OK
\tPCIe Bus Info                  : 0000:61:00.0
\tSerial Number                  : NA
"""


def good(stdout: str) -> Capture:
    return Capture(stdout=stdout, exit_code=0)


def info(text: str) -> npu_smi.NpuInfo:
    value = npu_smi.parse_info(good(text)).value
    assert value is not None
    return value


def test_cards_and_processes() -> None:
    table = info(HEAD + CARDS + PROCESSES)
    assert table.version == "24.1.0"
    first, second = table.cards
    assert (first.id, first.name, first.health, first.power_w, first.temp_c) == (0, "910B3", "OK", 95.5, 41)
    assert (first.bus_id, first.aicore_percent, first.hbm_used_mb, first.hbm_total_mb) == (
        "0000:C1:00.0",
        3,
        58001,
        65536,
    )
    assert (second.health, second.power_w, second.temp_c, second.hbm_used_mb) == ("Warning", None, None, 3311)
    assert table.processes == (npu_smi.Process(0, 0, 4242, "", 55000),)
    assert table.unreadable_rows == ()


def test_no_process_table_is_not_no_processes() -> None:
    whole, half = info(HEAD + CARDS + PROCESSES), info(HEAD + CARDS)
    assert whole.processes_of(1) == ()
    assert half.processes_of(1) is None
    assert len(whole.processes_of(0) or ()) == 1


def test_a_card_without_its_second_row_has_unknown_memory() -> None:
    cut = info(HEAD + CARDS[: CARDS.index("| 0                         | 0000:C2")])
    assert cut.cards[1].hbm_used_mb is None
    assert cut.cards[1].bus_id is None


def test_a_row_that_cannot_be_placed_is_kept() -> None:
    table = info(HEAD + CARDS + PROCESSES.replace("| 0       0  ", "| x       0  "))
    assert len(table.unreadable_rows) == 1
    assert table.processes_of(0) is None


def test_warning_lines_and_a3_numbers() -> None:
    a3 = CARDS.replace("| 0                         | 0000:C1", "| 1     9                   | 0000:C1")
    table = info("[WARNING]The driver package may not be completely installed.\n" + HEAD + a3)
    assert table.warnings == ("[WARNING]The driver package may not be completely installed.",)
    assert (table.cards[0].chip, table.cards[0].phy_id) == (1, 9)


def test_bytes_of_very_old_builds_become_mb() -> None:
    old = PROCESSES.replace("Process memory(MB)", "Process memory(B) ").replace("55000      ", "57671680000")
    assert info(HEAD + CARDS + old).processes[0].memory_mb == 55000


def test_no_card_and_no_driver() -> None:
    assert info("There is no NPU card on this server.\n").cards == ()
    broken = npu_smi.parse_info(Capture(stdout="dcmi module initialize failed. ret is -8005\n", exit_code=187))
    assert (broken.state, broken.reason) == ("error", "driver")
    assert npu_smi.parse_info(good("hello\n")).state == "unreadable"


def test_board() -> None:
    board = npu_smi.parse_board(good(BOARD)).value
    assert board == npu_smi.Board(3, "24.1.0", "7.5.0.1.129", "OK", "0000:61:00.0")
    assert npu_smi.parse_board(good("NPU ID : 3\n")).state == "unreadable"


def test_health() -> None:
    text = "\tHealth Status            : Alarm\n\tError Code         : 80E01801 80CB8002\n\tError Information : NA\n"
    assert npu_smi.parse_health(good(text)).value == npu_smi.Health("Alarm", ("80E01801", "80CB8002"))
    assert npu_smi.parse_health(good(text.replace("Alarm", "Fine"))).state == "unreadable"
    assert npu_smi.parse_health(Capture(stdout="Invalid card id.\n", exit_code=1)).reason == "no-device"


def test_first_of_equal_keys() -> None:
    text = "\tTemperature(C)           : 46\n\n\tChip Name            : mcu\n\tTemperature(C)           : 38\n"
    values = npu_smi.parse_keyvalues(good(text)).value
    assert values is not None
    assert values.get("Temperature(C)") == "46"
    assert values.get("nothing") is None


WHOLE = HEAD + CARDS + PROCESSES


@settings(max_examples=80, deadline=None)
@given(
    cut=st.integers(0, len(WHOLE)), junk=st.text(max_size=20), at=st.integers(0, len(WHOLE)), free=st.text(max_size=200)
)
def test_any_text_is_read_without_raising(cut: int, junk: str, at: int, free: str) -> None:
    for text in (WHOLE[:cut], WHOLE[:at] + junk + WHOLE[at:], free, f"|{free}|\n| 0 | {junk} | |"):
        for parser in (npu_smi.parse_info, npu_smi.parse_keyvalues, npu_smi.parse_board, npu_smi.parse_health):
            reading = parser(good(text))
            assert (reading.value is not None) == (reading.state == "set")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(WHOLE)))
def test_a_cut_table_never_frees_a_busy_card(cut: int) -> None:
    table = npu_smi.parse_info(good(WHOLE[:cut])).value
    if table is not None:
        assert table.processes_of(0) != ()
