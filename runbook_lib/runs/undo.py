"""The reverse plan: the recorded undos of what was really made, newest first. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Job, Plan, Section, Upload

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from runbook_lib.model import Capture
    from runbook_lib.runs.history import Made

    Key = tuple[str, str, str]

_MASK = "***"


@dataclass(frozen=True, slots=True)
class Reverse:
    """What undoing means now.

    kept: changes that cannot be taken back, with the reason; skipped: those that are not in effect any more, or
    never were, as a probe of now says. `undone` are the made changes behind the plan's, in the plan's order.
    """

    plan: Plan
    undone: tuple[Made, ...] = field(default=())
    kept: tuple[tuple[Made, str], ...] = field(default=())
    skipped: tuple[tuple[Made, str], ...] = field(default=())


def reverse_plan(
    name: str,
    made: Sequence[Made],
    due: Mapping[str, Collection[Key]],
    extra: Sequence[Change] = (),
    last: Sequence[Change] = (),
) -> Reverse:
    """Return the plan that takes `made` (oldest first) back.

    due: for each run, what the stages would plan now, with that run's params: what is due again is not in effect.
    extra, last: changes before and after all undos, like those of a teardown for what no record names.
    """
    undone: list[Made] = []
    kept: list[tuple[Made, str]] = []
    skipped: list[tuple[Made, str]] = []
    for each in reversed(made):
        change = each.change
        if each.key in due[each.run_id] and not _built_upon(each, undone):
            skipped.append((each, "not in effect: the stage would plan it again"))
        elif change.undo is None:
            kept.append((each, change.irreversible or "its undo is not known"))
        elif _holds_a_mask(change):
            kept.append((each, "its undo holds a secret, which the record does not keep"))
        else:
            undone.append(each)
    phases = _phases(undone, len({change.phase for change in extra}))
    changes = [*extra, *(_inverse(each, phases[each.order]) for each in undone)]
    changes += [replace(change, phase=max((each.phase for each in changes), default=-1) + 1) for change in last]
    return Reverse(Plan(name, tuple(changes)), tuple(undone), tuple(kept), tuple(skipped))


def without_moot(made: Sequence[Made]) -> list[Made]:
    """Leave out what would bring back a container or a daemon that an older undo takes away.

    Of the undos that stop or remove the same, only the newest is left: it stays stopped and removed.
    """
    removed: set[str] = set()
    kept = []
    newest = {(each.change.subject.host, each.change.undo): each.order for each in made}
    for each in made:
        host, undo = each.change.subject.host, each.change.undo
        words = undo.argv[:2] if isinstance(undo, Command) else ()
        moot = isinstance(undo, Job) or words in {("docker", "run"), ("docker", "start"), ("docker", "stop")}
        if (moot and host in removed) or (words[:1] == ("docker",) and newest[host, undo] != each.order):
            removed |= {host} if words == ("docker", "rm") else set()
            continue
        if words == ("docker", "rm"):
            removed.add(host)
        kept.append(each)
    return kept


def _built_upon(made: Made, later: Sequence[Made]) -> bool:
    """Whether a later change that is taken back first brings back what this one had made."""
    return any(
        each.stage == made.stage
        and each.change.subject == made.change.subject
        and each.change.before == made.change.after
        for each in later
    )


def _phases(undone: Sequence[Made], first: int) -> dict[int, int]:
    """Give each group that was made side by side a phase, newest first: the barriers hold on the way back too.

    A group is one phase of one plan of one run.
    """
    phases: dict[int, int] = {}
    groups: dict[tuple[str, int], int] = {}
    for each in undone:
        group = (each.digest, each.change.phase)
        phases[each.order] = groups.setdefault(group, first + len(groups))
    return phases


def _inverse(made: Made, phase: int) -> Change:
    change = made.change
    assert change.undo is not None  # noqa: S101 - the caller's own branch
    return Change(
        subject=change.subject,
        summary=f"undo: {change.summary}",
        before=change.after,
        after=change.before,
        action=change.undo,
        undo=change.action,
        risk=change.risk,
        phase=phase,
    )


def _holds_a_mask(change: Change) -> bool:
    undo = change.undo
    texts = [undo.content] if isinstance(undo, Upload) else list(undo.argv) if undo is not None else []
    return any(_MASK in text for text in texts)


def confirm_section(made: Made, number: int) -> Section | None:
    """Return a read that tells whether a change of a file was taken back; None where the stage's own plan tells it."""
    path = _path_of(made)
    return Section(f"undo.{number}", ("stat", "-c", "%a %s %F", path)) if path else None


def confirmed(made: Made, seen: Capture) -> bool:
    """Whether that read shows the file as it was before the change."""
    undo = made.change.undo
    if isinstance(undo, Upload):
        return seen.stdout.split()[:2] == [f"{undo.mode:o}", str(len(undo.content.encode()))]
    return seen.exit_code == 1 and "No such file" in seen.stderr


def _path_of(made: Made) -> str:
    action, undo = made.change.action, made.change.undo
    if isinstance(action, Upload):
        return action.path
    makes_folder = isinstance(action, Command) and action.argv[:2] == ("install", "-d")
    removes = isinstance(undo, Command) and undo.argv[0] in {"rm", "rmdir"}
    return action.argv[4] if isinstance(action, Command) and makes_folder and removes else ""
