"""What the emulated model says, and how it counts tokens.

Counting is a plain rule, the same in every answer: one token for each CJK character, each run of letters, each group of
up to three digits and each other visible sign, plus the chat template's own. The answers are cut into pieces of one
token each, so that `completion_tokens` equals the number of pieces that were sent.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\d_]+|\d{1,3}|[^\w\s]|_")
# begin of sentence, <User>, <Assistant>, <think>
TEMPLATE_TOKENS = 4
# without max_tokens an answer ends by itself after so many tokens
NATURAL_LENGTH = 256

_REASONING = (
    " Okay , so I need to figure out what the user is asking here . Let me think step by step ."
    " First , I should recall what is known about this topic and check whether the assumptions hold ."
    " Wait , maybe I should double - check that . If the first condition is true , then the second one follows ,"
    " but I have to be careful with the edge cases . Let me verify the numbers again ."
    " Hmm , that seems right . I think the answer is clear now , so let me write it down in an orderly way ."
)
_ANSWER = (
    " The short answer is that both parts depend on each other . Here is a step - by - step explanation ."
    " First , the input is divided into smaller pieces , and each piece is handled on its own ."
    " Second , the partial results are combined , which is where most of the time is spent ."
    " In practice this means that more memory helps more than a faster clock . To summarize , measure first ,"
    " change one thing at a time , and keep a record of what you did ."
)


def _pieces(text: str) -> list[str]:
    words = text.split()
    return [f" {word}" if word not in {".", ","} else word for word in words]


REASONING_PIECES = _pieces(_REASONING)
ANSWER_PIECES = _pieces(_ANSWER)


def count_tokens(text: str) -> int:
    """Return the number of tokens of a text, without the template's."""
    return sum(1 for _ in _TOKEN.finditer(text))


def piece(index: int, reasoning: int) -> tuple[str, bool]:
    """Return piece `index` of an answer whose first `reasoning` pieces are thoughts: (text, is it a thought)."""
    if index < reasoning:
        return REASONING_PIECES[index % len(REASONING_PIECES)], True
    return ANSWER_PIECES[(index - reasoning) % len(ANSWER_PIECES)], False


def reasoning_length(total: int) -> int:
    """Return how many of `total` pieces are thoughts: about half, never all."""
    return total // 2
