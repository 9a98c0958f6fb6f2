"""The daemon's environment: complete, quoted, and without what crashes T3."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend.environment import EnvVar, environment_problems, render_env_file, service_environment

T3 = "2.0.T3-800I-A2-py311-openeuler24.03-lts"


def environment(tag: str = T3, fraction: float = 0.95) -> dict[str, str]:
    found = service_environment(tag, 16, "10.0.0.2", "10.0.0.1", "/t/rank.json", "/t/config.json", "/t/plog", fraction)
    assert all(variable.why and variable.source for variable in found)
    assert len({variable.name for variable in found}) == len(found)
    return {variable.name: variable.value for variable in found}


def test_what_every_node_needs() -> None:
    env = environment()
    assert env["RANKTABLEFILE"] == env["RANK_TABLE_FILE"] == "/t/rank.json"
    assert (env["WORLD_SIZE"], env["MIES_CONTAINER_IP"], env["MASTER_IP"]) == ("16", "10.0.0.2", "10.0.0.1")
    assert (env["ASCEND_WORK_PATH"], env["MIES_CONFIG_JSON_PATH"]) == ("/t/plog", "/t/config.json")
    assert (env["MIES_SERVICE_MONITOR_MODE"], env["NPU_MEMORY_FRACTION"]) == ("1", "0.95")
    assert 120 <= int(env["HCCL_CONNECT_TIMEOUT"]) <= 7200


@pytest.mark.parametrize(
    ("tag", "has"),
    [(T3, False), (T3.replace("T3", "T3.1"), False), ("1.0.T71-x", False), ("2.1.RC1-x", True), ("9.9-x", False)],
)
def test_aiv_only_where_it_is_known_to_hold(tag: str, has: bool) -> None:  # noqa: FBT001 - a table
    assert ("HCCL_OP_EXPANSION_MODE" in environment(tag)) is has


@pytest.mark.parametrize("tag", [T3, "2.1.RC1-x", "9.9-unknown"])
def test_our_own_environment_has_no_problem(tag: str) -> None:
    assert environment_problems(tag, environment(tag), 16) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HCCL_OP_EXPANSION_MODE", "AIV"),
        ("HCCL_CONNECT_TIMEOUT", "119"),
        ("HCCL_CONNECT_TIMEOUT", "soon"),
        ("WORLD_SIZE", "32"),
        ("RANKTABLEFILE", ""),
        ("MIES_CONTAINER_IP", ""),
        ("MIES_SERVICE_MONITOR_MODE", "0"),
    ],
)
def test_every_environment_rule_can_fail(name: str, value: str) -> None:
    problems = environment_problems(T3, {**environment(), name: value}, 16)
    assert len(problems) == 1
    assert name in problems[0]


@pytest.mark.parametrize("fraction", [0.0, 1.01, -1.0])
def test_a_fraction_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        environment(fraction=fraction)


def test_the_file_refuses_what_a_shell_would_run() -> None:
    with pytest.raises(ValueError, match="not a variable name"):
        render_env_file([EnvVar("A;rm", "x", "w", "s")])
    with pytest.raises(ValueError, match="one line"):
        render_env_file([EnvVar("A", "x\ny", "w", "s")])


def test_a_reason_with_line_breaks_stays_a_comment() -> None:
    assert render_env_file([EnvVar("A", "1", "one\nexport B=2", "s")]) == "# one export B=2 (s)\nexport A='1'\n"


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), max_size=30))
def test_a_shell_reads_back_the_same_value(value: str) -> None:
    text = render_env_file([EnvVar("RB_VALUE", value, "w", "s")]) + 'printf %s "$RB_VALUE"\n'
    done = subprocess.run(["sh"], input=text.encode(), capture_output=True, check=True, timeout=10)
    assert done.stdout == value.encode()
