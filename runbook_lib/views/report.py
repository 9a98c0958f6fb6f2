"""The report of a whole run: one self-contained HTML page."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from runbook_lib.model import Finding, Plan, Verdict, worst
from runbook_lib.views.findings import findings_html, verdict_grid_html
from runbook_lib.views.html import inner, page, render
from runbook_lib.views.plans import plan_commands, plan_html
from runbook_lib.views.style import LOOKS, Language
from runbook_lib.views.words import headlines, words

if TYPE_CHECKING:
    from collections.abc import Sequence

# A network stage has eight cards per host: a grid tells more than a list from there on.
_GRID_FROM = 8
_COMMAND_CHARACTERS = 300  # the events hold them in full


@dataclass(frozen=True, slots=True)
class Ran:
    """One command that ran on a host."""

    host: str
    argv: Sequence[str]
    code: int | None
    seconds: float | None

    @property
    def line(self) -> str:
        """The command in one line, with its time and exit code."""
        words = shlex.join(self.argv).replace("\n", " ")
        shown = words if len(words) <= _COMMAND_CHARACTERS else f"{words[:_COMMAND_CHARACTERS]}..."
        code = "?" if self.code is None else str(self.code)
        return f"{self.host}  {duration(self.seconds):>8}  [{code}]  {shown}"


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage of a run.

    change_states: what became of each change of the plan, in its order; empty when nothing was applied
    notebook_href: relative address of the executed notebook, "" for none
    figures: SVG texts from views.figures
    ran: every command that ran, reads included, in order; `seconds` None and `code` None when it did not end
    """

    name: str
    title: str
    verdict: Verdict
    findings: Sequence[Finding] = ()
    plan: Plan | None = None
    change_states: Sequence[str] = ()
    seconds: float | None = None
    notebook_href: str = ""
    figures: Sequence[str] = ()
    note: str = ""
    ran: Sequence[Ran] = ()

    @property
    def shown_verdict(self) -> Verdict:
        """The verdict, or what its own findings say when that is worse: a page must not hide a problem."""
        return worst([self.verdict, *(finding.verdict for finding in self.own)])

    @property
    def own(self) -> Sequence[Finding]:
        """The findings that this stage owns; all of them when it owns none, so that none is lost."""
        return [finding for finding in self.findings if finding.stage == self.name] or self.findings

    @property
    def foreign(self) -> Sequence[Finding]:
        """The findings that are due in other stages."""
        own = self.own
        return [finding for finding in self.findings if finding not in own]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run. Times are ISO 8601 texts; `ended` is "" for a run that is open or was interrupted.

    twin_level: the twin's isolation level (L0, L1a, L1b) for an emulated cluster, None for real hardware
    """

    cluster: str
    run_id: str
    started: str
    ended: str
    mode: str
    twin_level: str | None = None
    stages: Sequence[StageSummary] = field(default=())
    chain_head: str = ""
    params_yaml: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of all stages; a run that did not end is unknown at best."""
        verdicts = [stage.shown_verdict for stage in self.stages]
        return worst(verdicts if self.ended else [*verdicts, Verdict.UNKNOWN])


def run_report(summary: RunSummary, language: Language = "en") -> str:
    """Return the whole report: headline, stage table, then problems, changes, figures, commands per stage."""
    w = words(language)
    stages = [_stage(stage, language) for stage in summary.stages]
    body = render(
        "report.html.j2",
        w=w,
        language=language,
        run=summary,
        look=LOOKS[summary.verdict],
        headline=headlines(language)[summary.verdict.value],
        rehearsal=w["rehearsal"].format(level=summary.twin_level),
        stages=stages,
        duration=duration,
    )
    return page(f"{summary.cluster} {summary.run_id}", body, language)


@dataclass(frozen=True, slots=True)
class _Shown:
    stage: StageSummary
    findings: Markup
    foreign: Markup | None
    grid: Markup | None
    plan: Markup | None
    commands: str
    ran: str
    ran_count: int
    ran_seconds: float
    problems: int
    href: str
    figures: tuple[Markup, ...]


def _stage(stage: StageSummary, language: Language) -> _Shown:
    has_grid = sum(finding.subject.card >= 0 for finding in stage.own) >= _GRID_FROM
    commands = plan_commands(stage.plan) if stage.plan else []
    return _Shown(
        stage=stage,
        findings=inner(findings_html(stage.own, language)),
        foreign=inner(findings_html(stage.foreign, language)) if stage.foreign else None,
        grid=inner(verdict_grid_html(stage.own, language)) if has_grid else None,
        plan=inner(plan_html(stage.plan, stage.change_states, language)) if stage.plan else None,
        commands="\n".join(f"# {host or '-'}\n{line}" for host, line in commands),
        ran="\n".join(each.line for each in stage.ran),
        ran_count=len(stage.ran),
        ran_seconds=sum(each.seconds or 0.0 for each in stage.ran),
        problems=sum(finding.verdict not in {Verdict.OK, Verdict.SKIPPED} for finding in stage.own),
        href=_relative(stage.notebook_href),
        figures=tuple(Markup(figure) for figure in stage.figures),  # noqa: S704 - SVG from views.figures
    )


def _relative(href: str) -> str:
    """Keep links inside the run's folder: a scheme (javascript:, https:) or an absolute path is no notebook of it."""
    head = href.split("/", 1)[0]
    return "" if ":" in head or href.startswith(("/", "\\")) else href


def duration(seconds: float | None) -> str:
    """Spell a duration; not measured is a question mark."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
