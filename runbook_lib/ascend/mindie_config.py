"""MindIE's config.json: reading it, writing our settings into it, and what is wrong with one."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.mindie_defaults import Json, Schema, default_config
from runbook_lib.ascend.mindie_rules import ConfigProblem, detect_schema, problems
from runbook_lib.ascend.reading import Reading, found

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ConfigProblem", "Json", "Schema", "ServiceSettings", "default_config", "detect_schema", "parse", "problems",
    "render", "tls_files", "to_text",
]  # fmt: skip

_LARGEST_BYTES = 10 * 1024 * 1024  # the daemon refuses larger files (MindIE-LLM)


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What we decide about one node's service; lengths in tokens.

    world_size: cards of this node, as config.json wants it (the rank table says the cluster's).
    max_queue_delay_us in microseconds; prefill_time_ms and decode_time_ms are weights of the scheduler, ms.
    npu_mem_size: GB of KV cache per card, -1 lets the service take what NPU_MEMORY_FRACTION leaves.
    parallel: dp, tp, sp, cp, pp, moe_tp, moe_ep where given; only images from 2.0.RC1 on know these keys.
    """

    ip_address: str
    model_name: str
    weights_path: str
    card_ids: tuple[int, ...]
    world_size: int
    max_seq_len: int
    max_input_token_len: int
    max_prefill_tokens: int
    max_prefill_batch_size: int
    max_batch_size: int
    max_iter_times: int
    max_queue_delay_us: int = 5000
    prefill_time_ms: int = 150
    decode_time_ms: int = 50
    max_link_num: int = 1000
    port: int = 1025
    management_port: int = 1026
    metrics_port: int = 1027
    multi_node: bool = True
    npu_mem_size: int = -1
    allow_all_zero_ip: bool = False
    https: bool = False
    support_select_batch: bool = False
    parallel: Mapping[str, int] | None = None


def parse(text: str) -> Reading[Json]:
    """Read a config.json as strictly as the daemon does: an object, no comments, at most 10 MB."""
    if not 0 < len(text.encode("utf-8", "replace")) <= _LARGEST_BYTES:
        return Reading(None, "unreadable", "the file is empty or larger than 10 MB", "text")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: a hostile depth of brackets
        return Reading(None, "unreadable", f"not valid JSON: {str(error)[:120]}", "text")
    if not isinstance(data, dict):
        return Reading(None, "unreadable", "the JSON is not an object", "text")
    return found(data)


def to_text(config: Mapping[str, Any]) -> str:
    """Write a configuration as the file that goes to the hosts; the same data always gives the same bytes."""
    return json.dumps(config, indent=4, ensure_ascii=False) + "\n"


def _section(parent: Json, key: str) -> Json:
    section = parent.setdefault(key, {})
    if not isinstance(section, dict):
        raise TypeError(f"{key} of the default configuration is not an object")
    return section


def _model(deploy: Json) -> Json:
    models = deploy.setdefault("ModelConfig", [{}])
    if not isinstance(models, list) or not models or not isinstance(models[0], dict):
        raise TypeError("ModelConfig of the default configuration is not a list of objects")
    first: Json = models[0]
    return first


def tls_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the certificate files, below the service's folder, that https needs by the keys of a config.json.

    Every plane that has keys of its own has files of its own; the CA files share one folder (MindIE-LLM).
    """
    server = config.get("ServerConfig")
    server = server if isinstance(server, dict) else {}
    names: list[str] = []
    for prefix in ("tls", "managementTls", "metricsTls"):
        authorities = server.get(f"{prefix}CaFile")
        folder = str(server.get("tlsCaPath", "security/ca/")).rstrip("/")
        names += [f"{folder}/{each}" for each in (authorities if isinstance(authorities, list) else ())]
        names += [str(server[key]) for key in (f"{prefix}Cert", f"{prefix}Pk") if server.get(key)]
    return tuple(names)


def render(default: Mapping[str, Any], settings: ServiceSettings) -> Json:
    """Return the default with our settings merged in; keys that we do not know stay as they are.

    TLS between the nodes is off: a daemon with TLS on and no certificates does not start. So is https unless asked for.
    Raises TypeError when a section of the default has the wrong type.
    """
    config = copy.deepcopy(dict(default))
    server = _section(config, "ServerConfig")
    backend = _section(config, "BackendConfig")
    deploy = _section(backend, "ModelDeployConfig")
    server |= {
        "ipAddress": settings.ip_address,
        "managementIpAddress": settings.ip_address,
        "port": settings.port,
        "managementPort": settings.management_port,
        "metricsPort": settings.metrics_port,
        "allowAllZeroIpListening": settings.allow_all_zero_ip,
        "maxLinkNum": settings.max_link_num,
        "httpsEnabled": settings.https,
        "interCommTLSEnabled": False,
    }
    backend |= {
        "modelInstanceNumber": 1,
        "npuDeviceIds": [list(settings.card_ids)],
        "multiNodesInferEnabled": settings.multi_node,
        "interNodeTLSEnabled": False,
    }
    deploy |= {"maxSeqLen": settings.max_seq_len, "maxInputTokenLen": settings.max_input_token_len}
    model = _model(deploy)
    model |= {
        "modelName": settings.model_name,
        "modelWeightPath": settings.weights_path,
        "worldSize": settings.world_size,
        "npuMemSize": settings.npu_mem_size,
        **(settings.parallel or {}),
    }
    schedule = _section(backend, "ScheduleConfig")
    schedule |= {
        "maxPrefillBatchSize": settings.max_prefill_batch_size,
        "maxPrefillTokens": settings.max_prefill_tokens,
        "prefillTimeMsPerReq": settings.prefill_time_ms,
        "decodeTimeMsPerReq": settings.decode_time_ms,
        "maxBatchSize": settings.max_batch_size,
        "maxIterTimes": settings.max_iter_times,
        "maxQueueDelayMicroseconds": settings.max_queue_delay_us,
        "supportSelectBatch": settings.support_select_batch,
    }
    return config
