"""The panel: one click starts one apply of exactly the plan that was shown, and nothing looks better than it is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import ApprovalNeeded, HostUnreachable
from runbook_lib.model import Change, Command, Finding, Plan, Subject, Verdict
from runbook_lib.ui.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.ui.live import Live
    from runbook_lib.ui.protocol import OnProgress, StageSession

WIDGET = "application/vnd.jupyter.widget-view+json"


def plan(size: str = "4096") -> Plan:
    """Make a plan of one change."""
    return Plan("network", (Change(Subject("node-1", 0), "set the MTU", "1500", size, Command(("mtu", size))),))


def finding(verdict: Verdict) -> Finding:
    """Make a finding of the MTU."""
    return Finding("NET-MTU", "network", Subject("node-1", 0), verdict, "seen", "4096", "runbook plan p.yaml")


class FakeSession:
    """A session whose apply waits until it is let go."""

    stage = "network"
    title = "Network <setup>"

    def __init__(self, mode: str = "apply") -> None:
        self.mode = mode
        self.plan: Plan | None = plan()
        self.found = [finding(Verdict.FAIL)]
        self.after = [finding(Verdict.OK)]
        self.go = threading.Event()
        self.begun = threading.Event()
        self.calls: list[str] = []
        self.stopped = False
        self.apply_error: Exception | None = None
        self.verify_error: Exception | None = None
        self.approve_error: Exception | None = None

    def current_plan(self) -> Plan | None:
        """Return the plan."""
        return self.plan

    def findings(self) -> Sequence[Finding]:
        """Return the findings."""
        return self.found

    def approve(self, by: str) -> None:
        """Note the approval, or fail."""
        self.calls.append(f"approve {by}")
        if self.approve_error:
            raise self.approve_error

    def apply(self, on_progress: OnProgress, stop: threading.Event) -> None:
        """Report, wait to be let go, then leave an empty plan or fail."""
        self.calls.append(f"apply on {'main' if threading.current_thread() is threading.main_thread() else 'worker'}")
        on_progress("node-1", 0.25, "downloading <b>")
        on_progress("node-2", -1, "waiting")
        self.begun.set()
        assert self.go.wait(10)
        self.stopped = stop.is_set()
        if self.apply_error:
            raise self.apply_error
        self.plan = Plan("network")

    def verify(self) -> Sequence[Finding]:
        """Take the findings of afterwards, or fail."""
        self.calls.append("verify")
        if self.verify_error:
            raise self.verify_error
        self.found = self.after
        return self.found


@pytest.fixture
def session() -> FakeSession:
    """Return a session in apply mode with one change to make."""
    return FakeSession()


def live_of(session: StageSession) -> tuple[Panel, Live]:
    """Return an interactive panel and its widgets."""
    panel = Panel(session, interactive=True, by="ops")
    assert panel.live is not None
    return panel, panel.live


def finish(session: FakeSession, live: Live) -> None:
    """Let the apply go and wait for its end."""
    session.go.set()
    assert live.wait(10)


def test_one_click_approves_applies_and_verifies(session: FakeSession) -> None:
    """The approval is recorded first; the work is done by another thread; then all areas are fresh."""
    _, live = live_of(session)
    assert plan().digest in live.approve.description
    assert "set the MTU" in live.plan.value
    assert "v-fail" in live.status.value.split("</style>")[1]
    live.approve.click()
    assert session.begun.wait(10)
    finish(session, live)
    assert session.calls == ["approve ops", "apply on worker", "verify"]
    assert "applied and verified" in live.status.value
    assert "Nothing to change" in live.plan.value
    assert 'badge v-ok">✓ ok' in live.status.value
    assert live.approve.disabled
    assert live.stop.disabled
    assert live.error.value == ""


def test_more_clicks_start_nothing_more(session: FakeSession) -> None:
    """Also when the browser had not yet heard that the button is disabled."""
    _, live = live_of(session)
    live.approve.click()
    assert session.begun.wait(10)
    live.approve.click()
    live.approve.disabled = False
    live.approve.click()
    live.refresh()
    assert live.approve.disabled
    finish(session, live)
    assert session.calls.count("approve ops") == 1
    assert session.calls.count("apply on worker") == 1


def test_progress_per_host(session: FakeSession) -> None:
    """One row per host; an unknown share of the work leaves the bar empty; text is escaped."""
    _, live = live_of(session)
    live.approve.click()
    assert session.begun.wait(10)
    rows = [row.children for row in live.progress.box.children]
    assert [row[0].value for row in rows] == ["node-1", "node-2"]
    assert rows[0][1].value / rows[0][1].max == 0.25
    assert rows[0][2].value == "downloading &lt;b&gt;"
    assert rows[1][1].value == 0
    assert "waiting" in rows[1][2].value
    finish(session, live)


def test_while_applying_the_old_findings_are_not_the_state(session: FakeSession) -> None:
    """Good findings from before say nothing about the middle of a change."""
    session.found = [finding(Verdict.OK)]
    panel, live = live_of(session)
    live.approve.click()
    assert session.begun.wait(10)
    assert "badge v-ok" not in live.status.value
    assert "badge v-unknown" in live.status.value
    assert "may have changed" in panel.static_html()
    assert "may have changed" in live.verify.value
    finish(session, live)
    assert "may have changed" not in panel.static_html()


def test_stop_reaches_the_worker(session: FakeSession) -> None:
    """Stop is a button that works while the apply runs; what stands then is verified."""
    _, live = live_of(session)
    live.approve.click()
    assert session.begun.wait(10)
    assert not live.stop.disabled
    live.stop.click()
    assert "stopping" in live.status.value
    finish(session, live)
    assert session.stopped
    assert "stopped" in live.status.value
    assert session.calls[-1] == "verify"


def test_a_failed_apply_is_shown_with_its_next_command_and_verified(session: FakeSession) -> None:
    """Half an apply has changed something; the button can be used again."""
    session.apply_error = HostUnreachable("node-2", "no banner <in> 10 s", next_command="runbook check p.yaml")
    session.after = [finding(Verdict.FAIL)]
    panel, live = live_of(session)
    live.approve.click()
    finish(session, live)
    assert "node-2: no banner &lt;in&gt; 10 s" in live.error.value
    assert "runbook check p.yaml" in live.error.value
    assert "the apply failed" in live.status.value
    assert session.calls[-1] == "verify"
    assert not live.approve.disabled
    assert "no banner" in panel.static_html()


def test_an_apply_that_cannot_be_verified_is_unknown(session: FakeSession) -> None:
    """It is never shown as ok by the findings of before."""
    session.found = [finding(Verdict.OK)]
    session.verify_error = ValueError("broken")
    panel, live = live_of(session)
    live.approve.click()
    finish(session, live)
    assert "The runbook itself failed: ValueError: broken" in live.error.value
    assert "not known" in live.status.value
    for html in (live.status.value, panel.static_html()):
        assert "badge v-unknown" in html
    assert panel._repr_mimebundle_()["text/plain"].endswith("unknown")


def test_a_plan_that_changed_since_it_was_shown_is_not_approved(session: FakeSession) -> None:
    """The click shows the new plan instead."""
    _, live = live_of(session)
    session.plan = plan("9000")
    live.approve.click()
    assert session.calls == []
    assert plan("9000").digest in live.approve.description
    assert "look again" in live.status.value


def test_an_approval_that_fails_starts_nothing(session: FakeSession) -> None:
    """The record could not be written, so nothing is applied."""
    session.approve_error = ApprovalNeeded("no", digest="d", next_command="runbook status")
    _, live = live_of(session)
    live.approve.click()
    assert live.wait()
    assert session.calls == ["approve ops"]
    assert "runbook status" in live.error.value


@pytest.mark.parametrize("mode", ["observe", "plan"])
def test_other_modes_cannot_apply(mode: str) -> None:
    """A click that comes anyway does nothing."""
    session = FakeSession(mode)
    _, live = live_of(session)
    assert live.approve.disabled
    live.approve.click()
    assert session.calls == []


@pytest.mark.parametrize("shown", [None, Plan("network"), Plan("network", plan().changes, provisional=True)])
def test_what_has_no_digest_cannot_be_approved(session: FakeSession, shown: Plan | None) -> None:
    """No plan, nothing to change, and a provisional plan."""
    session.plan = shown
    _, live = live_of(session)
    assert live.approve.disabled
    live.approve.click()
    assert session.calls == []


def test_headless_is_static_html_without_widgets(session: FakeSession) -> None:
    """The same content, and no trace of a widget or script."""
    panel = Panel(session, interactive=False)
    bundle: dict[str, Any] = panel._repr_mimebundle_()
    assert panel.live is None
    assert set(bundle) == {"text/html", "text/plain"}
    html = bundle["text/html"]
    for text in ("Network &lt;setup&gt;", "set the MTU", plan().digest, "NET-MTU", "runbook plan p.yaml"):
        assert text in html
    assert "<script" not in html
    assert html.count("<style>") == 1
    panel.refresh()


def test_interactive_shows_the_widget_and_keeps_the_static_twin(session: FakeSession) -> None:
    """JupyterLab takes the widget, a saved notebook has the HTML."""
    panel, _ = live_of(session)
    bundle = panel._repr_mimebundle_()
    assert {WIDGET, "text/html", "text/plain"} <= set(bundle)
    assert bundle["text/plain"] == "Network <setup>: fail"


def test_nothing_is_printed(session: FakeSession, capsys: pytest.CaptureFixture[str]) -> None:
    """Output of a thread would land in a later cell."""
    session.apply_error = RuntimeError("x")
    _, live = live_of(session)
    live.approve.click()
    finish(session, live)
    assert capsys.readouterr() == ("", "")
