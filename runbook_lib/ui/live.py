"""The widgets of one stage: plan, approve, progress, stop, findings that refresh.

A click only records the approval and starts one worker thread. A long callback would block Stop and run after
the following cells. The thread changes widget values and never prints: its output would land in a later cell.
"""

from __future__ import annotations

import threading
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from runbook_lib.ui.content import digest_of, error_html, findings_area_html, plan_area_html, status_html
from runbook_lib.ui.progress import ProgressRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.ui.protocol import StageSession
    from runbook_lib.views.style import Language


class Live:
    """The widgets of one stage and the one worker thread behind them.

    by: who is recorded as the approver
    on_end: called by the worker thread when an apply has ended and its outcome is shown
    stale: the findings are from before an apply that was not verified
    """

    def __init__(self, session: StageSession, by: str, language: Language, on_end: Callable[[], None]) -> None:
        self._session = session
        self._on_end = on_end
        self._by = by
        self._language = language
        self._lock = threading.Lock()
        self._busy = False
        self._worker: threading.Thread | None = None
        self._stop = threading.Event()
        self._shown_digest = ""
        self.stale = False
        self.status: Any = ipywidgets.HTML()
        self.plan: Any = ipywidgets.HTML()
        self.approve: Any = ipywidgets.Button(button_style="primary", layout={"width": "auto"})
        self.stop: Any = ipywidgets.Button(description="Stop", disabled=True)
        # Says again what the status says: with a long plan the title is out of sight when the button is pressed.
        self.note: Any = ipywidgets.HTML(layout={"margin": "2px 0 0 8px"})
        self.progress = ProgressRows()
        self.error: Any = ipywidgets.HTML()
        self.verify: Any = ipywidgets.HTML()
        self.approve.on_click(self._on_approve)
        self.stop.on_click(self._on_stop)
        buttons = ipywidgets.HBox([self.approve, self.stop, self.note])
        self.box: Any = ipywidgets.VBox([self.status, self.plan, buttons, self.progress.box, self.error, self.verify])
        self.refresh()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the apply under way; return whether it has ended."""
        worker = self._worker
        if worker is None:
            return True
        worker.join(timeout_s)
        return not worker.is_alive()

    def refresh(self, doing: str = "") -> None:
        """Show the session's present plan and findings. Touches no host."""
        plan = self._session.current_plan()
        self._shown_digest = digest_of(plan)
        self.plan.value = plan_area_html(plan, self._language)
        self.verify.value = findings_area_html(self._session, self._language, stale=self.stale)
        self._arm()
        self._say(doing)

    def _say(self, doing: str) -> None:
        self.status.value = status_html(self._session, self._language, stale=self.stale, doing=doing)
        self.note.value = escape(doing)

    def _arm(self) -> None:
        """Set the approve button to what it would do; only a plan with a digest, in apply mode, can be approved."""
        mode = self._session.mode
        if mode != "apply":
            self.approve.description = f"Nothing is changed in mode {mode}"
        elif self._shown_digest:
            self.approve.description = f"Approve and apply {self._shown_digest}"
        else:
            self.approve.description = "Nothing to approve"
        self.approve.disabled = self._busy or mode != "apply" or not self._shown_digest

    def _on_approve(self, _button: object) -> None:
        # A second click can be under way before the first one's `disabled` reaches the browser.
        with self._lock:
            if self._busy or self.approve.disabled:
                return
            try:
                self._start()
            except Exception as error:  # noqa: BLE001 - a callback's traceback would be lost in the log
                self.error.value = error_html(error)

    def _start(self) -> None:
        self.error.value = ""
        if digest_of(self._session.current_plan()) != self._shown_digest:
            self.refresh("the plan has changed since it was shown; look again before you approve")
            return
        self._session.approve(self._by)
        self._busy = True
        self._stop = threading.Event()
        self.approve.disabled = True
        self.stop.disabled = False
        self.progress.clear()
        # A daemon, so that a kernel can be shut down; detached jobs on the hosts go on by themselves.
        self._worker = threading.Thread(
            target=self._work, args=(self._stop,), name=f"apply-{self._session.stage}", daemon=True
        )
        self._worker.start()

    def _on_stop(self, _button: object) -> None:
        self._stop.set()
        self.stop.disabled = True
        self._say("stopping after the step in hand")

    def _work(self, stop: threading.Event) -> None:
        # Set before the first change: from here on the shown findings are history.
        self.stale = True
        errors: list[Exception] = []
        try:
            self._say("applying")
            self.verify.value = findings_area_html(self._session, self._language, stale=True)
            self._session.apply(self.progress.update, stop)
        except Exception as error:  # noqa: BLE001 - the panel is the only place where it can be seen
            errors.append(error)
        try:
            # Also after a failure: half an apply has changed something, and its end state must be seen.
            self._say("verifying")
            self._session.verify()
            self.stale = False
        except Exception as error:  # noqa: BLE001 - as above
            errors.append(error)
        self.error.value = "".join(error_html(error) for error in errors)
        with self._lock:
            self._busy = False
            self.stop.disabled = True
            try:
                self.refresh(self._outcome(errors, stopped=stop.is_set()))
            except Exception as error:  # noqa: BLE001 - as above
                self.error.value = error_html(error)
        self._on_end()

    def _outcome(self, errors: list[Exception], *, stopped: bool) -> str:
        if self.stale:
            return "the end state is not known; see below"
        if errors:
            return "the apply failed; see below"
        return "stopped, and verified as it stands" if stopped else "applied and verified"
