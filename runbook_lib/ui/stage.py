"""The approval cell of a notebook: a panel in JupyterLab, one line anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.runs.who import interactive, operator
from runbook_lib.ui.panel import Panel

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from runbook_lib.model import Finding, Plan
    from runbook_lib.runs.session import StageSession
    from runbook_lib.runs.show import Shown
    from runbook_lib.ui.protocol import OnProgress


class _PanelSession:
    """A session whose verification also writes the record: after a click no further cell has to be run."""

    def __init__(self, session: StageSession) -> None:
        self._session = session
        self.stage = session.stage
        self.title = session.title
        self.mode = session.mode

    def current_plan(self) -> Plan | None:
        return self._session.current_plan()

    def findings(self) -> Sequence[Finding]:
        return self._session.findings()

    def approve(self, by: str) -> None:
        self._session.approve(by)

    def apply(self, on_progress: OnProgress, stop: threading.Event) -> None:
        self._session.apply(on_progress, stop)

    def verify(self) -> Sequence[Finding]:
        self._session.verify()
        self._session.record()
        return self._session.final_findings()


def approval(session: StageSession) -> Panel | Shown:
    """Ask for approval: with a panel where a person sits before the kernel, else by policy or digest.

    Raises ApprovalNeeded in a headless apply that nobody approved.
    """
    if session.mode == "apply" and interactive():
        return Panel(_PanelSession(session), interactive=True, by=operator())
    return session.approval()
