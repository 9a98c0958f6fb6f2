"""The planner: `capacity PARAMS` ranks deployments, `capacity simulate PARAMS` runs one in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from runbook_lib.cli.base import Json, Override, ParamsFile, app, emit, overrides_of, say
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from runbook_lib.capacity.level import Level, Load

_PLAN = "plan"


class _PlanByDefault(TyperGroup):
    """`capacity PARAMS` means `capacity plan PARAMS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer brings a click of its own
        """Put the plan's name in front of what is no other command."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = [_PLAN, *args]
        return super().parse_args(ctx, args)


capacity_app = typer.Typer(
    cls=_PlanByDefault,
    no_args_is_help=True,
    help="Plan before the night is bought: `capacity PARAMS` ranks layouts and settings; `simulate` runs one sweep.",
)
app.add_typer(capacity_app, name="capacity")

Tokens = Annotated[int | None, typer.Option(min=1, help="Tokens; of the params' benchmark when not given.")]
Spread = Annotated[float, typer.Option(min=0, help="Standard deviation of both lengths, in tokens.")]


def _load(params: Any, count: int | None, lengths: tuple[int | None, int | None], spread: float, seed: int) -> Load:  # noqa: ANN401 - Params, imported late
    """Return the load that the options ask for; what is not given comes from the params' benchmark."""
    from runbook_lib.capacity.level import Load
    from runbook_lib.capacity.workload import Lengths

    bench, rules = params.benchmark, params.service
    inputs, outputs = lengths[0] or bench.input_tokens, lengths[1] or bench.output_tokens
    longest = min(rules.max_input_token_len, rules.max_seq_len - 1)
    if inputs > longest:
        raise UsageError(f"{inputs} input tokens are refused by the service; right would be at most {longest}")
    outputs = min(outputs, rules.max_iter_times, rules.max_seq_len - inputs)
    return Load(
        Lengths(inputs, spread, high=longest),
        Lengths(outputs, spread, high=min(rules.max_iter_times, rules.max_seq_len - longest)) if spread
        else Lengths(outputs),
        count or bench.requests_per_level,
        seed,
    )  # fmt: skip


def _levels(text: str, default: list[int]) -> list[int]:
    try:
        levels = [int(word) for word in text.split(",")] if text else list(default)
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        raise UsageError(f"--concurrency {text!r}; right would be whole numbers above 0, like 100,200,400")
    return levels


@capacity_app.command("simulate")
def capacity_simulate(  # noqa: PLR0913, PLR0917 - each is an option
    params: ParamsFile,
    concurrency: Annotated[str, typer.Option(help="Levels, like 100,200,400.")] = "",
    requests: Annotated[int | None, typer.Option(min=1, help="Requests of every level, in all.")] = None,
    input_tokens: Tokens = None,
    output_tokens: Tokens = None,
    spread: Spread = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random lengths.")] = 0,
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Simulate a closed-loop sweep on the deployment that PARAMS describe; nothing is touched."""
    from runbook_lib.capacity.level import sweep
    from runbook_lib.params import load_params
    from runbook_lib.runs.capacity import level_json, setup_of

    read = load_params(params, overrides_of(override))
    load = _load(read, requests, (input_tokens, output_tokens), spread, seed)
    levels = sweep(setup_of(read), load, _levels(concurrency, read.benchmark.concurrency))
    stalled = [row for row in levels if row.stalled]
    failures = [
        {
            "seen": f"concurrency {row.concurrency}: {row.stalled} requests never get a token: a preempted request is "
            "longer than the prefill budget (recompute dead end)",
            "next_command": f"runbook capacity simulate {params} --set service.max_prefill_tokens="
            f"{read.service.max_seq_len}",
        }
        for row in stalled
    ]
    if as_json:
        emit({"ok": not failures, "failures": failures, "points": [level_json(row) for row in levels]})
    else:
        _print(levels)
        for failure in failures:
            say(f"{failure['seen']}\n  next: {failure['next_command']}")
    if failures:
        raise typer.Exit(1)


@capacity_app.command(_PLAN)
def capacity_plan(  # noqa: PLR0913, PLR0917 - each is an option
    params: ParamsFile,
    ttft_ms: Annotated[
        float | None, typer.Option(min=0, help="Mean first token, at most; of the params if not given.")
    ] = None,
    tpot_ms: Annotated[float | None, typer.Option(min=0, help="Mean time per further token, at most.")] = None,
    input_tokens: Tokens = None,
    output_tokens: Tokens = None,
    spread: Spread = 0.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests of every level, in all.")] = None,
    concurrency: Annotated[str, typer.Option(help="Levels to try, like 100,200,400.")] = "",
    html: Annotated[str, typer.Option(help="Also write a page with figures to this file.")] = "",
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Rank instances x layouts x settings for the hosts of PARAMS; nothing is touched."""
    from pathlib import Path

    from runbook_lib.params import load_params
    from runbook_lib.runs.capacity import LEVELS, plan_json, planned
    from runbook_lib.views.capacity import capacity_html, plan_text
    from runbook_lib.views.html import page

    read = load_params(params, overrides_of(override))
    # a sweep that was scaled down for a rehearsal says nothing about high concurrency
    count = requests or max(1000, read.benchmark.requests_per_level)
    load = _load(read, count, (input_tokens, output_tokens), spread, seed=0)
    slo = (ttft_ms or read.capacity.ttft_ms, tpot_ms or read.capacity.tpot_ms)
    plan = planned(read, load, slo, _levels(concurrency, list(LEVELS)), say)
    result = plan_json(plan, params)
    if html:
        Path(html).write_text(page(f"Capacity of {read.cluster.name}", capacity_html(plan)), encoding="utf-8")
        say(f"written: {html}")
    if as_json:
        emit(result)
    else:
        print(plan_text(plan))
    if not result["ok"]:
        for failure in result["failures"]:
            say(f"{failure['seen']}\n  next: {failure['next_command']}")
        raise typer.Exit(1)


@capacity_app.command("calibrate")
def capacity_calibrate(  # noqa: PLR0913, PLR0917 - each is an option
    params: ParamsFile,
    points: Annotated[
        str, typer.Argument(help="A result of `bench --json`, a folder of `bench --out`, or a run's folder.")
    ],
    input_tokens: Tokens = None,
    output_tokens: Tokens = None,
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Fit the constants that a benchmark can tell to your own points; say what is left, and what to put into PARAMS."""
    from runbook_lib.capacity.calibrate import calibrate, errors, mean_errors
    from runbook_lib.params import load_params
    from runbook_lib.runs.capacity import fit_json, points_of, setup_of

    read = load_params(params, overrides_of(override))
    load = _load(read, None, (input_tokens, output_tokens), 0.0, seed=0)
    measured = points_of(_measured(points), lengths=(int(load.inputs.mean), int(load.outputs.mean)))
    before = mean_errors(errors(setup_of(read), load, measured))
    fit = fit_json(calibrate(setup_of(read), load, measured, progress=say)) | {"mean_error_before": before}
    failures = [
        {
            "seen": f"{name} ended at the edge of its interval: the points ask for more than is plausible",
            "next_command": f"runbook capacity simulate {params}",
        }
        for name in fit["at_bounds"]
    ]
    if as_json:
        emit({"ok": not failures, "failures": failures} | fit)
    else:
        for row in fit["residuals"]:
            print(
                f"concurrency {row['concurrency']:5.0f}: throughput {row['throughput']:+.1%}, first token "
                f"{row['ttft']:+.1%}, decode {row['decode']:+.1%}"
            )
        print(
            "mean: "
            + ", ".join(f"{name} {share:.1%} (was {before[name]:.1%})" for name, share in fit["mean_error"].items())
        )
        print("capacity:\n  constants:\n" + "\n".join(f"    {key}: {value}" for key, value in fit["constants"].items()))
    if failures:
        raise typer.Exit(1)


def _measured(place: str) -> Any:  # noqa: ANN401 - foreign JSON
    """Read points[] from a file of JSON or from a folder. Raises UsageError."""
    import json
    from pathlib import Path

    from runbook_lib.runs.conclusions import archived

    path = Path(place)
    if path.is_dir():
        return {"points": archived(path)[0]}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise UsageError(f"{place} is no JSON and no folder of points: {wrong}") from None


_HEAD = "concurrency  req/s  out tok/s  TTFT mean s   p50 s   p99 s  decode ms  preempted  in flight  simulated req/s"


def _print(levels: list[Level]) -> None:
    print(_HEAD)
    for row in levels:
        print(
            f"{row.concurrency:11d} {row.requests_per_s:6.3f} {row.output_tokens_per_s:10.1f} {row.ttft_mean_s:12.2f} "
            f"{row.ttft_p50_s:7.2f} {row.ttft_p99_s:7.2f} {row.decode_mean_ms:10.1f} {row.preemptions:10d} "
            f"{row.mean_in_flight:10.1f} {row.simulated_requests_per_wall_s:16.0f}"
        )
