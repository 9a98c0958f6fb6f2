"""The emulated inference engine: one loop, one timer per step, all streams of a step woken together.

Step times (engine_model.md section 0, fitted to the field report on 4x8 cards): prefill 9200 tokens/s, decode
61 ms + 0.487 ms x batch. KV blocks: its section 2. Scheduling: its section 4. All times here are emulated seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PREFILL_TOKENS_PER_S = 9200.0
DECODE_BASE_S = 0.061
DECODE_PER_SEQUENCE_S = 0.000487
# An assumption: no open measurement of 2x8 cards was found. Half the cards do twice the work each, but the
# all-reduce over 16 ranks, which dominates a step, is cheaper than over 32.
SLOWER_ON_16_CARDS = 1.35
REFERENCE_CARDS = 32
CARD_GIB = 64.0
RUNTIME_GIB = 5.0
BLOCK_MIB = 8.58  # 128 tokens x 70,272 bytes
WEIGHTS_GIB_PER_RANK = {("w8a8", 16): 39.6, ("w8a8", 32): 20.0, ("bf16", 32): 39.4, ("bf16", 64): 19.9}
_TOTAL_GIB = {"w8a8": 634.0, "bf16": 1261.0}
_BLOCKED_POLL_S = 0.02  # real seconds
RESERVED_FOR_DECODE = 0.05  # no prefill below this share of free blocks


def kv_blocks(weights_format: str, cards: int, fraction: float) -> int:
    """Return the KV blocks of 128 tokens of one instance (MLA: not divided by the number of ranks); may be <= 0."""
    weights = WEIGHTS_GIB_PER_RANK.get((weights_format, cards), _TOTAL_GIB[weights_format] / cards)
    return int((CARD_GIB * fraction - weights - RUNTIME_GIB) * 1024 / BLOCK_MIB)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine takes from config.json and the layout. `prefill_budget`: tokens of one prefill batch."""

    cards: int = 16
    blocks: int = 1938
    block_size: int = 128
    max_batch: int = 200
    prefill_budget: int = 8192
    max_prefill_batch: int = 50
    queue_delay_s: float = 0.005
    select_batch: bool = False
    prefill_weight: float = 150.0
    decode_weight: float = 50.0
    time_factor: float = 1.0

    @property
    def slower(self) -> float:
        """How many times longer a step takes than on the cluster that was measured."""
        return SLOWER_ON_16_CARDS if self.cards < REFERENCE_CARDS else 1.0


@dataclass(eq=False, slots=True)
class Sequence:
    """One request inside the engine. `on_token(index, last)` is called once for each token."""

    prompt: int
    limit: int
    on_token: Callable[[int, bool], None]
    arrived_s: float = 0.0
    generated: int = 0
    blocks: int = 0
    cancelled: bool = False

    @property
    def length(self) -> int:
        """Tokens that are in the KV cache, or must be for the next step."""
        return self.prompt + self.generated


@dataclass
class Engine:
    """Runs sequences. `submit` adds one, `cancel` drops one; `run` is the loop, to be kept as one task."""

    config: EngineConfig
    waiting: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.free_blocks = self.config.blocks
        self._work = asyncio.Event()
        self._clock_s = 0.0
        self._waste = 0.0

    def now_s(self) -> float:
        """Return the emulated clock, in seconds."""
        return asyncio.get_running_loop().time() * self.config.time_factor

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        sequence.arrived_s = self.now_s()
        self.waiting.append(sequence)
        self._work.set()

    def cancel(self, sequence: Sequence) -> None:
        """Drop a sequence whose client has gone."""
        if sequence.cancelled:
            return
        sequence.cancelled = True
        with contextlib.suppress(ValueError):
            self.waiting.remove(sequence)
        with contextlib.suppress(ValueError):
            self.running.remove(sequence)
            self._free(sequence)

    async def run(self) -> None:
        """Step for ever."""
        while True:
            if not self.running and not self.waiting:
                self._work.clear()
                await self._work.wait()
                self._clock_s = self.now_s()
            batch = self._prefill_batch() if self.waiting and self._prefill_turn() else []
            if batch:
                await self._prefill(batch)
            elif self.running:
                await self._decode()
            else:
                await self._wait_to_schedule()

    async def _wait_to_schedule(self) -> None:
        """Nothing can run: the queue delay has not passed, or the head of the queue never fits."""
        rest_s = self.waiting[0].arrived_s + self.config.queue_delay_s - self.now_s()
        await asyncio.sleep(rest_s / self.config.time_factor if rest_s > 0 else _BLOCKED_POLL_S)
        self._clock_s = self.now_s()

    async def _pass(self, seconds: float) -> None:
        """Let a step pass on an absolute clock, so that late timers are made up for."""
        self._clock_s += seconds
        await asyncio.sleep(max(0.0, (self._clock_s - self.now_s()) / self.config.time_factor))

    def _prefill_turn(self) -> bool:
        config = self.config
        if self.running and config.select_batch:
            self._waste += config.decode_weight * (config.max_batch - len(self.running))
            if config.prefill_weight * len(self.running) > self._waste:
                return False
            self._waste = 0.0
            return True
        waited = max(self.now_s(), self._clock_s) - self.waiting[0].arrived_s
        return waited >= config.queue_delay_s and self.free_blocks >= RESERVED_FOR_DECODE * config.blocks

    def _prefill_batch(self) -> list[Sequence]:
        """Take from the head of the queue what one prefill may hold: first come, first served."""
        config = self.config
        batch: list[Sequence] = []
        tokens = 0
        while self.waiting:
            head = self.waiting[0]
            need = ceil(head.length / config.block_size)
            if (
                tokens + head.length > config.prefill_budget
                or len(batch) >= config.max_prefill_batch
                or len(self.running) + len(batch) >= config.max_batch
                or need > self.free_blocks
            ):
                break
            self.waiting.popleft()
            head.blocks = need
            self.free_blocks -= need
            tokens += head.length
            batch.append(head)
        return batch

    async def _prefill(self, batch: list[Sequence]) -> None:
        tokens = sum(sequence.length for sequence in batch)
        self.running += batch
        await self._pass(tokens / PREFILL_TOKENS_PER_S * self.config.slower)
        self._emit(batch)

    async def _decode(self) -> None:
        self._make_room()
        batch = list(self.running)
        if batch:
            await self._pass((DECODE_BASE_S + DECODE_PER_SEQUENCE_S * len(batch)) * self.config.slower)
            self._emit(batch)

    def _make_room(self) -> None:
        """Give every running sequence the block of its next token; the youngest lose theirs when none is free."""
        position = 0
        while position < len(self.running):
            sequence = self.running[position]
            need = ceil(sequence.length / self.config.block_size) - sequence.blocks
            while need > self.free_blocks and len(self.running) > position + 1:
                self._preempt(self.running.pop())
            if need > self.free_blocks:
                self._preempt(self.running.pop())
                break
            sequence.blocks += need
            self.free_blocks -= need
            position += 1

    def _preempt(self, victim: Sequence) -> None:
        self.preemptions += 1
        self._free(victim)
        # the field report fits only "victims first" (engine_model.md section 4)
        self.waiting.appendleft(victim)

    def _free(self, sequence: Sequence) -> None:
        self.free_blocks += sequence.blocks
        sequence.blocks = 0

    def _emit(self, batch: list[Sequence]) -> None:
        finished = False
        for sequence in batch:
            if sequence.cancelled:
                continue
            sequence.generated += 1
            last = sequence.generated >= sequence.limit
            if last:
                finished = True
                self._free(sequence)
            sequence.on_token(sequence.generated - 1, last)
        if finished:
            self.running = [each for each in self.running if each.generated < each.limit and not each.cancelled]
