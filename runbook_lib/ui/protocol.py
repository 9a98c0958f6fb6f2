"""What a panel needs of a stage's session; runs.session offers it, tests fake it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from runbook_lib.model import Finding, Plan


class OnProgress(Protocol):
    """Told how far one host is. It may be called from any thread."""

    def __call__(self, host: str, fraction: float, text: str) -> None:
        """Take a fraction from 0 to 1, or -1 when nobody knows how much is left."""


class StageSession(Protocol):
    """One stage of one run, as a panel sees it."""

    @property
    def stage(self) -> str:
        """The stage's name."""

    @property
    def title(self) -> str:
        """The stage's name for people."""

    @property
    def mode(self) -> str:
        """observe, plan or apply."""

    def current_plan(self) -> Plan | None:
        """Return the plan of the last probe, None when there is none yet. Touches no host."""

    def findings(self) -> Sequence[Finding]:
        """Return the findings of the last probe. Touches no host."""

    def approve(self, by: str) -> None:
        """Record that `by` approves the current plan. Quick; touches no host."""

    def apply(self, on_progress: OnProgress, stop: threading.Event) -> None:
        """Apply the approved plan; return early, after the step in hand, once `stop` is set."""

    def verify(self) -> Sequence[Finding]:
        """Probe again and return the findings; the plan is new afterwards."""
