"""Plans: everything that will be done, and its undo, before it is approved."""

from __future__ import annotations

import pytest

from runbook_lib.model import Change, Command, Job, Plan, Risk, Subject, Upload
from runbook_lib.views.plans import plan_commands, plan_html, plan_text


def change(**values: object) -> Change:
    """Make a change of the MTU with some fields replaced."""
    base: dict[str, object] = {
        "subject": Subject("node-1", 0),
        "summary": "set the MTU",
        "before": "1500",
        "after": "4096",
        "action": Command(("hccn_tool", "-i", "0", "-mtu", "-s", "size", "4096")),
        "undo": Command(("hccn_tool", "-i", "0", "-mtu", "-s", "size", "1500")),
    }
    return Change(**(base | values))  # type: ignore[arg-type]


def body(html: str) -> str:
    """Return what stands after the style."""
    return html.split("</style>", 1)[1]


@pytest.mark.parametrize("render", [plan_html, plan_text], ids=["html", "text"])
def test_a_change_is_shown_whole(render: object) -> None:
    """Subject, summary, before, after, command, undo, risk, phase and digest."""
    assert callable(render)
    plan = Plan("network", (change(risk=Risk.DISRUPTIVE), change(phase=2)))
    shown = render(plan)
    for text in (
        "node-1 card 0", "set the MTU", "1500", "4096", "hccn_tool -i 0 -mtu -s size 4096", "disruptive",
        "hccn_tool -i 0 -mtu -s size 1500", "phase 2", plan.digest,
    ):  # fmt: skip
        assert text in shown


def test_commands_can_be_pasted_into_a_shell() -> None:
    """Words with blanks and quotes are quoted."""
    plan = Plan("x", (change(action=Command(("cp", "a b", "it's"))),))
    assert plan_commands(plan) == [("node-1", """cp 'a b' 'it'"'"'s'""")]
    assert "cp 'a b'" in plan_text(plan)


def test_an_upload_is_a_diff_when_the_old_file_is_known() -> None:
    """The undo holds the old content."""
    new = Upload("/etc/x.conf", "a=1\nb=3\n", 0o600, "root:root")
    plan = Plan("x", (change(action=new, undo=Upload("/etc/x.conf", "a=1\nb=2\n")),))
    text = plan_text(plan)
    assert "-b=2" in text
    assert "+b=3" in text
    assert "mode 0600, owner root:root" in text
    html = body(plan_html(plan))
    assert '<span class="before">-b=2</span>' in html
    assert '<span class="after">+b=3</span>' in html
    assert '<span class="after">+++' not in html


def test_an_upload_without_an_old_file_shows_its_content() -> None:
    """Nothing is uploaded that was not shown."""
    plan = Plan("x", (change(action=Upload("/etc/x.conf", "secretless=1\n"), undo=Command(("rm", "/etc/x.conf"))),))
    assert "secretless=1" in plan_text(plan)
    assert "secretless=1" in plan_html(plan)


def test_what_cannot_be_undone_says_why() -> None:
    """The reason stands beside the change, and a job says how long it may take."""
    job = Job("load-1", ("docker", "load"), 3600.0)
    plan = Plan("x", (change(action=job, undo=None, irreversible="layers are shared", risk=Risk.DESTRUCTIVE),))
    for shown in (plan_html(plan), plan_text(plan)):
        assert "layers are shared" in shown
        assert "destructive" in shown
        assert "load-1, at most 3600 s" in shown


def test_an_empty_plan_says_nothing_to_change() -> None:
    """Nothing to do is an answer."""
    assert "Nothing to change" in plan_html(Plan("x"))
    assert "Nothing to change" in plan_text(Plan("x"))


@pytest.mark.parametrize("changes", [(), (change(),)], ids=["empty", "with changes"])
def test_a_provisional_plan_is_unknown_and_has_no_digest(changes: tuple[Change, ...]) -> None:
    """It waits for another stage; above all it never says that there is nothing to change."""
    plan = Plan("gateway", changes, provisional=True, waits_for=("network",))
    for shown in (body(plan_html(plan)), plan_text(plan)):
        assert "waits for network" in shown
        assert "Nothing to change" not in shown
        assert "digest:" not in shown
    assert "v-unknown" in body(plan_html(plan))
    assert 'class="digest"' not in body(plan_html(plan))


def test_states_follow_their_changes_across_hosts() -> None:
    """A change without a recorded state is a question mark, not applied."""
    plan = Plan("x", (change(), change(subject=Subject("node-2", 0)), change(subject=Subject("node-1", 1))))
    html = body(plan_html(plan, ["applied", "failed"]))
    rows = html.split("<tr><td>")[1:]
    assert [row[0] for row in rows] == ["1", "3", "2"]
    assert ["<td>applied</td>" in rows[0], "<td>?</td>" in rows[1], "<td>failed</td>" in rows[2]] == [True] * 3


def test_hostile_text_cannot_act() -> None:
    """File contents and paths come from hosts and from params."""
    evil = "</pre><script>alert(1)</script>\x1b[2J"
    action = Upload(evil, evil)
    plan = Plan(evil, (change(summary=evil, before=evil, after=evil, action=action, undo=Upload(evil, "x")),))
    html = body(plan_html(plan, [evil]))
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\x1b" not in plan_text(plan)
