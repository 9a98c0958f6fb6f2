"""Exact prompt lengths from a model's own tokenizer.json, without its library.

A prompt is made of words, each with the blank before it. Byte-pair tokenizers cut text at blanks before they merge,
so when every word is one token by the merges of the file, the number of words is the number of tokens. What the
chat template adds is not known from the file; the warm-up measures it by the server's usage.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BLANKS = ("Ġ", "▁")  # how byte-level and sentencepiece vocabularies write the blank before a word
_LEAST_LETTERS = 2


def one_token_words(path: str, preferred: Sequence[str], needed: int) -> tuple[str, ...]:
    """Return `needed` words that are one token each, the preferred ones first.

    path: a tokenizer.json, or the folder with one. Raises UsageError when it is no byte-pair tokenizer.
    """
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model = content["model"]
        vocabulary: dict[str, int] = model["vocab"]
        merges = _ranks(model["merges"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file}: {error!r}; expected the tokenizer.json of a byte-pair tokenizer, which lies beside the weights",
            next_command="leave the tokenizer out: prompt lengths are then estimated, and the server's usage is shown",
        ) from error
    blank = max(_BLANKS, key=lambda mark: sum(token.startswith(mark) for token in list(vocabulary)[:20000]))
    candidates = _candidates(preferred, vocabulary, blank)
    words = []
    for word in candidates:
        if blank + word in vocabulary and _merged(blank + word, merges) == [blank + word]:
            words.append(word)
            if len(words) == needed:
                return tuple(words)
    raise UsageError(f"{file}: only {len(words)} words of one token each were found, {needed} are needed")


def _candidates(preferred: Sequence[str], vocabulary: dict[str, int], blank: str) -> Iterable[str]:
    yield from preferred
    seen = set(preferred)
    for token in vocabulary:
        word = token.removeprefix(blank)
        plain = word.isascii() and word.isalpha() and word.islower() and len(word) >= _LEAST_LETTERS
        if token.startswith(blank) and plain and word not in seen:
            yield word


def _ranks(merges: list[Any]) -> dict[tuple[str, str], int]:
    """Return the rank of each merge; files write a pair as `a b` or as a list."""
    pairs = (tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in merges)
    return {(pair[0], pair[1]): rank for rank, pair in enumerate(pairs)}


def _merged(text: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """Apply byte-pair merges, the one of the lowest rank first."""
    parts = list(text)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(pairs, key=lambda pair: merges.get(pair, len(merges)))
        if best not in merges:
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
