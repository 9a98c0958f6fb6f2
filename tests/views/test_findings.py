"""Findings: problems first with everything needed to act, the rest folded, nothing looking better than it is."""

from __future__ import annotations

import re

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.views.findings import findings_html, findings_text, verdict_grid_html, verdict_grids
from runbook_lib.views.grouping import ranges
from runbook_lib.views.style import LOOKS

OK_SYMBOL = LOOKS[Verdict.OK].symbol


def found(
    verdict: Verdict, card: int = 0, *, host: str = "node-1", code: str = "NET-MTU", seen: str = "1500"
) -> Finding:
    """Make a finding."""
    command = "" if verdict is Verdict.OK else f"runbook plan p.yaml --stage network --host {host}"
    return Finding(code, "network", Subject(host, card), verdict, seen, "4096", command)


def body(html: str) -> str:
    """Return what stands after the style."""
    return html.split("</style>", 1)[1]


@pytest.mark.parametrize("render", [findings_html, findings_text], ids=["html", "text"])
def test_a_problem_has_all_that_is_needed_to_act(render: object) -> None:
    """Host and card, title, expected, seen, why, remedy, next command, source, code."""
    assert callable(render)
    shown = render([found(Verdict.FAIL, 3)])
    for text in (
        "node-1 card 3", "The MTU is wrong", "4096", "1500", "Frames are dropped.", "Set it to 4096.",
        "runbook plan p.yaml --stage network --host node-1", "manual 4.2", "NET-MTU",
    ):  # fmt: skip
        assert text in shown


def test_the_worst_comes_first() -> None:
    """Fail, unknown, warn, then ok, whatever order they were found in."""
    findings = [found(verdict, code=f"X-{verdict.value}") for verdict in (Verdict.OK, Verdict.WARN, Verdict.UNKNOWN)]
    text = findings_text([*findings, found(Verdict.FAIL, code="X-fail")])
    places = [text.index(f"X-{name}") for name in ("fail", "unknown", "warn", "ok")]
    assert places == sorted(places)


def test_equal_problems_of_one_host_are_one_block() -> None:
    """Eight cards with one problem are one block; another host has its own."""
    findings = [found(Verdict.FAIL, card) for card in range(8)] + [found(Verdict.FAIL, 2, host="node-2")]
    html = body(findings_html(findings))
    assert html.count('<section class="problem') == 2
    assert "node-1 cards 0-7" in html
    assert "node-2 card 2" in html
    assert re.search(r"9 <span class=\"badge v-fail", html)


def test_different_evidence_is_kept_apart_within_a_block() -> None:
    """Each distinct value is shown with its cards."""
    text = findings_text([found(Verdict.WARN, card, seen=str(1500 + card % 2)) for card in range(4)])
    assert "cards 0, 2: expected 4096; seen 1500" in text
    assert "cards 1, 3: expected 4096; seen 1501" in text


def test_verdicts_are_never_merged() -> None:
    """An unknown card does not disappear in the group of its failed or good neighbours."""
    html = body(findings_html([found(Verdict.OK, 0), found(Verdict.UNKNOWN, 1), found(Verdict.FAIL, 2)]))
    assert html.count('<section class="problem') == 2
    assert "node-1 card 1:" in html
    assert "node-1 card 2:" in html


def test_findings_on_a_whole_host_are_not_swallowed() -> None:
    """Without cards to tell them apart, two findings with other evidence are two blocks."""
    html = body(findings_html([found(Verdict.FAIL, -1, seen="disk a"), found(Verdict.FAIL, -1, seen="disk b")]))
    assert "disk a" in html
    assert "disk b" in html


def test_unknown_never_carries_the_ok_symbol() -> None:
    """Neither in HTML nor as text nor in the grid, apart from the count of zero ok."""
    findings = [found(Verdict.UNKNOWN, card) for card in range(8)]
    html = body(findings_html(findings))
    assert html.count(OK_SYMBOL) == 1
    assert re.search(r'class="zero">0 <span class="badge v-ok">', html)
    assert OK_SYMBOL not in findings_text(findings)
    assert OK_SYMBOL not in body(verdict_grid_html(findings))
    assert "v-ok" not in body(verdict_grid_html(findings))
    assert "No problem" not in html


@pytest.mark.parametrize("render", [findings_html, findings_text, verdict_grid_html], ids=["html", "text", "grid"])
def test_no_findings_are_unknown(render: object) -> None:
    """Nothing checked is not "no problem"."""
    assert callable(render)
    shown = render([])
    assert "Nothing was checked" in shown
    assert "No problem" not in shown


def test_only_skipped_findings_are_not_called_good() -> None:
    """Skipping everything shows nothing."""
    assert "No problem" not in findings_html([found(Verdict.SKIPPED)])
    assert "No problem" not in findings_text([found(Verdict.SKIPPED)])
    assert "No problem" in findings_html([found(Verdict.OK)])


def test_hostile_evidence_cannot_act() -> None:
    """Tool output is shown, never run, in any place that it reaches."""
    evil = "<script>alert(1)</script>\x1b]0;owned\x07"
    finding = Finding(evil, "network", Subject(evil, -1, evil), Verdict.FAIL, evil, evil, evil)
    ok = Finding(evil, "network", Subject(evil, 1), Verdict.OK, evil)
    for html in (findings_html([finding, ok]), verdict_grid_html([finding, ok])):
        assert "<script" not in html
        assert "\x1b" not in html
        assert "&lt;script&gt;" in html
    assert "\x1b" not in findings_text([finding, ok])


def test_a_problem_without_a_next_command_says_so() -> None:
    """A missing next command is visible, not blank."""
    finding = Finding("NET-MTU", "network", Subject("node-1"), Verdict.FAIL)
    assert "none recorded" in findings_html([finding])
    assert "(nothing)" in findings_text([finding])


def test_good_checks_are_named_by_code_not_by_the_problem() -> None:
    """Show the code: "The MTU is wrong" would be a strange thing to read beside ok."""
    assert "The MTU is wrong" not in findings_html([found(Verdict.OK)])
    assert "NET-MTU" in findings_html([found(Verdict.OK)])


def test_an_unknown_finding_does_not_claim_the_problem() -> None:
    """The title names a problem that nobody has seen."""
    assert "not known whether: The MTU is wrong" in findings_text([found(Verdict.UNKNOWN)])
    assert "not known whether" not in findings_text([found(Verdict.FAIL)])


def test_chinese_and_unspoken_languages() -> None:
    """Chinese comes from the same catalogue; a language that we do not speak is an error, not English."""
    assert "设置为 4096。" in findings_html([found(Verdict.FAIL)], "zh")
    with pytest.raises(UsageError, match="fr"):
        findings_html([found(Verdict.FAIL)], "fr")  # type: ignore[arg-type]


def test_the_grid_has_a_cell_per_card_and_check() -> None:
    """Cards that were not checked are empty, not ok; several findings on one cell show the worst."""
    findings = [found(Verdict.OK, 0), found(Verdict.FAIL, 1), found(Verdict.OK, 0, code="B"), found(Verdict.OK, -1)]
    findings += [Finding("B", "network", Subject("node-1", 0, "port"), Verdict.UNKNOWN)]
    hosts, cards = verdict_grids(findings)
    assert hosts.columns == ["node-1"]
    assert [row[2] for row in hosts.rows] == [[Verdict.OK]]
    assert cards.columns == ["card 0", "card 1"]
    assert {row[0]: row[2] for row in cards.rows} == {
        "NET-MTU": [Verdict.OK, Verdict.FAIL],
        "B": [Verdict.UNKNOWN, None],
    }
    assert 'class="v-none" title="not checked"' in verdict_grid_html(findings)


def test_ranges() -> None:
    """Runs of numbers are spelt shortly."""
    assert ranges([7, 0, 1, 2, 5, 1]) == "0-2, 5, 7"
