"""The OpenAI-like requests and answers of the emulated service, without any I/O."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runbook_lib.twin.service_text import NATURAL_LENGTH, TEMPLATE_TOKENS, count_tokens, piece

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.twin.service_http import ServiceConfig

_VALIDATION = "validation"


class BadRequest(Exception):  # noqa: N818 - named after what it is on the wire
    """A request that is refused. `log` is the line for the service's log, "" for none."""

    def __init__(self, status: int, text: str, kind: str, log: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.kind = kind
        self.log = log


@lru_cache(maxsize=4096)
def _quoted(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that was accepted. `limit` is the number of tokens that it will get."""

    ident: str
    model: str
    created: int
    chat: bool
    stream: bool
    include_usage: bool
    prompt_tokens: int
    limit: int
    reason: str

    @property
    def usage(self) -> dict[str, int]:
        """Tokens in, out and together."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.limit,
            "total_tokens": self.prompt_tokens + self.limit,
        }

    def _prefix(self) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        head = {"id": self.ident, "object": kind, "created": self.created, "model": self.model}
        return b"data: " + json.dumps(head)[:-1].encode()

    def event(self, index: int, reasoning: int, *, last: bool) -> bytes:
        """Return the SSE event of one token."""
        text, thought = piece(index, reasoning)
        finish = b'"%b"' % self.reason.encode() if last else b"null"
        if not self.chat:
            choice = b'{"index":0,"text":%b,"finish_reason":%b}' % (_quoted(text), finish)
        else:
            role = b'"role":"assistant",' if index == 0 else b""
            name = b"reasoning_content" if thought else b"content"
            choice = b'{"index":0,"delta":{%b"%b":%b},"finish_reason":%b}' % (role, name, _quoted(text), finish)
        return b'%b,"choices":[%b]}\n\n' % (self._prefix(), choice)

    def usage_event(self) -> bytes:
        """Return the SSE event with the usage, which comes after the last token."""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._prefix(), json.dumps(self.usage).encode())

    def whole(self, reasoning: int) -> dict[str, Any]:
        """Return the answer of a request that does not stream."""
        pieces = [piece(index, reasoning) for index in range(self.limit)]
        content = "".join(text for text, thought in pieces if not thought)
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.reason}
        if self.chat:
            thoughts = "".join(text for text, thought in pieces if thought)
            choice["message"] = {"role": "assistant", "content": content, "reasoning_content": thoughts}
        else:
            choice["text"] = content
        return {
            "id": self.ident,
            "object": "chat.completion" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": self.usage,
        }


def parse_completion(body: bytes, config: ServiceConfig, *, chat: bool) -> Completion:
    """Return the request, or raise BadRequest with the service's own words."""
    try:
        asked = json.loads(body)
    except ValueError:
        raise BadRequest(422, "Req body converts to json fail.", _VALIDATION, _parameters()) from None
    if not isinstance(asked, dict):
        raise BadRequest(422, "Req body converts to json fail.", _VALIDATION, _parameters())
    prompt_tokens = _chat_tokens(asked) if chat else _prompt_tokens(asked)
    model = asked.get("model")
    if model != config.model:
        raise BadRequest(
            422,
            f"[MIE04E020207] Check model failed: model {model!r} is not deployed here.",
            _VALIDATION,
            f"[MIE04E020207] [endpoint] Failed to check model name {model!r}, the deployed model is {config.model!r}",
        )
    longest = min(config.max_input_token_len, config.max_seq_len - 1)
    if prompt_tokens > longest:
        raise BadRequest(
            422,
            f"This model's maximum input ids length cannot be greater than {longest},"
            f"the input ids length is {prompt_tokens}",
            _VALIDATION,
        )
    limit, reason = _limit(asked, config, prompt_tokens)
    options = asked.get("stream_options")
    return Completion(
        ident=f"endpoint_common_{uuid.uuid4().hex[:16]}",
        model=config.model,
        created=int(time.time()),
        chat=chat,
        stream=asked.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        prompt_tokens=prompt_tokens,
        limit=limit,
        reason=reason,
    )


def _parameters() -> str:
    return "[MIE04E02040E] [endpoint] Failed to check the request parameters"


def _limit(asked: Mapping[str, Any], config: ServiceConfig, prompt_tokens: int) -> tuple[int, str]:
    """Return (tokens, finish reason): min(max_tokens, maxIterTimes, maxSeqLen - input) (engine_model.md section 4)."""
    most = min(config.max_iter_times, config.max_seq_len - prompt_tokens)
    wanted = asked.get("max_tokens", asked.get("max_completion_tokens"))
    if wanted is None:
        return (NATURAL_LENGTH, "stop") if most >= NATURAL_LENGTH else (most, "length")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise BadRequest(
            422, f"`max_tokens` must be an integer in (0, 2147483647], got {wanted!r}", _VALIDATION, _parameters()
        )
    return min(wanted, most), "length"


def _chat_tokens(asked: Mapping[str, Any]) -> int:
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(
            422, "`messages` must be necessary and data type must be array with at least one item", _VALIDATION
        )
    total = TEMPLATE_TOKENS
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str) or not isinstance(message.get("role"), str):
            raise BadRequest(
                422, "`messages` items must have string `role` and string `content`", _VALIDATION, _parameters()
            )
        total += count_tokens(content)
    return total


def _prompt_tokens(asked: Mapping[str, Any]) -> int:
    prompt = asked.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise BadRequest(
            422,
            "`inputs` or `prompt` must be necessary and data type must be string and length in (0, 4194304]",
            _VALIDATION,
            "[MIE04E020204] [endpoint] Failed to check the prompt",
        )
    return 1 + count_tokens(prompt)  # begin of sentence
