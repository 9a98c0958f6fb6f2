"""What a panel shows, as HTML: the same for widgets and for the static page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from runbook_lib.errors import RunbookError
from runbook_lib.model import Verdict, worst
from runbook_lib.views.findings import findings_html
from runbook_lib.views.html import badge, embed, inner, plain
from runbook_lib.views.plans import plan_html

if TYPE_CHECKING:
    from runbook_lib.model import Plan
    from runbook_lib.ui.protocol import StageSession
    from runbook_lib.views.style import Language

_STALE = "The hosts may have changed since these findings: they are from before the last apply."


def digest_of(plan: Plan | None) -> str:
    """Return the digest, "" for what cannot be approved: no plan, an empty one, a provisional one."""
    return plan.digest if plan is not None else ""


def verdict_of(session: StageSession, *, stale: bool) -> Verdict:
    """Return the verdict on the stage; findings from before an apply say nothing good about after it."""
    verdicts = [finding.verdict for finding in session.findings()]
    return worst([*verdicts, Verdict.UNKNOWN] if stale else verdicts)


def status_html(session: StageSession, language: Language, *, stale: bool, doing: str = "") -> str:
    """Return title, verdict, mode, and what is going on."""
    return embed(
        Markup('<h3>{} {}</h3><p class="soft">mode {}{}</p>').format(
            plain(session.title),
            badge(verdict_of(session, stale=stale), language),
            plain(session.mode),
            f" · {plain(doing)}" if doing else "",
        )
    )


def plan_area_html(plan: Plan | None, language: Language) -> str:
    """Return the plan; no plan yet is not the same as nothing to do."""
    if plan is None:
        return embed(Markup("<p>{} There is no plan yet.</p>").format(badge(Verdict.UNKNOWN, language)))
    return plan_html(plan, language=language)


def findings_area_html(session: StageSession, language: Language, *, stale: bool) -> str:
    """Return the findings, with a warning in front when an apply came after them."""
    shown = findings_html(session.findings(), language)
    if not stale:
        return shown
    return embed(Markup("<p>{} {}</p>").format(badge(Verdict.UNKNOWN, language), _STALE) + inner(shown))


def error_html(error: Exception) -> str:
    """Return an error with its next command; an error that is not ours says so."""
    if isinstance(error, RunbookError):
        message, command = error.message, error.next_command
    else:
        message = f"The runbook itself failed: {type(error).__name__}: {error}"
        command = "runbook status"
    body = Markup('<div class="headline v-fail"><strong>✗</strong> <span class="text">{}</span></div>').format(
        plain(message)
    )
    if command:
        body += Markup('<p class="soft">next command</p><pre class="cmd">{}</pre>').format(plain(command))
    return embed(body)
