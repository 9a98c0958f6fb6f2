"""How long one step takes: a roofline by part (weights, matrix products, attention, collectives, host).

The parts are added, not overlapped: MindIE 2.0 on 910B runs them one after the other, and of CloudMatrix's points the
sum is nearer than the larger of memory and arithmetic. Times come out as whole picoseconds and a decode step is linear
in its context, so that many steps add up exactly, whether they are taken one by one or all at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from runbook_lib.capacity.constants import MINDIE_910B, Constants
from runbook_lib.capacity.shape import DEEPSEEK_671B, FORMAT_BYTES, Shape

if TYPE_CHECKING:
    from runbook_lib.capacity.hardware import Hardware
    from runbook_lib.capacity.layout import Layout

PS = 1_000_000_000_000
_ACTIVATION_BYTES = 2  # activations travel in BF16
_DISPATCH_BYTES, _COMBINE_BYTES = 1, 2  # INT8 out, BF16 back


@dataclass(frozen=True)
class StepTimes:
    """Step times of one instance.

    mtp: one drafted token per step (adds a layer); kv_value_bytes: 2 for BF16, 1 for an INT8 cache.
    A step with MTP yields 1 + acceptance tokens per sequence: all decode times here are per token.
    """

    hardware: Hardware
    layout: Layout
    weights: str = "w8a8"
    constants: Constants = MINDIE_910B
    shape: Shape = DEEPSEEK_671B
    mtp: bool = False
    kv_value_bytes: int = 2
    _decode: dict[tuple[int, int], int] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def context_ps(self) -> int:
        """Picoseconds that one token of context adds to a decode step: its KV is read in full by every tp rank."""
        shape, hardware, constants = self.shape, self.hardware, self.constants
        read_s = shape.kv_bytes(kv_bytes_per_value=self.kv_value_bytes) / (
            hardware.hbm_gb_s * 1e9 * constants.memory_efficiency
        )
        flops = shape.decode_attention_flops() * self._queries / self.layout.tp
        compute_s = flops / (hardware.fp16_tflops * 1e12 * constants.attention_efficiency)
        return round(max(read_s, compute_s) * self._per_token * PS)

    def decode_ps(self, largest: int, total: int) -> int:
        """Return a decode step without its context, in ps. `largest`: sequences of the fullest dp group."""
        key = (largest, total)
        if key not in self._decode:
            self._decode[key] = round(sum(self.decode_parts_s(largest, total).values()) * PS)
        return self._decode[key]

    def prefill_ps(self, tokens: int, squares: int, total: int) -> int:
        """Return a prefill step in ps. `tokens`, `squares` (sum of squared lengths): of the fullest dp group."""
        return round(sum(self.prefill_parts_s(tokens, squares, total).values()) * PS)

    @cached_property
    def _queries(self) -> int:
        return 2 if self.mtp else 1

    @cached_property
    def _per_token(self) -> float:
        """What a step's time is multiplied with to be the time of one token."""
        if not self.mtp:
            return 1.0
        return (self.shape.layers + 1) / self.shape.layers / (1.0 + self.constants.mtp_acceptance)

    def decode_parts_s(self, largest: int, total: int) -> dict[str, float]:
        """Return the parts of a decode step, in seconds; the context's part is `context_ps` x tokens."""
        own, everyone = largest * self._queries, total * self._queries
        parts = {
            "weights": self._weights_read_s(everyone),
            "products": self._products_s(own, everyone),
            "collectives": self._collectives_s(own, everyone, self.constants.decode_bus_efficiency),
        }
        host_s = self.constants.host_ms / 1e3
        per_token = self._per_token
        shares = {name: seconds * per_token for name, seconds in parts.items()}
        return shares | {"host": host_s / (1.0 + self.constants.mtp_acceptance if self.mtp else 1.0)}

    def prefill_parts_s(self, tokens: int, squares: int, total: int) -> dict[str, float]:
        """Return the parts of a prefill step, in seconds."""
        constants = self.constants
        flops = self.shape.prefill_attention_flops() * squares / 2 / self.layout.tp
        return {
            "weights": self._weights_read_s(total),
            "products": self._products_s(tokens, total),
            "attention": flops / (self.hardware.fp16_tflops * 1e12 * constants.attention_efficiency),
            "collectives": self._collectives_s(tokens, total, constants.prefill_bus_efficiency),
            "host": constants.host_ms / 1e3,
        }

    def _weights_read_s(self, tokens: int) -> float:
        shape, layout, size = self.shape, self.layout, FORMAT_BYTES[self.weights]
        attention = shape.attention * size / layout.tp
        head = shape.embeddings / 2 * _ACTIVATION_BYTES / layout.tp
        experts = (shape.routed * shape.coverage(tokens) + shape.shared + shape.dense) * size / layout.ranks
        return (attention + head + experts) / (self.hardware.hbm_gb_s * 1e9 * self.constants.memory_efficiency)

    def _products_s(self, own: int, everyone: int) -> float:
        shape, layout, hardware = self.shape, self.layout, self.hardware
        peak = hardware.int8_tops if self.weights == "w8a8" else hardware.fp16_tflops
        attention = (shape.attention + shape.dense) * own / layout.tp
        experts = (shape.active_routed * self._imbalance + shape.shared) * everyone / layout.ranks
        head = shape.embeddings / 2 * own / layout.tp * peak / hardware.fp16_tflops
        return 2 * (attention + experts + head) / (peak * 1e12 * self.constants.compute_efficiency)

    @property
    def _imbalance(self) -> float:
        return self.constants.imbalance if self.layout.moe_ep > 1 else 1.0

    def _collectives_s(self, own: int, everyone: int, efficiency: float) -> float:
        """All-reduce after attention (own tokens), and what brings tokens to experts and back (everyone's)."""
        shape, layout = self.shape, self.layout
        attention = self._reduce_s(own, efficiency, inside=layout.tp_inside) if layout.tp > 1 else 0.0
        dense = self._reduce_s(own, efficiency, inside=layout.tp_inside) if layout.tp > 1 else 0.0
        if layout.moe_ep > 1:
            experts = self._exchange_s(own / layout.tp)
        else:
            experts = self._reduce_s(everyone, efficiency, inside=layout.hosts == 1)
        return shape.layers * attention + shape.dense_layers * dense + shape.moe_layers * experts

    def _reduce_s(self, tokens: int, efficiency: float, *, inside: bool) -> float:
        constants = self.constants
        latency_us = constants.latency_inside_us if inside else constants.latency_between_us
        moved = 2 * tokens * self.shape.hidden * _ACTIVATION_BYTES
        return latency_us / 1e6 + moved / (self.hardware.bus_gb_s(inside=inside) * 1e9 * efficiency)

    def _exchange_s(self, tokens: float) -> float:
        """Dispatch and combine of one rank's tokens: each goes to its experts, of which most are on other hosts."""
        shape, hardware, constants, hosts = self.shape, self.hardware, self.constants, self.layout.hosts
        moved = tokens * shape.active_experts * shape.hidden * (_DISPATCH_BYTES + _COMBINE_BYTES)
        away = 1.0 - 1.0 / hosts
        per_byte = away / hardware.between_gb_s + (1.0 - away) / hardware.inside_gb_s
        latency_us = constants.latency_between_us if hosts > 1 else constants.latency_inside_us
        return 2 * latency_us / 1e6 + moved * per_byte / 1e9 / constants.exchange_efficiency * self._imbalance
