"""Commands that take back and let go: rollback, teardown, unlock."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer

from runbook_lib.cli.base import Approve, Json, ParamsFile, Yes, app, emit, say
from runbook_lib.errors import RecordError, UsageError

_SHOWN = 20


@app.command()
def rollback(
    run: Annotated[str, typer.Argument(help="A run's folder or id; a params file or cluster for its newest change.")],
    stage: Annotated[str, typer.Option(help="Only this stage of the run.")] = "",
    yes: Yes = False,
    approve: Approve = [],
    as_json: Json = False,
) -> None:
    """Take back what a run changed, newest change first. Without approval it only shows the reverse plan."""
    from runbook_lib.params import project_root
    from runbook_lib.runs.approval import read_approvals
    from runbook_lib.runs.find import find_cluster, find_run
    from runbook_lib.runs.folder import all_runs
    from runbook_lib.runs.history import read_history
    from runbook_lib.runs.rollback import UndoOptions
    from runbook_lib.runs.rollback import rollback as undo
    from runbook_lib.runs.runner import chosen_stages

    chosen_stages([stage] if stage else [])
    parent = find_cluster(run)
    folders = all_runs(parent.parent, parent.name) if parent is not None else [find_run(run)]
    history = next((found for folder in reversed(folders) if (found := read_history(folder)) is not None), None)
    if history is None:
        raise UsageError(f"{run}: no change is recorded, so there is nothing to take back")
    digests, _ = read_approvals(approve, project_root())
    file = history.start.data.get("params_file") if history.start else None
    params = str(file or f"params/{history.params.cluster.name}.yaml")
    options = UndoOptions("rollback", history.folder.run_id, params, stage, yes=yes, digests=tuple(digests))
    _finish(undo(history, options, say), as_json=as_json)


@app.command()
def teardown(
    params: ParamsFile,
    weights: Annotated[
        bool, typer.Option("--weights", help="Remove the weights too; they are kept otherwise.")
    ] = False,
    yes: Yes = False,
    approve: Approve = [],
    as_json: Json = False,
) -> None:
    """Return the hosts to how preflight found them, as far as the records promise. Only shows it without approval."""
    from runbook_lib.params import load_params, project_root
    from runbook_lib.runs.approval import read_approvals
    from runbook_lib.runs.folder import all_runs
    from runbook_lib.runs.history import read_history
    from runbook_lib.runs.rollback import UndoOptions
    from runbook_lib.runs.rollback import teardown as undo

    read = load_params(params)
    digests, _ = read_approvals(approve, project_root())
    histories = []
    count = 0
    for folder in all_runs(project_root() / "outputs", read.cluster.name):
        history = read_history(folder, first=count)
        if history is not None:
            histories.append(history)
            count += len(history.made)
    options = UndoOptions("teardown", params, params, weights=weights, yes=yes, digests=tuple(digests))
    _finish(undo(histories, read, options, say), as_json=as_json)


@app.command()
def unlock(
    params: ParamsFile,
    host: Annotated[str, typer.Option(help="Name of the host; all hosts are only looked at without it.")] = "",
    token: Annotated[str, typer.Option(help="The lock's token, as the message or this command shows it.")] = "",
    why: Annotated[str, typer.Option(help="Why it is broken, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """Show who holds the apply locks on the hosts; with --host and --token break one, which is recorded."""
    from contextlib import closing

    from runbook_lib.params import load_params
    from runbook_lib.runs.cluster import Cluster
    from runbook_lib.runs.locks import break_lock, explain, find_locks, lock_json

    if bool(host) != bool(token):
        raise UsageError("--host and --token go together", next_command=f"runbook unlock {params}")
    read = load_params(params)
    with closing(Cluster(read)) as cluster:
        if host and host not in [each.name for each in read.cluster.hosts]:
            raise UsageError(f"no host {host!r} in {params}", next_command=f"runbook unlock {params}")
        locks, errors = find_locks(cluster)
        broken = None
        if host:
            broken = next((lock for lock in locks if (lock.host, lock.owner.token) == (host, token)), None)
            if broken is None:
                seen = next((explain(lock) for lock in locks if lock.host == host), errors.get(host, "no lock there"))
                raise RecordError(
                    f"{host}: no lock with token {token}: {seen}", next_command=f"runbook unlock {params}"
                )
            break_lock(cluster, broken, why)
            locks = [lock for lock in locks if lock is not broken]
    if as_json:
        failures = [{"seen": error, "next_command": ""} for error in errors.values()]
        shown = [lock_json(lock) for lock in locks]
        emit({"ok": not errors, "locks": shown, "broken": lock_json(broken) if broken else None, "failures": failures})
    else:
        if broken is not None:
            print(f"broken: {explain(broken)}")
        for lock in locks:
            print(explain(lock))
            print(f"  break it with: runbook unlock {params} --host {lock.host} --token {lock.owner.token}")
        for error in errors.values():
            print(error)
        if not locks and not errors:
            print("no host is locked" if broken is None else "no other host is locked")
    raise typer.Exit(1 if errors else 0)


def _finish(outcome: Any, *, as_json: bool) -> NoReturn:  # noqa: ANN401 - UndoOutcome, imported late
    from runbook_lib.runs.rollback import outcome_json
    from runbook_lib.views.plans import plan_text

    if as_json:
        emit(outcome_json(outcome))
        raise typer.Exit(0 if outcome.ok else 1)
    print(plan_text(outcome.reverse.plan, outcome.states))
    _list("cannot be taken back, and stays", outcome.reverse.kept)
    _list("nothing to take back", outcome.reverse.skipped)
    for line in [outcome.problem, *outcome.doubts]:
        if line:
            print(f"  {line}")
    print(outcome.state if outcome.ok else f"not ok: {outcome.state}")
    if outcome.next_command:
        print(f"  next: {outcome.next_command}")
    if outcome.report:
        print(outcome.report)
    raise typer.Exit(0 if outcome.ok else 1)


def _list(title: str, items: Any) -> None:  # noqa: ANN401 - pairs of a made change and words
    if items:
        print(f"{title}:")
    for made, why in items[:_SHOWN]:
        print(f"  {made.change.subject}: {made.change.summary}: {why}")
    if len(items) > _SHOWN:
        print(f"  and {len(items) - _SHOWN} more (--json has them all)")
