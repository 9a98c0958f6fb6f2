"""Log lines of CANN, HCCL, MindIE and ATB, and which error came first.

Formats: HCCL fault-diagnosis documents, MindIE-LLM source, issue reports. Stamps are kept as the log wrote
them, local time of the process; comparing two hosts is as good as their clocks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runbook_lib.ascend.reading import to_int
from runbook_lib.ascend.signatures import Signature, load_signatures, match

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "LinkError", "LogError", "Signature", "errors_of", "first_error", "load_signatures", "match",
    "parse_line", "parse_link_errors",
]  # fmt: skip

_LONGEST_LINE = 4000
_STAMP = r"(?P<day>\d{4}-\d\d-\d\d)[-T ](?P<clock>\d\d:\d\d:\d\d)(?P<fraction>(?:[.,]\d{1,9}){0,2})"
_PLOG = re.compile(
    rf"\[(?P<level>[A-Z]+)\]\s*(?P<module>[A-Z][A-Z0-9_]*)\((?P<pid>\d+),(?P<process>[^)]*)\):\s*{_STAMP}"
    r"\s*(?:\[(?P<place>[^\]]*)\])?\s*(?P<text>.*)", re.ASCII,
)  # fmt: skip
_MINDIE = re.compile(
    rf"\[{_STAMP}\s*[^\]]*\]\s*(?:\[\d+\]\s*){{0,2}}\[(?P<module>[\w-]+)\]\s*\[(?P<level>[A-Za-z]+)\]"
    r"\s*(?:\[(?P<place>[^\]]*)\])?\s*:?\s*(?P<text>.*)", re.ASCII,
)  # fmt: skip
_ATB = re.compile(rf"\[{_STAMP}\]\s*\[(?P<level>[a-z]+)\]\s*\[\d+\]\s*\[(?P<place>[^\]]*)\]\s*(?P<text>.*)", re.ASCII)
_SCREEN = re.compile(
    rf"(?:\[PID:\s*\d+\]\s*)?{_STAMP}\s*(?P<module>\w+)\((?P<code>E[A-Z]?[0-9]{{4,5}})\):\s*(?P<text>.*)",
    re.ASCII,
)
_SCREEN_OLD = re.compile(rf"(?P<code>E[A-Z]?[0-9]{{4,5}}):\s*{_STAMP}\s*(?P<text>.*)", re.ASCII)
_PLAIN = re.compile(  # Python's logging and what resembles it
    rf"\[?{_STAMP}\S*\s.{{0,200}}?\b(?P<level>DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|CRITICAL)\b(?P<text>.*)", re.ASCII
)
_BARE = re.compile(r"\b(?:ERROR|FATAL)\b|^\s*(?:\w+\.)*\w*(?:Error|Exception):|^ERR:")
_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception):", re.ASCII)
_CODE = re.compile(r"\b(MIE\d{2}E[0-9A-F]{6,8}|E[A-Z]\d{4}|E\d{5})\b")
_ERROR_LEVELS = frozenset({"ERROR", "FATAL", "CRITICAL", "ERR"})
_LINK_COLUMNS = 7


@dataclass(frozen=True, slots=True)
class LogError:
    """One error line.

    at: the stamp in ISO form as the log wrote it, "" when the line has none. code: like EI0006 or
    MIE04E02011C, "" when there is none. line: number in its source, from 1.
    """

    source: str
    line: int
    at: str
    level: str
    module: str
    code: str
    text: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class LinkError:
    """One row of HCCL's LINK_ERROR_INFO table: who waited for whom. `tls` is True for ENABLE."""

    dest_ip: str
    dest_rank: int | None
    dest_port: int | None
    src_ip: str
    src_rank: int | None
    src_port: int | None
    role: str
    status: str
    tls: bool | None


def _stamp(day: str, clock: str, fraction: str) -> str:
    """Return an ISO stamp with microseconds; "" for a date that does not exist.

    CANN writes `.mmm.uuu`; ATB writes microseconds without leading zeros (`.64217` is 0.064217 s).
    """
    parts = re.findall(r"\d+", fraction)
    if len(parts) == 2:  # noqa: PLR2004 - milliseconds and microseconds
        micros = int(parts[0][:3].ljust(3, "0")) * 1000 + int(parts[1][:3].ljust(3, "0"))
    else:
        micros = int(parts[0][:6].ljust(6, "0")) if parts else 0
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}") + timedelta(microseconds=micros)
    except (ValueError, OverflowError):
        return ""
    return moment.isoformat(timespec="microseconds")


def _atb_fraction(fraction: str) -> str:
    digits = fraction.strip(".,")
    return f".{digits.rjust(6, '0')}" if digits.isdigit() else fraction


def _code(text: str) -> str:
    found = _CODE.search(text)
    return found.group(1) if found else ""


def parse_line(line: str, source: str = "", number: int = 0) -> LogError | None:
    """Read one log line of any level; None for a line in no known format."""
    line = line.strip()[:_LONGEST_LINE]
    for pattern in (_PLOG, _ATB, _MINDIE, _SCREEN, _SCREEN_OLD, _PLAIN):
        hit = pattern.match(line)
        if hit is None:
            continue
        parts = hit.groupdict()
        fraction = parts["fraction"]
        if pattern is _ATB:
            fraction = _atb_fraction(fraction)
        text = parts.get("text") or ""
        return LogError(
            source=source,
            line=number,
            at=_stamp(parts["day"], parts["clock"], fraction),
            level=(parts.get("level") or "ERROR").upper(),
            module=parts.get("module") or ("ATB" if pattern is _ATB else ""),
            code=parts.get("code") or _code(text),
            text=text.strip(),
            place=parts.get("place") or "",
        )
    return None


def errors_of(text: str, source: str = "") -> Iterator[LogError]:
    """Yield the error lines of one text: by their level, or without a stamp by a word or a known signature."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        parsed = parse_line(line, source, number)
        if parsed is not None:
            if parsed.level in _ERROR_LEVELS:
                yield parsed
        elif _BARE.search(line[:_LONGEST_LINE]) or match(line[:_LONGEST_LINE]):
            words = line.strip()[:_LONGEST_LINE]
            yield LogError(source, number, "", "ERROR", "", _code(words), words)


def _is_followup(error: LogError) -> bool:
    """Tell whether a line only reports that something earlier went wrong."""
    known = match(error.text)
    return bool(known) and all(signature.followup for signature in known)


def first_error(texts: Mapping[str, str]) -> LogError | None:
    """Return the earliest error over all texts (source -> text); the later ones are its followers.

    Lines with a stamp come before lines without one. Among lines without a stamp those that name a cause
    come before those that only report an end. None when there is no error line at all, which does not mean
    that all is well.
    """
    stamped: list[LogError] = []
    bare: list[LogError] = []
    for source, text in texts.items():
        for error in errors_of(text, source):
            (stamped if error.at else bare).append(error)
    if stamped:
        earliest = min(stamped, key=lambda error: (error.at, error.source, error.line))
        # within one file lines stand in their order: a cause without a stamp that stands before came before
        before = (error for error in bare if error.source == earliest.source and error.line < earliest.line)
        named = (error for error in before if match(error.text) or _RAISED.match(error.text))
        cause = next((error for error in named if not _is_followup(error)), None)
        return earliest if cause is None else replace(cause, at=earliest.at)
    return next((error for error in bare if not _is_followup(error)), bare[0] if bare else None)


def _address(cell: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"([^()\s]+)\s*(?:\(([0-9]+)\))?", cell)
    return (found.group(1), to_int(found.group(2) or "")) if found else ("", None)


def parse_link_errors(text: str) -> tuple[LinkError, ...]:
    """Return the rows of every LINK_ERROR_INFO table in a text; rows that do not fit are left out."""
    rows: list[LinkError] = []
    for line in text.splitlines():
        _, bar, rest = line.partition("|")
        cells = [cell.strip() for cell in rest.split("|")]
        if not bar or "LinkInfo" not in line or len(cells) < _LINK_COLUMNS:
            continue
        (dest_ip, dest_rank), (src_ip, src_rank) = _address(cells[0]), _address(cells[2])
        if not dest_ip or not src_ip:
            continue
        tls = {"ENABLE": True, "DISABLE": False}.get(cells[6].upper())
        rows.append(
            LinkError(dest_ip, dest_rank, to_int(cells[1]), src_ip, src_rank, to_int(cells[3]), cells[4], cells[5], tls)
        )
    return tuple(rows)
