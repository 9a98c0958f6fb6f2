"""The config.json of the emulated daemon: strict JSON, required keys, ranges (mindie.md sections 1.2 and 1.3).

Standard library only: this runs inside the container.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_U32 = 2**32 - 1
_MANY = 4194304
_CONFIG_LIMIT = 10 * 1024 * 1024
MODEL_CODE, BACKEND_CODE = "MIE05E030000", "MIE05E040000"


class ConfigError(Exception):
    """A config.json that the daemon refuses; each of `lines` is `[code] [config] text`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number with its range; `required` as in the documentation's R."""

    key: str
    low: int
    high: int
    required: bool = True


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    key: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Text:
    """A string, of a fixed set of values where `allowed` names any."""

    key: str
    allowed: tuple[str, ...] = ()
    required: bool = True


Rule = Number | Flag | Text

SERVER: tuple[Rule, ...] = (
    Text("ipAddress"),
    Text("managementIpAddress", required=False),
    Number("port", 1024, 65535),
    Number("managementPort", 1024, 65535, required=False),
    Number("metricsPort", 1024, 65535, required=False),
    Flag("allowAllZeroIpListening"),
    Number("maxLinkNum", 1, 4096),
    Flag("httpsEnabled"),
    Flag("fullTextEnabled", required=False),
    Text("inferMode", ("standard", "dmi")),
    Flag("interCommTLSEnabled", required=False),
    Number("interCommPort", 1024, 65535, required=False),
    Text("openAiSupport", required=False),
    Number("tokenTimeout", 1, 3600, required=False),
    Number("e2eTimeout", 1, 65535, required=False),
)
BACKEND: tuple[Rule, ...] = (
    Text("backendName", ("mindieservice_llm_engine",)),
    Number("modelInstanceNumber", 1, 10),
    Number("tokenizerProcessNumber", 1, 32),
    Flag("multiNodesInferEnabled", required=False),
    Number("multiNodesInferPort", 1024, 65535, required=False),
    Flag("interNodeTLSEnabled", required=False),
)
DEPLOY: tuple[Rule, ...] = (
    Number("maxSeqLen", 1, _U32),
    Number("maxInputTokenLen", 1, _MANY),
)
MODEL: tuple[Rule, ...] = (
    Text("modelInstanceType", ("Standard", "StandardMock"), required=False),
    Text("modelName"),
    Text("modelWeightPath"),
    Number("worldSize", 1, 1024),
    Number("cpuMemSize", 0, _U32),
    Number("npuMemSize", -1, 2**31 - 1),
    Text("backendType", ("atb", "torch")),
    Flag("trustRemoteCode", required=False),
)
SCHEDULE: tuple[Rule, ...] = (
    Text("templateType", ("Standard", "Mix")),
    Text("templateName", ("Standard_LLM",)),
    Number("cacheBlockSize", 1, 128),
    Number("maxPrefillBatchSize", 1, 819200),
    Number("maxPrefillTokens", 1, _MANY),
    Number("prefillTimeMsPerReq", 0, 1000),
    Number("prefillPolicyType", 0, 0),
    Number("decodeTimeMsPerReq", 0, 1000),
    Number("decodePolicyType", 0, 0),
    Number("maxBatchSize", 1, 819200),
    Number("maxIterTimes", 1, _U32),
    Number("maxPreemptCount", 0, 819200),
    Flag("supportSelectBatch", required=False),
    Number("maxQueueDelayMicroseconds", 500, 1_000_000),
)


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The sections of a config.json that holds."""

    server: dict[str, Any]
    backend: dict[str, Any]
    deploy: dict[str, Any]
    model: dict[str, Any]
    schedule: dict[str, Any]

    @property
    def multi_node(self) -> bool:
        """Whether the rank table is used."""
        return self.backend.get("multiNodesInferEnabled") is True


_MOST_LINKS = {"1.0.": 1000, "2.0.T": 1000}  # before 2.0.RC1 (mindie.md section 1.1)
_NEW_KEYS = ("dp", "tp", "sp", "cp", "pp", "moe_tp", "moe_ep")


def _generation_problems(config: DaemonConfig, version: str) -> list[tuple[str, str]]:
    """Return what an image before 2.0.RC1 refuses and later ones take."""
    most = next((most for begin, most in _MOST_LINKS.items() if version.startswith(begin)), None)
    if most is None:
        return []
    found = []
    if config.server["maxLinkNum"] > most:
        found.append(
            (MODEL_CODE, f"ServerConfig.maxLinkNum [{config.server['maxLinkNum']}] is out of range [1, {most}].")
        )
    unknown = [key for key in _NEW_KEYS if key in config.model]
    if unknown:  # that an unknown key is refused is not sourced; that these images cannot use it is
        found.append((MODEL_CODE, f"ModelConfig.{unknown[0]} is not a key of this version."))
    return found


def read_config(data: bytes, version: str = "") -> DaemonConfig:
    """Return the config of these bytes. Raises ConfigError with all problems. `version`: of the image, "" for any."""
    if not 0 < len(data) <= _CONFIG_LIMIT:
        raise ConfigError([f"[{MODEL_CODE}] [config] config.json: the file size must be in (0, 10 MB]."])
    try:
        tree = json.loads(data)
    except ValueError as error:
        text = f"[{MODEL_CODE}] [config] Failed to parse config.json, please check json format! {error}"
        raise ConfigError([text]) from None
    try:
        server, backend = tree["ServerConfig"], tree["BackendConfig"]
        deploy, schedule = backend["ModelDeployConfig"], backend["ScheduleConfig"]
        model = deploy["ModelConfig"][0]
        server, backend, deploy, model, schedule = map(dict, (server, backend, deploy, model, schedule))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError([f"[{MODEL_CODE}] [config] config.json lacks a section: {error}"]) from None
    config = DaemonConfig(server, backend, deploy, model, schedule)
    lines = [
        f"[{code}] [config] {section}.{problem}"
        for section, values, rules, code in (
            ("ServerConfig", server, SERVER, MODEL_CODE),
            ("BackendConfig", backend, BACKEND, BACKEND_CODE),
            ("ModelDeployConfig", deploy, DEPLOY, MODEL_CODE),
            ("ModelConfig", model, MODEL, MODEL_CODE),
            ("ScheduleConfig", schedule, SCHEDULE, MODEL_CODE),
        )
        for rule in rules
        if (problem := _problem(values, rule))
    ]
    if not lines:
        problems = [*_cross_problems(config), *_generation_problems(config, version)]
        lines = [f"[{code}] [config] {text}" for code, text in problems]
    if lines:
        raise ConfigError(lines)
    return config


def _problem(values: dict[str, Any], rule: Rule) -> str:
    if rule.key not in values:
        return f"{rule.key} is missing." if rule.required else ""
    value = values[rule.key]
    if isinstance(rule, Flag):
        return "" if isinstance(value, bool) else f"{rule.key} must be true or false, but it is {value!r}."
    if isinstance(rule, Text):
        if not isinstance(value, str) or not value:
            return f"{rule.key} must be a string, but it is {value!r}."
        allowed = " or ".join(rule.allowed)
        return f"{rule.key} [{value}] must be {allowed}." if rule.allowed and value not in rule.allowed else ""
    if not isinstance(value, int) or isinstance(value, bool):
        return f"{rule.key} must be an integer, but it is {value!r}."
    inside = rule.low <= value <= rule.high and not (rule.key == "npuMemSize" and value == 0)
    return "" if inside else f"{rule.key} [{value}] is out of range [{rule.low}, {rule.high}]."


def _cross_problems(config: DaemonConfig) -> list[tuple[str, str]]:
    deploy, schedule, backend, model = config.deploy, config.schedule, config.backend, config.model
    prefill, longest = schedule["maxPrefillTokens"], deploy["maxInputTokenLen"]
    batch, preempt = schedule["maxBatchSize"], schedule["maxPreemptCount"]
    groups = backend.get("npuDeviceIds")
    problems = [
        (
            prefill < longest,
            MODEL_CODE,
            f"maxPrefillTokens [{prefill}] is out of range [{longest}, {_MANY}].",
        ),
        (
            schedule["maxPrefillBatchSize"] > batch,
            MODEL_CODE,
            f"maxPrefillBatchSize [{schedule['maxPrefillBatchSize']}] is out of range [1, {batch}].",
        ),
        (
            schedule["maxIterTimes"] > deploy["maxSeqLen"],
            MODEL_CODE,
            f"maxIterTimes [{schedule['maxIterTimes']}] is out of range [1, {deploy['maxSeqLen']}].",
        ),
        (
            config.server["ipAddress"] == "0.0.0.0" and not config.server["allowAllZeroIpListening"],
            MODEL_CODE,
            "ipAddress [0.0.0.0] needs allowAllZeroIpListening.",
        ),
        (preempt > batch, MODEL_CODE, f"maxPreemptCount [{preempt}] is out of range [0, {batch}]."),
        (
            preempt > 0 and model["cpuMemSize"] == 0,
            MODEL_CODE,
            "cpuMemSize must be greater than 0 when maxPreemptCount is greater than 0.",
        ),
        (
            config.multi_node and backend["modelInstanceNumber"] != 1,
            BACKEND_CODE,
            "modelInstanceNumber must be 1 when multiNodesInferEnabled is true.",
        ),
    ]
    found = [(code, text) for wrong, code, text in problems if wrong]
    if not _device_groups(groups):
        found.append((BACKEND_CODE, "npuDeviceIds must be a list of lists of device ids."))
    elif groups and len(set(groups[0])) != len(groups[0]):
        found.append((BACKEND_CODE, "npuDeviceID does not allow repetitive element"))
    elif groups and not config.multi_node and len(groups[0]) != model["worldSize"]:
        found.append((BACKEND_CODE, "The size of npuDeviceIds does not equal to worldSize"))
    return found


def _device_groups(groups: object) -> bool:
    return (
        isinstance(groups, list)
        and bool(groups)
        and all(isinstance(group, list) and all(isinstance(card, int) for card in group) for group in groups)
    )
