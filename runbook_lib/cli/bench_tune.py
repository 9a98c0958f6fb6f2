"""Tuning of a cluster's service by measured trials."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runbook_lib.cli.base import Approve, Json, Override, ParamsFile, Yes, emit, overrides_of, say
from runbook_lib.cli.bench import bench_app


@bench_app.command("tune")
def bench_tune(  # noqa: PLR0913, PLR0917 - the options of one command
    params: ParamsFile,
    level: Annotated[int, typer.Option(min=0, help="Concurrency to measure at; 0: the highest of the params.")] = 0,
    budget: Annotated[int, typer.Option(min=1, help="Measurements in all, each with a restart.")] = 12,
    objective: Annotated[str, typer.Option(help="throughput or first-token.")] = "throughput",
    knob: Annotated[list[str], typer.Option(help="Only this setting, like max_batch_size; more than once.")] = [],
    yes: Yes = False,
    approve: Approve = [],
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Try service settings one by one, each restart planned and approved; the result is a difference of params."""
    from runbook_lib.runs.tune import TuneOptions, tune

    options = TuneOptions(params, overrides_of(override), level, budget, objective, yes, tuple(approve), tuple(knob))
    result = tune(options, say)
    if as_json:
        emit({"ok": True, "failures": [], **result})
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    for trial in result["trials"]:
        score = "failed" if trial["score"] is None else f"{trial['score']:.4g}"
        print(f"{score:>10}  {', '.join(f'{name}={value}' for name, value in trial['settings'].items())}")
    print(f"ended: {result['ended']}")
    if result["params_diff"]:
        print(f"{100 * result['gain']:+.1f} % ({result['objective']}) with\n{result['params_diff']}")
    else:
        print("no setting did better than the present ones by more than the scatter (2 %)")
    print(f"evidence: {result['file']}")
