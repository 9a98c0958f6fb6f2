"""The benchmark of any OpenAI-compatible URL, without a cluster; what earlier points say; tuning of the service."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from runbook_lib.cli.base import Json, app, say
from runbook_lib.errors import UsageError

bench_app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    help="Measure an OpenAI-compatible service; report on measured points; tune a service.",
)
app.add_typer(bench_app, name="bench")


@bench_app.callback()
def bench(  # noqa: PLR0913, PLR0917 - the options of one command
    context: typer.Context,
    url: Annotated[str, typer.Option(help="Service root, .../v1 or .../chat/completions.")] = "",
    model: Annotated[str, typer.Option(help="The model's name as the service knows it.")] = "",
    concurrency: Annotated[str, typer.Option(help="Requests in flight: 64, or a sweep 1,16,64.")] = "",
    requests: Annotated[int, typer.Option(help="Requests of every level; 0: four per client.")] = 0,
    input_tokens: Annotated[str, typer.Option(help="512; a grid 128,512; or a distribution normal:512,150.")] = "512",
    output_tokens: Annotated[str, typer.Option(help="The same for the answers.")] = "512",
    duration: Annotated[float, typer.Option(help="Stop sending after so many seconds.")] = 0.0,
    arrival: Annotated[str, typer.Option(help="closed, constant, poisson, gamma or trace.")] = "closed",
    rate: Annotated[float, typer.Option(help="Requests per second of an open loop.")] = 0.0,
    burstiness: Annotated[float, typer.Option(help="Shape of gamma: 1 is Poisson, below 1 more bursty.")] = 1.0,
    trace: Annotated[str, typer.Option(help="Trace to be played: mooncake JSON lines or CSV.")] = "",
    trace_speed: Annotated[float, typer.Option(help="Play the trace so many times as fast.")] = 1.0,
    turns: Annotated[int, typer.Option(help="Turns of a conversation, each with the ones before it.")] = 1,
    warm_up: Annotated[bool, typer.Option(help="A warm-up as wide as each point; default for a sweep.")] = False,
    tokenizer: Annotated[str, typer.Option(help="Folder with tokenizer.json: exact prompt lengths.")] = "",
    repeats: Annotated[int, typer.Option(help="Measure each point so often, for confidence intervals.")] = 1,
    out: Annotated[str, typer.Option(help="Folder for points and raw requests; what is there is not repeated.")] = "",
    stop_saturated: Annotated[bool, typer.Option(help="End a sweep when further levels bring nothing.")] = False,
    slo_ttft_ms: Annotated[float, typer.Option(help="Bound of the first token, for goodput; 0: none.")] = 0.0,
    slo_tpot_ms: Annotated[float, typer.Option(help="Bound of the time per token; 0: none.")] = 0.0,
    slo_e2e_ms: Annotated[float, typer.Option(help="Bound of the whole answer; 0: none.")] = 0.0,
    find: Annotated[float, typer.Option(help="Find the highest concurrency at which this share keeps the SLO.")] = 0.0,
    processes: Annotated[int, typer.Option(help="Load processes; more than one where one core is not enough.")] = 1,
    metrics_url: Annotated[str, typer.Option(help="The server's /metrics, read beside the load.")] = "",
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 600.0,
    max_lateness_ms: Annotated[float, typer.Option(help="Own lateness (p99) that is still ok; 0: by the clock.")] = 0.0,
    extra: Annotated[str, typer.Option(help='More fields of the request body, as JSON: {"temperature": 0}.')] = "",
    ca_file: Annotated[str, typer.Option(help="CA that signed an https service's certificate.")] = "",
    api_key_env: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "",
    seed: Annotated[int, typer.Option(help="Same prompts every time; then a prefix cache may spoil it.")] = -1,
    as_json: Json = False,
) -> None:
    """Measure one point or a sweep; exit 0 only when every point was delivered without an error."""
    if context.invoked_subcommand is not None:
        return
    from runbook_lib.load.campaign import Campaign
    from runbook_lib.load.spec import PointSpec

    levels = _integers("--concurrency", concurrency)
    inputs, input_lengths = _lengths("--input-tokens", input_tokens)
    outputs, output_lengths = _lengths("--output-tokens", output_tokens)
    if not url or not model:
        raise UsageError("--url and --model are needed", next_command="runbook bench --help")
    per_level = requests or (1_000_000 if duration or trace else 0)
    spec = PointSpec(
        url=url, model=model, concurrency=levels[0], requests=per_level or 4 * levels[0], input_tokens=inputs[0],
        output_tokens=outputs[0], input_lengths=input_lengths, output_lengths=output_lengths,
        arrival="trace" if trace else arrival,  # type: ignore[arg-type]  # the spec itself checks the words
        rate_per_s=rate, burstiness=burstiness, trace_file=trace, trace_speed=trace_speed, duration_s=duration,
        turns=turns, tokenizer=tokenizer, timeout_s=timeout, max_lateness_ms=max_lateness_ms, extra=_extra(extra),
        ca_file=ca_file, api_key=_key(api_key_env), seed=None if seed < 0 else seed, slo_ttft_ms=slo_ttft_ms,
        slo_tpot_ms=slo_tpot_ms, slo_e2e_ms=slo_e2e_ms, processes=processes,
    )  # fmt: skip
    campaign = Campaign(
        spec,
        levels,
        requests=per_level,
        inputs=inputs,
        outputs=outputs,
        repeats=repeats,
        warm_up=warm_up or len(levels) > 1 or bool(find),
        stop_saturated=stop_saturated,
    )
    if find and not (slo_ttft_ms or slo_tpot_ms or slo_e2e_ms):
        raise UsageError("--find needs a bound: --slo-ttft-ms, --slo-tpot-ms or --slo-e2e-ms")
    _run(campaign, out=out, find=find, metrics_url=metrics_url, as_json=as_json)


def _run(campaign: Any, *, out: str, find: float, metrics_url: str, as_json: bool) -> None:  # noqa: ANN401 - a Campaign, imported late
    from pathlib import Path

    from runbook_lib.load.bench import Bench
    from runbook_lib.load.store import Store

    bench = Bench(Store(Path(out)) if out else None, metrics_url=metrics_url, say=None if as_json else say)
    found = None
    if find:
        found, points = campaign.search(bench.measure, lambda point: (point.goodput_share or 0.0) >= find)
    else:
        points = campaign.run(bench.measure)
    result = bench.result(points)
    if found is not None:
        result["found_concurrency"] = found or None
        result["ok"] = bool(found)
    _finish(result, as_json=as_json)


def _finish(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        # one line: scripts that look at the last line of a log find the whole object there
        sys.stdout.write(json.dumps(result, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
    else:
        from runbook_lib.load.text import points_text

        print(points_text(result))
    raise typer.Exit(0 if result["ok"] else 1)


def _integers(option: str, text: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise UsageError(f"{option} {text!r}; right would be a number, or several like 1,16,64")
    return values


def _lengths(option: str, text: str) -> tuple[list[int], str]:
    """Return the lengths of a grid, or one reference length and the distribution."""
    if ":" not in text:
        return _integers(option, text), ""
    from random import Random

    from runbook_lib.load import lengths

    draw = lengths.parse(text).draw
    source = Random(0)  # noqa: S311 - only to know what is typical
    typical = sorted(draw(source) for _ in range(999))[499]
    return [max(4, typical)], text


def _extra(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f'--extra {text!r}; right would be a JSON object, like {{"temperature": 0}}')
    return value


def _key(variable: str) -> str:
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise UsageError(f"--api-key-env {variable}: that variable is not set", next_command=f"export {variable}=...")
    return key
