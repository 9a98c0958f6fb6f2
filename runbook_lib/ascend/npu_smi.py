"""Parser for the table of `npu-smi info`: cards and processes. The other forms stand in npu_smi_values.

Formats: the open source of the tool (hicann/driver, npucli) and captures from 24.1 and 25.0 hosts. Nothing
raises; a cell that cannot be read is None, a row that cannot be read is kept and shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.npu_smi_values import (
    HEALTH_WORDS,
    Board,
    Health,
    KeyValues,
    parse_board,
    parse_health,
    parse_keyvalues,
)
from runbook_lib.ascend.plain import is_elision, lines_of, plain
from runbook_lib.ascend.reading import Reading, first_words, found, refusal, to_float, to_int, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.model import Capture

__all__ = [
    "HEALTH_WORDS", "Board", "Card", "Health", "KeyValues", "NpuInfo", "Process", "parse_board", "parse_health",
    "parse_info", "parse_keyvalues",
]  # fmt: skip

_CARD_CELLS = 3
_PROCESS_CELLS = 4
_SHORTEST_ROW = 2
_RATIO = re.compile(r"([0-9]+)\s*/\s*([0-9]+)")
_HEALTH = re.compile(r"[A-Za-z]+(?:[ _/-][A-Za-z]+)?")
_BUS_ID = re.compile(r"(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]|NA|N/A|-", re.ASCII)


@dataclass(frozen=True, slots=True)
class Card:
    """One chip of one card, as the two rows of `npu-smi info` describe it.

    id: NPU number; chip: number of the chip in it; phy_id: A3's second number, None elsewhere. memory: the column
    `Memory-Usage`, all that a card without HBM has. None in any other field means that the table did not say.
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
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None


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
    names_hbm: False when the heading has a column for memory and none for HBM.
    """

    version: str | None
    cards: tuple[Card, ...]
    processes: tuple[Process, ...] = ()
    said_idle: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    unreadable_rows: tuple[str, ...] = ()
    names_hbm: bool = True

    def processes_of(self, card: int) -> tuple[Process, ...] | None:
        """Return the processes on a card, () when the tool says there is none, None when it does not say."""
        rows = tuple(process for process in self.processes if process.card == card)
        if rows:
            return rows
        return () if card in self.said_idle else None


def _cells(line: str) -> list[str] | None:
    """Return the cells of a row; None for a row without its closing bar, which may be cut off anywhere."""
    words = line.strip()
    if len(words) < _SHORTEST_ROW or not words.startswith("|") or not words.endswith("|"):
        return None
    return [cell.strip() for cell in words[1:-1].split("|")]


def _first_row(cells: list[str]) -> Card | None:
    match = re.fullmatch(r"([0-9]{1,4})\s+(\S.*)", cells[0])
    numbers = cells[2].split()
    if match is None or not _HEALTH.fullmatch(cells[1]) or len(numbers) < 2:  # noqa: PLR2004 - power, temperature
        return None
    health = next((word for word in HEALTH_WORDS if word.lower() == cells[1].lower()), cells[1])
    return Card(
        id=int(match.group(1)),
        name=match.group(2).strip(),
        health=health,
        power_w=to_float(numbers[0]),
        temp_c=to_int(numbers[1]),
    )


def _second_row(card: Card, cells: list[str], heading: str) -> Card | None:
    match = re.fullmatch(r"([0-9]{1,4})(?:\s+([0-9]{1,4}|-|NA))?", cells[0])
    if match is None or not _BUS_ID.fullmatch(cells[1]):
        return None
    ratios: list[tuple[str, str]] = _RATIO.findall(cells[2])
    memory, hbm = ("", ""), ("", "")
    if _only_memory(heading):
        memory = ratios[0] if len(ratios) == 1 else memory
    elif len(ratios) > 1:  # with one pair it is not said whether DDR or HBM
        memory, hbm = ratios[0], ratios[-1]
    numbers = cells[2].split()
    second = match.group(2) if "device" not in heading else None  # the logic id of older tools
    return replace(
        card,
        chip=to_int(match.group(1)),
        phy_id=to_int(second) if second else None,
        bus_id=cells[1] if cells[1] not in {"NA", "N/A", "-"} else None,
        aicore_percent=to_int(numbers[0]) if numbers else None,
        hbm_used_mb=to_int(hbm[0]),
        hbm_total_mb=to_int(hbm[1]),
        memory_used_mb=to_int(memory[0]),
        memory_total_mb=to_int(memory[1]),
    )


def _only_memory(heading: str) -> bool:
    return "memory-usage" in heading and "hbm-usage" not in heading


def _process_row(cells: list[str], heading: Sequence[str], unit_mb: float) -> Process | None:
    match = re.fullmatch(r"([0-9]{1,4})(?:\s+([0-9]{1,4}))?", cells[0])
    if match is None or len(cells) < max(_PROCESS_CELLS, len(heading)):
        return None
    names = {"name": "process name", "pid": "process id", "memory": "process memory"}
    at = {
        key: next((n for n, words in enumerate(heading) if words.partition("(")[0] == name), -1)
        for key, name in names.items()
    }  # 26.x has one more column: the pid in the container
    if min(at.values()) < 0 or not at["pid"] < at["name"] < at["memory"]:
        return None
    more = len(cells) - len(heading)  # bars inside the name
    memory = to_int(cells[at["memory"] + more])
    return Process(
        card=int(match.group(1)),
        chip=to_int(match.group(2)) if match.group(2) else None,
        pid=to_int(cells[at["pid"]]),
        name="|".join(cells[at["name"] : at["name"] + 1 + more]).strip(),
        memory_mb=None if memory is None else int(memory * unit_mb),
    )


def _merged(card: Card, again: Card) -> Card:
    """Return what two rows of one chip agree on."""
    differing: dict[str, Any] = {
        item.name: None
        for item in fields(Card)
        if item.name not in {"id", "name", "chip"} and getattr(card, item.name) != getattr(again, item.name)
    }
    return replace(card, **differing)


class _Table:
    """The rows read so far; `half` is a card whose second row is still to come."""

    def __init__(self) -> None:
        self.versions: set[str] = set()
        self.cards: dict[tuple[int, int | None], Card] = {}
        self.processes: list[Process] = []
        self.idle: set[int] = set()
        self.unplaced: list[str] = []
        self.half: Card | None = None
        self.in_processes = False
        self.process_heading: list[str] = []
        self.chip_heading = ""
        self.chip_headings: set[str] = set()
        self.unit_mb = 1.0

    def keep(self, card: Card) -> None:
        """Take a card; of a chip that is there twice only what both rows say is known."""
        known = self.cards.get((card.id, card.chip))
        self.cards[card.id, card.chip] = card if known is None else _merged(known, card)
        if known is not None and known != card:
            self.unplaced.append(f"two different rows for NPU {card.id}")

    def flush(self) -> None:
        """Keep a card without its second row: its memory then stays unknown."""
        if self.half is not None:
            self.keep(self.half)
            self.unplaced.append(f"no second row for NPU {self.half.id}")
            self.half = None

    def row(self, line: str) -> None:
        """Place one `|` row."""
        cells = _cells(line)
        if cells is None:
            self.unplaced.append(line.strip())
            return
        title = re.search(r"\bVersion:\s*(\S+)", line)
        idle = re.fullmatch(r"No running processes found in NPU ([0-9]{1,4})", cells[0], re.IGNORECASE)
        if title and "npu-smi" in line:
            self.versions.add(title.group(1))
            self.in_processes = False
        elif idle:
            self.idle.add(int(idle.group(1)))
        elif re.search(r"process\s+id", line, re.IGNORECASE):
            self.flush()
            self.in_processes = True
            self.process_heading = [" ".join(cell.lower().split()) for cell in cells]
            # very old builds print bytes
            self.unit_mb = 1 / 1024 / 1024 if "memory(b)" in line.replace(" ", "").lower() else 1.0
        elif cells[0].split()[:1] in (["NPU"], ["Chip"], ["Device"]):
            if cells[0].startswith("Chip"):
                self.chip_heading = line.lower()
                self.chip_headings.add(self.chip_heading)
        elif not self._place(cells):
            self.unplaced.append(line.strip())

    def _place(self, cells: list[str]) -> bool:
        if self.in_processes:
            process = _process_row(cells, self.process_heading, self.unit_mb)
            if process is not None and process not in self.processes:
                self.processes.append(process)
            return process is not None
        if len(cells) != _CARD_CELLS:
            return False
        if self.half is not None:
            whole = _second_row(self.half, cells, self.chip_heading)
            if whole is not None:
                self.half = None
                self.keep(whole)
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
    for line in lines_of(f"{plain(capture.stderr)}\n{plain(capture.stdout)}"):
        words = line.text.strip()
        if words.startswith("|"):
            table.row(words)
        elif words.startswith("+") or is_elision(words):
            table.flush()
        elif "WARNING" in words:
            warnings.append(words)
    table.flush()
    if not table.cards:
        return unreadable(capture)
    info = NpuInfo(
        table.versions.pop() if len(table.versions) == 1 else None,
        tuple(table.cards.values()),
        tuple(table.processes),
        tuple(sorted(table.idle)),
        tuple(warnings),
        tuple(table.unplaced),
        not table.chip_headings or not all(map(_only_memory, table.chip_headings)),
    )
    return found(info, first_words(capture))
