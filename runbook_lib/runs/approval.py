"""Who approved a plan, and what has changed since."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from runbook_lib.errors import RecordError, UsageError
from runbook_lib.model import Plan, Risk, from_json
from runbook_lib.runs import events
from runbook_lib.runs.folder import all_runs, process_lives

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from runbook_lib.model import Change
    from runbook_lib.runs.events import Event
    from runbook_lib.runs.folder import RunFolder

_RUNS_LOOKED_AT = 20
_SHOWN_CHANGES = 40
_SHOWN_CHARACTERS = 120
_ANCESTORS = 16


@dataclass(frozen=True, slots=True)
class Approval:
    """Who approved a plan, when (the event's time), and how: `button`, `digest` or `policy`."""

    by: str
    time: str
    how: str

    def __str__(self) -> str:
        return f"{self.by} by {self.how}"


def approval_of(
    chain: Sequence[Event], stage: str, plan: Plan, allowed: Collection[Risk], *, given_run: bool
) -> Approval | None:
    """Return who approved this plan of a stage, None when nobody did.

    A click names stage and digest. What was said on a command line holds only for the processes that this very
    command started, and only when they were told to join its run: a folder that it left behind approves nothing.
    """
    for event in reversed(chain):
        if event.kind != "approval":
            continue
        by = str(event.data.get("by"))
        if event.data.get("stage") == stage and event.data.get("digest") == plan.digest:
            return Approval(by, event.time, "button")
        if not given_run or not _started_by(event):
            continue
        if plan.digest in event.data.get("digests", []):
            return Approval(by, event.time, "digest")
        if event.data.get("yes") and plan.risks <= set(allowed) - {Risk.DESTRUCTIVE}:
            return Approval(by, event.time, "policy")
    return None


def _started_by(event: Event) -> bool:
    """Whether the process that wrote an event is this one, or one that it descends from, and lives."""
    try:
        since = datetime.fromisoformat(event.time)
    except ValueError:
        return False
    return event.pid in _ancestors() and process_lives(event.pid, since)


def _ancestors() -> set[int]:
    """Return this process and those above it; without /proc, this one and its parent."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 1 and len(found) < _ANCESTORS:
        found.add(pid)
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        pid = int(text.rpartition(")")[2].split()[1])
    return found


def read_approvals(given: Iterable[str], root: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the digests and the saved plans behind `--approve` words: digests, or files of `plan --save`.

    Raises UsageError on a file that is no saved plan, or whose plans do not have their digests any more.
    """
    digests: list[str] = []
    plans: list[dict[str, Any]] = []
    for word in given:
        path = Path(word) if Path(word).is_absolute() else root / word
        if not path.is_file():
            digests.append(word)
            continue
        for entry in _saved(path):
            plan = from_json(Plan, entry["plan"])
            if plan.digest != entry["digest"]:
                raise UsageError(
                    f"{path}: the plan of {plan.stage} was changed after it was saved: expected digest "
                    f"{entry['digest']}, its content has {plan.digest}"
                )
            digests.append(plan.digest)
            plans.append(entry["plan"])
    return digests, plans


def _saved(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["plans"]
        for entry in entries:
            from_json(Plan, entry["plan"])
            str(entry["digest"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UsageError(
            f"{path} is no saved plan: {type(error).__name__}", next_command=f"runbook plan PARAMS --save {path}"
        ) from None
    return list(entries)


def approved_plan(folder: RunFolder, chain: Sequence[Event], stage: str) -> Plan | None:
    """Return the plan of this stage that an approval of this run names; looked for in the cluster's newest runs."""
    said = [event for event in chain if event.kind == "approval"]
    digests = {digest for event in said for digest in event.data.get("digests", [])}
    digests |= {event.data["digest"] for event in said if event.data.get("stage") == stage}
    for event in said:
        for saved in event.data.get("plans", []):
            plan = from_json(Plan, saved)
            if plan.stage == stage:
                return plan
    if not digests:
        return None
    runs = all_runs(folder.path.parent.parent, folder.path.parent.name)[-_RUNS_LOOKED_AT:]
    for run in reversed(runs):
        try:
            for event in reversed(events.read(run.events)):
                if event.kind == "plan" and event.data.get("stage") == stage and event.data.get("digest") in digests:
                    return from_json(Plan, event.data["plan"])
        except (RecordError, ValidationError):
            continue  # a run whose record cannot be read has no plan to compare with
    return None


def plan_difference(approved: Plan, now: Plan) -> str:
    """Say change by change how two plans differ: which came, which went, and what `before` or `after` is another."""
    old = {(change.subject, change.summary): change for change in approved.changes}
    new = {(change.subject, change.summary): change for change in now.changes}
    lines = [(key, f"  no longer planned: {_words(old[key])}") for key in old.keys() - new.keys()]
    lines += [(key, f"  new: {_words(new[key])}") for key in new.keys() - old.keys()]
    for key in old.keys() & new.keys():
        parts = [
            f"{name} was {_short(getattr(old[key], name))!r}, is {_short(getattr(new[key], name))!r}"
            for name in ("before", "after", "action", "undo", "risk", "phase")
            if getattr(old[key], name) != getattr(new[key], name)
        ]
        if parts:
            lines.append((key, f"  {key[0]}: {key[1]}: {'; '.join(parts)}"))
    lines.sort(key=lambda line: (line[0][0], line[0][1], line[1]))
    shown = [text for _, text in lines[:_SHOWN_CHANGES]]
    if len(lines) > len(shown):
        shown.append(f"  and {len(lines) - len(shown)} more")
    return "\n".join(shown) or "  the same changes in another order"


def _words(change: Change) -> str:
    return f"{change.subject}: {change.summary} (before: {_short(change.before)}, after: {_short(change.after)})"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"


def command(  # noqa: PLR0913 - the parts of one command line
    verb: str,
    target: str,
    *,
    overrides: Mapping[str, Any] | str | None = None,
    stages: Iterable[str] = (),
    mode: str = "",
    last: str = "",
) -> str:
    """Return a command that works as typed: `runbook VERB TARGET` with mode, stages and overrides."""
    words = ["runbook", verb, target]
    words += ["--mode", mode] if mode else []
    for stage in stages:
        words += ["--stage", stage]
    given = json.loads(overrides) if isinstance(overrides, str) and overrides else overrides or {}
    for key, value in given.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words) + (f" {last}" if last else "")
