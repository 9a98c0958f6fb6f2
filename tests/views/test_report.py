"""The run's report: one page that hides nothing and loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from runbook_lib.model import Change, Command, Finding, Plan, Subject, Verdict
from runbook_lib.views.figures import throughput_figure
from runbook_lib.views.report import Ran, RunSummary, StageSummary, duration, run_report

GOOD = Finding("NET-MTU", "network", Subject("node-1", 0), Verdict.OK, "4096", "4096")
BAD = replace(GOOD, verdict=Verdict.FAIL, seen="1500", next_command="runbook plan p.yaml")
PLAN = Plan("network", (Change(Subject("node-1", 0), "set", "1500", "4096", Command(("hccn_tool", "-i", "0"))),))
STAGE = StageSummary("network", "Network", Verdict.OK, [GOOD], seconds=75.2, notebook_href="20_network_setup.ipynb")
RUN = RunSummary(
    "lab", "run-1", "2025-03-11T10:00:00Z", "2025-03-11T11:00:00Z", "apply", None, [STAGE], "abc", "a: 1\n"
)


def headline(html: str) -> str:
    """Return the verdict of the headline."""
    match = re.search(r'class="headline v-(\w+)"', html)
    assert match
    return match[1]


def test_a_good_run() -> None:
    """Cluster, run, verdict, stages, links, chain head and params are all there; no twin is mentioned."""
    html = run_report(RUN)
    assert headline(html) == "ok"
    for text in ("lab", "run-1", "2025-03-11T11:00:00Z", "abc", "a: 1", 'href="20_network_setup.ipynb"', "1 min 15 s"):
        assert text in html
    assert "twin" not in html.split("</style>")[1]
    assert html.count("<style>") == 1


def test_the_page_is_self_contained() -> None:
    """No script, no link, no address, also with figures in it."""
    figure = throughput_figure([{"concurrency": 1, "output_tokens_per_s": 3.0, "ok": True}])
    html = run_report(replace(RUN, stages=[replace(STAGE, plan=PLAN, change_states=["applied"], figures=[figure])]))
    assert "<svg" in html
    assert "<td>applied</td>" in html
    assert not re.search(r"<script|<link|@import|(?:src|href)=[\"']?https?:", html)


def test_a_stage_cannot_look_better_than_its_findings() -> None:
    """A stage that claims ok with a failed finding is shown as failed, and so is the run."""
    html = run_report(replace(RUN, stages=[replace(STAGE, findings=[GOOD, BAD])]))
    assert headline(html) == "fail"
    assert "runbook plan p.yaml" in html


def test_commands_that_ran_are_folded_away_with_their_times() -> None:
    """Each has host, time and exit code; long ones are cut."""
    ran = [Ran("node-1", ("sh", "-c", "echo <b>"), 0, 0.05), Ran("node-2", ("x" * 900,), None, None)]
    html = run_report(replace(RUN, stages=[replace(STAGE, ran=ran)]))
    assert "commands that ran: 2 (0.1 s)" in html or "commands that ran: 2 (0.0 s)" in html
    assert "[0]  sh -c &#39;echo &lt;b&gt;&#39;" in html
    assert "[?]  " + "x" * 300 + "..." in html


@pytest.mark.parametrize("name", ["network", "20_network_setup"])
def test_findings_of_other_stages_are_due_there(name: str) -> None:
    """They do not fail this stage, unless nothing tells whose they are."""
    other = replace(BAD, stage="gateway", code="GW-MISSING")
    stage = StageSummary(name, "Network", Verdict.OK, [GOOD, other])
    html = run_report(replace(RUN, stages=[stage]))
    assert "GW-MISSING" in html
    assert headline(html) == ("ok" if name == "network" else "fail")
    assert ("due in other stages" in html) == (name == "network")


def test_a_run_that_did_not_end_is_unknown() -> None:
    """Whatever its stages say; a failure stays a failure."""
    html = run_report(replace(RUN, ended=""))
    assert headline(html) == "unknown"
    assert "not ended, or interrupted" in html
    assert headline(run_report(replace(RUN, ended="", stages=[replace(STAGE, verdict=Verdict.FAIL)]))) == "fail"


def test_a_run_without_stages_is_unknown() -> None:
    """Nothing was seen."""
    assert headline(run_report(replace(RUN, stages=[]))) == "unknown"


def test_a_rehearsal_says_so() -> None:
    """An emulated cluster carries a banner with its level, in both languages."""
    assert "Rehearsal on the twin (L1a)" in run_report(replace(RUN, twin_level="L1a"))
    assert "孪生集群上演练" in run_report(replace(RUN, twin_level="L0"), "zh")


def test_hostile_text_cannot_act() -> None:
    """Names, notes, params and links come from files that others write."""
    evil = '"><script>alert(1)</script>'
    stage = StageSummary(evil, evil, Verdict.OK, [], notebook_href="javascript:alert(1)", note=evil)
    html = run_report(RunSummary(evil, evil, evil, evil, evil, evil, [stage], evil, evil))
    assert "<script" not in html
    assert "javascript:" not in html


def test_eight_cards_get_a_grid() -> None:
    """The network stage is read best as a table."""
    findings = [replace(GOOD, subject=Subject("node-1", card)) for card in range(8)]
    assert '<table class="grid">' in run_report(replace(RUN, stages=[replace(STAGE, findings=findings)]))


def test_durations() -> None:
    """Not measured is a question mark."""
    assert [duration(value) for value in (None, 3.04, 75.2, 4000)] == ["?", "3.0 s", "1 min 15 s", "1 h 6 min"]
