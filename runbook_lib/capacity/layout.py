"""How one instance is spread over ranks: data and tensor parallel attention, experts by tensor or by expert."""

from __future__ import annotations

from dataclasses import dataclass

from runbook_lib.errors import UsageError


@dataclass(frozen=True, slots=True)
class Layout:
    """One instance. `tp` ranks share one sequence's attention, `dp` such groups have queues and KV of their own.

    moe_ep: ranks that hold different experts; moe_tp: ranks that share one expert. moe_ep x moe_tp = all ranks.
    MindIE's default without any setting is tp over all ranks and moe_tp over all ranks (data_parallel.md).
    Raises UsageError when the numbers do not multiply.
    """

    hosts: int
    cards_per_host: int
    dp: int = 1
    tp: int = 0
    moe_ep: int = 1

    def __post_init__(self) -> None:
        if self.tp == 0:
            object.__setattr__(self, "tp", self.ranks // self.dp)
        if self.dp * self.tp != self.ranks:
            raise UsageError(f"dp {self.dp} x tp {self.tp} is not {self.ranks}; right would be dp x tp = all cards")
        if self.ranks % self.moe_ep:
            raise UsageError(f"moe_ep {self.moe_ep} does not divide the {self.ranks} cards of an instance")

    @property
    def ranks(self) -> int:
        """Cards of the instance."""
        return self.hosts * self.cards_per_host

    @property
    def tp_inside(self) -> bool:
        """Whether a tensor-parallel group stays inside one host."""
        return self.tp <= self.cards_per_host

    @property
    def name(self) -> str:
        """A short name: hosts x cards, dp, tp, and how the experts are spread."""
        experts = f"ep{self.moe_ep}" if self.moe_ep > 1 else f"moe_tp{self.ranks}"
        return f"{self.hosts}x{self.cards_per_host} dp{self.dp} tp{self.tp} {experts}"
