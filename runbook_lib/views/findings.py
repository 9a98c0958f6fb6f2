"""Findings for the eye: problems first with their remedy, the rest folded; the same as text; a grid of verdicts."""

from __future__ import annotations

from collections import defaultdict
from textwrap import indent
from typing import TYPE_CHECKING, NamedTuple

from runbook_lib.model import Verdict, worst
from runbook_lib.views.explained import explained
from runbook_lib.views.grouping import PROBLEMS, Group, count, group
from runbook_lib.views.html import embed, plain, render
from runbook_lib.views.style import LOOKS, Language
from runbook_lib.views.words import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runbook_lib.model import Finding


def findings_html(findings: Iterable[Finding], language: Language = "en") -> str:
    """Return counts, every problem as a block, and the other checks folded. No findings at all is unknown."""
    found = list(findings)
    groups = group(found, language)
    w = words(language)
    by_verdict = defaultdict(list)
    for item in groups:
        by_verdict[item.verdict].append(item)
    counts = count(found)
    number = dict(counts)
    folded = [
        (w["ok_findings"], by_verdict[Verdict.OK], number[Verdict.OK]),
        (w["skipped_findings"], by_verdict[Verdict.SKIPPED], number[Verdict.SKIPPED]),
    ]
    return embed(
        render(
            "findings.html.j2",
            w=w,
            language=language,
            total=len(found),
            counts=counts,
            problems=[item for item in groups if item.verdict in PROBLEMS],
            unproblematic=number[Verdict.OK],
            folded=folded,
        )
    )


def findings_text(findings: Iterable[Finding], language: Language = "en") -> str:
    """Return the same for a terminal, without colours; control characters in evidence are made visible."""
    found = list(findings)
    w = words(language)
    lines = ["  ".join(f"{number} {LOOKS[verdict].word(language)}" for verdict, number in count(found))]
    groups = group(found, language)
    if not found:
        lines.append(f"{LOOKS[Verdict.UNKNOWN].symbol} {w['no_findings']}")
    elif not any(item.verdict in PROBLEMS for item in groups) and any(item.verdict is Verdict.OK for item in groups):
        lines.append(w["all_clear"])
    for item in groups:
        lines += _problem(item, w, language) if item.verdict in PROBLEMS else [_line(item, w, language)]
    return "\n".join(lines) + "\n"


def _line(item: Group, w: Mapping[str, str], language: Language) -> str:
    look = LOOKS[item.verdict]
    what = item.headline if item.headline == item.code else f"{item.headline} [{item.code}]"
    seen = f": {item.seen}" if item.verdict not in PROBLEMS and item.uniform and item.seen else ""
    return plain(f"{look.symbol} {look.word(language)}  {item.place(w)}: {what}{seen}").replace("\n", " ")


def _problem(item: Group, w: Mapping[str, str], language: Language) -> list[str]:
    empty = w["empty_value"]
    if item.uniform:
        facts = [(w["expected"], item.expected or empty), (w["seen"], item.seen or empty)]
    else:
        facts = [
            (
                f"{w['cards']} {cards}",
                f"{w['expected']} {expected or empty}; {w['seen']} {seen or empty}",
            )
            for cards, expected, seen in item.variants()
        ]
    if item.transient:
        facts.append(("", w["still_changing"]))
    facts += [(w["why"], item.explained.why), (w["remedy"], item.explained.remedy)]
    facts += [(w["next"], command) for command in item.next_commands or (w["no_next"],)]
    facts.append((w["source"], item.explained.source))
    lines = ["", _line(item, w, language)]
    for label, text in facts:
        if text:
            first, *rest = plain(text).splitlines() or [""]
            lines.append(f"    {label}: {first}" if label else f"    {first}")
            lines += [indent(line, " " * 8) for line in rest]
    return lines


class Grid(NamedTuple):
    """A table of verdicts: one row per check, one column per subject; None where nothing was checked."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[Verdict | None]]]


def verdict_grids(findings: Iterable[Finding], language: Language = "en") -> list[Grid]:
    """Return one grid per host with cards (check x card), and one over whole hosts (check x host)."""
    w = words(language)
    cells: defaultdict[tuple[str, int, str], list[Verdict]] = defaultdict(list)
    for finding in findings:
        cells[finding.subject.host, finding.subject.card, finding.code].append(finding.verdict)
    judged = {key: worst(verdicts) for key, verdicts in cells.items()}

    def grid(title: str, columns: list[tuple[str, str, int]]) -> Grid:
        codes = dict.fromkeys(code for host, card, code in judged if (host, card) in {c[1:] for c in columns})
        rows = [
            (code, explained(code, language).title, [judged.get((host, card, code)) for _, host, card in columns])
            for code in codes
        ]
        return Grid(title, [name for name, _, _ in columns], rows)

    hosts = dict.fromkeys(host for host, _, _ in judged)
    whole = [(host or w["cluster"], host, -1) for host in hosts if any(key[:2] == (host, -1) for key in judged)]
    grids = [grid(w["host_checks"], whole)] if whole else []
    for host in hosts:
        cards = sorted({card for name, card, _ in judged if name == host and card >= 0})
        if cards:
            grids.append(grid(host or w["cluster"], [(f"{w['card']} {card}", host, card) for card in cards]))
    return grids


def verdict_grid_html(findings: Iterable[Finding], language: Language = "en") -> str:
    """Return the grids as coloured tables; each cell has symbol and word, an unchecked cell says so."""
    grids = verdict_grids(findings, language)
    return embed(render("grid.html.j2", w=words(language), language=language, grids=grids, looks=LOOKS))
