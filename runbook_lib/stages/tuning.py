"""Which service settings are worth trying, from where and in which direction, for given params. Pure.

Start values and directions: field report of 2025-02/03 (start maxPrefillBatchSize small and grow; maxPrefillTokens
8192, 32k, 64k; maxBatchSize 200, 512, up to 4096; decode kept at 50 ms and only the prefill weight changed;
queue delay 500 for few users, 5000 under load). Limits: MindIE's documented ranges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.load.tuning import Knob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Params

_PREFIX = "service."


def knobs(params: Params) -> list[Knob]:
    """Return the knobs in the order of their expected effect, only with values that the params' rules allow."""
    service = params.service
    every = [
        Knob("max_prefill_batch_size", (10, 20, 50, 100, 256, 512), "start small and grow: memory decides"),
        Knob(
            "max_prefill_tokens",
            (8192, 16384, 32768, 65536),
            "more tokens in one prefill, fewer stalls of decode, less KV cache; below max_seq_len a request that lost "
            "its cache may never come back",
        ),
        Knob("max_batch_size", (200, 512, 1024, 2048, 4096), "200 is too small for ample hosts"),
        Knob("support_select_batch", (False, True), "weighs prefill against decode instead of prefill first"),
        Knob("prefill_time_ms", (50, 150, 300, 600), "decode stays at 50; only matters with support_select_batch"),
        Knob("max_queue_delay_us", (500, 5000, 20000), "5000 helps under load, 500 suits few users"),
    ]
    result = []
    for knob in every:
        values = [value for value in knob.values if _allowed(params, knob.name, value)]
        if len(set(values) | {getattr(service, knob.name)}) > 1:
            result.append(Knob(_PREFIX + knob.name, values, knob.why))
    return result


def start(params: Params) -> dict[str, Any]:
    """Return the present values of all knobs."""
    return {knob.name: getattr(params.service, knob.name.removeprefix(_PREFIX)) for knob in knobs(params)}


def _allowed(params: Params, name: str, value: int) -> bool:
    service = params.service
    if name == "max_prefill_batch_size":
        return value <= service.max_batch_size
    if name == "max_prefill_tokens":
        # engine_model R1: a preempted request returns as one prefill of up to max_seq_len tokens
        return value >= max(service.max_input_token_len, service.max_seq_len)
    if name == "max_batch_size":
        return value >= service.max_prefill_batch_size
    return True


def worthwhile(settings: Mapping[str, Any], knob: str) -> bool:
    """Whether moving a knob can change anything: weights are read only when a stage is chosen by them."""
    return knob != _PREFIX + "prefill_time_ms" or bool(settings.get(_PREFIX + "support_select_batch"))
