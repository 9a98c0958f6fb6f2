"""The catalogue of findings: every code is complete in both languages."""

from __future__ import annotations

import re

import pytest

from runbook_lib.ascend.catalogue import codes, explain

PREFIXES = {"PRE", "NET", "WGT", "CON", "SVC", "BEN", "DIA", "RUN"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("code", codes())
def test_every_entry_is_complete(code: str) -> None:
    entry = explain(code)
    assert entry.code == code
    assert re.fullmatch(r"[A-Z]{3}(?:-[A-Z0-9]+)+", code)
    assert code[:3] in PREFIXES
    for words in (entry.title, entry.why, entry.remedy, entry.source):
        assert words.en.strip() == words.en
        assert words.zh.strip() == words.zh
        assert words.en
        assert words.zh
        assert not CHINESE.search(words.en)
    for words in (entry.title, entry.why, entry.remedy):
        assert CHINESE.search(words.zh)
    assert len(entry.title.en) <= 60


def test_every_stage_has_codes() -> None:
    assert {code[:3] for code in codes()} == PREFIXES


def test_the_gateway_trap_names_its_cure() -> None:
    entry = explain("NET-GATEWAY-MISSING")
    assert "-gateway -s gateway" in entry.remedy.en
    assert "-gateway -s gateway" in entry.remedy.zh


def test_an_unknown_code_is_an_error() -> None:
    with pytest.raises(KeyError):
        explain("NET-NO-SUCH-CODE")
