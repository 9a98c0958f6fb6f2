"""Parsers for `npu-smi info -t ...`, `-l` and `-m`: `key : value` lines, rows and the topology matrix.

Formats: the open source of the tool (hicann/driver, npucli) and the samples of the MindCluster documents.
Nothing raises. A value at which the input was cut off is left out; "NA" is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend.plain import DAMAGED, is_elision, is_noise, labelled, lines_of, plain
from runbook_lib.ascend.reading import Reading, first_words, found, refusal, to_int, unreadable

if TYPE_CHECKING:
    from runbook_lib.ascend.plain import Line
    from runbook_lib.model import Capture

_BY_WEIGHT = ("OK", "UNKNOWN", "Warning", "Alarm", "Critical")
HEALTH_WORDS = frozenset({"OK", "Warning", "Alarm", "Critical", "UNKNOWN"})  # npu_common.c of the tool
_PROCESS = re.compile(
    r"[ \t]*Process id[ \t]*:[ \t]*([0-9]+)[ \t]+Process name[ \t]*:[ \t]*(.*?)[ \t]*Process memory\((MB|B)\)"
    r"[ \t]*:[ \t]*([0-9]+)[ \t]*",
    re.IGNORECASE,
)
_REMARK = re.compile(r"[ \t]+#[ \t].*$")  # what somebody wrote behind a value
_TOPO_WORDS = frozenset({"X", "HCCS", "HCCS_SW", "SIO", "SYS", "PHB", "PIX", "PXB", "NA", "N/A"})


@dataclass(frozen=True, slots=True)
class KeyValues:
    """`key : value` lines in order; a key may come once per section."""

    pairs: tuple[tuple[str, str], ...]

    def get(self, key: str) -> str | None:
        """Return the first value of a key."""
        return next((value for name, value in self.pairs if name == key), None)


@dataclass(frozen=True, slots=True)
class Board:
    """What `-t board` says. `software_version` is the driver; "NA" is None."""

    npu_id: int | None
    software_version: str | None
    firmware_version: str | None
    compatibility: str | None
    bus_id: str | None
    product_name: str | None = None
    serial_number: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """What `-t health` says: status word, error codes as printed, and the tool's explanation."""

    status: str
    codes: tuple[str, ...] = ()
    information: str = ""


@dataclass(frozen=True, slots=True)
class CardList:
    """What `-l` says: how many cards there are, and the NPU numbers in order."""

    total: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChipRow:
    """One row of `-m`. `logic_id` is the device number; None for the MCU, which is no NPU."""

    card: int
    chip: int
    logic_id: int | None
    name: str
    phy_id: int | None = None


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """One process of `-t proc-mem`; `name` is "" where the tool prints none."""

    pid: int
    name: str
    memory_mb: int


@dataclass(frozen=True, slots=True)
class ChipProcesses:
    """The processes of one chip; () only where the tool says so in words. `chip` is None where it is not named."""

    chip: int | None
    processes: tuple[ProcessMemory, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """What `-t topo` says: for each NPU the word for its way to every other, in the order of `names`."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    cpu_affinity: tuple[str, ...] = ()


def key_value(text: str) -> tuple[str, str] | None:
    """Return key and value ("" for none) of a `key : value` line, None for any other line."""
    key, colon, value = text.partition(":")
    key = " ".join(key.split())
    if not colon or not key or key[0] in "|+[" or "|" in key or (value and value[0] not in " \t"):
        return None
    return key, _REMARK.sub("", value).strip()


def parse_keyvalues(capture: Capture) -> Reading[KeyValues]:
    """Read the `key : value` lines of `npu-smi info -t ...`."""
    refused = refusal(capture)
    if refused:
        return refused
    pairs: list[tuple[str, str]] = []
    for line in lines_of(plain(capture.stdout)):
        pair = key_value(line.text)
        if pair is not None and pair[1] and not line.open and DAMAGED not in line.text and not is_noise(line.text):
            pairs.append(pair)
    return found(KeyValues(tuple(pairs)), first_words(capture)) if pairs else unreadable(capture)


def _said(values: KeyValues, key: str) -> str | None:
    """Return the one value of a key; two different ones are none."""
    texts = {value for name, value in values.pairs if name.lower() == key.lower()}
    text = texts.pop() if len(texts) == 1 else None
    return None if text in {None, "NA", "N/A"} else text


def parse_board(capture: Capture) -> Reading[Board]:
    """Read `npu-smi info -t board -i N`."""
    reading = parse_keyvalues(capture)
    if reading.value is None:
        return Reading(None, reading.state, reading.message, reading.reason)
    values = reading.value
    board = Board(
        npu_id=to_int(_said(values, "NPU ID") or ""),
        software_version=_said(values, "Software Version"),
        firmware_version=_said(values, "Firmware Version"),
        compatibility=_said(values, "Compatibility"),
        bus_id=_said(values, "PCIe Bus Info"),
        product_name=_said(values, "Product Name"),
        serial_number=_said(values, "Serial Number"),
    )
    known = board.software_version or board.firmware_version or board.bus_id
    return found(board, reading.message) if known else unreadable(capture)


def parse_health(capture: Capture) -> Reading[Health]:
    """Read `npu-smi info -t health -i N [-c C]`; a status word outside the tool's five is unreadable.

    Without `-c` every chip and the MCU have a line of their own: the worst word counts.
    """
    refused = refusal(capture)
    if refused:
        return refused
    values = parse_keyvalues(capture).value or KeyValues(())
    if len(_healths(values)) < (to_int(_said(values, "Chip Count") or "") or 0):
        return unreadable(capture)  # a chip is missing
    word = labelled(capture.stdout, "health(?: status)?", r"\S+", lambda _: True)
    word = word or _worst(capture.stdout, values) or ""
    known = {each.lower(): each for each in HEALTH_WORDS}
    if word.lower() not in known:
        return unreadable(capture)
    codes, information = _said(values, "Error Code") or "", _said(values, "Error Information") or ""
    return found(Health(known[word.lower()], tuple(codes.split()), information), first_words(capture))


def _healths(values: KeyValues) -> list[str]:
    return [value for key, value in values.pairs if key.lower() in {"health", "health status"}]


def _worst(text: str, values: KeyValues) -> str | None:
    """Return the worst of several health words, when each stands for a chip of its own."""
    words = _healths(values)
    chips = [(key, value) for key, value in values.pairs if key in {"Chip ID", "Chip Name"}]
    last = lines_of(plain(text))[-1:]
    if last and last[0].open and "health" in last[0].text.lower():
        return None
    if len(words) != len(chips) or len(set(chips)) != len(chips) or not set(words) <= HEALTH_WORDS:
        return None
    return max(words, key=_BY_WEIGHT.index, default=None)


def parse_list(capture: Capture) -> Reading[CardList]:
    """Read `npu-smi info -l`; a total that does not match the cards listed is unreadable."""
    reading = parse_keyvalues(capture)
    if reading.value is None:
        return Reading(None, reading.state, reading.message, reading.reason)
    total = to_int(_said(reading.value, "Total Count") or "")
    ids = [to_int(value) for key, value in reading.value.pairs if key.lower() == "npu id"]
    numbers = tuple(number for number in ids if number is not None)
    if total is None or len(numbers) != len(ids) or len(set(numbers)) != total or len(numbers) != total:
        return unreadable(capture)
    return found(CardList(total, numbers), reading.message)


def parse_map(capture: Capture) -> Reading[tuple[ChipRow, ...]]:
    """Read `npu-smi info -m`, with and without the physical number of A3; a row that does not fit spoils it."""
    refused = refusal(capture)
    if refused:
        return refused
    rows: dict[tuple[int, int], ChipRow] = {}
    with_phy: bool | None = None
    for line in lines_of(plain(capture.stdout)):
        if re.match(r"[ \t]*NPU ID[ \t]+Chip ID[ \t]+Chip Logic ID[ \t]+.*Chip Name[ \t]*$", line.text, re.IGNORECASE):
            with_phy = "phy" in line.text.lower()
            continue
        if is_noise(line.text) or is_elision(line.text) or with_phy is None:
            continue
        number = r"([0-9]{1,4})[ \t]+"
        optional = r"([0-9]{1,4}|-|NA|N/A)[ \t]+"
        match = re.fullmatch(
            rf"[ \t]*{number}{number}{optional}{optional if with_phy else '()'}([A-Za-z]\S*(?: \S+)*)[ \t]*", line.text
        )
        if line.open:
            continue
        if match is None:
            return unreadable(capture)
        row = ChipRow(
            int(match[1]), int(match[2]), to_int(match[3]), match[5], to_int(match[4]) if match[4] else None
        )  # fmt: skip
        if rows.setdefault((row.card, row.chip), row) != row:
            return unreadable(capture)
    return found(tuple(rows.values()), first_words(capture)) if rows else unreadable(capture)


def _process(line: Line) -> ProcessMemory | None:
    match = None if line.open else _PROCESS.fullmatch(line.text)
    if match is None:
        return None
    pid, memory = to_int(match.group(1)), to_int(match.group(4))
    if pid is None or memory is None:
        return None
    return ProcessMemory(pid, match.group(2).strip(), memory if match.group(3).upper() == "MB" else memory >> 20)


def parse_proc_mem(capture: Capture) -> Reading[tuple[ChipProcesses, ...]]:
    """Read `npu-smi info -t proc-mem -i N`: each chip's processes stand before its `Chip ID` line.

    A half process line, or processes without the line that says whose they are, make it unreadable. With `-c`
    there is no such line at all.
    """
    refused = refusal(capture)
    if refused:
        return refused
    chips: dict[int | None, tuple[ProcessMemory, ...]] = {}
    pending: list[ProcessMemory] = []
    told = False
    for line in lines_of(plain(capture.stdout)):
        chip = re.fullmatch(r"[ \t]*Chip ID[ \t]*:[ \t]*([0-9]{1,4})[ \t]*", line.text, re.IGNORECASE)
        if re.match(r"[ \t]*No process in device", line.text, re.IGNORECASE):
            told = True
        elif re.match(r"[ \t]*Process", line.text, re.IGNORECASE):
            process = _process(line)
            if process is None:
                return unreadable(capture)
            pending.append(process)
        elif chip and not line.open:
            number = int(chip.group(1))
            if number in chips or not (told or pending):
                return unreadable(capture)
            chips[number], pending, told = tuple(pending), [], False
    if told or pending:
        if chips:
            return unreadable(capture)
        chips[None] = tuple(pending)
    found_ = tuple(ChipProcesses(chip, processes) for chip, processes in chips.items())
    return found(found_, first_words(capture)) if found_ else unreadable(capture)


def parse_topo(capture: Capture) -> Reading[Topology]:
    """Read `npu-smi info -t topo`; a matrix that is not whole is unreadable."""
    refused = refusal(capture)
    if refused:
        return refused
    names: list[str] = []
    rows: dict[str, list[str]] = {}
    affinity: dict[str, str] = {}
    for line in lines_of(plain(capture.stdout)):
        words = line.text.split()
        if re.match(r"[ \t]*Legend", line.text):
            break
        if not words or line.open:
            continue
        numbered = [word for word in words if re.fullmatch(r"(?:NPU|Phy-ID|PHY)[0-9]{1,3}", word, re.IGNORECASE)]
        if len(numbered) > 1 or (numbered and words[-2:] == ["CPU", "Affinity"]):
            if names and names != numbered:
                return unreadable(capture)
            names = numbered
        elif numbered and names and words[0] == numbered[0]:
            cells = words[1 : 1 + len(names)]
            if len(cells) < len(names) or not set(cells) <= _TOPO_WORDS or rows.get(words[0], cells) != cells:
                return unreadable(capture)
            rows[words[0]] = cells
            affinity[words[0]] = " ".join(words[1 + len(names) :])
    if not names or list(rows) != names:
        return unreadable(capture)
    return found(
        Topology(tuple(names), tuple(tuple(row) for row in rows.values()), tuple(affinity.values())),
        first_words(capture),
    )
