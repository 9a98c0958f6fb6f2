"""What a MindIE configuration must hold: ranges of single keys and rules across keys.

Sources: MindIE-LLM service_parameter_configuration (ranges and rules), the DeepSeek-R1 model page (multi-node),
and the scheduler's source for the token budget of a prefill batch.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runbook_lib.ascend.mindie_defaults import Schema

_DOC = "MindIE-LLM service_parameter_configuration"
_R1_PAGE = "ModelZoo DeepSeek-R1 README"
_SCHEDULER = "MindIE-LLM scheduler source; field experience"
_MOST = 2**31 - 1
_PORT = (1024, 65535)
_PARALLEL = ("dp", "tp", "sp", "cp", "pp", "moe_tp", "moe_ep")
_MODEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,254}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that keeps a configuration from holding. `key` is the dotted path in the file."""

    key: str
    seen: str
    expected: str
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class _Range:
    section: str
    key: str
    low: int
    high: int
    required: bool = True


_SERVER, _BACKEND = "ServerConfig", "BackendConfig"
_DEPLOY = "BackendConfig.ModelDeployConfig"
_MODEL = "BackendConfig.ModelDeployConfig.ModelConfig[0]"
_SCHEDULE = "BackendConfig.ScheduleConfig"

_RANGES = (
    _Range(_SERVER, "port", *_PORT),
    _Range(_SERVER, "managementPort", *_PORT, required=False),
    _Range(_SERVER, "metricsPort", *_PORT, required=False),
    _Range(_SERVER, "interCommPort", *_PORT, required=False),
    _Range(_SERVER, "tokenTimeout", 1, 3600, required=False),
    _Range(_SERVER, "e2eTimeout", 1, 65535, required=False),
    _Range(_SERVER, "maxRequestLength", 1, 100, required=False),
    _Range(_BACKEND, "modelInstanceNumber", 1, 10),
    _Range(_BACKEND, "tokenizerProcessNumber", 1, 32),
    _Range(_BACKEND, "multiNodesInferPort", *_PORT, required=False),
    _Range(_DEPLOY, "maxSeqLen", 1, _MOST),
    _Range(_DEPLOY, "maxInputTokenLen", 1, 4194304),
    _Range(_MODEL, "worldSize", 1, 512),
    _Range(_MODEL, "cpuMemSize", 0, _MOST),
    _Range(_SCHEDULE, "cacheBlockSize", 1, 128),
    _Range(_SCHEDULE, "maxPrefillBatchSize", 1, 819200),
    _Range(_SCHEDULE, "maxPrefillTokens", 1, 4194304),
    _Range(_SCHEDULE, "prefillTimeMsPerReq", 0, 1000),
    _Range(_SCHEDULE, "prefillPolicyType", 0, 0),
    _Range(_SCHEDULE, "decodeTimeMsPerReq", 0, 1000),
    _Range(_SCHEDULE, "decodePolicyType", 0, 0),
    _Range(_SCHEDULE, "maxBatchSize", 1, 819200),
    _Range(_SCHEDULE, "maxIterTimes", 1, _MOST),
    _Range(_SCHEDULE, "maxPreemptCount", 0, 819200),
    _Range(_SCHEDULE, "maxQueueDelayMicroseconds", 500, 1000000),
    _Range(_SCHEDULE, "maxFirstTokenWaitTime", 0, 3600000, required=False),
    _Range(_SCHEDULE, "maxN", 1, 8192, required=False),
)
_MAX_LINKS: dict[str, int] = {"1.0": 1000, "2.x": 4096}


def value_of(config: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - a value out of foreign JSON
    """Return the value at a dotted path (`A.B[0].c`), None where there is none."""
    node: Any = config
    for part in path.split("."):
        name, indexed = part.removesuffix("[0]"), part.endswith("[0]")
        node = node.get(name) if isinstance(node, dict) else None
        if indexed:
            node = node[0] if isinstance(node, list) and node else None
    return node


def _int(config: Mapping[str, Any], path: str) -> int | None:
    value = value_of(config, path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def detect_schema(config: Mapping[str, Any]) -> Schema | None:
    """Tell the generation by its keys, since the version string does not; None when the keys do not tell."""
    server, log = value_of(config, _SERVER), value_of(config, "LogConfig")
    if isinstance(server, dict) and {"tokenTimeout", "e2eTimeout", "distDPServerEnabled"} & server.keys():
        return "2.x"
    if isinstance(server, dict) and ("kmcKsfMaster" in server or (isinstance(log, dict) and "logLevel" in log)):
        return "1.0"
    return None


def _ranges(config: Mapping[str, Any], schema: Schema | None) -> Iterator[ConfigProblem]:
    links = _Range(_SERVER, "maxLinkNum", 1, _MAX_LINKS.get(schema or "1.0", 1000))
    for rule in (*_RANGES, links):
        path = f"{rule.section}.{rule.key}"
        value = value_of(config, path)
        if value is None:
            if rule.required:
                yield ConfigProblem(path, "missing", f"{rule.low}..{rule.high}", "a required key", _DOC)
        elif not isinstance(value, int) or isinstance(value, bool) or not rule.low <= value <= rule.high:
            yield ConfigProblem(
                path, repr(value), f"a whole number {rule.low}..{rule.high}", "the daemon refuses the value", _DOC
            )
    npu = _int(config, f"{_MODEL}.npuMemSize")
    if npu is None or (npu != -1 and not 0 < npu <= _MOST):
        yield ConfigProblem(
            f"{_MODEL}.npuMemSize", repr(value_of(config, f"{_MODEL}.npuMemSize")), "-1 or more than 0",
            "-1 lets the service size the KV cache", _DOC,
        )  # fmt: skip


def _words(config: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    """Check keys that are texts or switches."""
    choices = (
        (f"{_SERVER}.inferMode", ("standard", "dmi")),
        (f"{_BACKEND}.backendName", ("mindieservice_llm_engine",)),
        (f"{_MODEL}.backendType", ("atb", "torch")),
        (f"{_SCHEDULE}.templateType", ("Standard", "Mix")),
        (f"{_SCHEDULE}.templateName", ("Standard_LLM",)),
    )
    for path, allowed in choices:
        value = value_of(config, path)
        if value not in allowed:
            yield ConfigProblem(path, repr(value), " or ".join(allowed), "the daemon knows no other word", _DOC)
    for path in (f"{_SERVER}.allowAllZeroIpListening", f"{_SERVER}.httpsEnabled"):
        if not isinstance(value_of(config, path), bool):
            yield ConfigProblem(path, repr(value_of(config, path)), "true or false", "a required switch", _DOC)
    name = value_of(config, f"{_MODEL}.modelName")
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
        yield ConfigProblem(
            f"{_MODEL}.modelName", repr(name), "1..256 of letters, digits, . _ - and none of . _ - at the ends",
            "clients name the model by it", _DOC,
        )  # fmt: skip
    weights = value_of(config, f"{_MODEL}.modelWeightPath")
    if not isinstance(weights, str) or not weights.startswith("/"):
        yield ConfigProblem(
            f"{_MODEL}.modelWeightPath", repr(weights), "an absolute path inside the container",
            "the model is loaded from there", _DOC,
        )  # fmt: skip


def _addresses(config: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    path = f"{_SERVER}.ipAddress"
    address = value_of(config, path)
    try:
        everywhere = ipaddress.ip_address(address if isinstance(address, str) else "").is_unspecified
    except ValueError:
        yield ConfigProblem(path, repr(address), "an IPv4 or IPv6 address", "the service listens on it", _DOC)
        return
    if everywhere and value_of(config, f"{_SERVER}.allowAllZeroIpListening") is not True:
        yield ConfigProblem(
            f"{_SERVER}.allowAllZeroIpListening", "not true", "true, or a real address in ipAddress",
            "listening on all addresses must be allowed in words", _DOC,
        )  # fmt: skip


def _tls(config: Mapping[str, Any], *, certificates: bool) -> Iterator[ConfigProblem]:
    planes = [
        (f"{_SERVER}.interCommTLSEnabled", "without certificates the nodes cannot talk to each other"),
        (f"{_BACKEND}.interNodeTLSEnabled", "without certificates the slave cannot join (MIE04E121107)"),
    ]
    if not certificates:
        planes.insert(0, (f"{_SERVER}.httpsEnabled", "without certificates the end point does not start"))
    for path, why in planes:
        value = value_of(config, path)
        if value is not False:
            seen = "missing (the default is true)" if value is None else repr(value)
            yield ConfigProblem(path, seen, "false", why, _DOC)
    if certificates and value_of(config, f"{_SERVER}.httpsEnabled") is not False:
        for key in ("tlsCaPath", "tlsCaFile", "tlsCert", "tlsPk"):
            if not value_of(config, f"{_SERVER}.{key}"):
                yield ConfigProblem(f"{_SERVER}.{key}", "missing", "a path below the service's folder", "https", _DOC)


def _no_more(config: Mapping[str, Any], low: str, high: str, why: str, source: str) -> Iterator[ConfigProblem]:
    """Require that one key is not larger than another; keys that are no numbers are reported elsewhere."""
    small, large = _int(config, low), _int(config, high)
    if small is not None and large is not None and small > large:
        yield ConfigProblem(low, str(small), f"at most {high.rpartition('.')[2]} = {large}", why, source)


def _lengths(config: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    seq, inputs = f"{_DEPLOY}.maxSeqLen", f"{_DEPLOY}.maxInputTokenLen"
    prefill, iters = f"{_SCHEDULE}.maxPrefillTokens", f"{_SCHEDULE}.maxIterTimes"
    batch = f"{_SCHEDULE}.maxBatchSize"
    yield from _no_more(config, inputs, prefill, "an input must fit into one prefill batch", _DOC)
    yield from _no_more(config, f"{_SCHEDULE}.maxPrefillBatchSize", batch, "a prefill batch is part of the batch", _DOC)
    yield from _no_more(config, f"{_SCHEDULE}.maxPreemptCount", batch, "only running requests are preempted", _DOC)
    yield from _no_more(config, f"{_SCHEDULE}.maxN", batch, "the answers of one request run together", _DOC)
    yield from _no_more(config, iters, seq, "an answer is part of the sequence", _DOC)
    if (_int(config, f"{_SCHEDULE}.maxPreemptCount") or 0) > 0 and _int(config, f"{_MODEL}.cpuMemSize") == 0:
        yield ConfigProblem(
            f"{_MODEL}.cpuMemSize", "0", "more than 0", "preempted requests are swapped to CPU memory", _DOC
        )


def dead_end(
    config: Mapping[str, Any], *, larger_budget: bool, block_size: int = 128, blocks: int | None = None
) -> Iterator[ConfigProblem]:
    """Rule R1: a request that was thrown out must be able to come back in one prefill.

    It comes back as input plus all tokens generated so far. When that is more than the token budget of a
    prefill batch it waits for ever at the head of the queue, and everything behind it too.
    larger_budget: the budget is max(maxSeqLen, maxPrefillTokens), as after MindIE 2.0. blocks: KV blocks of a dp
    group; when maxBatchSize sequences of full length fit into them nobody is ever thrown out. None: not known.
    """
    seq = _int(config, f"{_DEPLOY}.maxSeqLen")
    inputs = _int(config, f"{_DEPLOY}.maxInputTokenLen")
    prefill = _int(config, f"{_SCHEDULE}.maxPrefillTokens")
    iters = _int(config, f"{_SCHEDULE}.maxIterTimes")
    if seq is None or inputs is None or prefill is None or iters is None:
        return
    longest = min(seq, min(inputs, seq - 1) + iters) - 1
    budget = max(seq, prefill) if larger_budget else prefill
    batch = _int(config, f"{_SCHEDULE}.maxBatchSize")
    safe = blocks is not None and batch is not None and batch * -(-(longest + 1) // block_size) <= blocks
    if budget < longest and not safe:
        yield ConfigProblem(
            f"{_SCHEDULE}.maxPrefillTokens", str(prefill), f"at least {longest} (simplest: maxSeqLen = {seq})",
            f"a preempted request returns with its input and its answer so far, min(maxSeqLen {seq}, "
            f"maxInputTokenLen {inputs} + maxIterTimes {iters}) - 1 = {longest} tokens, in one prefill of at most "
            f"{budget}; what does not fit waits for ever, and the service stands still while its health stays green",
            _SCHEDULER,
        )  # fmt: skip


def _cards(config: Mapping[str, Any], schema: Schema | None, total_cards: int | None) -> Iterator[ConfigProblem]:
    path = f"{_BACKEND}.npuDeviceIds"
    groups = value_of(config, path)
    ids = groups[0] if isinstance(groups, list) and groups and isinstance(groups[0], list) else None
    if ids is None or not all(isinstance(card, int) and not isinstance(card, bool) for card in ids):
        yield ConfigProblem(path, repr(groups)[:80], "like [[0, 1, 2, 3, 4, 5, 6, 7]]", "a required key", _DOC)
    else:
        world = _int(config, f"{_MODEL}.worldSize")
        if len(set(ids)) != len(ids):
            yield ConfigProblem(path, repr(ids), "every card once", "the daemon refuses repeated cards", _DOC)
        if world is not None and world != len(ids):
            yield ConfigProblem(
                f"{_MODEL}.worldSize", str(world), f"{len(ids)}, the number of npuDeviceIds",
                "worldSize counts the cards of this node", _DOC,
            )  # fmt: skip
    if value_of(config, f"{_BACKEND}.multiNodesInferEnabled") is True:
        instances = _int(config, f"{_BACKEND}.modelInstanceNumber")
        if instances not in {1, None}:
            yield ConfigProblem(
                f"{_BACKEND}.modelInstanceNumber", str(instances), "1", "several nodes carry one instance", _R1_PAGE
            )
    yield from _parallel(config, schema, total_cards)


def _parallel(config: Mapping[str, Any], schema: Schema | None, total_cards: int | None) -> Iterator[ConfigProblem]:
    model = value_of(config, _MODEL)
    given = {key: model[key] for key in _PARALLEL if key in model} if isinstance(model, dict) else {}
    if given and schema == "1.0":
        yield ConfigProblem(
            _MODEL, ", ".join(given), "none of these keys", "images before 2.0.RC1 do not know them", _DOC
        )
    sizes = {key: value for key, value in given.items() if isinstance(value, int) and not isinstance(value, bool)}
    for key in given.keys() - sizes.keys():
        yield ConfigProblem(f"{_MODEL}.{key}", repr(given[key]), "a whole number", "a number of cards", _DOC)
    # -1 means "let the service choose" in several images, so only given products are compared
    for keys, name in ((("dp", "tp", "cp", "pp"), "dp*tp*cp*pp"), (("moe_tp", "moe_ep"), "moe_tp*moe_ep")):
        parts = [sizes[key] for key in keys if key in sizes]
        if total_cards is None or not set(keys[:2]) <= sizes.keys() or min(parts) < 1:
            continue
        product = 1
        for part in parts:
            product *= part
        if product != total_cards:
            yield ConfigProblem(
                f"{_MODEL}.{keys[0]}", f"{name} = {product}", str(total_cards),
                "the parallel sizes must use every card of the cluster", "msprechecker 2-node rules",
            )  # fmt: skip


def problems(
    config: Mapping[str, Any],
    schema: Schema | None = None,
    total_cards: int | None = None,
    *,
    certificates: bool = False,
) -> list[ConfigProblem]:
    """Return everything that the daemon refuses in a configuration; never raises on odd data. See also `dead_end`.

    schema: the generation; taken from the keys when None, and the stricter older rules when they do not tell.
    total_cards: cards of the whole cluster, to compare the parallel sizes with; None compares nothing.
    certificates: whether the certificates of the business port are there, so that https may be on.
    """
    known = schema or detect_schema(config)
    return [
        *_ranges(config, known),
        *_words(config),
        *_addresses(config),
        *_tls(config, certificates=certificates),
        *_lengths(config),
        *_cards(config, known, total_cards),
    ]
