"""MindIE's scheduling settings as the simulation takes them (engine_model.md section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil


class Generation(StrEnum):
    """Which token budget a prefill batch has.

    OLD: maxPrefillTokens; NEW: max(maxSeqLen, maxPrefillTokens) (MindIE-LLM master, scheduler.cpp).
    """

    OLD = "old"
    NEW = "new"


def generation_of(version: str | None) -> Generation:
    """Return the generation of a MindIE version; one that is not known counts as old, which is the stricter rule.

    The larger budget is in the open sources, which came after 2.0 (engine_model.md section 4).
    """
    return Generation.OLD if version is None or version.startswith(("1.", "2.0.")) else Generation.NEW


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings of one instance; lengths in tokens, per dp group where a group has a queue of its own.

    blocks: KV blocks of one dp group. reserved: no prefill while less than this share of blocks is free
    (PRESERVED_FACTOR_FOR_DECODE of MindIE-LLM: 5 %). victims_first: preempted sequences go before new ones (the field
    report's version fits only so); False puts them behind. prefilled: requests arrive with their KV (decode side of a
    disaggregated pair). Weights of prefill and decode matter with support_select_batch only.
    """

    blocks: int
    block_size: int = 128
    max_batch_size: int = 200
    max_prefill_batch_size: int = 50
    max_prefill_tokens: int = 8192
    max_seq_len: int = 2560
    max_input_token_len: int = 2048
    max_iter_times: int = 512
    max_queue_delay_us: int = 5000
    max_link_num: int = 1000
    support_select_batch: bool = False
    prefill_time_ms: int = 150
    decode_time_ms: int = 50
    generation: Generation = Generation.OLD
    reserved: float = 0.05
    lookahead: int = 1
    victims_first: bool = True
    prefilled: bool = False

    @property
    def prefill_budget(self) -> int:
        """Tokens that one prefill batch may hold."""
        if self.generation is Generation.NEW:
            return max(self.max_seq_len, self.max_prefill_tokens)
        return self.max_prefill_tokens

    @property
    def longest_input(self) -> int:
        """The longest prompt that is accepted."""
        return min(self.max_input_token_len, self.max_seq_len - 1)

    def output_limit(self, input_tokens: int, asked: int) -> int:
        """Return how many tokens an answer gets: min(maxIterTimes, max_tokens, maxSeqLen - input)."""
        return min(self.max_iter_times, asked, self.max_seq_len - input_tokens)

    def block_need(self, input_tokens: int, output_tokens: int) -> int:
        """Return the documented block need of a request, which rounds input and output up on their own."""
        size = self.block_size
        return ceil(input_tokens / size) + ceil(min(self.max_iter_times, output_tokens) / size)
