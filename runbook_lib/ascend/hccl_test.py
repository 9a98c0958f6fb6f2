"""The output of HCCL's performance tester (`all_reduce_test` and its like), and what its failures mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend.reading import Reading, first_words, found, not_run, to_float, unreadable

if TYPE_CHECKING:
    from runbook_lib.model import Capture

_ROW = re.compile(
    r"^[ \t]*([0-9]{1,18})[ \t]*\|[ \t]*([0-9.]+)[ \t]*\|[ \t]*([0-9.]+)[ \t]*\|[ \t]*(success|failed|NULL)[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
_ANY_ROW = re.compile(r"^[ \t]*[0-9]+[ \t]*\|", re.MULTILINE)
_RATE_ROUNDING = 0.02  # alg_bandwidth is size / time; five digits are printed


@dataclass(frozen=True, slots=True)
class Collective:
    """One size: bytes, average time in us, algorithm bandwidth in GB/s (1e9); checked: None where it was not."""

    size_bytes: int
    time_us: float
    gb_per_s: float
    checked: bool | None


@dataclass(frozen=True, slots=True)
class Reason:
    """Words of a failed run, why it failed, and whether that lies in the test's own setup (then no link is judged)."""

    pattern: str
    why: str
    setup: bool


REASONS = (
    Reason(
        r"error while loading shared libraries: libmpi",
        "libmpi was not found: the MPI of paths.mpi is not on this host, or not the one the test was built with",
        setup=True,
    ),
    Reason(
        r"error while loading shared libraries: (?:libhccl|libascendcl|libruntime)",
        "the toolkit's libraries were not found: its version is not installed on this host",
        setup=True,
    ),
    Reason(
        r"permission denied \(|host key verification failed|unable to (?:run|launch|connect).*proxy",
        "mpirun could not start on another host: the first host has no SSH key for it",
        setup=True,
    ),
    Reason(r"Open TsdClient failed", "a card is in use by another process", setup=True),
    Reason(r"EI0016|config \"tls\"", "the TLS switch differs between cards", setup=False),
    Reason(
        r"EI0006|[Gg]et(?:ting)? socket t?imes? ?out|wait socket establish timeout",
        "a card was not reached: link, segment, gateway or TLS switch of one of them",
        setup=False,
    ),
    Reason(r"ra hdc message process failed|rdma init fail", "the port of a card is down", setup=False),
    Reason(r"EI0013|cqe error status", "packets were lost until the retries ran out", setup=False),
)


def parse_hccl_test(capture: Capture) -> Reading[tuple[Collective, ...]]:
    """Read the rows, smallest size first. A run that failed, or with a row that contradicts itself, has no value."""
    absent = not_run(capture)
    if absent:
        return absent
    if not capture.ok:
        return Reading(None, "error", _error_line(capture), "failed")
    rows = []
    text = capture.stdout.replace("\r", "")
    for size, time, rate, checked in _ROW.findall(text):
        time_us, gb_per_s = to_float(time), to_float(rate)
        if time_us is None or gb_per_s is None or time_us <= 0:
            return unreadable(capture)
        expected = int(size) / time_us / 1000
        if abs(gb_per_s - expected) > _RATE_ROUNDING * expected + 0.0001:
            return unreadable(capture)
        word = {"success": True, "failed": False}.get(checked.lower())
        rows.append(Collective(int(size), time_us, gb_per_s, word))
    sizes = [row.size_bytes for row in rows]
    if not rows or sizes != sorted(set(sizes)) or len(rows) != len(_ANY_ROW.findall(text)):
        return unreadable(capture)
    return found(tuple(rows), first_words(capture))


def _error_line(capture: Capture) -> str:
    """Return the line that names the reason, else the first one."""
    for line in f"{capture.stderr}\n{capture.stdout}".splitlines():
        if reason(line) is not None:
            return line.strip()[:300]
    return first_words(capture)


def reason(text: str) -> Reason | None:
    """Return what a failed run's words mean, None when they are not known."""
    return next((each for each in REASONS if re.search(each.pattern, text, re.IGNORECASE)), None)
