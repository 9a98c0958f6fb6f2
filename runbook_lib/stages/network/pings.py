"""Many pings of one host in one read: one after the other (hccn_tool allows no two), until a deadline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runbook_lib.ascend import hccn
from runbook_lib.ascend.reading import Reading
from runbook_lib.model import Capture, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runbook_lib.ascend.hccn import PingResult
    from runbook_lib.model import Subject
    from runbook_lib.stages.network.pairs import Pair

ONE_PING_S = 8.0  # three packets that nobody answers take about as many seconds
Pings = dict[tuple["Subject", "Subject"], Reading["PingResult"]]

# arguments: tool, deadline, limit of one ping, turns, then "card address turn" for each pair.
# The clock is the kernel's: it does not jump, and reading it starts no process.
# A card that hung once is not asked again.
_SCRIPT = r"""
tool=$1 limit=$3 turns=$4
read -r up x </proc/uptime; up=${up%%.*}
end=$((up + $2)) now=$((up / 60 % turns)) hung=; shift 4
while [ $# -gt 2 ]; do
  case $hung in *" $1 "*) shift 3; continue;; esac
  case $3 in -1|$now) ;; *) shift 3; continue;; esac
  read -r up x </proc/uptime
  [ "${up%%.*}" -lt "$end" ] || break
  n=0
  while :; do
    out=$(timeout -k 1 "$limit" "$tool" -i "$1" -ping -g address "$2" 2>&1); code=$?
    n=$((n + 1))
    case $out in *'tool is busy'*) if [ "$n" -lt 10 ]; then sleep 0.3; continue; fi; out='the tool stayed busy';; esac
    break
  done
  printf 'ping %s %s\n%s\ncode %s\n' "$1" "$2" "$out" "$code"
  case $code in 124|137) hung="$hung $1 ";; esac
  [ "$out" != 'the tool stayed busy' ] || break
  shift 3
done
echo end
"""
_TIMED_OUT = frozenset({124, 137})


def ping_section(key: str, tool: str, pairs: Sequence[Pair], turns: int, deadline_s: float) -> Section:
    """Return the read that pings all pairs of one host."""
    arguments = [word for pair in pairs for word in (str(pair.source.card), pair.address, str(pair.turn))]
    return Section(
        key,
        ("sh", "-c", _SCRIPT, "sh", tool, str(int(deadline_s)), str(int(ONE_PING_S)), str(turns), *arguments),
        deadline_s + ONE_PING_S + 5,
    )


def parse_pings(capture: Capture, host: str, cards: Mapping[str, Subject], asked: Sequence[Pair]) -> Pings:
    """Read what came. A pair that is not there was not tested; an answer that was cut off is unreadable.

    cards: which card shall have which address. What is not asked for is not believed. A loop that was cut off by its
    deadline keeps the pings that it finished: each has its own exit code.
    """
    if not capture.ok and not capture.timed_out:
        return {}  # the loop itself broke
    wanted = {(str(pair.source.card), pair.address): pair for pair in asked if pair.source.host == host}
    found: Pings = {}
    blocks = re.split(r"^ping ([0-9]{1,2}) ([0-9.]{7,15})\n", capture.stdout.replace("\r", ""), flags=re.MULTILINE)
    for card, address, body in zip(blocks[1::3], blocks[2::3], blocks[3::3], strict=True):
        pair = wanted.get((card, address))
        if pair is None or address not in cards:
            continue
        ended = re.search(r"\n?^code ([0-9]{1,3})\n(?:end\n)?\Z", body, re.MULTILINE)
        if ended is None:
            found[pair.source, pair.target] = Reading(None, "unreadable", "the answer is cut off", "timeout")
            continue
        code, text = int(ended.group(1)), body[: ended.start()] + "\n"
        one = Capture(stdout=text, exit_code=None if code in _TIMED_OUT else code, timed_out=code in _TIMED_OUT)
        found[pair.source, pair.target] = _believed(one, address)
    return found


def _believed(capture: Capture, address: str) -> Reading[PingResult]:
    """Read one ping; "all answered" with an exit code or a target that says otherwise is not believed."""
    result = hccn.parse_ping(capture)
    value = result.value
    if value is not None and (
        (value.received == value.sent and not capture.ok) or (value.target is not None and value.target != address)
    ):
        return Reading(None, "unreadable", result.message, "text")
    return result
