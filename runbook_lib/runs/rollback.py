"""Taking back what runs changed: `runbook rollback` for the newest run, `runbook teardown` for all of them.

The reverse plan comes from the recorded change_start and change_end events; a probe of now decides about changes
that were half made, or are not in effect any more. It is shown, approved and applied like any plan, under the same
locks, and is a run of its own in the record. Afterwards the hosts are probed again: what cannot be seen to be as it
was before is not ok.
"""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runbook_lib import __version__
from runbook_lib.errors import HostUnreachable, PlanChanged, RunbookError, UsageError
from runbook_lib.model import Change, Command, ProbeScript, Risk, Subject, to_json
from runbook_lib.params import project_root
from runbook_lib.remote import fan_out
from runbook_lib.runs.apply import apply_plan, deadline_of
from runbook_lib.runs.approval import command, plan_difference
from runbook_lib.runs.close import close_run
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import all_runs, new_run
from runbook_lib.runs.history import params_text, read_history
from runbook_lib.runs.locks import SLACK_S, HostLocks, local_lock
from runbook_lib.runs.results import change_rows
from runbook_lib.runs.session import redactor_for
from runbook_lib.runs.undo import confirm_section, confirmed, reverse_plan, without_moot
from runbook_lib.runs.who import operator
from runbook_lib.stages import STAGES, container, weights
from runbook_lib.stages.weights.state import expected_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from runbook_lib.model import Capture, Plan, Section
    from runbook_lib.params import Params
    from runbook_lib.remote import Target
    from runbook_lib.runs.folder import RunFolder
    from runbook_lib.runs.history import Made, RunHistory
    from runbook_lib.runs.undo import Key, Reverse
    from runbook_lib.stages import Probes, Stage

    Say = Callable[[str], None]

_CONFIRM_DEADLINE_S = 120.0
APPLIED, WAITS, NOTHING = "applied", "waits for approval", "nothing to undo"


@dataclass(frozen=True, slots=True)
class UndoOptions:
    """What to take back. `stage` limits a rollback to one stage, `weights` extends a teardown; both may be empty."""

    name: str
    target: str
    params_file: str
    stage: str = ""
    weights: bool = False
    yes: bool = False
    digests: tuple[str, ...] = ()

    def again(self, last: str) -> str:
        """Return the command that asks for the same again."""
        words = command(self.name, self.target, stages=[self.stage] if self.stage else [])
        return f"{words}{' --weights' if self.weights else ''} {last}"


@dataclass(slots=True)
class UndoOutcome:
    """What became of it. `state` is APPLIED, WAITS or NOTHING; `doubts` say what is not as it was before, or unseen."""

    options: UndoOptions
    reverse: Reverse
    state: str
    states: list[str] = field(default_factory=list)
    problem: str = ""
    doubts: list[str] = field(default_factory=list)
    folder: RunFolder | None = None
    report: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is left to undo, and what was undone is seen to be as before."""
        return self.state == NOTHING or (self.state == APPLIED and not self.problem and not self.doubts)

    @property
    def next_command(self) -> str:
        """What to do next; "" when all is done."""
        if self.state == WAITS:
            return self.options.again(f"--approve {self.reverse.plan.digest}")
        return "" if self.ok else self.options.again("").strip()


def rollback(history: RunHistory, options: UndoOptions, say: Say) -> UndoOutcome:
    """Take back what one run changed, or one stage of it.

    Raises UsageError when a newer run changed something that still stands, PlanChanged when the hosts changed since
    the approval, LockHeld, TwinDown, RecordError.
    """
    made = [each for each in history.made if not options.stage or each.stage == options.stage]
    later = [
        found
        for run in all_runs(history.folder.path.parent.parent, history.folder.path.parent.name)
        if run.run_id > history.folder.run_id and (found := read_history(run)) is not None
    ]
    return _Undo([history], options, say, newer=later).run(made)


def teardown(histories: Sequence[RunHistory], params: Params, options: UndoOptions, say: Say) -> UndoOutcome:
    """Take back what all recorded runs of a cluster changed, and remove what is ours beyond that; as rollback."""
    made = without_moot([each for history in histories for each in history.made])
    return _Undo(histories, options, say, params=params).run(made)


class _Undo:
    """One undo: the same reverse plan is made before the approval and, under the locks, before the apply."""

    def __init__(
        self,
        histories: Sequence[RunHistory],
        options: UndoOptions,
        say: Say,
        *,
        params: Params | None = None,
        newer: Sequence[RunHistory] = (),
    ) -> None:
        self._histories = histories
        self._newer = newer
        self._options = options
        self._say = say
        self._teardown = params is not None
        self.params = params or histories[-1].params
        self._root = project_root()
        self._cluster = Cluster(self.params, self._root)

    def run(self, made: Sequence[Made]) -> UndoOutcome:
        with closing(self._cluster):
            errors = self._cluster.reach()
            if errors:
                raise RunbookError(
                    "\n".join(errors.values()), next_command=f"runbook check {self._options.params_file}"
                )
            due, probes = self._due(self._cluster.probe(self._stages()))
            self._refuse_buried(due)
            reverse = self._reverse(made, due, probes)
            if not reverse.plan.changes:
                return UndoOutcome(self._options, reverse, NOTHING)
            how = self._approved(reverse.plan)
            if not how:
                return UndoOutcome(self._options, reverse, WAITS)
            reason = f"{self._options.name} of {self._options.target}"
            folder = new_run(self._root / "outputs", self.params.cluster.name)
            status = f"runbook status {self._options.params_file}"
            with local_lock(folder.path.parent, folder.run_id, reason, status):
                return self._apply(folder, reason, how, made, reverse)

    def _stages(self) -> list[Stage[Any]]:
        """Return the stages that changed anything, and those that a teardown looks at."""
        names = {each.stage for history in (*self._histories, *self._newer) for each in history.made}
        names |= {container.NAME, weights.NAME} if self._teardown else set()
        return [stage for stage in STAGES if stage.name in names]

    def _due(self, first: dict[str, Probes]) -> tuple[dict[str, set[Key]], dict[str, Probes]]:
        """Return what each run's stages would plan now, and the probes of the newest params.

        Raises HostUnreachable when something was not read: it would count as standing.
        """
        due: dict[str, set[Key]] = {}
        cache: dict[str, set[Key]] = {}
        probes = self._followed(first)
        for seen in (each for hosts in probes.values() for each in hosts.values()):
            if seen.error or seen.lost:
                raise HostUnreachable(
                    seen.host,
                    f"{seen.error or 'the connection was lost'}; nothing was changed",
                    next_command=f"runbook check {self._options.params_file}",
                )
        for history in (*self._histories, *self._newer):
            text = params_text(history.params)
            if text not in cache:
                cache[text] = self._keys(history.params, probes)
            due[history.folder.run_id] = cache[text]
        return due, probes

    def _followed(self, first: dict[str, Probes]) -> dict[str, Probes]:
        """Return the answers of all stages with what the first ones call for."""
        return {stage.name: self._cluster.follow_up(stage, first[stage.name])[0] for stage in self._stages()}

    def _keys(self, params: Params, probes: dict[str, Probes]) -> set[Key]:
        if [host.name for host in params.cluster.hosts] != [host.name for host in self.params.cluster.hosts]:
            raise UsageError(
                f"{params.cluster.name} had other hosts then; undo needs all runs to speak of the same",
                next_command=f"runbook status {self._options.params_file}",
            )
        return {
            (stage.name, str(change.subject), change.summary)
            for stage in self._stages()
            for change in stage.module.plan(stage.module.facts(params, probes[stage.name]), params)
        }

    def _refuse_buried(self, due: dict[str, set[Key]]) -> None:
        for history in reversed(self._newer):
            standing = [each for each in history.made if each.change.undo and each.key not in due[each.run_id]]
            if standing:
                raise UsageError(
                    f"{history.folder.run_id} came later, and {len(standing)} of its changes still stand, the first: "
                    f"{standing[0].change.subject}: {standing[0].change.summary}. The newest changes go first",
                    next_command=f"runbook rollback {history.folder.run_id}",
                )

    def _reverse(self, made: Sequence[Made], due: dict[str, set[Key]], probes: dict[str, Probes]) -> Reverse:
        reverse = reverse_plan(self._options.name, made, due)
        if not self._teardown:
            return reverse
        extra = _our_containers(self.params, probes[container.NAME], reverse.plan)
        last = _our_weights(self.params, probes[weights.NAME]) if self._options.weights else []
        hosts = {change.subject.host for change in extra}  # the daemon goes with its container there
        rest = [each for each in made if not (each.change.subject.host in hosts and _enters_container(each.change))]
        reverse = reverse_plan(self._options.name, rest, due, extra, last)
        emptied = {change.subject.host for change in last}
        # modes, owners and the download itself go with the files
        return replace(
            reverse,
            kept=tuple(
                (each, why)
                for each, why in reverse.kept
                if each.stage != weights.NAME or each.change.subject.host not in emptied
            ),
        )

    def _approved(self, plan: Plan) -> str:
        if plan.digest in self._options.digests:
            return "digest"
        if self._options.digests:
            raise PlanChanged(
                f"{self._options.name}: the plan is now {plan.digest}, not what was approved; nothing was changed",
                next_command=self._options.again("").strip(),
            )
        allowed = set(self.params.policy.yes_approves) - {Risk.DESTRUCTIVE}
        return "policy" if self._options.yes and plan.risks <= allowed else ""

    def _apply(self, folder: RunFolder, reason: str, how: str, made: Sequence[Made], shown: Reverse) -> UndoOutcome:
        options, name = self._options, self._options.name
        log = EventLog(folder.events, redactor_for(self.params))
        log.append(
            "run_start",
            mode=name,
            of=options.target,
            by=operator(),
            version=__version__,
            twin=self.params.twin is not None,
            stages=[],
            only=[options.stage] if options.stage else [],
            params_file=options.params_file,
            overrides="",
            params=params_text(self.params),
        )
        log.append("stage_start", stage=name, mode="apply", by=operator(), params_file=options.params_file)
        log.append("plan", stage=name, digest=shown.plan.digest, provisional=False, plan=shown.plan)
        log.append(
            "approval", by=operator(), stage=name, digest=shown.plan.digest, yes=options.yes, how=how, digests=[]
        )
        outcome = UndoOutcome(options, shown, APPLIED, folder=folder)
        locks = HostLocks(self._cluster, log, folder.run_id, reason, options.params_file)
        error = ""
        try:
            self._apply_under(locks, log, outcome, made, how)
        except (RunbookError, KeyboardInterrupt) as caught:
            error = str(caught) or type(caught).__name__
            raise
        finally:
            verdict = "ok" if outcome.ok and not error else "fail"
            said = error or outcome.problem or "; ".join(outcome.doubts)
            log.append("commands", stage=name, commands=self._cluster.take_commands())
            folder.write_json(folder.stage_json(name), outcome_json(outcome), redactor_for(self.params))
            log.append("stage_end", stage=name, verdict=verdict, error=said)
            log.append("run_end", ok=verdict == "ok", stopped_by="")
            outcome.report = close_run(folder, log, params=self.params, root=self._root, by=operator(), say=self._say)
        return outcome

    def _apply_under(
        self, locks: HostLocks, log: EventLog, outcome: UndoOutcome, made: Sequence[Made], how: str
    ) -> None:
        name, shown = self._options.name, outcome.reverse
        ttl_s = int(deadline_of(shown.plan.changes)) + SLACK_S
        first = self._cluster.probe(self._stages(), lambda work: locks.section(work, ttl_s))
        locks.taken(next(iter(first.values())))
        try:
            due, probes = self._due(first)
            now = self._reverse(made, due, probes)
            if now.plan.digest != shown.plan.digest:
                raise PlanChanged(
                    f"{name}: the hosts changed since the plan was approved; nothing was changed\n"
                    f"{plan_difference(shown.plan, now.plan)}",
                    next_command=self._options.again("").strip(),
                )
            log.append("apply_start", stage=name, digest=now.plan.digest, approved_by=operator(), approved_how=how)
            outcome.states, outcome.problem = apply_plan(
                self._cluster, now.plan, log, lambda _host, _share, _text: None, threading.Event()
            )
        finally:
            locks.release(gone_is_fine=True)
        outcome.doubts = self._doubts(now)
        log.append("undo_checked", stage=name, undone=len(now.undone), doubts=outcome.doubts)

    def _doubts(self, done: Reverse) -> list[str]:
        """Probe again; return what is not seen to be as it was before the change."""
        befores = self._befores()
        seen = self._read_files(done)
        oldest = {each.key: each for each in done.undone}  # newest first, so the last one is what was there before all
        # a teardown leaves out undos that repeat others, so what the very first run found is not always among them
        first: dict[Key, str] = {}
        for made in (made for history in self._histories for made in history.made):
            first.setdefault(made.key, made.change.before)
        doubts = []
        for number, each in enumerate(done.undone):
            if oldest[each.key] is each:
                fine = {first[each.key]}
                if not self._teardown:  # what an older change found there may be what is back: a daemon that ran before
                    fine |= {
                        older.change.before
                        for older in done.undone[number:]
                        if older.change.subject == each.change.subject
                    }
                doubt = _doubt(each, seen.get(number), befores.get(each.key), fine)
                doubts += [f"{each.change.subject}: {each.change.summary}: {doubt}"] if doubt else []
        return doubts

    def _befores(self) -> dict[Key, str]:
        """Return what each change that a stage would plan now finds there."""
        probes = self._followed(self._cluster.probe(self._stages()))
        return {
            (stage.name, str(change.subject), change.summary): change.before
            for history in self._histories
            for stage in self._stages()
            for change in stage.module.plan(stage.module.facts(history.params, probes[stage.name]), history.params)
        }

    def _read_files(self, done: Reverse) -> dict[int, Capture]:
        wanted: dict[str, list[tuple[int, Section]]] = {}
        for number, each in enumerate(done.undone):
            section = confirm_section(each, number)
            if section is not None:
                wanted.setdefault(each.change.subject.host, []).append((number, section))

        def read(target: Target) -> dict[int, Capture]:
            mine = wanted[target.name]
            found = self._cluster.connected(target).probe(ProbeScript(tuple(section for _, section in mine)))
            return {number: found[section.key] for number, section in mine}

        targets = [target for target in self._cluster.targets if target.name in wanted]
        results = fan_out(targets, read, deadline_s=_CONFIRM_DEADLINE_S)
        return {number: capture for result in results.values() for number, capture in result.unwrap().items()}


def _doubt(made: Made, file: Capture | None, before: str | None, fine: Collection[str]) -> str:
    if file is not None:
        return "" if confirmed(made, file) else "the file is not as it was before"
    if before is None:
        return "no probe shows that it was taken back"
    return "" if before in fine else f"expected {' or '.join(sorted(map(repr, fine)))} as before, seen {before!r}"


def _our_containers(params: Params, probes: Probes, plan: Plan) -> list[Change]:
    """Remove containers that carry this cluster's mark, where no record of ours does so."""
    removed = {change.subject.host for change in plan.changes if "docker" in _words(change) and "rm" in _words(change)}
    facts = container.facts(params, probes)
    changes = []
    for host, seen in facts.hosts.items():
        has = seen.container.value
        if host not in removed and has is not None and has.env.get(container.MARKER) == params.cluster.name:
            changes.append(
                Change(
                    subject=Subject(host),
                    summary=f"remove {params.container.name}, which is ours",
                    before=has.state or "there",
                    after="no such container",
                    action=Command(("docker", "rm", "-f", params.container.name), timeout_s=120.0),
                    irreversible="no record of this machine says how it was made",
                    risk=Risk.DISRUPTIVE,
                )
            )
    return changes


def _enters_container(change: Change) -> bool:
    return isinstance(change.undo, Command) and change.undo.argv[:2] == ("docker", "exec")


def _words(change: Change) -> tuple[str, ...]:
    return change.action.argv if isinstance(change.action, Command) else ()


def _our_weights(params: Params, probes: Probes) -> list[Change]:
    """Remove the files of the model's list, and folders that are empty then; nothing else that lies there."""
    facts = weights.facts(params, probes)
    files = expected_files(facts)
    changes = []
    for host, seen in facts.hosts.items():
        present = sorted(set(files) & set(seen.entries or {}))
        if not present:
            continue
        folder = facts.paths[host].weights
        script = (
            'cd "$1" && shift && rm -f -- "$@" && find . -depth -type d -empty -delete && rmdir "$PWD" 2>/dev/null; :'
        )
        changes.append(
            Change(
                subject=Subject(host),
                summary=f"remove {len(present)} weights files from {folder}",
                before=f"{len(present)} files of the model's list",
                after="removed",
                action=Command(("sh", "-c", script, "sh", folder, *present), timeout_s=600.0),
                irreversible="they would have to be downloaded again",
                risk=Risk.DESTRUCTIVE,
            )
        )
    return changes


def outcome_json(outcome: UndoOutcome) -> dict[str, Any]:
    """Return the object that `rollback --json` and `teardown --json` print."""
    states = outcome.states or ["planned"] * len(outcome.reverse.plan.changes)
    failures = [
        {"seen": seen, "next_command": outcome.next_command}
        for seen in ([outcome.problem] if outcome.problem else []) + outcome.doubts
    ]
    if outcome.state == WAITS:
        count = len(outcome.reverse.plan.changes)
        failures = [{"seen": f"{count} changes wait for approval", "next_command": outcome.next_command}]
    return {
        "ok": outcome.ok,
        "name": outcome.options.name,
        "of": outcome.options.target,
        "state": outcome.state,
        "run_dir": str(outcome.folder.path) if outcome.folder else None,
        "report": str(outcome.report) if outcome.report else None,
        "digest": outcome.reverse.plan.digest,
        "changes": change_rows(outcome.reverse.plan.changes, states),
        "kept": [_item(made, "reason", why) for made, why in outcome.reverse.kept],
        "skipped": [_item(made, "why", why) for made, why in outcome.reverse.skipped],
        "failures": failures,
    }


def _item(made: Made, word: str, why: str) -> dict[str, Any]:
    change = made.change
    return {"subject": to_json(change.subject), "stage": made.stage, "summary": change.summary, word: why}
