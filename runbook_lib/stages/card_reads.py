"""Many reads of hccn_tool in one section of a probe.

A section of its own for each read costs as much as the read itself, and there are a hundred on a host. So the reads of
all cards are one section, with marks between them; stdout and stderr come together, as both carry the tool's words. One
timeout holds for all cards; where that was not enough a second section asks them again with a timeout for each, so that
a call that hangs loses the rest of its own card only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runbook_lib.model import Capture, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.stages.base import HostProbe

UNIT = "hccn_tool"
_MARK = "@@runbook"
_CARDS = f"""
tool=$1 words=$2; shift 2
for card do
  for word in $words; do
    printf '{_MARK} read %s %s\\n' "$card" "$word"
    "$tool" -i "$card" "-$word" -g 2>&1
    printf '\\n{_MARK} code %s\\n' "$?"
  done
done
"""
_AGAIN = f"""
cards=$1 limit=$2 tool=$3 words=$4; shift 4
for card do
  timeout -k 1 "$limit" sh -c "$cards" sh "$tool" "$words" "$card"
  printf '\\n{_MARK} card %s %s\\n' "$card" "$?"
done
"""
_TIMED_OUT = frozenset({"124", "137"})  # what `timeout` answers
_READ = re.compile(rf"^{_MARK} read ([0-9]{{1,3}}) ([a-z_]+)\n", re.MULTILINE)
_CODE = re.compile(rf"\n{_MARK} code ([0-9]{{1,3}})\n(?:\n{_MARK} card [0-9]+ [0-9]+\n)?\Z")
_CARD = re.compile(rf"\n?{_MARK} card [0-9]+ ([0-9]+)\n\Z")

Reads = dict[tuple[int, str], Capture]


def card_sections(
    key: str, tool: str, cards: Sequence[int], words: Sequence[str], limit_s: int = 15
) -> tuple[Section, Section]:
    """Return what asks every card for all words (the tool's own, without dash), one after the other.

    After a hang of an earlier one of UNIT only the second is run.
    limit_s: for all reads together, and if that was not enough for those of each card; the real tool needs tens of
    milliseconds for each read.
    """
    asked = (tool, " ".join(words), *map(str, cards))
    again = ("sh", "-c", _AGAIN, "sh", _CARDS, str(limit_s), *asked)
    return (
        Section(key, ("sh", "-c", _CARDS, "sh", *asked), limit_s, unit=UNIT),
        Section(_again(key), again, 5.0 + (limit_s + 2) * len(cards), if_hung=UNIT),
    )


def _again(key: str) -> str:
    return f"{key}.again"


def split_reads(seen: HostProbe, key: str, cards: Sequence[int], words: Sequence[str]) -> Reads:
    """Return what each read of `card_sections` printed.

    A read that was cut off has no exit code; one that never began is not there. What was finished before a timeout
    counts: it has its own exit code. A section that failed otherwise has no reads.
    """
    reads = {(card, word) for card in cards for word in words}
    first, again = seen.get(key), seen.get(_again(key))
    asked_again = again.ok or again.timed_out
    if not (first.ok or first.timed_out or asked_again):
        return dict.fromkeys(reads, Capture(first.stdout, first.stderr, first.exit_code))
    found = _reads_in(first.stdout, reads, late=first.timed_out)
    if asked_again:  # a tool that hangs may keep the others out as well, so what came first counts
        done = {read: seen for read, seen in found.items() if seen.exit_code is not None}
        found = _reads_in(again.stdout, reads, late=again.timed_out) | done
    return found


def _reads_in(text: str, reads: set[tuple[int, str]], *, late: bool) -> Reads:
    parts = _READ.split(text)
    found: Reads = {}
    for card, word, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        read = (int(card), word)
        if read not in reads or read in found:
            continue
        ended = _CODE.search(body)
        if ended is not None:
            found[read] = Capture(stdout=body[: ended.start()], exit_code=int(ended.group(1)))
        else:
            left = _CARD.search(body)
            cut = late or (left is not None and left.group(1) in _TIMED_OUT)
            found[read] = Capture(stdout=body[: left.start()] if left else body, timed_out=cut)
    return found
