"""Captured text made plain: line ends, colour codes, odd blanks; and what in it is noise, comment or elision."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window title
    r"|\x1b[()][0-9A-B]|\x1b[=>]"
)
_ODD = {
    0xA0: " ", 0x3000: " ", 0x2007: " ",  # blanks of web pages
    0xFF1A: ":", 0xFF0C: ",", 0xFF08: "(", 0xFF09: ")",  # full-width signs of Chinese input
    0xFEFF: None, 0x200B: None, 0x200C: None, 0x200D: None, 0: None,
}  # fmt: skip
_SIGNS = re.compile(rf"{_ESCAPES.pattern}|.", re.DOTALL)
_LONGEST_RETYPED = 5000
DAMAGED = "\ufffd"  # stands where a character of the capture is lost
_CONTROL = re.compile(r"[\x01-\x08\x0b-\x1f\x7f]")
_DOTS = re.compile(r"\.{3,}|[…⋮]")
_LEFT_OUT = re.compile(
    r"(?:\d+ )?(?:(?:more|lines?|output|rows?|rest|cards?) )*(?:omitted|snip(?:ped)?|elided|cut|truncated)\b.*|.*略.*",
    re.IGNORECASE,
)
_NOISE = re.compile(
    r"[\[(<]?(?:(?:warn(?:ing)?s?|info|notice|note|tips?)(?!\w)|警告|注意|提示|信息)[\])>]?\s*[:\]]?"
    r"|/usr/local/Ascend\b|Last (?:failed )?login\b|Authorized users only|Welcome to\b|Connection to \S+ closed"
    r"|(?:logout|exit)$|.*\(y/n\)"
    r"|(?:NPU|CANN):$|Every [0-9.]+s: |Get pid name failed\.?$"
    r"|bash: warning:|There (?:was|were) \d+ failed login|[=\-*_~#]{3,}$|`{3}",
    re.IGNORECASE,
)
BLANKS = re.compile(r"[ \t]+")
# no tool indents so far; patterns would go through it again and again
_INDENT = re.compile(r"^[ \t]{200,}", re.MULTILINE)
_LARGEST_OCTET = 255
DEVICE = r"[ \t]*(?:\[(?:devid|device|dev_id)[ \t]*[0-9]+\])?[ \t]*"  # what may stand before a label


class Line(NamedTuple):
    """One line. `number` counts from 1. `open`: the input ended inside it, so its last word may be cut off."""

    number: int
    text: str
    open: bool = False


def plain(text: str) -> str:
    """Return the text without terminal codes, with plain line ends and blanks; the lines keep their numbers."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    if "\b" in text:
        text = "\n".join(_retyped(line) if "\b" in line else line for line in text.split("\n"))
    text = _ESCAPES.sub("", text).translate(_ODD)
    text = re.sub(r"\r+(?=\n|\Z)|(?<=\n)\r+|\A\r+", "", text)
    return _CONTROL.sub(DAMAGED, text)


def _retyped(line: str) -> str:
    """Return what a terminal shows of a line in which somebody went back and typed again."""
    shown: list[str] = []
    at = 0
    for sign in _SIGNS.findall(line) if len(line) <= _LONGEST_RETYPED else ():
        if sign == "\b":
            at = max(at - 1, 0)
        elif sign in {"\x1b[K", "\x1b[0K"}:
            del shown[at:]
        elif len(sign) > 1 and sign[-1] in "CDGP@":  # the cursor jumps: what is shown then is not worked out
            return line.replace("\b", DAMAGED)
        elif len(sign) == 1:  # anything longer is a colour or a title
            at = len(shown) if sign == "\r" else at
            shown[at : at + 1] = [sign]
            at += 1
    return "".join(shown) if len(line) <= _LONGEST_RETYPED else line.replace("\b", DAMAGED)


def lines_of(text: str) -> list[Line]:
    """Return the lines of plain text."""
    parts = _INDENT.sub(" ", text).split("\n")
    last = parts.pop().rstrip()
    lines = [Line(number, part.rstrip()) for number, part in enumerate(parts, start=1)]
    if last:
        lines.append(Line(len(parts) + 1, last, open=True))
    return lines


def joined(lines: Iterable[Line]) -> str:
    """Return lines as one text; the last one stays open when the input ended inside it."""
    given = list(lines)
    body = "\n".join(line.text for line in given)
    return body + ("" if not given or given[-1].open else "\n")


def is_elision(text: str) -> bool:
    """Whether a line says that somebody left out lines here."""
    text = text.strip()
    words = re.sub(r"[\s.…⋮<>()\[\]-]+", " ", text).strip()
    if not words:
        return _DOTS.search(text) is not None
    marked = _DOTS.match(text) is not None or (text[0] in "<([" and text[-1] in ">)]")
    return marked and (_DOTS.match(text) is not None or _LEFT_OUT.fullmatch(words) is not None)


def is_noise(text: str) -> bool:
    """Whether a line carries nothing of an answer: blank, comment, warning, banner, ruler."""
    words = text.strip()
    return not words or words.startswith("#") or _NOISE.match(words) is not None


def never_closed(value: str) -> bool:  # noqa: ARG001 - one of the answers to "is this word whole?"
    """Say that a word at a cut may always go on."""
    return False


def closed_ip(value: str) -> bool:
    """Whether no longer IPv4 address begins with this one: 10.0.0.1 may be the start of 10.0.0.12."""
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return False
    last = int(value.rpartition(".")[2])
    return last == 0 or last * 10 > _LARGEST_OCTET


@cache
def _start(label: str) -> re.Pattern[str]:
    return re.compile(rf"{DEVICE}(?:{label})[ \t]*:[ \t]*", re.IGNORECASE)


def differs(text: str, label: str) -> bool:
    """Whether lines with this label say different things: they are of several cards, and none of them is known."""
    start = _start(label)
    lines = [line.text for line in lines_of(BLANKS.sub(" ", plain(text)))]
    return len({line[head.end() :].lower() for line in lines if (head := start.match(line))}) > 1


def labelled(
    text: str,
    label: str,
    value: str = r"\S+",
    whole: Callable[[str], bool] = never_closed,
) -> str | None:
    """Return the one value after a label at the start of a line, with or without `[devid N]` before it.

    None when there is none, when two lines say different things, when one line with the label does not have
    the form of a value, or when the input ended inside the value (`whole` tells that it cannot go on).
    """
    start = _start(label)
    answers: set[str] = set()
    for line in lines_of(BLANKS.sub(" ", plain(text))):
        head = start.match(line.text)
        if head is None:
            continue
        rest = line.text[head.end() :]
        if re.fullmatch(value, rest, re.IGNORECASE) is None or DAMAGED in rest or (line.open and not whole(rest)):
            return None
        answers.add(rest)
    return answers.pop() if len(answers) == 1 else None
