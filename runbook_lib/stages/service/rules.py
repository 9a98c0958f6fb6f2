"""What a configuration leads to, before anything is started: rules of the file, of the image, and of the memory."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import images, mindie_rules
from runbook_lib.ascend.mindie_rules import ConfigProblem
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.memory import memory
from runbook_lib.capacity.rules import Generation, generation_of
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runbook_lib.params import Params

_MODEL = "BackendConfig.ModelDeployConfig.ModelConfig[0]"
MODEL_SOURCE = "capacity model, engine_model R3 and the documented warm-up"


def config_problems(
    config: Mapping[str, Any], params: Params, fraction: float, *, certificates: bool = False
) -> list[ConfigProblem]:
    """Return everything that keeps a config.json from starting and answering on this cluster.

    fraction: NPU_MEMORY_FRACTION of the daemon's environment. certificates: whether those of the service are there.
    """
    facts = images.image_facts(params.container.image)
    found = mindie_rules.problems(config, facts.schema, params.world_size, certificates=certificates)
    if len(params.cluster.hosts) > 1:
        found += list(_needed_keys(config, facts.version))
    # sizes that are refused as they are have no memory picture
    return found or list(memory_problems(config, params, fraction))


def _needed_keys(config: Mapping[str, Any], version: str | None) -> Iterator[ConfigProblem]:
    model = mindie_rules.value_of(config, _MODEL)
    for need in images.needed_model_keys(version):
        if isinstance(model, dict) and need.key not in model:
            yield ConfigProblem(f"{_MODEL}.{need.key}", "missing", "given in words", need.why, need.source)


def memory_problems(config: Mapping[str, Any], params: Params, fraction: float) -> Iterator[ConfigProblem]:
    """Say when weights, warm-up and KV cache do not fit into a card, with the numbers."""
    schedule = mindie_rules.value_of(config, "BackendConfig.ScheduleConfig")
    deploy = mindie_rules.value_of(config, "BackendConfig.ModelDeployConfig")
    model = mindie_rules.value_of(config, _MODEL)
    generation = generation_of(images.image_version(params.container.image))
    longest, prefill = int(deploy["maxSeqLen"]), int(schedule["maxPrefillTokens"])
    budget = max(longest, prefill) if generation is Generation.NEW else prefill
    block = int(schedule["cacheBlockSize"])
    hosts = len(params.cluster.hosts)
    dp, tp, moe_ep = (max(0, int(model.get(key) or 0)) for key in ("dp", "tp", "moe_ep"))
    try:
        layout = Layout(hosts, params.world_size // hosts, dp=dp or 1, tp=tp, moe_ep=moe_ep or 1)
    except UsageError as wrong:
        yield ConfigProblem(_MODEL, wrong.message, "a layout of all cards", "every card has a place", MODEL_SOURCE)
        return
    picture = memory(
        HARDWARE[params.capacity.hardware],
        layout,
        weights=params.model.format,
        fraction=fraction,
        prefill_tokens=budget,
        block_size=block,
        npu_mem_gib=int(model["npuMemSize"]),
    )
    numbers = (
        f"of {picture.total_gib:.0f} GiB x {fraction:g}, weights take {picture.weights_gib:.1f} GiB and "
        f"{picture.kv_gib:.1f} GiB are left for KV: {max(0, picture.blocks)} blocks of {block}"
    )
    if not picture.fits:
        yield ConfigProblem(
            "NPU_MEMORY_FRACTION", f"{fraction:g}",
            f"room for a warm-up of {budget} tokens, {picture.warm_up_blocks} blocks: a larger fraction, a smaller "
            "maxPrefillTokens, or more cards",
            f"the start ends with `NPU out of memory`: {numbers}", MODEL_SOURCE,
        )  # fmt: skip
        return
    new = generation is Generation.NEW
    yield from mindie_rules.dead_end(config, larger_budget=new, block_size=block, blocks=picture.blocks)
    if ceil(longest / block) > picture.blocks:
        yield ConfigProblem(
            "BackendConfig.ModelDeployConfig.maxSeqLen", str(longest), f"at most {picture.blocks * block}",
            f"one sequence of that length never finishes: {numbers}", MODEL_SOURCE,
        )  # fmt: skip
