"""The command for many clusters: batch."""

from __future__ import annotations

from typing import Annotated

import typer

from runbook_lib.cli.base import SIGINT_EXIT, SIGTERM_EXIT, Json, Override, Stages, app, emit, overrides_of, say


@app.command()
def batch(  # noqa: PLR0913, PLR0917 - the options of one command
    params: Annotated[list[str], typer.Argument(help="Params files, one for each cluster.")],
    mode: Annotated[str, typer.Option(help="observe, plan or apply.")] = "plan",
    yes: Annotated[
        bool, typer.Option("--yes", help="Approve what each params file's policy allows; never destructive.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Clusters at a time; 0 is the number of processors.")] = 0,
    stage: Stages = [],
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Run many clusters side by side, each with a record of its own; one that fails does not stop the others."""
    from runbook_lib.runs.kernels.fork_server import preloaded

    with preloaded():  # a params file that cannot be read is one cluster's failure, not the batch's
        from runbook_lib.runs.batch import run_batch
        from runbook_lib.runs.runner import RunOptions

        given = overrides_of(override)
        outcome = run_batch([RunOptions(each, mode, given, tuple(stage), yes) for each in params], say, jobs)
    if as_json:
        emit(outcome.to_json())
    else:
        print(outcome.table())
        for each in outcome.runs:
            if each.error:
                print(f"{each.cluster}: {each.error}" + (f"\n  next: {each.next_command}" if each.next_command else ""))
            elif each.outcome is not None:
                print(f"{each.cluster}: {each.outcome.report}")
        print("ok" if outcome.ok else "not ok")
    if outcome.stopped_by:
        raise typer.Exit(SIGINT_EXIT if outcome.stopped_by == "SIGINT" else SIGTERM_EXIT)
    raise typer.Exit(0 if outcome.ok else 1)
