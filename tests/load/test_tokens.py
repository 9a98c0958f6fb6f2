"""Prompt lengths from a tokenizer.json, read without its library."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.tokens import one_token_words

if TYPE_CHECKING:
    from pathlib import Path


def _tokenizer(folder: Path, *, as_lists: bool = False) -> Path:
    """Write a vocabulary in which `the` and `cat` are one token after a blank, and `dog` has no merge to become one."""
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "c"), ("a", "t"), ("Ġc", "at"), ("Ġ", "be"), ("b", "e")]
    vocabulary = [*"Ġthecadogb", "Ġt", "he", "Ġthe", "Ġc", "at", "Ġcat", "Ġdog", "be", "Ġbe"]
    written: list[Any] = [list(pair) if as_lists else " ".join(pair) for pair in merges]
    model = {"type": "BPE", "vocab": {token: number for number, token in enumerate(vocabulary)}, "merges": written}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("as_lists", [False, True])
def test_words_of_one_token(tmp_path: Path, *, as_lists: bool) -> None:
    """Preferred words first, then others of the vocabulary; being listed is not enough, the merges must lead there."""
    folder = _tokenizer(tmp_path, as_lists=as_lists)
    assert one_token_words(str(folder), ["dog", "cat", "cow"], 2) == ("cat", "the")
    assert one_token_words(str(folder / "tokenizer.json"), ["dog", "cat"], 3) == ("cat", "the", "be")


def test_too_few_words(tmp_path: Path) -> None:
    """Distinct beginnings need many words."""
    with pytest.raises(UsageError, match="only 3 words"):
        one_token_words(str(_tokenizer(tmp_path)), ["cat"], 4)


@pytest.mark.parametrize("text", ["", "[]", '{"model": {"type": "Unigram", "vocab": [["a", 1]]}}'])
def test_another_kind_of_tokenizer(tmp_path: Path, text: str) -> None:
    """It is refused, never guessed."""
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UsageError, match=r"expected the tokenizer\.json of a byte-pair tokenizer"):
        one_token_words(str(tmp_path), ["a"], 1)
