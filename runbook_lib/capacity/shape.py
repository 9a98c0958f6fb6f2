"""The shape of DeepSeek-V3/R1: parameters by kind, FLOPs, and KV cache per token.

Source: config.json of the model (hidden 7168, 61 layers of which 3 dense, 128 heads, MLA 1536/512+64, 256 routed and 1
shared expert of 2048, 8 active, vocabulary 129280). The parts add up to the published 671 B, of which 37 B are active.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3
FORMAT_BYTES = {"w8a8": 1, "bf16": 2}


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers of the model's config.json."""

    hidden: int = 7168
    layers: int = 61
    dense_layers: int = 3
    heads: int = 128
    q_rank: int = 1536
    kv_rank: int = 512
    rope: int = 64
    nope: int = 128
    value: int = 128
    experts: int = 256
    active_experts: int = 8
    shared_experts: int = 1
    expert_width: int = 2048
    dense_width: int = 18432
    vocabulary: int = 129280

    @property
    def moe_layers(self) -> int:
        """Layers with routed experts."""
        return self.layers - self.dense_layers

    @property
    def attention(self) -> int:
        """Parameters of all attention layers."""
        query = self.hidden * self.q_rank + self.q_rank * self.heads * (self.nope + self.rope)
        key_value = self.hidden * (self.kv_rank + self.rope) + self.kv_rank * self.heads * (self.nope + self.value)
        return self.layers * (query + key_value + self.heads * self.value * self.hidden)

    @property
    def expert(self) -> int:
        """Parameters of one expert of one layer."""
        return 3 * self.hidden * self.expert_width

    @property
    def routed(self) -> int:
        """Parameters of all routed experts."""
        return self.moe_layers * self.experts * self.expert

    @property
    def shared(self) -> int:
        """Parameters of all shared experts."""
        return self.moe_layers * self.shared_experts * self.expert

    @property
    def dense(self) -> int:
        """Parameters of the dense feed-forward layers."""
        return self.dense_layers * 3 * self.hidden * self.dense_width

    @property
    def embeddings(self) -> int:
        """Parameters of input embedding and output head; kept in BF16."""
        return 2 * self.vocabulary * self.hidden

    @property
    def gate(self) -> int:
        """Parameters of the routers; kept in BF16."""
        return self.moe_layers * self.experts * self.hidden

    @property
    def total(self) -> int:
        """All parameters."""
        return self.attention + self.routed + self.shared + self.dense + self.embeddings + self.gate

    @property
    def active_routed(self) -> int:
        """Parameters of routed experts that one token passes."""
        return self.moe_layers * self.active_experts * self.expert

    def kv_bytes(self, *, mtp: bool = False, kv_bytes_per_value: int = 2) -> int:
        """Return the KV cache of one token, in bytes: the MLA latent of every layer (one more layer with MTP)."""
        return (self.layers + int(mtp)) * (self.kv_rank + self.rope) * kv_bytes_per_value

    def coverage(self, tokens: float) -> float:
        """Return the expected share of routed experts that at least one of `tokens` tokens goes to (even routing)."""
        missed: float = (1.0 - self.active_experts / self.experts) ** tokens
        return 1.0 - missed

    def decode_attention_flops(self) -> int:
        """Return the FLOPs of attending to one token of context, all layers and heads, in MLA's absorbed form."""
        return self.layers * self.heads * 2 * (2 * self.kv_rank + self.rope)

    def prefill_attention_flops(self) -> int:
        """Return the FLOPs of attending to one token of context in the expanded form that prefill uses."""
        return self.layers * self.heads * 2 * (self.nope + self.rope + self.value)


DEEPSEEK_671B = Shape()
