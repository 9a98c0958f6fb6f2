"""One stage as an object that displays itself: widgets in a live JupyterLab, static HTML anywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.display import display
from markupsafe import Markup

from runbook_lib.ui.content import findings_area_html, plan_area_html, status_html, verdict_of
from runbook_lib.ui.live import Live
from runbook_lib.views.html import embed, inner

if TYPE_CHECKING:
    from runbook_lib.ui.protocol import StageSession
    from runbook_lib.views.style import Language


class Panel:
    """The panel of one stage.

    interactive: True where a live JupyterLab shows widgets; False makes no widget at all (`live` is None), so
        that a headless notebook carries no widget state
    by: who is recorded as the approver
    """

    def __init__(
        self, session: StageSession, *, interactive: bool, by: str = "JupyterLab user", language: Language = "en"
    ) -> None:
        self.session = session
        self.language: Language = language
        self.live = Live(session, by, language, self._redisplay) if interactive else None
        self._handle: Any = None

    def refresh(self) -> None:
        """Show the session's present state; for a session that was driven from elsewhere."""
        if self.live is not None:
            self.live.refresh()

    def static_html(self) -> str:
        """Return the same content without any widget or script."""
        stale = self.live is not None and self.live.stale
        parts = [
            status_html(self.session, self.language, stale=stale),
            plan_area_html(self.session.current_plan(), self.language),
            self.live.error.value if self.live is not None else "",
            findings_area_html(self.session, self.language, stale=stale),
        ]
        return embed(Markup().join(inner(part) for part in parts))

    def _ipython_display_(self) -> None:
        self._handle = display(self._repr_mimebundle_(), raw=True, display_id=True)  # type: ignore[no-untyped-call] # IPython has no hints

    def _redisplay(self) -> None:
        """Replace the shown output: the static part of the saved notebook must not stay that of before the click."""
        if self._handle is not None:
            self._handle.update(self._repr_mimebundle_(), raw=True)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ANN401 - IPython's protocol
        bundle: dict[str, Any] = {}
        stale = False
        if self.live is not None:
            stale = self.live.stale
            bundle |= self.live.box._repr_mimebundle_(include=include, exclude=exclude) or {}
        # The static twin stays in the saved notebook; JupyterLab shows the widget while its kernel lives.
        verdict = verdict_of(self.session, stale=stale)
        return bundle | {"text/html": self.static_html(), "text/plain": f"{self.session.title}: {verdict}"}
