"""A short form of benchmarks/parser_fuzz.py, and texts of any kind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend.captured import TOOLS, Parsed, parse_text


def _campaign() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "parser_fuzz.py"
    spec = importlib.util.spec_from_file_location("parser_fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


FUZZ = _campaign()
CASES = FUZZ.load_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_and_invents_nothing(case: Any) -> None:
    assert list(FUZZ.cuts(case, step=1 + len(case.text) // 24)) == []


def test_damage_raises_and_invents_nothing() -> None:
    assert [words for _, words in FUZZ.mutations(CASES, 300, seed=4) if words] == []


def test_the_rules_can_be_broken() -> None:
    def told(value: Any) -> Parsed:
        owner = {"host": "", "tool": "hccn_tool", "subcommand": "mtu", "card": 0, "command": "", "state": "set"}
        return Parsed("hccn_tool", {"answers": [{**owner, "value": value}]}, ())

    assert FUZZ.invented("mtu:1500\n", told(1500)) == []
    assert FUZZ.invented("mtu:1500\n", told(9000)) != []
    assert FUZZ.invented("fec mode: rs\n", told("no")) != []
    assert FUZZ.changed(told(1500), told(1500)) == []
    assert FUZZ.changed(told(1500), told(150)) != []


@settings(max_examples=150, deadline=None)
@given(
    tool=st.sampled_from(TOOLS),
    text=st.text(max_size=200) | st.text("$#@[]|+:=. \n{}0123abc\x1b;'\"", max_size=120),
    word=st.text(max_size=8),
)
def test_any_text_is_read_without_raising(tool: str, text: str, word: str) -> None:
    result = parse_text(tool, text, word)
    assert result.ok == (not result.problems)
