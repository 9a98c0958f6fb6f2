"""From the daemon's config.json and environment to the engine's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.rules import Rules, generation_of
from runbook_lib.capacity.setup import Setup
from runbook_lib.twin.service_engine import TWIN_CARD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.twin.daemon_checks import RankTable
    from runbook_lib.twin.daemon_config import DaemonConfig


def setup_of(
    config: DaemonConfig, weights: Mapping[str, Any], table: RankTable | None, fraction: float, version: str
) -> Setup:
    """Return the deployment of a config.json that holds. Raises UsageError for a layout that does not multiply.

    weights: the weights' own config.json. dp, tp and moe_ep of -1 or none are MindIE's default, tp over all cards.
    """
    deploy, schedule, model = config.deploy, config.schedule, config.model
    hosts = len(table.servers) if table is not None else 1
    cards = table.world_size if table is not None else len(config.backend["npuDeviceIds"][0])
    dp, tp, moe_ep = (max(0, int(model.get(key) or 0)) for key in ("dp", "tp", "moe_ep"))
    return Setup(
        layout=Layout(hosts, cards // hosts, dp=dp or 1, tp=tp, moe_ep=moe_ep or 1),
        rules=Rules(
            blocks=0,
            block_size=schedule["cacheBlockSize"],
            max_batch_size=schedule["maxBatchSize"],
            max_prefill_batch_size=schedule["maxPrefillBatchSize"],
            max_prefill_tokens=schedule["maxPrefillTokens"],
            max_seq_len=deploy["maxSeqLen"],
            max_input_token_len=deploy["maxInputTokenLen"],
            max_iter_times=schedule["maxIterTimes"],
            max_queue_delay_us=schedule["maxQueueDelayMicroseconds"],
            max_link_num=config.server["maxLinkNum"],
            support_select_batch=schedule.get("supportSelectBatch", False),
            prefill_time_ms=schedule["prefillTimeMsPerReq"],
            decode_time_ms=schedule["decodeTimeMsPerReq"],
            generation=generation_of(version),
        ),
        hardware=TWIN_CARD,
        weights="w8a8" if "quantize" in weights else "bf16",
        fraction=fraction,
        npu_mem_gib=model["npuMemSize"],
    )
