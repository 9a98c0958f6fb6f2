"""From params to the planner's inputs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.images import image_facts, image_version
from runbook_lib.capacity.calibrate import FREE, Point
from runbook_lib.capacity.constants import MINDIE_910B
from runbook_lib.capacity.fragment import fragment
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.planner import LEVELS, Planner, Slo, all_blocks
from runbook_lib.capacity.rules import Generation, Rules, generation_of
from runbook_lib.capacity.setup import Setup
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.capacity.calibrate import Fit
    from runbook_lib.capacity.level import Level, Load
    from runbook_lib.capacity.planner import Option, Plan
    from runbook_lib.params import Params

__all__ = ["LEVELS", "fit_json", "level_json", "plan_json", "planned", "points_of", "setup_of"]
# the layout that the field report measured; the constants were fitted there
_FITTED = (Layout(4, 8), "w8a8", "910b3")


def setup_of(params: Params) -> Setup:
    """Return the deployment that the params describe: one instance on all hosts.

    Raises UsageError for constants that do not exist or hosts that differ.
    """
    service, parallel = params.service, params.service.parallel
    known = {str(row["name"]) for row in MINDIE_910B.describe()}
    if unknown := sorted(set(params.capacity.constants) - known):
        raise UsageError(
            f"capacity.constants: {', '.join(unknown)} unknown; right would be of {', '.join(sorted(known))}"
        )
    given = params.capacity.generation
    generation = generation_of(image_version(params.container.image)) if given == "auto" else Generation(given)
    return Setup(
        layout=Layout(
            len(params.cluster.hosts),
            len(params.cluster.hosts[0].cards),
            dp=parallel.dp,
            tp=parallel.tp,
            moe_ep=parallel.moe_ep,
        ),
        rules=Rules(
            blocks=0,
            max_batch_size=service.max_batch_size,
            max_prefill_batch_size=service.max_prefill_batch_size,
            max_prefill_tokens=service.max_prefill_tokens,
            max_seq_len=service.max_seq_len,
            max_input_token_len=service.max_input_token_len,
            max_iter_times=service.max_iter_times,
            max_queue_delay_us=service.max_queue_delay_us,
            max_link_num=service.max_link_num,
            support_select_batch=service.support_select_batch,
            prefill_time_ms=service.prefill_time_ms,
            decode_time_ms=service.decode_time_ms,
            generation=generation,
        ),
        hardware=HARDWARE[params.capacity.hardware],
        weights=params.model.format,
        fraction=service.npu_memory_fraction,
        npu_mem_gib=service.npu_mem_size,
        mtp=params.capacity.mtp,
        constants=MINDIE_910B.changed(**params.capacity.constants),
    )


def planned(
    params: Params,
    load: Load,
    slo: tuple[float | None, float | None],
    levels: Sequence[int] = LEVELS,
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Plan for the hosts of the params; `slo`: mean first token and mean time per further token, ms."""
    current = setup_of(params)
    # constants of the user's own calibration hold for the user's own layout
    layout, weights, hardware = _FITTED
    if params.capacity.constants:
        layout, weights, hardware = current.layout, current.weights, current.hardware.name

    def measured(setup: Setup) -> bool:
        return (setup.layout, setup.weights, setup.hardware.name) == (layout, weights, hardware)

    new_keys = image_facts(params.container.image).schema != "1.0"
    planner = Planner(load, Slo(*slo), levels, measured=measured, new_keys=new_keys, progress=progress)
    return planner.plan(current)


def level_json(level: Level) -> dict[str, Any]:
    """Return a row as JSON values; what could not be told is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(level).items()
    }


def points_of(result: Any, lengths: tuple[int, int] = (0, 0)) -> list[Point]:  # noqa: ANN401 - foreign JSON
    """Read the good points of a benchmark's JSON (`runbook bench --json`). Raises UsageError for another shape.

    lengths: tokens in and out; points of other ones are left out. 0: of all, as where a point does not tell
    """
    try:
        found = [
            Point(
                concurrency=int(point["concurrency"]),
                output_tokens_per_s=float(point["output_tokens_per_s"]),
                ttft_mean_s=float(point["ttft_ms"]["mean"]) / 1e3,
                decode_mean_ms=float(point["tpot_ms"]["mean"]),
                requests=int(point["requests"]),
            )
            for point in result["points"]
            if point.get("ok", True)
            and all(
                wanted in {0, point.get(name, wanted)}
                for wanted, name in zip(lengths, ("asked_input_tokens", "asked_output_tokens"), strict=True)
            )
        ]
    except (KeyError, TypeError, ValueError) as wrong:
        raise UsageError(
            f"this is no result of `runbook bench --json`: {wrong!r}; right would be points[] with concurrency, "
            "requests, output_tokens_per_s, ttft_ms.mean and tpot_ms.mean"
        ) from None
    if result["points"] and not found:
        raise UsageError(
            f"none of {len(result['points'])} points is ok and has {lengths[0]} tokens in, {lengths[1]} out"
        )
    return found


def fit_json(fit: Fit) -> dict[str, Any]:
    """Return a fit as JSON values; `constants` is what params take under capacity.constants."""
    moved = {name: getattr(fit.constants, name) for name in FREE}
    return {
        "constants": {name: float(f"{value:.5g}") for name, value in moved.items()},
        "mean_error": fit.mean_error,
        "residuals": list(fit.residuals),
        "at_bounds": list(fit.at_bounds),
    }


def _option_json(option: Option) -> dict[str, Any]:
    picture = option.setup.memory
    return {
        "name": option.name,
        "instances": option.setup.instances,
        "settings": option.settings,
        "usable": option.usable,
        "needs": option.needs,
        "reason": option.reason,
        "basis": "measured layout" if option.measured else "extrapolated",
        "knee": option.knee or None,
        "recommended": option.recommended,
        "kv_blocks": all_blocks(option.setup),
        "memory_gib": {term.name: round(term.gib, 3) for term in picture.terms},
        "checks": [asdict(check) for check in option.checks],
        "points": [level_json(level) for level in option.levels],
        "points_low": [level_json(level) for level in option.low],
        "points_high": [level_json(level) for level in option.high],
        "params": fragment(option),
    }


def plan_json(plan: Plan, file: str) -> dict[str, Any]:
    """Return a plan as JSON values. `ok`: something can be used, and the params do not lead into a dead end."""
    best = plan.best
    failures = []
    if best is None:
        failures.append(
            {
                "seen": f"no deployment of these hosts can be used: {plan.current.reason}",
                "next_command": f"runbook capacity {file} --set service.npu_memory_fraction=0.95",
            }
        )
    failures += [
        {"seen": f"{check.rule}: {check.said}", "next_command": f"runbook capacity simulate {file}"}
        for check in plan.current.checks
        if check.verdict == "fail"
    ]
    return {
        "ok": not failures,
        "failures": failures,
        "input_tokens": plan.load.inputs.mean,
        "output_tokens": plan.load.outputs.mean,
        "requests": plan.load.requests,
        "slo": asdict(plan.slo),
        "current": _option_json(plan.current),
        "best": _option_json(best) if best is not None else None,
        "by_instances": {
            str(count): each.name
            for count in sorted({option.setup.instances for option in plan.options})
            if (each := plan.best_of(count)) is not None
        },
        "what_if": [
            {
                "change": each.change,
                "option": each.option,
                "before": level_json(each.before) if each.before else None,
                "after": level_json(each.after) if each.after else None,
                "kv_blocks_before": each.blocks_before,
                "kv_blocks_after": each.blocks_after,
            }
            for each in plan.what_ifs
        ],
        "options": [_option_json(option) for option in plan.options],
    }
