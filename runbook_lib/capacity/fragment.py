"""An option as a piece of a params file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runbook_lib.capacity.planner import Option


def fragment(option: Option) -> str:
    """Return the settings of an option as YAML that a params file takes; "" for what one params file cannot say."""
    if option.pair is not None:
        return ""
    setup, rules, layout = option.setup, option.setup.rules, option.setup.layout
    head = f"# {option.name}, {option.settings} settings; recommended concurrency {option.recommended}\n"
    if setup.instances > 1:
        head += f"# {setup.instances} instances: {setup.instances} params files of {layout.hosts} hosts each\n"
    values = {
        "max_seq_len": rules.max_seq_len,
        "max_input_token_len": rules.max_input_token_len,
        "max_prefill_tokens": rules.max_prefill_tokens,
        "max_prefill_batch_size": min(rules.max_prefill_batch_size, rules.max_batch_size),
        "max_batch_size": rules.max_batch_size,
        "max_iter_times": rules.max_iter_times,
        "max_queue_delay_us": rules.max_queue_delay_us,
        "max_link_num": rules.max_link_num,
        "prefill_time_ms": rules.prefill_time_ms,
        "decode_time_ms": rules.decode_time_ms,
        "support_select_batch": str(rules.support_select_batch).lower(),
        "npu_memory_fraction": f"{setup.fraction:g}",
        "npu_mem_size": f"{setup.npu_mem_gib:g}",
    }
    if layout.dp > 1 or layout.moe_ep > 1:  # the default needs no keys, which older images do not know
        values["parallel"] = f"{{dp: {layout.dp}, tp: {layout.tp}, moe_ep: {layout.moe_ep}}}"
    return head + "service:\n" + "".join(f"  {name}: {value}\n" for name, value in values.items())
