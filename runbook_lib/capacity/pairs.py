"""Deployments of one prefill and one decode instance, and what clients would measure on them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runbook_lib.capacity.disaggregated import Pair
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.level import Level, Load, level_of
from runbook_lib.capacity.shape import DEEPSEEK_671B
from runbook_lib.capacity.workload import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook_lib.capacity.setup import Setup


@dataclass(frozen=True, slots=True)
class PairSetup:
    """A prefill deployment and a decode deployment."""

    prefill: Setup
    decode: Setup

    @property
    def name(self) -> str:
        """Both layouts."""
        return f"P {self.prefill.layout.name} + D {self.decode.layout.name}"

    def transfer_s(self, tokens: int) -> float:
        """Return how long a cache travels: one copy, over one card's link, as slow as an expert exchange."""
        hardware, constants = self.decode.hardware, self.decode.constants
        moved = tokens * DEEPSEEK_671B.kv_bytes(mtp=self.decode.mtp, kv_bytes_per_value=self.decode.kv_value_bytes)
        return moved / (hardware.between_gb_s * 1e9 * constants.exchange_efficiency)


def pair_setups(current: Setup, hosts: int, cards: int) -> Iterator[PairSetup]:
    """Yield the ways to divide hosts into one prefill and one decode instance, attention inside a host each."""
    for prefill_hosts in range(1, hosts):
        decode_hosts = hosts - prefill_hosts
        prefill = Layout(prefill_hosts, cards, dp=prefill_hosts, moe_ep=prefill_hosts * cards)
        decode = Layout(decode_hosts, cards, dp=decode_hosts, moe_ep=decode_hosts * cards)
        yield PairSetup(
            replace(current, instances=1, layout=prefill),
            replace(current, instances=1, layout=decode, rules=replace(current.rules, prefilled=True)),
        )


def run_pair(setup: PairSetup, load: Load, concurrency: int) -> Level:
    """Simulate one level. Raises UsageError when one of the two would not start."""
    began = time.perf_counter()
    prefill, decode = setup.prefill.engine(), setup.decode.engine()
    pair = Pair(prefill, decode, setup.transfer_s)
    measured = pair.run(requests(load.requests, load.inputs, load.outputs, load.seed), concurrency)
    return level_of(measured, concurrency, [prefill, decode], time.perf_counter() - began)
