"""The catalogue of findings: what each code means, why it matters and what to do, in English and Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from runbook_lib.ascend.yaml_data import load


@dataclass(frozen=True, slots=True)
class Words:
    """One text in both languages."""

    en: str
    zh: str

    def __str__(self) -> str:
        return self.en


@dataclass(frozen=True, slots=True)
class Entry:
    """What a finding code means. `source` says where the knowledge comes from."""

    code: str
    title: Words
    why: Words
    remedy: Words
    source: Words


@cache
def _entries() -> dict[str, Entry]:
    return {
        code: Entry(
            code=code,
            title=Words(**row["title"]),
            why=Words(**row["why"]),
            remedy=Words(**row["remedy"]),
            source=Words(**row["source"]),
        )
        for code, row in load("catalogue.yaml").items()
    }


def codes() -> tuple[str, ...]:
    """Return all finding codes, in the order of the stages."""
    return tuple(_entries())


def explain(code: str) -> Entry:
    """Return the entry of a finding code. Raises KeyError for a code that does not exist."""
    return _entries()[code]
