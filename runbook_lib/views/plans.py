"""Plans as a diff per host: before and after, the exact command, risk, undo; as HTML and as text."""

from __future__ import annotations

import difflib
import hashlib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.model import Command, Job, Upload
from runbook_lib.views.html import embed, plain, render
from runbook_lib.views.words import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runbook_lib.model import Change, Plan
    from runbook_lib.views.style import Language

    Action = Command | Upload | Job

_SHOWN_LINES, _SHOWN_COLUMNS = 200, 400  # a file of the service is shown whole, a pushed program is not


@dataclass(frozen=True, slots=True)
class Shown:
    """An action for the eye: one copyable line, a note, and a file's difference or content."""

    line: str
    note: str = ""
    diff: tuple[str, ...] = ()
    content: str = ""


def show_action(action: Action, before: str | None = None) -> Shown:
    """Spell an action out. `before` is the old content of an uploaded file, None when it is not known."""
    match action:
        case Command():
            return Shown(shlex.join(action.argv))
        case Job():
            end = f"at most {action.deadline_s:g} s" if action.wait else "stays running"
            return Shown(shlex.join(action.argv), f"detached job {action.name}, {end}")
        case Upload():
            note = f"upload, mode {action.mode:04o}" + (f", owner {action.owner}" if action.owner else "")
            if action.secret:
                return Shown(action.path, f"{note}, a secret that no record holds: {action.secret}")
            if before is None:
                return Shown(action.path, note, content=_bounded(action.content))
            names = (f"{action.path} (before)", f"{action.path} (after)")
            diff = difflib.unified_diff(before.splitlines(), action.content.splitlines(), *names, lineterm="")
            return Shown(action.path, note, diff=tuple(diff))


def _bounded(content: str) -> str:
    """Return a file's content as far as a reader wants it; the record holds all of it."""
    lines = content.splitlines()
    shown = [line if len(line) <= _SHOWN_COLUMNS else f"{line[:_SHOWN_COLUMNS]} ..." for line in lines[:_SHOWN_LINES]]
    if shown == lines:
        return content
    digest = hashlib.sha256(content.encode()).hexdigest()
    return "\n".join([*shown, f"... {len(content)} characters in all, sha256 {digest}"])


@dataclass(frozen=True, slots=True)
class Row:
    """One change with its number in the plan and what became of it."""

    number: int
    change: Change
    action: Shown
    undo: Shown | None
    state: str


def _rows(plan: Plan, states: Sequence[str]) -> Iterator[Row]:
    for index, change in enumerate(plan.changes):
        action, undo = change.action, change.undo
        replaced = None
        if isinstance(action, Upload) and isinstance(undo, Upload) and undo.path == action.path:
            replaced = undo.content
        state = states[index] if index < len(states) else ""
        shown_undo = show_action(undo) if undo is not None else None
        yield Row(index + 1, change, show_action(action, replaced), shown_undo, state)


def _by_host(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    hosts: dict[str, list[Row]] = {}
    for row in rows:
        hosts.setdefault(row.change.subject.host, []).append(row)
    return hosts


def plan_html(plan: Plan, states: Sequence[str] = (), language: Language = "en") -> str:
    """Return the plan as one table per host. `states` says what became of each change, once it was applied."""
    rows = list(_rows(plan, states))
    return embed(
        render(
            "plan.html.j2",
            w=words(language),
            plan=plan,
            hosts=_by_host(rows),
            with_state=bool(states),
            waits=", ".join(plan.waits_for) or "?",
            phases=len({row.change.phase for row in rows}) > 1,
        )
    )


def plan_text(plan: Plan, states: Sequence[str] = (), language: Language = "en") -> str:
    """Return the same for a terminal: `-` before, `+` after, then the command, risk and undo."""
    w = words(language)
    lines = [f"{plan.stage}: {len(plan.changes)} {w['changes']}"]
    if plan.provisional:
        lines.append("? " + w["provisional"].format(stages=", ".join(plan.waits_for) or "?"))
    elif not plan.changes:
        lines.append(w["nothing_to_change"])
    for host, rows in _by_host(list(_rows(plan, states))).items():
        lines += ["", host or w["cluster"]]
        for row in rows:
            lines += [f"  {line}" for line in _row_text(row, w)]
    if plan.digest:
        lines += ["", f"{w['digest']}: {plan.digest}"]
    return "\n".join(plain(line, limit=len(line)) for line in lines) + "\n"


def _row_text(row: Row, w: Mapping[str, str]) -> Iterator[str]:
    change = row.change
    state = f" [{row.state}]" if row.state else ""
    yield f"{row.number}. {change.subject}: {change.summary} ({change.risk.value}, {w['phase']} {change.phase}){state}"
    yield from (f"   - {line}" for line in (change.before or w["empty_value"]).splitlines())
    yield from (f"   + {line}" for line in (change.after or w["empty_value"]).splitlines())
    yield from (f"   {line}" for line in _shown_text(">" if isinstance(change.action, Upload) else "$", row.action))
    if row.undo is None:
        yield f"   {w['why_no_undo']}: {change.irreversible or '?'}"
    else:
        yield from (f"   {line}" for line in _shown_text(f"{w['undo']}:", row.undo))


def _shown_text(label: str, shown: Shown) -> Iterator[str]:
    yield f"{label} {shown.line}" + (f"   ({shown.note})" if shown.note else "")
    yield from (f"    {line}" for line in shown.diff or shown.content.splitlines())


def plan_commands(plan: Plan) -> list[tuple[str, str]]:
    """Return (host, command line) per change in order, for a folded list that can be copied."""
    return [(row.change.subject.host, row.action.line) for row in _rows(plan, ())]
