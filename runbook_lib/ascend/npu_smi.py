"""Parsers for npu-smi: cards, processes, board and health.

Formats: the open source of the tool (hicann/driver, npucli) and captures from 24.1 and 25.0 hosts. Nothing
raises; a cell that cannot be read is None, a row that cannot be read is kept and shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend.reading import Reading, first_words, found, refusal, to_float, to_int, unreadable

if TYPE_CHECKING:
    from runbook_lib.model import Capture

HEALTH_WORDS = frozenset({"OK", "Warning", "Alarm", "Critical", "UNKNOWN"})  # npu_common.c of the tool
_CARD_CELLS = 3
_PROCESS_CELLS = 4
_RATIO = re.compile(r"([0-9]+)\s*/\s*([0-9]+)")


@dataclass(frozen=True, slots=True)
class Card:
    """One chip of one card, as the two rows of `npu-smi info` describe it.

    id: NPU number; chip: number of the chip in it; phy_id: A3's second number, None elsewhere.
    None in any other field means that the table did not say.
    """

    id: int
    name: str
    health: str | None
    power_w: float | None
    temp_c: int | None
    chip: int | None = None
    phy_id: int | None = None
    bus_id: str | None = None
    aicore_percent: int | None = None
    hbm_used_mb: int | None = None
    hbm_total_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """One process row. `name` is "" where the tool prints none (always for processes in containers)."""

    card: int
    chip: int | None
    pid: int | None
    name: str
    memory_mb: int | None


@dataclass(frozen=True, slots=True)
class NpuInfo:
    """The whole table.

    said_idle: cards for which the tool says in words that no process runs.
    unreadable_rows: rows of the tables that we could not place; with any of them the table is not trusted.
    """

    version: str | None
    cards: tuple[Card, ...]
    processes: tuple[Process, ...] = ()
    said_idle: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    unreadable_rows: tuple[str, ...] = ()

    def processes_of(self, card: int) -> tuple[Process, ...] | None:
        """Return the processes on a card, () when the tool says there is none, None when it does not say."""
        rows = tuple(process for process in self.processes if process.card == card)
        if rows:
            return rows
        return () if card in self.said_idle else None


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


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _ratio(text: str, *, last: bool) -> tuple[int | None, int | None]:
    pairs = _RATIO.findall(text)
    if not pairs:
        return None, None
    used, total = pairs[-1 if last else 0]
    return to_int(used), to_int(total)


def _first_row(cells: list[str]) -> Card | None:
    match = re.fullmatch(r"([0-9]{1,4})\s+(\S.*)", cells[0])
    if match is None:
        return None
    numbers = cells[2].split()
    return Card(
        id=int(match.group(1)),
        name=match.group(2).strip(),
        health=cells[1] or None,
        power_w=to_float(numbers[0]) if numbers else None,
        temp_c=to_int(numbers[1]) if len(numbers) > 1 else None,
    )


def _second_row(card: Card, cells: list[str]) -> Card | None:
    match = re.fullmatch(r"([0-9]{1,4})(?:\s+([0-9]{1,4}))?", cells[0])
    if match is None:
        return None
    used, total = _ratio(cells[2], last=True)
    if len(_RATIO.findall(cells[2])) < 2:  # noqa: PLR2004 - DDR and HBM; with one pair it is not said which
        used = total = None
    numbers = cells[2].split()
    return Card(
        id=card.id,
        name=card.name,
        health=card.health,
        power_w=card.power_w,
        temp_c=card.temp_c,
        chip=to_int(match.group(1)),
        phy_id=to_int(match.group(2)) if match.group(2) else None,
        bus_id=cells[1] or None,
        aicore_percent=to_int(numbers[0]) if numbers else None,
        hbm_used_mb=used,
        hbm_total_mb=total,
    )


def _process_row(cells: list[str], unit_mb: float) -> Process | None:
    match = re.fullmatch(r"([0-9]{1,4})(?:\s+([0-9]{1,4}))?", cells[0])
    if match is None or len(cells) < _PROCESS_CELLS:
        return None
    memory = to_int(cells[-1])
    return Process(
        card=int(match.group(1)),
        chip=to_int(match.group(2)) if match.group(2) else None,
        pid=to_int(cells[1]),
        name="|".join(cells[2:-1]).strip(),
        memory_mb=None if memory is None else int(memory * unit_mb),
    )


class _Table:
    """The rows read so far; `half` is a card whose second row is still to come."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.cards: list[Card] = []
        self.processes: list[Process] = []
        self.idle: set[int] = set()
        self.unplaced: list[str] = []
        self.half: Card | None = None
        self.in_processes = False
        self.unit_mb = 1.0

    def flush(self) -> None:
        """Keep a card without its second row: its memory then stays unknown."""
        if self.half is not None:
            self.cards.append(self.half)
            self.half = None

    def row(self, line: str) -> None:
        """Place one `|` row."""
        cells = _cells(line)
        title = re.search(r"Version:\s*(\S+)", line)
        idle = re.search(r"No running processes found in NPU ([0-9]{1,4})\b", line)
        if title and "npu-smi" in line:
            self.version = title.group(1)
        elif idle:
            self.idle.add(int(idle.group(1)))
        elif "Process id" in line:
            self.flush()
            self.in_processes = True
            # very old builds print bytes
            self.unit_mb = 1 / 1024 / 1024 if "memory(B)" in line.replace(" ", "") else 1.0
        elif cells[0].split()[:1] in (["NPU"], ["Chip"]):
            return
        elif not self._place(cells):
            self.unplaced.append(line.strip())

    def _place(self, cells: list[str]) -> bool:
        if self.in_processes:
            process = _process_row(cells, self.unit_mb)
            if process is None:
                return False
            self.processes.append(process)
            return True
        if len(cells) != _CARD_CELLS:
            return False
        if self.half is not None:
            whole = _second_row(self.half, cells)
            if whole is not None:
                self.cards.append(whole)
                self.half = None
                return True
        first = _first_row(cells)
        if first is None:
            return False
        self.flush()
        self.half = first
        return True


def parse_info(capture: Capture) -> Reading[NpuInfo]:
    """Read `npu-smi info`. A host without cards is a value with no cards."""
    refused = refusal(capture)
    if refused:
        return refused
    if re.search(r"there is no npu card", capture.stdout, re.IGNORECASE):
        return found(NpuInfo(None, ()), first_words(capture))
    table = _Table()
    warnings: list[str] = []
    for line in f"{capture.stderr}\n{capture.stdout}".splitlines():
        if line.lstrip().startswith("|"):
            table.row(line)
        elif "WARNING" in line:
            warnings.append(line.strip())
    table.flush()
    if not table.cards:
        return unreadable(capture)
    info = NpuInfo(
        table.version,
        tuple(table.cards),
        tuple(table.processes),
        tuple(sorted(table.idle)),
        tuple(warnings),
        tuple(table.unplaced),
    )
    return found(info, first_words(capture))


def parse_keyvalues(capture: Capture) -> Reading[KeyValues]:
    """Read the `key : value` lines of `npu-smi info -t ...`."""
    refused = refusal(capture)
    if refused:
        return refused
    pairs = tuple(
        (match.group(1), match.group(2).strip())
        for match in re.finditer(
            r"^[ \t]*([^\s:|+\[][^:\n]*?)[ \t]*:(?:[ \t]+([^\n]*))?$", capture.stdout.replace("\r", ""), re.MULTILINE
        )
        if match.group(2)
    )
    return found(KeyValues(pairs), first_words(capture)) if pairs else unreadable(capture)


def _said(values: KeyValues, key: str) -> str | None:
    text = values.get(key)
    return None if text in {None, "", "NA", "N/A"} else text


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
    """Read `npu-smi info -t health -i N -c C`; a status word outside the tool's five is unreadable."""
    reading = parse_keyvalues(capture)
    if reading.value is None:
        return Reading(None, reading.state, reading.message, reading.reason)
    words = {value for key, value in reading.value.pairs if key in {"Health Status", "Health"}}
    if len(words) != 1 or not words <= HEALTH_WORDS:
        return unreadable(capture)
    codes = _said(reading.value, "Error Code") or ""
    return found(
        Health(words.pop(), tuple(codes.split()), _said(reading.value, "Error Information") or ""),
        reading.message,
    )
