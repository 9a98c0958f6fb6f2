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
def _choice(text: str, kind: str, reason: str) -> bytes:
    """Return the choice of one token's event. `kind`: text, or role and content names of a chat's delta."""
    finish = b'"%b"' % reason.encode() if reason else b"null"
    quoted = json.dumps(text, ensure_ascii=False).encode()
    if kind == "text":
        return b'{"index":0,"text":%b,"finish_reason":%b}' % (quoted, finish)
    role = b'"role":"assistant",' if kind.startswith("first ") else b""
    name = kind.rpartition(" ")[2].encode()
    return b'{"index":0,"delta":{%b"%b":%b},"finish_reason":%b}' % (role, name, quoted, finish)


@lru_cache(maxsize=16384)
def _framed(prefix_length: int, text: str, kind: str, reason: str) -> tuple[bytes, bytes]:
    """Return what stands before and after a stream's own prefix: chunk size, and the rest of event and chunk.

    Prefixes of one service are equally long, so that all streams share these bytes.
    """
    rest = b',"choices":[%b]}\n\n' % _choice(text, kind, reason)
    return b"%x\r\n" % (prefix_length + len(rest)), rest + b"\r\n"


def chunk(data: bytes) -> bytes:
    """Return data as one chunk of an HTTP answer."""
    return b"%x\r\n%b\r\n" % (len(data), data)


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

    def prefix(self) -> bytes:
        """Return what every event of this stream begins with."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        head = {"id": self.ident, "object": kind, "created": self.created, "model": self.model}
        return b"data: " + json.dumps(head)[:-1].encode()

    def token_chunk(self, prefix: bytes, index: int, reasoning: int) -> bytes:
        """Return the chunk with the event of one token. `prefix`: this stream's `prefix()`, made once."""
        text, thought = piece(index, reasoning)
        reason = self.reason if index == self.limit - 1 else ""
        if not self.chat:
            kind = "text"
        else:
            kind = ("first " if index == 0 else "") + ("reasoning_content" if thought else "content")
        size, rest = _framed(len(prefix), text, kind, reason)
        return size + prefix + rest

    def end_chunks(self, prefix: bytes) -> bytes:
        """Return what comes after the last token: the usage where it was asked for, the end mark, the last chunk."""
        usage = b""
        if self.include_usage:
            usage = chunk(b'%b,"choices":[],"usage":%b}\n\n' % (prefix, json.dumps(self.usage).encode()))
        return usage + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

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
    longest = config.rules.longest_input
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
    most = config.rules.output_limit(prompt_tokens, 1 << 31)
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
