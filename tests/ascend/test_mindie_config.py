"""config.json: defaults hold, settings arrive, unknown keys survive, every rule can fail."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import mindie_config as mc
from runbook_lib.ascend.mindie_rules import dead_end

SETTINGS = mc.ServiceSettings(
    ip_address="10.0.0.1", model_name="deepseek-r1", weights_path="/data/w", card_ids=tuple(range(8)), world_size=8,
    max_seq_len=10000, max_input_token_len=2048, max_prefill_tokens=10000, max_prefill_batch_size=50,
    max_batch_size=200, max_iter_times=7952,
)  # fmt: skip
SCHEMAS: list[mc.Schema] = ["1.0", "2.x"]
DEPLOY = "BackendConfig.ModelDeployConfig"
MODEL = f"{DEPLOY}.ModelConfig[0]"
SCHEDULE = "BackendConfig.ScheduleConfig"


def put(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    *parents, last = path.split(".")
    node: Any = changed
    for part in parents:
        node = node[part.removesuffix("[0]")]
        node = node[0] if part.endswith("[0]") else node
    if value is None:
        del node[last]
    else:
        node[last] = value
    return changed


@pytest.mark.parametrize("schema", SCHEMAS)
def test_rendered_defaults_hold_and_are_recognised(schema: mc.Schema) -> None:
    config = mc.render(mc.default_config(schema), SETTINGS)
    assert mc.problems(config) == []
    assert mc.detect_schema(config) == schema
    assert mc.parse(mc.to_text(config)).value == config


def test_the_generations_differ_where_the_reference_says() -> None:
    old, new = mc.default_config("1.0"), mc.default_config("2.x")
    assert "tokenTimeout" in new["ServerConfig"]
    assert "tokenTimeout" not in old["ServerConfig"]
    assert "kmcKsfMaster" in old["ServerConfig"]
    assert "metricsTlsCert" in new["ServerConfig"]
    assert old["LogConfig"]["logLevel"] == "Info"


def test_unknown_keys_survive_and_the_default_is_untouched() -> None:
    default = mc.default_config("2.x")
    default["ServerConfig"]["futureKey"] = 7
    default["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]["models"] = {"a": 1}
    before = copy.deepcopy(default)
    config = mc.render(default, replace(SETTINGS, parallel={"dp": 2, "tp": 8}))
    assert default == before
    assert config["ServerConfig"]["futureKey"] == 7
    model = config["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]
    assert (model["models"], model["dp"], model["tp"]) == ({"a": 1}, 2, 8)


def test_settings_arrive_and_tls_is_off() -> None:
    config = mc.render(mc.default_config("1.0"), SETTINGS)
    server, backend = config["ServerConfig"], config["BackendConfig"]
    assert (server["ipAddress"], server["httpsEnabled"], server["interCommTLSEnabled"]) == ("10.0.0.1", False, False)
    assert backend["interNodeTLSEnabled"] is False
    assert backend["npuDeviceIds"] == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert backend["ScheduleConfig"]["maxIterTimes"] == 7952


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ServerConfig.port", 80),
        ("ServerConfig.port", "1025"),
        ("ServerConfig.port", None),
        ("ServerConfig.maxLinkNum", 0),
        ("ServerConfig.maxLinkNum", 1001),
        ("ServerConfig.httpsEnabled", True),
        ("ServerConfig.ipAddress", "nowhere"),
        ("ServerConfig.inferMode", "fast"),
        ("BackendConfig.interNodeTLSEnabled", True),
        ("BackendConfig.modelInstanceNumber", 2),
        ("BackendConfig.npuDeviceIds", [[0, 0, 1, 2, 3, 4, 5, 6]]),
        ("BackendConfig.npuDeviceIds", [0, 1]),
        (f"{MODEL}.worldSize", 16),
        (f"{MODEL}.modelName", "-bad"),
        (f"{MODEL}.modelWeightPath", "relative"),
        (f"{MODEL}.npuMemSize", 0),
        (f"{MODEL}.dp", 2),
        (f"{SCHEDULE}.maxPrefillBatchSize", 201),
        (f"{SCHEDULE}.maxIterTimes", 10001),
        (f"{SCHEDULE}.maxQueueDelayMicroseconds", 499),
        (f"{SCHEDULE}.maxPrefillTokens", True),
        (f"{SCHEDULE}.cacheBlockSize", 256),
        (f"{DEPLOY}.maxInputTokenLen", 10001),
    ],
)
def test_every_rule_can_fail(path: str, value: Any) -> None:
    config = put(mc.render(mc.default_config("1.0"), SETTINGS), path, value)
    found = mc.problems(config)
    assert found
    assert all(problem.expected and problem.why and problem.source for problem in found)


def test_links_may_be_more_in_newer_images() -> None:
    newer = put(mc.render(mc.default_config("2.x"), SETTINGS), "ServerConfig.maxLinkNum", 4096)
    assert mc.problems(newer) == []


def test_the_dead_end_is_an_error_in_old_images_only() -> None:
    tight = mc.render(mc.default_config("1.0"), replace(SETTINGS, max_prefill_tokens=2048))
    old = list(dead_end(tight, larger_budget=False))
    assert [problem.key for problem in old] == [f"{SCHEDULE}.maxPrefillTokens"]
    assert "9999" in old[0].expected
    assert list(dead_end(tight, larger_budget=True)) == []
    exact = mc.render(mc.default_config("1.0"), replace(SETTINGS, max_prefill_tokens=9999))
    assert list(dead_end(exact, larger_budget=False)) == []
    short = mc.render(mc.default_config("1.0"), replace(SETTINGS, max_prefill_tokens=9998))
    assert list(dead_end(short, larger_budget=False))


def test_nobody_who_always_finds_room_comes_back() -> None:
    """With blocks for maxBatchSize sequences of full length there is no preemption, hence no dead end."""
    tight = mc.render(mc.default_config("1.0"), replace(SETTINGS, max_prefill_tokens=2048, max_batch_size=8))
    assert list(dead_end(tight, larger_budget=False, blocks=8 * 79)) == []
    assert list(dead_end(tight, larger_budget=False, blocks=8 * 79 - 1))


def test_a_file_of_no_known_generation_is_judged_too() -> None:
    config = mc.render(mc.default_config("1.0"), SETTINGS)
    del config["LogConfig"], config["ServerConfig"]["kmcKsfMaster"]
    assert mc.detect_schema(config) is None
    assert mc.problems(config) == []


def test_https_needs_its_certificates_and_their_keys() -> None:
    config = mc.render(mc.default_config("1.0"), replace(SETTINGS, https=True))
    assert [problem.key for problem in mc.problems(config)] == ["ServerConfig.httpsEnabled"]
    assert mc.problems(config, certificates=True) == []
    config["ServerConfig"]["tlsPk"] = ""
    assert [problem.key for problem in mc.problems(config, certificates=True)] == ["ServerConfig.tlsPk"]


def test_swapping_needs_cpu_memory() -> None:
    config = put(mc.render(mc.default_config("1.0"), SETTINGS), f"{SCHEDULE}.maxPreemptCount", 5)
    assert mc.problems(config) == []
    assert [p.key for p in mc.problems(put(config, f"{MODEL}.cpuMemSize", 0))] == [f"{MODEL}.cpuMemSize"]


def test_all_addresses_must_be_allowed_in_words() -> None:
    closed = mc.render(mc.default_config("1.0"), replace(SETTINGS, ip_address="0.0.0.0"))
    assert [problem.key for problem in mc.problems(closed)] == ["ServerConfig.allowAllZeroIpListening"]
    opened = replace(SETTINGS, ip_address="0.0.0.0", allow_all_zero_ip=True)
    assert mc.problems(mc.render(mc.default_config("1.0"), opened)) == []


def test_parallel_sizes_use_every_card() -> None:
    sizes = {"dp": 2, "tp": 8, "moe_tp": 4, "moe_ep": 4}
    config = mc.render(mc.default_config("2.x"), replace(SETTINGS, parallel=sizes))
    assert mc.problems(config, total_cards=16) == []
    assert len(mc.problems(config, total_cards=32)) == 2


def test_a_comment_breaks_the_file() -> None:
    assert mc.parse('{"maxLinkNum": 300 // recommended\n}').state == "unreadable"
    assert mc.parse("").state == "unreadable"
    assert mc.parse("[]").state == "unreadable"


def test_a_default_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(TypeError, match="ScheduleConfig"):
        mc.render({"BackendConfig": {"ScheduleConfig": []}}, SETTINGS)


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=6)
values = st.recursive(leaves, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=5), x, max_size=2))
PATHS = [
    "ServerConfig",
    "BackendConfig",
    DEPLOY,
    f"{DEPLOY}.ModelConfig",
    SCHEDULE,
    "BackendConfig.npuDeviceIds",
    f"{MODEL}.worldSize",
    f"{MODEL}.tp",
    "ServerConfig.ipAddress",
    "LogConfig",
    f"{SCHEDULE}.maxIterTimes",
]


@settings(max_examples=80, deadline=None)
@given(path=st.sampled_from(PATHS), value=values, text=st.text(max_size=50))
def test_odd_data_never_raises(path: str, value: Any, text: str) -> None:
    config = put(mc.render(mc.default_config("1.0"), SETTINGS), path, value if value is not None else {})
    mc.problems(json.loads(json.dumps(config)), total_cards=16)
    mc.parse(text)
