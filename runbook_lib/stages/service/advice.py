"""What a configuration that holds does to the load that params plan: answers that are cut, requests that wait."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from runbook_lib.ascend import images
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.memory import memory
from runbook_lib.capacity.rules import Generation, generation_of

if TYPE_CHECKING:
    from runbook_lib.params import Params

_BLOCK = 128  # cacheBlockSize of every image
_MANY_HOSTS, _LINKS_SUGGESTED = 4, 300  # ModelZoo DeepSeek-R1 README


def advice(params: Params) -> list[tuple[str, str]]:
    """Return (setting, what it does to the planned load and what would be right); nothing where all fits."""
    service, load = params.service, params.benchmark
    most = max(load.concurrency)
    found = []
    if load.output_tokens > service.max_iter_times:
        cut = f"answers of {load.output_tokens} tokens end after {service.max_iter_times}"
        found.append(("max_iter_times", f"{cut}; output is min(max_tokens, maxIterTimes, maxSeqLen - input)"))
    longest = min(service.max_input_token_len, service.max_seq_len - 1)
    if load.input_tokens > longest:
        found.append(("max_input_token_len", f"inputs of {load.input_tokens} tokens are refused: {longest} at most"))
    if most > service.max_link_num:
        waits = f"of {most} planned requests {service.max_link_num} are served at once, the rest wait"
        found.append(("max_link_num", f"{waits}; more than 3 x as many are refused"))
    blocks = _blocks(params)
    need = ceil(load.input_tokens / _BLOCK) + ceil(min(service.max_iter_times, load.output_tokens) / _BLOCK)
    running = min(service.max_batch_size, ceil(most / service.parallel.dp))
    if 0 < blocks < running * need:
        said = (
            f"{running} requests x {need} blocks are more than the {blocks} of a dp group: some are thrown out and "
            f"computed again; {max(1, blocks // need)} never are: start there, and grow while throughput does"
        )
        found.append(("max_batch_size", said))
    return found


def links_note(params: Params) -> str:
    """Return what the model's page suggests for maxLinkNum, "" where it has no say."""
    if len(params.cluster.hosts) < _MANY_HOSTS or params.service.max_link_num <= _LINKS_SUGGESTED:
        return ""
    return f"max_link_num {params.service.max_link_num}; the model's page suggests {_LINKS_SUGGESTED} on four hosts"


def _blocks(params: Params) -> int:
    """Return the KV blocks of one dp group; 0 or less where nothing fits, which the rules say."""
    service, hosts = params.service, len(params.cluster.hosts)
    new = generation_of(images.image_version(params.container.image)) is Generation.NEW
    budget = max(service.max_seq_len, service.max_prefill_tokens) if new else service.max_prefill_tokens
    parallel = service.parallel
    picture = memory(
        HARDWARE[params.capacity.hardware],
        Layout(hosts, params.world_size // hosts, dp=parallel.dp, tp=parallel.tp, moe_ep=parallel.moe_ep),
        weights=params.model.format,
        fraction=service.npu_memory_fraction,
        prefill_tokens=budget,
        block_size=_BLOCK,
        npu_mem_gib=service.npu_mem_size,
    )
    return picture.blocks
