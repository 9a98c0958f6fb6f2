"""One deployment as the planner sees it: cards, layout, weights, settings; and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from runbook_lib.capacity.constants import MINDIE_910B, Constants
from runbook_lib.capacity.engine import Engine
from runbook_lib.capacity.hardware import HARDWARE, Hardware
from runbook_lib.capacity.memory import Memory, memory
from runbook_lib.capacity.rules import Rules
from runbook_lib.capacity.step_time import StepTimes
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from runbook_lib.capacity.layout import Layout


@dataclass(frozen=True)
class Setup:
    """A deployment of `instances` equal instances. `rules.blocks` is not read: it follows from the memory.

    npu_mem_gib: -1 takes what NPU_MEMORY_FRACTION (`fraction`) leaves.
    """

    layout: Layout
    rules: Rules = field(default_factory=lambda: Rules(blocks=0))
    hardware: Hardware = HARDWARE["910b3"]
    instances: int = 1
    weights: str = "w8a8"
    fraction: float = 0.8
    npu_mem_gib: float = -1
    mtp: bool = False
    kv_value_bytes: int = 2
    constants: Constants = MINDIE_910B

    @cached_property
    def memory(self) -> Memory:
        """The picture of one rank."""
        return memory(
            self.hardware,
            self.layout,
            weights=self.weights,
            fraction=self.fraction,
            prefill_tokens=self.rules.prefill_budget,
            block_size=self.rules.block_size,
            npu_mem_gib=self.npu_mem_gib,
            mtp=self.mtp,
            kv_value_bytes=self.kv_value_bytes,
            constants=self.constants,
        )

    @cached_property
    def times(self) -> StepTimes:
        """The step times of one instance."""
        return StepTimes(
            self.hardware,
            self.layout,
            weights=self.weights,
            constants=self.constants,
            mtp=self.mtp,
            kv_value_bytes=self.kv_value_bytes,
        )

    def engine(self, blocks: int | None = None) -> Engine:
        """Return an idle instance, with a given number of KV blocks per dp group or with those that the memory leaves.

        Raises UsageError when it would not start.
        """
        if blocks is not None:
            return Engine(replace(self.rules, blocks=blocks), self.times, dp=self.layout.dp)
        picture = self.memory
        if not picture.fits:
            raise UsageError(
                f"{self.layout.name} {self.weights}: {picture.kv_gib:.1f} GiB of KV cache per card "
                f"({max(0, picture.blocks)} blocks), the warm-up of {self.rules.prefill_budget} tokens needs "
                f"{picture.warm_up_blocks}; right would be more cards, a larger npu_memory_fraction, or a smaller "
                "max_prefill_tokens",
                next_command="runbook capacity PARAMS",
            )
        return Engine(replace(self.rules, blocks=picture.blocks), self.times, dp=self.layout.dp)
