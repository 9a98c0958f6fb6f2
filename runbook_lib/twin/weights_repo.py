"""A small but structurally true weights repository: real file names, real tensor names, real safetensors bytes.

What is smaller than the real thing: tensor shapes, and the number of experts that are present (2 of 256 a layer).
File and key names: hubs.md sections 5 and 6 (msmodelslim "mindie_format", safetensors README).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LAYERS = 61
DENSE_LAYERS = 3
EXPERTS = 2
SHARDS = 6
_FORMAT_VERSION = 1  # raise when the content changes, so that old twins are built anew
_BYTES = {"I8": 1, "BF16": 2, "F32": 4, "I32": 4}
_CHUNK = 1 << 20

ATTENTION = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its quantisation word is what the description file says of it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    quant: str

    @property
    def size(self) -> int:
        """Bytes of data."""
        return int(np.prod(self.shape)) * _BYTES[self.dtype]


def build_repository(folder: Path, *, weights_format: str, weights_bytes: int) -> Path:
    """Write the repository below `folder` (once: a finished one of the same recipe is kept) and return `folder`.

    weights_format: "w8a8" or "bf16". weights_bytes: about the size of all tensors.
    """
    recipe = {"version": _FORMAT_VERSION, "format": weights_format, "bytes": weights_bytes}
    marker = folder.with_name(f".{folder.name}.recipe.json")
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == recipe:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    stem = "quant_model_weight_w8a8_dynamic" if weights_format == "w8a8" else "model"
    tensors = _tensors(weights_format, weights_bytes)
    weight_map: dict[str, str] = {}
    for number, part in enumerate(_split(tensors, SHARDS), start=1):
        name = f"{stem}-{number:05d}-of-{SHARDS:05d}.safetensors"
        _write_shard(folder / name, part)
        weight_map |= {tensor.name: name for tensor in part}
    index = {"metadata": {"total_size": sum(tensor.size for tensor in tensors)}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.safetensors.index.json", index)
    if weights_format == "w8a8":
        description = {"model_quant_type": "W8A8_DYNAMIC"} | {tensor.name: tensor.quant for tensor in tensors}
        _write_json(folder / "quant_model_description_w8a8_dynamic.json", description)
    for name, content in _small_files(weights_format).items():
        _write_json(folder / name, content)
    _write_json(folder / "manifest.json", {"files": _listing(folder)})
    marker.write_text(json.dumps(recipe), encoding="utf-8")
    return folder


def _tensors(weights_format: str, weights_bytes: int) -> list[Tensor]:
    big = [tensor for tensor in _layout(weights_format, 1) if tensor.name.endswith("_proj.weight")]
    rows = max(1, weights_bytes // sum(tensor.size for tensor in big))
    return list(_layout(weights_format, rows))


def _layout(weights_format: str, rows: int) -> Iterator[Tensor]:
    quantised = weights_format == "w8a8"
    yield Tensor("model.embed_tokens.weight", "BF16", (64, 16), "FLOAT")
    for layer in range(LAYERS):
        base = f"model.layers.{layer}"
        for projection in ATTENTION:
            name = f"{base}.self_attn.{projection}"
            # kv_b_proj stays float in the quantised checkpoints: MLA absorbs it into its neighbours
            yield from _linear(name, rows, static=quantised and projection != "kv_b_proj", dynamic=False)
        for norm in ("self_attn.q_a_layernorm", "self_attn.kv_a_layernorm", "input_layernorm"):
            yield Tensor(f"{base}.{norm}.weight", "BF16", (16,), "FLOAT")
        if layer < DENSE_LAYERS:
            for projection in MLP:
                yield from _linear(f"{base}.mlp.{projection}", rows, static=False, dynamic=quantised)
        else:
            yield Tensor(f"{base}.mlp.gate.weight", "BF16", (8, 16), "FLOAT")
            yield Tensor(f"{base}.mlp.gate.e_score_correction_bias", "F32", (8,), "FLOAT")
            for owner in (*(f"experts.{expert}" for expert in range(EXPERTS)), "shared_experts"):
                for projection in MLP:
                    yield from _linear(f"{base}.mlp.{owner}.{projection}", rows, static=False, dynamic=quantised)
        yield Tensor(f"{base}.post_attention_layernorm.weight", "BF16", (16,), "FLOAT")
    yield Tensor("model.norm.weight", "BF16", (16,), "FLOAT")
    yield Tensor("lm_head.weight", "BF16", (64, 16), "FLOAT")


def _linear(name: str, rows: int, *, static: bool, dynamic: bool) -> Iterator[Tensor]:
    quant = "W8A8" if static else "W8A8_DYNAMIC" if dynamic else "FLOAT"
    yield Tensor(f"{name}.weight", "I8" if static or dynamic else "BF16", (rows, 64), quant)
    if static:
        yield Tensor(f"{name}.input_scale", "BF16", (1,), quant)
        yield Tensor(f"{name}.input_offset", "BF16", (1,), quant)
        yield Tensor(f"{name}.quant_bias", "I32", (8,), quant)
        yield Tensor(f"{name}.deq_scale", "F32", (8,), quant)
    elif dynamic:
        yield Tensor(f"{name}.weight_scale", "BF16", (8, 1), quant)
        yield Tensor(f"{name}.weight_offset", "BF16", (8, 1), quant)


def _split(tensors: Sequence[Tensor], parts: int) -> list[list[Tensor]]:
    limit = sum(tensor.size for tensor in tensors) / parts
    groups: list[list[Tensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if filled >= limit * len(groups) and len(groups) < parts:
            groups.append([])
        groups[-1].append(tensor)
        filled += tensor.size
    return groups


def _write_shard(path: Path, tensors: Sequence[Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            random = np.random.default_rng(zlib.crc32(tensor.name.encode()))
            for start in range(0, tensor.size, _CHUNK):
                file.write(random.bytes(min(_CHUNK, tensor.size - start)))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _listing(folder: Path) -> list[dict[str, Any]]:
    return [
        {"name": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    ]


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _small_files(weights_format: str) -> dict[str, Any]:
    return {
        "config.json": _config(weights_format),
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "transformers_version": "4.46.3",
        },
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": {"__type": "AddedToken", "content": _BOS, "lstrip": False, "rstrip": False},
            "eos_token": {"__type": "AddedToken", "content": _EOS, "lstrip": False, "rstrip": False},
            "model_max_length": 16384,
            "tokenizer_class": "LlamaTokenizerFast",
            "chat_template": "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}",
        },
    }


_BAR = "\N{FULLWIDTH VERTICAL LINE}"
_BOS = f"<{_BAR}begin\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence{_BAR}>"
_EOS = f"<{_BAR}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence{_BAR}>"


def _tokenizer() -> dict[str, Any]:
    special = [
        {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "special": True}
        for number, content in enumerate((_BOS, _EOS))
    ]
    vocabulary = {_BOS: 0, _EOS: 1} | {chr(code): code - 31 for code in range(33, 127)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "unk_token": None, "fuse_unk": False, "vocab": vocabulary, "merges": []},
    }


def _config(weights_format: str) -> dict[str, Any]:
    """DeepSeek-R1's config.json as the T71 and T3 images want it: model_type deepseekv2, no quantization_config."""
    config: dict[str, Any] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "first_k_dense_replace": DENSE_LAYERS,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "model_type": "deepseekv2",
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.46.3",
        "v_head_dim": 128,
        "vocab_size": 129280,
    }
    if weights_format == "w8a8":
        config |= {"quantize": "w8a8_dynamic", "mla_quantize": "w8a8"}
    return config
