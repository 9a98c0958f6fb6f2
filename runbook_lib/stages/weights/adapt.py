"""What MindIE wants in the weights' config.json, beside what the hub's file holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import images
from runbook_lib.stages.weights.facts import json_object

if TYPE_CHECKING:
    from runbook_lib.params import Params

_DTYPE = "bfloat16"  # what the checkpoints of DeepSeek V3 and R1 are kept in


def problems(config: dict[str, Any], params: Params) -> list[str]:
    """Return what the image of the params would not accept. Rules: mindie.md and failures.md rows 44 and 45."""
    wanted = model_type(params)
    found = []
    if wanted is not None and config.get("model_type") != wanted:
        found.append(f"model_type {config.get('model_type')!r}, this image wants {wanted!r}")
    if not config.get("torch_dtype"):
        found.append("no torch_dtype")
    if _is_fp8(config):
        found.append("a quantization_config of the FP8 original is left over")
    return found


def model_type(params: Params) -> str | None:
    """Return the model_type that the image wants, None when it takes that of the model."""
    return images.image_facts(params.container.image.rpartition(":")[2]).model_type


def adapted(text: str, params: Params) -> str:
    """Return config.json as the image wants it; the same text when it is fine or no JSON object."""
    config = json_object(text)
    if not config or not problems(config, params):
        return text
    wanted = model_type(params)
    if wanted is not None:
        config["model_type"] = wanted
    if not config.get("torch_dtype"):
        config["torch_dtype"] = _DTYPE
    if _is_fp8(config):
        del config["quantization_config"]
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _is_fp8(config: dict[str, Any]) -> bool:
    quantization = config.get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quant_method") == "fp8"
