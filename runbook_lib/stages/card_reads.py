"""Many reads of hccn_tool in one section of a probe.

A section of its own for each read costs as much as the read itself, and there are a hundred on a host. So the reads of
all cards are one section, with marks between them; stdout and stderr come together, as both carry the tool's words. At
first one timeout holds for all cards; where that was not enough they are all asked again with a timeout for each, so
that a call that hangs loses the rest of its own card only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runbook_lib.model import Capture, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
_AGAIN = f"\n{_MARK} again\n"
_SCRIPT = f"""
cards=$1 tool=$2 limit=$3 words=$4; shift 4
timeout -k 1 "$limit" sh -c "$cards" sh "$tool" "$words" "$@"
case $? in 124|137) ;; *) exit;; esac
printf '\\n{_MARK} again\\n'
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


def cards_section(key: str, tool: str, cards: Sequence[int], words: Sequence[str], limit_s: int = 15) -> Section:
    """Return a section that asks every card for all words (the tool's own, without dash), one after the other.

    limit_s: for all reads together, and if that was not enough for those of each card; the real tool needs tens of
    milliseconds for each read.
    """
    argv = ("sh", "-c", _SCRIPT, "sh", _CARDS, tool, str(limit_s), " ".join(words), *map(str, cards))
    return Section(key, argv, 5.0 + (limit_s + 2) * (1 + len(cards)))


def split_reads(capture: Capture, cards: Sequence[int], words: Sequence[str]) -> Reads:
    """Return what each read printed. A read that was cut off has no exit code; one that never began is not there.

    What was finished before a timeout counts: it has its own exit code. A section that failed otherwise has no reads.
    """
    reads = {(card, word) for card in cards for word in words}
    if not capture.ok and not capture.timed_out:
        failed = Capture(capture.stdout, capture.stderr, capture.exit_code)
        return dict.fromkeys(reads, failed)
    first, again, second = capture.stdout.partition(_AGAIN)
    found = _reads_in(first, reads, late=capture.timed_out)
    if again:  # a tool that hangs may keep the others out as well, so what the first pass finished counts
        done = {read: seen for read, seen in found.items() if seen.exit_code is not None}
        found = _reads_in(second, reads, late=capture.timed_out) | done
    return found


def _reads_in(text: str, reads: set[tuple[int, str]], *, late: bool) -> Reads:
    parts = _READ.split(text)
    found: Reads = {}
    for card, word, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        read = (int(card), word)
        if read not in reads or read in found:
            continue
        ended, left = _CODE.search(body), _CARD.search(body)
        if ended is not None:
            found[read] = Capture(stdout=body[: ended.start()], exit_code=int(ended.group(1)))
        else:
            cut = late or (left is not None and left.group(1) in _TIMED_OUT)
            found[read] = Capture(stdout=body[: left.start()] if left else body, timed_out=cut)
    return found


def join_reads(captures: Mapping[tuple[int, str], Capture]) -> Capture:
    """Return the section's capture that `split_reads` takes apart: a hung read ends its card."""
    text = ""
    hung: set[int] = set()
    for (card, word), capture in sorted(captures.items(), key=lambda item: item[0][0]):
        if card in hung:
            continue
        text += f"{_MARK} read {card} {word}\n{capture.stderr}{capture.stdout}"
        if capture.exit_code is None:
            hung.add(card)
            text += f"\n{_MARK} card {card} {124 if capture.timed_out else 1}\n"
        else:
            text += f"\n{_MARK} code {capture.exit_code}\n"
    return Capture(stdout=text, exit_code=0)
