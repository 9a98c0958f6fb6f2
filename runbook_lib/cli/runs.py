"""Commands that run stages, look for drift, and read back: run, plan, check, status, demo, diagnose."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from runbook_lib.cli.base import (
    SIGINT_EXIT,
    SIGTERM_EXIT,
    Approve,
    Json,
    Override,
    ParamsFile,
    Stages,
    Yes,
    app,
    emit,
    overrides_of,
    say,
    twin_of,
)
from runbook_lib.errors import RunbookError
from runbook_lib.model import Verdict, to_json
from runbook_lib.runs.kernels.fork_server import preloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO_PARAMS = "params/demo.yaml"


@contextlib.contextmanager
def kernels(override: list[str], *files: str) -> Iterator[None]:
    """Have kernels that start quickly; they begin to be imported while the command is.

    Reads the params files first: a typo is answered before anything heavy begins. Raises UsageError.
    """
    from runbook_lib.params import load_params

    for file in files:
        load_params(file, overrides_of(override))
    with preloaded():
        yield


@app.command()
def run(  # noqa: PLR0913, PLR0917 - the options of one command
    params: ParamsFile,
    mode: Annotated[str, typer.Option(help="observe, plan or apply.")] = "plan",
    yes: Yes = False,
    approve: Approve = [],
    stage: Stages = [],
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Run the stages' notebooks headless, and write a record and a report."""
    from runbook_lib.params import project_root

    with kernels(override, params):
        from runbook_lib.runs.approval import read_approvals
        from runbook_lib.runs.runner import RunOptions

        digests, plans = read_approvals(approve, project_root())
        options = RunOptions(params, mode, overrides_of(override), tuple(stage), yes, tuple(digests), tuple(plans))
        outcome = _execute(options)
    _finish(outcome, as_json=as_json)


@app.command()
def plan(
    params: ParamsFile,
    save: Annotated[str, typer.Option(help="Write the plans with their digests to this file, for --approve.")] = "",
    stage: Stages = [],
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Show what a run would change; the same as run --mode plan."""
    with kernels(override, params):
        from runbook_lib.runs.runner import RunOptions

        outcome = _execute(RunOptions(params, "plan", overrides_of(override), tuple(stage)))
    if save:
        _save_plans(outcome, params, override, Path(save))
    _finish(outcome, as_json=as_json)


def _save_plans(outcome: Any, params: str, override: list[str], path: Path) -> None:  # noqa: ANN401 - see _finish
    from runbook_lib.runs.approval import command
    from runbook_lib.runs.folder import atomic_write

    plans = [{"stage": each["name"], "digest": each["digest"], "plan": each["plan"]} for each in outcome.stages]
    plans = [each for each in plans if each["digest"]]
    saved = {"cluster": outcome.folder.path.parent.name, "run_id": outcome.folder.run_id, "plans": plans}
    atomic_write(path.absolute(), (json.dumps(saved, indent=1, ensure_ascii=False) + "\n").encode())
    say(f"{len(plans)} plans saved in {path}" + ("" if plans else ": there is nothing to approve yet"))
    if plans:
        last = f"--approve {shlex.quote(str(path.absolute()))}"
        stages = [each["stage"] for each in plans]
        given = overrides_of(override)
        say(f"  next: {command('run', params, overrides=given, stages=stages, mode='apply', last=last)}")


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run's folder or id; a params file or cluster for its newest run.")],
    yes: Yes = False,
    approve: Approve = [],
    why: Annotated[str, typer.Option(help="Why it is resumed, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """Continue a run that was cut: what it did is checked again, the rest is done. Asks for approval anew."""
    with preloaded():
        from runbook_lib.runs.resume import resume as go_on

        outcome = go_on(run, say, yes=yes, approve=approve, why=why)
    _finish(outcome, as_json=as_json)


def _execute(options: Any) -> Any:  # noqa: ANN401 - RunOptions and RunOutcome, imported late
    from runbook_lib.runs.runner import run as execute

    return execute(options, say)


def _finish(outcome: Any, *, as_json: bool) -> NoReturn:  # noqa: ANN401 - RunOutcome, imported late
    if as_json:
        emit(outcome.to_json())
    else:
        _print_outcome(outcome)
    if outcome.stopped_by:
        raise typer.Exit(SIGINT_EXIT if outcome.stopped_by == "SIGINT" else SIGTERM_EXIT)
    raise typer.Exit(0 if outcome.ok else 1)


def _print_outcome(outcome: Any) -> None:  # noqa: ANN401 - see _finish
    from runbook_lib.model import Finding, Plan, from_json
    from runbook_lib.views.findings import findings_text
    from runbook_lib.views.plans import plan_text

    for stage in outcome.stages:
        waits = f", waits for {', '.join(stage['waits_for'])}" if stage["waits_for"] else ""
        print(f"{stage['name']}: {stage['verdict']}{waits}")
        bad = [
            each
            for each in from_json(list[Finding], stage["findings"])
            if each.verdict in {Verdict.FAIL, Verdict.UNKNOWN}
        ]
        if stage["error"]:
            print(f"  {stage['error']}")
        elif bad:
            print(findings_text(bad))
        if outcome.mode == "plan" and stage["plan"]:
            print(plan_text(from_json(Plan, stage["plan"])))
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by}; the record says where")
    planned = outcome.mode == "plan" and any(
        each["verdict"] in {Verdict.FAIL, Verdict.UNKNOWN} for each in outcome.stages
    )
    fine = "ok: every problem has a planned change, or waits for a stage that has" if planned else "ok"
    print(fine if outcome.ok else "not ok")
    print(outcome.report)


@app.command()
def check(params: ParamsFile, stage: Stages = [], override: Override = [], as_json: Json = False) -> None:
    """Look for drift: what is on the hosts against what the params want, and since the last good run."""
    from runbook_lib.params import load_params, project_root
    from runbook_lib.runs.check import check_cluster, is_ok
    from runbook_lib.runs.drift import drift_of
    from runbook_lib.runs.runner import chosen_stages, failures
    from runbook_lib.views.findings import findings_text

    names = [each.name for each in chosen_stages(stage)]
    read = load_params(params, overrides_of(override))
    checks = check_cluster(read, names, say)
    drift = drift_of(checks, project_root() / "outputs", read.cluster.name)
    ok = is_ok(checks)
    stages = [
        {"name": each.name, "verdict": each.verdict, "findings": to_json(each.findings), "error": ""} for each in checks
    ]
    if as_json:
        emit({"ok": ok, "stages": stages, "drift": drift.to_json(), "failures": failures(stages)})
    else:
        for each in checks:
            print(f"{each.name}: {each.verdict}")
            print(drift.text(each.name))
            bad = [finding for finding in each.findings if finding.verdict not in {Verdict.OK, Verdict.SKIPPED}]
            if bad:
                print(findings_text(bad))
        print("ok" if ok else "not ok")
    raise typer.Exit(0 if ok else 1)


@app.command()
def status(params: ParamsFile, as_json: Json = False) -> None:
    """Say where the cluster's newest run stands, from its record."""
    from runbook_lib.runs.overview import open_overview

    view = open_overview(params)
    if view.folder is None:
        raise RunbookError(f"no run of {view.params.cluster.name} yet", next_command=f"runbook run {params}")
    shown = view.stages()
    good = {"ok", "warn", "skipped"}
    ok = all(state in good for state in shown.data.values())
    if as_json:
        states = [{"name": name, "state": state} for name, state in shown.data.items()]
        next_command = view.next_command()
        emit(
            {
                "ok": ok,
                "run_dir": str(view.folder.path),
                "stages": states,
                "failures": [
                    each | {"seen": f"{each['name']} is {each['state']}", "next_command": next_command}
                    for each in states
                    if each["state"] not in good
                ],
            }
        )
    else:
        print(f"run {view.folder.run_id}\n{shown.text}\n{view.next_step().text}")
    raise typer.Exit(0 if ok else 1)


@app.command()
@preloaded()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the twin up afterwards.")] = False,
    as_json: Json = False,
) -> None:
    """Take an emulated two-server cluster from bare to benchmarked, on a fresh twin of its own."""
    from runbook_lib.cli.audit import say_whether_it_holds, with_own_key
    from runbook_lib.runs.runner import RunOptions
    from runbook_lib.twin import lifecycle

    params, folder = twin_of(DEMO_PARAMS)
    with_own_key(params.cluster.name)
    say("starting two emulated servers, bare and joined back to back")
    try:
        level = lifecycle.up(params, folder, fresh=True)
        say(f"the twin is up, isolation level {level.level}")
        outcome = _execute(RunOptions(DEMO_PARAMS, "apply", yes=True))
        say_whether_it_holds(outcome.folder)
    finally:
        if not keep:
            lifecycle.down(params, folder)
    _finish(outcome, as_json=as_json)


@app.command()
def diagnose(params: ParamsFile, override: Override = [], as_json: Json = False) -> None:
    """Collect the logs of all hosts and name the first error of each; changes nothing."""
    with kernels(override, params):
        from runbook_lib.runs.runner import RunOptions

        outcome = _execute(RunOptions(params, "observe", overrides_of(override), ("diagnose",)))
    _finish(outcome, as_json=as_json)
