"""The image table: known rows, known traps, and no guessing about the rest."""

from __future__ import annotations

import pytest

from runbook_lib.ascend.images import image_facts, image_problems, image_version, known_versions
from runbook_lib.ascend.mindie_config import default_config
from runbook_lib.model import Verdict

TAIL = "-800I-A2-py311-openeuler24.03-lts"


@pytest.mark.parametrize("version", known_versions())
def test_every_row_is_complete(version: str) -> None:
    facts = image_facts(f"repository/mindie:{version}{TAIL}")
    assert facts.known
    assert facts.version == version
    assert facts.schema is not None
    assert default_config(facts.schema)
    assert facts.rank_table_variable in {"RANKTABLEFILE", "RANK_TABLE_FILE"}
    for note in facts.notes:
        assert note.source
    for problem in image_problems(version, 8, "w8a8"):
        assert problem.what
        assert problem.remedy
        assert problem.source


def test_t31_on_four_hosts_is_field_experience() -> None:
    four = image_problems(f"2.0.T3.1{TAIL}", 4, "w8a8")
    assert [problem.verdict for problem in four] == [Verdict.FAIL]
    assert "field experience" in four[0].source
    assert image_problems(f"2.0.T3.1{TAIL}", 2, "w8a8") == []
    assert image_problems(f"2.0.T3{TAIL}", 4, "w8a8") == []


def test_fp8_fails_on_every_image() -> None:
    assert [problem.verdict for problem in image_problems(f"2.0.T3{TAIL}", 2, "FP8")] == [Verdict.FAIL]


@pytest.mark.parametrize("tag", ["2.0.T4-800I", "latest", "", "2.0.T3x"])
def test_an_unknown_image_is_unknown(tag: str) -> None:
    assert not image_facts(tag).known
    assert [problem.verdict for problem in image_problems(tag, 2, "w8a8")] == [Verdict.UNKNOWN]


def test_version_of_a_tag() -> None:
    assert image_version("1.0.T71-800I-A2-py311-ubuntu22.04-arm64") == "1.0.T71"
    assert image_version("host:5000/x/mindie:2.1.RC1") == "2.1.RC1"
    assert image_version("nonsense") is None
