"""Does a record hold? Names the first thing that does not, run by run, and for the cluster as a whole.

A run holds when its chain, its files and its manifest agree, it was closed, every stage that began has an end, and
the manifest is signed by somebody whom the auditor trusts. The runs of a cluster hold when each is followed by the
one that says so, and the newest is known to the hosts. What cannot be seen is unknown, and unknown is never ok.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import ValidationError

from runbook_lib.errors import RecordError
from runbook_lib.params import Params
from runbook_lib.runs import events
from runbook_lib.runs.folder import INTERRUPTED, RUNNING, RunFolder, all_runs
from runbook_lib.runs.heads import HostHeads, anchored_hosts, read_heads
from runbook_lib.runs.manifest import MANIFEST, SIGNATURE, Manifest, read_manifest, verify_manifest
from runbook_lib.runs.provenance import host_keys
from runbook_lib.runs.signatures import SignatureProblem, check
from runbook_lib.runs.signers import Trust, default_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from runbook_lib.runs.events import Event


_OTHER_KEY = "its pinned key is not the one that the record names"


class Holds(StrEnum):
    """What an audit says of a run, a cluster, or the anchor on the hosts."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"
    UNANCHORED = "unanchored"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold, and what to do about it."""

    holds: Holds
    seen: str
    next_command: str = ""


@dataclass(slots=True)
class RunAudit:
    """What was found of one run; `problems` in the order in which they were looked for."""

    folder: RunFolder
    problems: list[Problem] = field(default_factory=list)
    signer: str = ""
    manifest: Manifest | None = None
    chain: Sequence[Event] = ()

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.folder.run_id

    @property
    def verdict(self) -> Holds:
        """That of the first problem."""
        return self.problems[0].holds if self.problems else Holds.OK

    @property
    def record_holds(self) -> bool:
        """Whether the record is whole and signed, though what it records may have been interrupted."""
        return self.manifest is not None and all(each.holds is Holds.INTERRUPTED for each in self.problems)


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the hosts say: ok when one of them knows the newest run. `hosts`: "" or why a host gave no answer."""

    holds: Holds
    why: str
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ClusterAudit:
    """All runs of a cluster, oldest first, how they follow each other, and the anchor of the newest."""

    cluster: str
    runs: list[RunAudit]
    problems: list[Problem] = field(default_factory=list)
    anchor: Anchor = field(default_factory=lambda: Anchor(Holds.UNANCHORED, "the hosts were not asked"))

    @property
    def ok(self) -> bool:
        """Whether every run's record holds, and nothing shows that there were others."""
        return bool(self.runs) and not self.problems and all(run.record_holds for run in self.runs)


def audit_run(folder: RunFolder, trusted: Trust) -> RunAudit:
    """Look at one run by itself."""
    found = RunAudit(folder)
    found.problems = list(_run_problems(found, trusted))
    return found


def _run_problems(found: RunAudit, trusted: Trust) -> Iterator[Problem]:
    folder = found.folder
    if folder.path.is_symlink() or not folder.path.is_dir():
        yield Problem(Holds.FAIL, f"{folder.path}: is no folder of a run")
        return
    try:
        broken = events.verify(folder.events)
        found.chain = [] if broken else events.read(folder.events)
    except RecordError as error:
        broken = error.message
    if broken:
        yield Problem(Holds.FAIL, broken)
        return
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        yield _without_manifest(folder, found.chain, manifest)
        return
    problem = verify_manifest(folder)
    if not problem and manifest.cluster != folder.path.parent.name and folder.path.parent.parent.name == "outputs":
        problem = f"{MANIFEST}: belongs to the cluster {manifest.cluster!r}"
    if problem:
        yield Problem(Holds.FAIL, problem)
        return
    found.manifest = manifest
    yield from _unfinished(folder, found.chain)
    yield from _signature_problem(found, trusted)


def _without_manifest(folder: RunFolder, chain: Sequence[Event], why: str) -> Problem:
    if (folder.path / MANIFEST).exists() or (folder.path / SIGNATURE).exists():
        return Problem(Holds.FAIL, why)
    for stage, state in folder.status().items():
        if state == RUNNING:
            return Problem(Holds.UNKNOWN, f"stage {stage} is running: the run is not closed yet")
        if state == INTERRUPTED:
            return _interrupted(folder, stage)
    ended = any(event.kind == "run_end" for event in chain)
    what = "it ended, but was never closed" if ended else "it has no end"
    return Problem(Holds.UNKNOWN, f"{why}; {what}", f"runbook audit sign {folder.run_id}")


def _unfinished(folder: RunFolder, chain: Sequence[Event]) -> Iterator[Problem]:
    for stage, state in folder.status().items():
        if state in {RUNNING, INTERRUPTED}:
            yield _interrupted(folder, stage)
            return
    if not any(event.kind == "run_end" for event in chain):
        yield Problem(Holds.INTERRUPTED, "the run has no end", f"runbook resume {folder.run_id}")


def _interrupted(folder: RunFolder, stage: str) -> Problem:
    seen = f"interrupted: stage {stage} has a start and no end, whatever its notebook claims"
    return Problem(Holds.INTERRUPTED, seen, f"runbook resume {folder.run_id}")


def _signature_problem(found: RunAudit, trusted: Trust) -> Iterator[Problem]:
    path = found.folder.path
    try:
        signature = (path / SIGNATURE).read_bytes()
        content = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        sign_it = f"runbook audit sign {found.run_id}"
        yield Problem(Holds.UNKNOWN, "unsigned: nobody vouches for the manifest", sign_it)
        return
    except OSError as error:
        yield Problem(Holds.UNKNOWN, f"{SIGNATURE}: cannot be read: {error.strerror}")
        return
    try:
        key = check(content, signature)
    except SignatureProblem as error:
        yield Problem(Holds.FAIL, f"{SIGNATURE}: {error}")
        return
    found.signer = trusted.who(key)
    if not found.signer:
        where = ", ".join(map(str, trusted.files)) or "no allowed_signers file was found"
        yield Problem(
            Holds.UNKNOWN,
            f"signed by a stranger, {key.fingerprint} ({where})",
            f"ask who has this key; then: echo 'NAME {key.line}' >>{default_files(path.parent.name)[-1]}",
        )


def audit_cluster(
    parent: Path, trusted: Trust, heads: Mapping[str, HostHeads] | None = None, *, offline: bool = False
) -> ClusterAudit:
    """Look at all runs below outputs/<cluster>. `heads`: what the hosts have; None when they were not asked."""
    runs = [audit_run(folder, trusted) for folder in all_runs(parent.parent, parent.name)]
    found = ClusterAudit(parent.name, runs)
    found.problems += list(_strays(parent, runs))
    found.problems += [
        Problem(each.holds, f"{run.run_id}: {each.seen}", each.next_command)
        for run in runs
        if not run.record_holds
        for each in run.problems[:1]
    ]
    found.problems += list(_order_problems(runs))
    if heads is not None:
        found.anchor, problems = _anchor(parent.name, runs, heads)
        found.problems += problems
    elif offline:
        found.anchor = Anchor(Holds.UNANCHORED, "--offline: the hosts were not asked")
    elif runs:
        found.anchor = Anchor(Holds.UNKNOWN, "unanchored: no run says which hosts there are")
        found.problems.append(Problem(Holds.UNKNOWN, found.anchor.why, f"runbook audit verify {parent.name} --offline"))
    if not runs:
        found.problems.append(Problem(Holds.UNKNOWN, f"{parent}: there are no runs"))
    return found


def _strays(parent: Path, runs: Sequence[RunAudit]) -> Iterator[Problem]:
    names = {run.run_id for run in runs}
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if (
            path.name not in names
            and path.is_dir()
            and ((path / MANIFEST).exists() or (path / "events.jsonl").exists())
        ):
            yield Problem(Holds.FAIL, f"{path.name}: is a run, but has no name of a run")


def _order_problems(runs: Sequence[RunAudit]) -> Iterator[Problem]:
    """Compare what each run says of the one before with the one that is there."""
    by_name = {run.run_id: run for run in runs}
    for number, run in enumerate(runs):
        if run.manifest is None:
            continue
        before, link = (runs[number - 1] if number else None), run.manifest.previous
        if link is not None and link.run_id not in by_name:
            yield Problem(Holds.FAIL, f"{link.run_id}: is missing: {run.run_id} was made after it")
        elif before is not None and (link is None or link.run_id != before.run_id):
            said = f"follows {link.run_id}" if link else "is the first run"
            yield Problem(Holds.FAIL, f"{before.run_id}: was added: {run.run_id} says that it {said}")
        elif before is not None and link is not None:
            if link.manifest and (before.manifest is None or link.manifest != before.manifest.digest):
                seen = f"{before.run_id}: its manifest is not the one that {run.run_id} was made after"
                yield Problem(Holds.FAIL, seen)
            elif link.events and not _has(before.chain, link.events, link.head):
                seen = f"{before.run_id}: its events are not those that {run.run_id} was made after"
                yield Problem(Holds.FAIL, seen)


def _has(chain: Sequence[Event], number: int, head: str) -> bool:
    return 0 < number <= len(chain) and chain[number - 1].hash == head


def _anchor(cluster: str, runs: Sequence[RunAudit], heads: Mapping[str, HostHeads]) -> tuple[Anchor, list[Problem]]:
    by_name = {run.run_id: run for run in runs}
    ours = {"_".join(str(event.data["by"]).split()) for run in runs for event in run.chain if "by" in event.data}
    problems: dict[str, Problem] = {}
    for host, known in heads.items():
        for head in known.heads:
            run = by_name.get(head.run_id)
            if run is None and head.by in ours:
                seen = f"{head.run_id}: is missing: {host} has its head, left by {head.by}"
                problems.setdefault(head.run_id, Problem(Holds.FAIL, seen))
            elif run is None:
                seen = f"{head.run_id}: is not in this record; {host} has its head, left by {head.by}"
                problems.setdefault(head.run_id, Problem(Holds.UNKNOWN, seen, f"ask {head.by} for the record"))
            elif not _has(run.chain, head.events, head.head):
                seen = f"{head.run_id}: its events are not those that {host} knows: {head.head[:12]} at {head.events}"
                problems.setdefault(head.run_id, Problem(Holds.FAIL, seen))
    anchor = _newest_anchor(runs, heads)
    found = list(problems.values())
    if anchor.holds is Holds.UNKNOWN:
        found.append(Problem(Holds.UNKNOWN, anchor.why, f"runbook audit verify {cluster} --offline"))
    return anchor, found


def _newest_anchor(runs: Sequence[RunAudit], heads: Mapping[str, HostHeads]) -> Anchor:
    answers = {host: known.error for host, known in heads.items()}
    silent = [host for host, error in answers.items() if error]
    if not runs:
        return Anchor(Holds.UNANCHORED, "there is no run", answers)
    newest = runs[-1]
    known_by = [host for host, known in heads.items() if any(head.run_id == newest.run_id for head in known.heads)]
    if known_by:
        return Anchor(Holds.OK, f"the newest run is known to {', '.join(known_by)}", answers)
    if len(silent) == len(heads):
        return Anchor(Holds.UNKNOWN, f"unanchored: no host answers ({answers[silent[0]] if silent else '?'})", answers)
    had_it = [host for host, error in anchored_hosts(list(newest.chain)).items() if not error]
    if had_it:
        seen = f"unanchored: {newest.run_id} left its head on {', '.join(had_it)}, and no host that answers has it"
        return Anchor(Holds.UNKNOWN, seen, answers)
    if silent:
        return Anchor(Holds.UNKNOWN, f"unanchored: {', '.join(silent)} did not answer", answers)
    return Anchor(
        Holds.UNANCHORED,
        f"the newest run {newest.run_id} left nothing on the hosts, so the removal of a newer one would not show",
        answers,
    )


def recorded_heads(parent: Path, root: Path) -> dict[str, HostHeads] | None:
    """Ask the hosts that the cluster's newest closed run names; None when no run says which hosts there are."""
    for folder in reversed(all_runs(parent.parent, parent.name)):
        manifest = read_manifest(folder)
        if isinstance(manifest, Manifest):
            try:
                params = Params.model_validate(manifest.said.get("params"))
            except ValidationError:
                continue
            return _of_recorded_keys(manifest, params, root)
    return None


def _of_recorded_keys(manifest: Manifest, params: Params, root: Path) -> dict[str, HostHeads]:
    """Believe only hosts that show the keys of the record: a pinned key that was replaced speaks for another host."""
    recorded = {name: host.get("host_keys") for name, host in manifest.said.get("hosts", {}).items()}
    now = {name: host["host_keys"] for name, host in host_keys(params, root).items()}
    return {
        name: known if known.error or recorded.get(name) == now.get(name) else HostHeads(error=_OTHER_KEY)
        for name, known in read_heads(params, root).items()
    }
