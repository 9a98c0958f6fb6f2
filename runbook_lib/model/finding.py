"""A finding: what one check says about one subject."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(StrEnum):
    """What a check concludes. `unknown` means it could not be seen, and is never shown as ok."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


_SEVERITY = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.OK, Verdict.SKIPPED)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the most severe verdict; nothing at all is `unknown`, since nothing was seen."""
    seen = set(verdicts)
    return next((verdict for verdict in _SEVERITY if verdict in seen), Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What a finding or a change is about: a host, one of its cards (-1 for none), and a named part of it.

    A subject with host "" is the cluster as a whole.
    """

    host: str = ""
    card: int = -1
    item: str = ""

    def __str__(self) -> str:
        parts = [self.host or "cluster"]
        if self.card >= 0:
            parts.append(f"card {self.card}")
        if self.item:
            parts.append(self.item)
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict with its evidence.

    code: stable, like NET-GATEWAY-MISSING; its cause, remedy and source stand in ascend/catalogue
    stage: the one stage that owns this finding
    seen / expected: evidence in the tool's own words, and what would be right
    next_command: the exact next command for the user, "" when the verdict is ok
    transient: the state is on its way (net_health `Init`); verify polls again until its deadline
    """

    code: str
    stage: str
    subject: Subject
    verdict: Verdict
    seen: str = ""
    expected: str = ""
    next_command: str = ""
    transient: bool = False
