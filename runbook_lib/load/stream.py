"""One answer of the service: HTTP by httptools, then server-sent events into token times.

Every event is either proven to have the shape of an event that was fully parsed before (same bytes around a
plain non-empty text), or it is parsed as JSON. So a malformed event in the middle is never counted. The same
holds for HTTP: a read that is exactly one chunk of that shape need not pass the HTTP parser.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.record import Record

# DeepSeek-R1 thinks aloud in `reasoning_content` (`reasoning` in newer servers): those are tokens as well.
CHANNELS = ("content", "reasoning_content", "reasoning")
_LONGEST_EVENT = 16 * 1024 * 1024
_Shape = tuple[bytes, int, int, int]
_IMPOSSIBLE: _Shape = (b"\x00", 0, 0, 0)
# What stands inside a JSON string without any escape; other scripts take the longer way of is_plain.
PLAIN_ASCII = re.compile(rb"[ !#-\[\]-~]+").fullmatch
_DETAIL = 300
LAST = b"\r\n0\r\n\r\n"  # the end of a chunk, and of a chunked body
_OK = 200
_BAD_ENDS = frozenset({"abort", "cancelled", "error"})
_FINAL_STATUS = 200


class Shapes(dict[int, _Shape]):
    """By the length of a read that is exactly one HTTP chunk with one event of the learned shape, what it looks like.

    A shape: the chunk's size line, and where the event, its text and its end begin. The read starts with the size
    line, has the learned prefix at the event and ends with the learned end; the text between must be plain.
    """

    def __init__(self, prefix: int, chunk_end: int) -> None:
        super().__init__()
        self._prefix, self._chunk_end = prefix, chunk_end

    def __missing__(self, size: int) -> _Shape:
        """Work out the shape of a read of this whole length."""
        shape = _IMPOSSIBLE
        for digits in (2, 3):
            body, start = size - digits - 4, digits + 2
            text_end = size - self._chunk_end
            if len(b"%x" % max(body, 0)) == digits and start + self._prefix < text_end:
                shape = (b"%x\r\n" % body, start, start + self._prefix, text_end)
        self[size] = shape
        return shape


ShortWay = tuple[Shapes, bytes, bytes, "Callable[[int], None]"]
# Shared by all answers whose events are as long around their text: thousands of answers are read at once.
_SHAPES: dict[tuple[int, int], Shapes] = {}
_NOTHING_LEARNED = Shapes(0, 0)


class Answer:
    """Read one HTTP response into its record. After `feed`, `done` says that the answer is over.

    `held`: what its last read says has not been looked at yet; `conclude` does it, when the connection is busy again.
    `reusable`: the connection may carry another request. `between`: the next bytes begin a new chunk and a new event,
    of which one has been learned, so `short_way` holds. keep_text: collect the answer in `text`, for a next turn.
    """

    __slots__ = (
        "_append", "_body", "_chunk_end", "_framed", "_hold", "_now", "_parser", "_prefix", "_saw_done", "_saw_other",
        "_shapes", "_suffix", "_tail", "between", "done", "held", "record", "reusable", "text",
    )  # fmt: skip

    def __init__(self, record: Record, *, keep_text: bool = False) -> None:
        self.record = record
        self.text: list[str] | None = [] if keep_text else None
        self.done = False
        self.reusable = False
        self._now = 0
        self._framed = False
        self._hold = False
        self.held: list[bytes] = []
        self._tail = b""
        self._body = b""
        self._saw_done = False
        self._saw_other = b""
        self._prefix = b""
        self._suffix = b""
        self._chunk_end = b""  # the learned suffix with the ends of event and chunk
        self._shapes = _NOTHING_LEARNED
        self.between = False
        self._append = record.events.append
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: bytes | memoryview, now_ns: int, *, hold: bool = False) -> None:
        """Take bytes that arrived at `now_ns`. hold: of what may be the last read, only HTTP is parsed at once."""
        self._now = now_ns
        self._hold = hold and self.text is None and data[-len(LAST) :] == LAST
        try:
            self._parser.feed_data(data)
            self.between = self.between and not self._tail and data[-2:] == b"\r\n"
        except httptools.HttpParserError as error:
            self._replay()
            if not self.done:
                self.fail("malformed", f"no valid HTTP: {error}")
            self.reusable = False
        if self._hold and not self.done:  # it was not the last one
            self._replay()

    def conclude(self) -> None:
        """Look at what was held back; then `record` is complete."""
        if not self.held:
            return
        self.done = False
        self._replay()
        if not self.done:
            self._complete(reusable=self.reusable)

    def _replay(self) -> None:
        self._hold = False
        held, self.held = self.held, []
        for block in held:
            self._event(block)

    def short_way(self) -> ShortWay:
        """Return what a read must be to count as a token without being parsed: see `Shapes`. Only while `between`."""
        return self._shapes, self._prefix, self._chunk_end, self._append

    def end_of_stream(self, now_ns: int) -> None:
        """Conclude from the closed connection; it was closed at `now_ns`."""
        self._now = now_ns
        if self.done:
            return
        status = self.record.status
        if self._saw_done or (status and (status != _OK or not self._framed)):
            self._complete(reusable=False)
        else:
            self.fail("cut", f"connection closed after {len(self.record.events)} token events")

    def release(self) -> None:
        """Let go of the parser, which holds this object: no garbage collector runs during a load."""
        self._parser = None

    def fail(self, error: str, detail: str) -> None:
        """End the answer as a failure; the first error stays."""
        record = self.record
        if not record.error:
            record.error = error
            record.detail = detail[:_DETAIL]
        record.end_ns = record.end_ns or self._now
        self.done = True
        self.reusable = False

    # --- called by httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the body's end is marked, so that a closed connection can be told from the end."""
        lower = name.lower()
        if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
            self._framed = True

    def on_message_begin(self) -> None:
        """Give up the connection when a second response begins that nobody asked for."""
        if self.done:
            self.reusable = False

    def on_chunk_header(self) -> None:
        """Note that a chunk has begun."""
        self.between = False

    def on_chunk_complete(self) -> None:
        """Note that a chunk is over; only a learned shape makes that useful."""
        self.between = bool(self._chunk_end)

    def on_headers_complete(self) -> None:
        """Take the status."""
        if not self.done:
            self.record.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Cut the body into events."""
        if self.done:
            return
        if self.record.status != _OK:
            self._body = (self._body + data)[:_DETAIL]
            return
        if not self._tail and data.endswith(b"\n\n") and data.count(b"\n\n") == 1 and b"\r" not in data:
            self._event(data[:-2])
            return
        text = self._tail + data
        # A carriage return at the end may be half of a line end.
        held = b"\r" if text.endswith(b"\r") else b""
        if b"\r" in text:
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = text.split(b"\n\n")
        self._tail = rest + held
        for event in events:
            self._event(event.lstrip(b"\n"))
        if len(self._tail) > _LONGEST_EVENT:
            self.fail("malformed", f"one event is longer than {_LONGEST_EVENT} bytes")

    def on_message_complete(self) -> None:
        """Conclude from the whole response."""
        if self.done:
            return
        if self.record.status < _FINAL_STATUS:  # 100 Continue and its like: the answer is still to come
            self.record.status = 0
            self._framed = False
        elif self.held:
            self.done, self.reusable = True, self._parser.should_keep_alive()
        else:
            self._complete(reusable=self._parser.should_keep_alive())

    # --- events

    def _event(self, block: bytes) -> None:
        if self._hold:
            self.held.append(block)
            return
        if self.done or not block.strip():
            return
        prefix, suffix = self._prefix, self._suffix
        if (
            prefix
            and block.startswith(prefix)
            and block.endswith(suffix)
            and is_plain(block[len(prefix) : -len(suffix)])
        ):
            self._append(self._now)
            return
        self._parse(block)

    def _parse(self, block: bytes) -> None:
        """Read an event whose shape is not known yet."""
        data = []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line.startswith((b":", b"event:", b"id:", b"retry:")):
                self._saw_other = self._saw_other or line
        payload = b"\n".join(data)
        if not data or not payload.strip():
            return
        if payload.strip() == b"[DONE]":
            self._saw_done = True
            return
        try:
            value = json.loads(payload.decode())
        except ValueError:
            self.fail("malformed", f"event is no JSON: {payload[:200]!r}")
            return
        if not isinstance(value, dict):
            self.fail("malformed", f"event is no JSON object: {payload[:200]!r}")
            return
        self._take(value, block)

    def _take(self, value: dict[str, Any], block: bytes) -> None:
        if value.get("error") is not None:
            self.fail("stream_error", json.dumps(value["error"], ensure_ascii=False))
            return
        record = self.record
        usage = value.get("usage")
        if isinstance(usage, dict):
            self._use(usage)
        choices = value.get("choices")
        if not isinstance(choices, list):
            if not isinstance(usage, dict):
                self.fail("malformed", f"event without choices: {block[:200]!r}")
            return
        channel = ""
        for choice in choices:
            if not isinstance(choice, dict):
                self.fail("malformed", f"choice is no object: {block[:200]!r}")
                return
            channel = channel or self._heard(choice.get("delta"))
            reason = choice.get("finish_reason")
            if isinstance(reason, str) and reason:
                record.finish_reason = reason
        if channel:
            self._count(block, channel, plain=not record.finish_reason and not isinstance(usage, dict))

    def _use(self, usage: dict[str, Any]) -> None:
        record = self.record
        record.prompt_tokens = _number(usage.get("prompt_tokens")) or record.prompt_tokens
        record.completion_tokens = _number(usage.get("completion_tokens")) or record.completion_tokens
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict):
            record.reasoning_tokens = _number(details.get("reasoning_tokens")) or record.reasoning_tokens

    def _count(self, block: bytes, channel: str, *, plain: bool) -> None:
        """Count a token event; a plain one, with nothing but text in it, may show the shape of the next ones."""
        record = self.record
        if not record.channels or record.channels[-1][1] != channel:
            record.channels.append((len(record.events), channel))
        self._append(self._now)
        if plain and self.text is None:
            self._learn(block, channel)

    def _heard(self, delta: object) -> str:
        """Return the channel on which this delta carries text, "" for none; tool calls are output as well."""
        if not isinstance(delta, dict):
            return ""
        for name in CHANNELS:
            text = delta.get(name)
            if isinstance(text, str) and text:
                if self.text is not None and name == "content":
                    self.text.append(text)
                return name
        return "tool_calls" if delta.get("tool_calls") else ""

    def _learn(self, block: bytes, channel: str) -> None:
        """Remember the bytes around this event's text; the next ones of the same shape need no JSON parser."""
        key = f'"{channel}":'.encode()
        if block.count(key) != 1 or b"\n" in block:
            return
        begin = block.index(key) + len(key)
        begin += block[begin : begin + 1] == b" "
        if block[begin : begin + 1] != b'"':
            return
        begin += 1
        end = block.find(b'"', begin)
        if b"\\" not in block[begin:end]:
            self._prefix, self._suffix = block[:begin], block[end:]
            self._chunk_end = self._suffix + b"\n\n\r\n"
            lengths = len(self._prefix), len(self._chunk_end)
            if lengths not in _SHAPES:
                _SHAPES[lengths] = Shapes(*lengths)
            self._shapes = _SHAPES[lengths]

    def _complete(self, *, reusable: bool) -> None:
        record = self.record
        if record.status != _OK:
            self.fail(f"http_{record.status}", self._body.decode(errors="replace"))
            self.reusable = reusable
            return
        if self._tail.strip():  # the last event lacks its blank line
            self._event(self._tail.strip(b"\r\n"))
        if self.done:  # that last event was malformed
            return
        seen = len(record.events)
        if not seen and self._saw_other:
            self.fail("malformed", f"no event stream: {self._saw_other[:200]!r}")
        elif not seen:
            self.fail("empty", "the stream ended without a token")
        elif record.finish_reason in _BAD_ENDS:
            self.fail("stream_error", f"finish_reason {record.finish_reason} after {seen} token events")
        elif not self._saw_done and not record.finish_reason:
            self.fail("cut", f"the stream ended after {seen} token events without finish_reason or [DONE]")
        else:
            record.end_ns = self._now
            self.done = True
        self.reusable = reusable


def is_plain(text: bytes) -> bool:
    """Whether this cannot leave the JSON string that it stands in: not empty, printable, no quote, no backslash."""
    if not text or b'"' in text or b"\\" in text:
        return False
    try:
        return text.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
