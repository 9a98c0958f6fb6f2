"""The pictures of the first stages: host x check for preflight, card x card for the network, sizes for HCCL."""

# ruff: noqa: RUF001 - Chinese text uses full-width punctuation

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runbook_lib.model import Subject, Verdict, worst
from runbook_lib.params import Topology
from runbook_lib.stages.network import NetworkFacts
from runbook_lib.stages.network.matrix import cell_verdict, not_judged
from runbook_lib.views.cells import Cell, Picture, svg
from runbook_lib.views.explained import explained
from runbook_lib.views.html import embed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runbook_lib.ascend.hccl_test import Collective
    from runbook_lib.model import Finding
    from runbook_lib.params import Params
    from runbook_lib.views.style import Language

_WORDS = {
    "checks": ("host x check", "主机 x 检查项"),
    "matrix": ("who answers whom: row pings column", "互 ping 矩阵：行 ping 列"),
    "untested": ("untested", "未测试"),
    "unchecked": ("not checked", "未检查"),
    "collective": ("all-reduce over all cards, GB/s by size", "全卡 all-reduce，按大小的带宽（GB/s）"),
}
_BAR = 220


def _word(name: str, language: Language) -> str:
    return _WORDS[name][language == "zh"]


def checks_picture(findings: Iterable[Finding], language: Language = "en") -> Picture:
    """Return host x check; a check over cards shows the worst of them, and how many are not ok."""
    grouped: defaultdict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        grouped[finding.subject.host, finding.code].append(finding)
    hosts = list(dict.fromkeys(host for host, _ in grouped if host)) + [""] * any(not host for host, _ in grouped)
    codes = list(dict.fromkeys(code for _, code in grouped))
    cells = {
        (hosts.index(host), codes.index(code)): Cell(worst(each.verdict for each in found), _said(found))
        for (host, code), found in grouped.items()
    }
    names = [host or "cluster" for host in hosts]
    return Picture(_word("checks", language), names, codes, cells, _word("unchecked", language))


def _said(found: list[Finding]) -> str:
    bad = [each for each in found if each.verdict not in {Verdict.OK, Verdict.SKIPPED}]
    title = explained(found[0].code, "en").title
    if not bad:
        return f"{title}? no: {found[0].seen}"
    return f"{title}: {bad[0].subject}: {bad[0].seen}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")


def ping_picture(facts: NetworkFacts, params: Params, language: Language = "en") -> Picture:
    """Return card x card over all hosts: answered, lost, unreadable, not judged; the rest is drawn as untested."""
    cards = [Subject(host.name, card.id) for host in params.cluster.hosts for card in host.cards]
    place = {card: number for number, card in enumerate(cards)}
    direct = params.cluster.topology is Topology.DIRECT
    closed = {
        (place[source], place[target])
        for source in cards
        for target in cards
        if source.host == target.host or (direct and source.card != target.card and (source, target) not in facts.pings)
    }
    cells = {}
    for (source, target), reading in facts.pings.items():
        verdict, said = cell_verdict(reading), reading.message
        why = not_judged(facts, params, source) or not_judged(facts, params, target)
        if why and verdict is not Verdict.OK:
            verdict, said = Verdict.SKIPPED, why
        if reading.value is not None:
            said = f"{reading.value.received} of {reading.value.sent} answered"
        cells[place[source], place[target]] = Cell(verdict, f"{source} to {target}: {said}")
    names = [str(card) for card in cards]
    return Picture(
        _word("matrix", language),
        names,
        names,
        cells,
        _word("untested", language),
        frozenset(closed),
        len(params.master.cards),
    )


def picture_html(stage: str, facts: Any, findings: Iterable[Finding], params: Params, language: Language = "en") -> str:  # noqa: ANN401 - facts of any stage
    """Return the picture of a stage: the matrix where there is one, else host x check."""
    pictures = [checks_picture(findings, language)]
    if stage == "network" and isinstance(facts, NetworkFacts):
        pictures.insert(0, ping_picture(facts, params, language))
    return embed(Markup("").join(Markup(svg(each, language)) for each in pictures))  # noqa: S704 - svg escapes all text


def picture_text(stage: str, facts: Any, findings: Iterable[Finding], params: Params) -> str:  # noqa: ANN401 - facts of any stage
    """Return the same in a line for each picture: how many cells are in which state."""
    pictures = [checks_picture(findings)]
    if stage == "network" and isinstance(facts, NetworkFacts):
        pictures.insert(0, ping_picture(facts, params))
    return "\n".join(
        f"{each.title}: {', '.join(f'{number} {name}' for name, number in each.counts().items())}" for each in pictures
    )


def collective_html(rows: Sequence[Collective], expected_gb_per_s: float, language: Language = "en") -> str:
    """Draw the bandwidth of every size as a bar; the expected order of magnitude is a line."""
    most = max([expected_gb_per_s, *(row.gb_per_s for row in rows)])
    scale, height = _BAR / most, 18 * len(rows) + 44
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="420" height="{height}" '
            'font-family="sans-serif" font-size="11" fill="currentColor">'
        ),
        f"<title>{_word('collective', language)}</title>",
        f'<text x="4" y="14" font-size="12">{_word("collective", language)}</text>',
    ]
    for number, row in enumerate(rows):
        y = 24 + number * 18
        size = f"{row.size_bytes >> 20} MiB" if row.size_bytes >= 1 << 20 else f"{row.size_bytes >> 10} KiB"
        parts += [
            f'<text x="70" y="{y + 11}" text-anchor="end">{size}</text>',
            f'<rect x="78" y="{y}" width="{max(1.0, row.gb_per_s * scale):.1f}" height="13" fill="#2f7fd1"/>',
            f'<text x="{82 + row.gb_per_s * scale:.1f}" y="{y + 11}">{row.gb_per_s:.2f}</text>',
        ]
    x = 78 + expected_gb_per_s * scale
    parts.append(
        f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{height - 18}" stroke="#d9730d" stroke-dasharray="4 3"/>'
    )
    parts.append(f'<text x="{x:.1f}" y="{height - 5}" text-anchor="middle">{expected_gb_per_s:g}</text></svg>')
    return embed(Markup("\n".join(parts)))  # noqa: S704 - numbers and our own words only
