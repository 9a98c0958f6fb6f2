"""What one rank's HBM holds, and how many KV blocks are left: every term in GiB (engine_model.md section 2).

MLA's latent cache is not divided by tensor parallelism: every rank of a group holds the whole cache of the group's
sequences. So an instance's KV is what one rank has left, times dp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.capacity.constants import MINDIE_910B, Constants
from runbook_lib.capacity.shape import DEEPSEEK_671B, FORMAT_BYTES, GIB, Shape

if TYPE_CHECKING:
    from runbook_lib.capacity.hardware import Hardware
    from runbook_lib.capacity.layout import Layout

_HIGH_PRECISION_BYTES = 2  # embeddings and output head stay in BF16
_ROUTER_BYTES = 4  # routers stay in FP32, whole on every rank


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the picture. `why` says where it comes from, and what changes it."""

    name: str
    gib: float
    why: str


@dataclass(frozen=True, slots=True)
class Memory:
    """The picture of one rank. `kv_gib` <= 0: the weights do not fit. `blocks`: of one dp group."""

    terms: tuple[Term, ...]
    total_gib: float
    weights_gib: float
    kv_gib: float
    block_mib: float
    blocks: int
    warm_up_blocks: int

    @property
    def fits(self) -> bool:
        """Whether the service starts: its warm-up run of maxPrefillTokens finds its blocks."""
        return self.blocks >= max(1, self.warm_up_blocks)

    def tokens(self, block_size: int = 128) -> int:
        """Return the tokens that one dp group's cache holds."""
        return max(0, self.blocks) * block_size


def weight_terms(layout: Layout, weights: str, *, mtp: bool = False, shape: Shape = DEEPSEEK_671B) -> list[Term]:
    """Return the weights of one rank, by kind."""
    size = FORMAT_BYTES[weights]
    world, tp = layout.ranks, layout.tp
    extra = (shape.layers + 1) / shape.layers if mtp else 1.0
    experts = (shape.routed + shape.shared + shape.dense) * size / world * extra
    return [
        Term("routed and shared experts", experts / GIB, f"{weights}, divided by all {world} cards"),
        Term("attention", shape.attention * size / tp * extra / GIB, f"{weights}, divided by tp {tp}"),
        Term("embeddings", shape.embeddings * _HIGH_PRECISION_BYTES / tp / GIB, f"BF16, divided by tp {tp}"),
        Term("routers", shape.gate * _ROUTER_BYTES / GIB, "FP32, whole on every card"),
    ]


def memory(  # noqa: PLR0913 - each is one setting of the user's
    hardware: Hardware,
    layout: Layout,
    *,
    weights: str = "w8a8",
    fraction: float = 0.8,
    prefill_tokens: int = 8192,
    block_size: int = 128,
    npu_mem_gib: float = -1,
    mtp: bool = False,
    kv_value_bytes: int = 2,
    constants: Constants = MINDIE_910B,
    shape: Shape = DEEPSEEK_671B,
) -> Memory:
    """Return the picture of one rank.

    fraction: NPU_MEMORY_FRACTION. prefill_tokens: what the warm-up run holds (the prefill batch's token budget).
    npu_mem_gib: npuMemSize, the KV cache in GiB; -1 takes what is left.
    """
    terms = weight_terms(layout, weights, mtp=mtp, shape=shape)
    weights_gib = sum(term.gib for term in terms)
    activations_gib = prefill_tokens * constants.activation_kib_per_token / 1024**2
    outside_gib = hardware.hbm_gib * (1.0 - fraction)
    left_gib = hardware.hbm_gib - outside_gib - weights_gib - constants.runtime_gib - activations_gib
    block_mib = block_size * shape.kv_bytes(mtp=mtp, kv_bytes_per_value=kv_value_bytes) / 1024**2
    kv_gib = left_gib if npu_mem_gib < 0 else min(npu_mem_gib, left_gib)
    terms += [
        Term("run time and HCCL", constants.runtime_gib, "run time, collectives' buffers, fragments (fit)"),
        Term("activations", activations_gib, f"warm-up with {prefill_tokens} tokens (maxPrefillTokens)"),
        Term("KV cache", max(0.0, kv_gib), f"{block_mib:.2f} MiB per block of {block_size}; MLA: not divided by tp"),
        Term("outside the fraction", outside_gib, f"1 - NPU_MEMORY_FRACTION {fraction:g}"),
    ]
    if npu_mem_gib >= 0 and kv_gib < left_gib:
        terms.append(Term("not used", left_gib - kv_gib, f"npuMemSize is {npu_mem_gib:g}"))
    return Memory(
        terms=tuple(terms),
        total_gib=hardware.hbm_gib,
        weights_gib=weights_gib,
        kv_gib=kv_gib,
        block_mib=block_mib,
        blocks=int(kv_gib * 1024 / block_mib),
        warm_up_blocks=-(-prefill_tokens // block_size),
    )
