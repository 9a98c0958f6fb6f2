"""One answer: the same result wherever the bytes are cut, and nothing malformed is counted."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook_lib.load.record import Record
from runbook_lib.load.stream import Answer

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _event(text: str, finish: str | None = None) -> bytes:
    delta = {"content": text, "reasoning_content": None}
    value = {"choices": [{"delta": delta, "finish_reason": finish}], "usage": None}
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


_TEXTS = ["a", 'quote "', "back \\ slash", "data: x", "中文", "line\nbreak", "b", "c", "", " d"]
_STREAM = _HEAD + _chunked(
    *(_event(text) for text in _TEXTS),
    b": keep alive\n\n",
    _event("", "stop"),
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 12}}\n\n',
    b"data: [DONE]\n\n",
)


def _read(*pieces: bytes) -> tuple[Record, Answer]:
    record = Record(0, start_ns=1)
    answer = Answer(record)
    for now, piece in enumerate(pieces, start=10):
        answer.feed(piece, now)
    return record, answer


@given(st.lists(st.integers(0, len(_STREAM)), max_size=8))
def test_cuts_anywhere_do_not_matter(cuts: list[int]) -> None:
    """Nine texts are not empty; usage and finish reason come through."""
    places = [0, *sorted(cuts), len(_STREAM)]
    pieces = [_STREAM[begin:end] for begin, end in pairwise(places) if end > begin]
    record, answer = _read(*pieces)
    assert (record.error, len(record.events), record.finish_reason) == ("", 9, "stop")
    assert (record.prompt_tokens, record.completion_tokens) == (7, 12)
    assert answer.done
    assert answer.reusable


@given(cuts=st.lists(st.integers(0, len(_STREAM)), max_size=8), broken=st.booleans())
def test_an_end_that_is_read_later_is_the_same_end(*, cuts: list[int], broken: bool) -> None:
    """HTTP says at once that the connection is free; what the last read says comes with conclude, errors too."""
    stream = _STREAM.replace(b'"usage": {"prompt', b'"usage"; {"prompt') if broken else _STREAM
    places = [0, *sorted(cuts), len(stream)]
    record = Record(0, start_ns=1)
    answer = Answer(record)
    for begin, end in pairwise(places):
        answer.feed(stream[begin:end], end, hold=True)
    assert answer.done
    if answer.held:
        assert answer.reusable
        assert not record.end_ns
    answer.conclude()
    assert (record.error, record.end_ns > 0) == ("malformed" if broken else "", True)
    if not broken:
        assert (len(record.events), record.finish_reason, record.completion_tokens) == (9, "stop", 12)


def test_an_end_that_is_held_back_may_turn_out_to_be_none() -> None:
    """The bytes of an end inside a chunk, and HTTP that breaks in the last read."""
    text = b": \r\n0\r\n\r\n"
    for last in (b"%x\r\n%s" % (len(text) + 30, text), b"zz\r\n0\r\n\r\n"):
        record = Record(0, start_ns=1)
        answer = Answer(record)
        answer.feed(_HEAD + _chunked(_event("a"))[:-5], 1, hold=True)
        answer.feed(last, 2, hold=True)
        assert not answer.held
        assert answer.done is (record.error == "malformed") is last.startswith(b"zz")
        assert len(record.events) == 1


def test_byte_by_byte_with_carriage_returns() -> None:
    """Every kind of line end ends a line, even when cut in half."""
    body = b"".join(_event(text) for text in "abc") + _event("", "stop")
    for end in (b"\r\n", b"\r", b"\n"):
        stream = _HEAD + _chunked(body.replace(b"\n", end))
        record, _ = _read(*(stream[i : i + 1] for i in range(len(stream))))
        assert (record.error, len(record.events)) == ("", 3)


def test_times_are_those_of_the_arrivals() -> None:
    """Two events in one read share its time."""
    first = b"%x\r\n%s\r\n" % (len(_event("a")), _event("a"))
    record, _ = _read(_HEAD, first, first + first, _chunked(_event("b", "stop")))
    assert list(record.events) == [11, 12, 12, 13]
    assert record.end_ns == 13


@pytest.mark.parametrize(
    "bad",
    [
        _event("x")[:-4] + b"\n\n",
        _event("x").replace(b'"x"', b'"x'),
        _event("x").replace(b'"x"', b'"x\x01"'),
        _event("x").replace(b'"x"', b'"\xff"'),
        b"data: 17\n\n",
        b'data: {"something": "else"}\n\n',
        b'data: {"choices": [3]}\n\n',
    ],
)
def test_a_malformed_event_after_many_good_ones_is_seen(bad: bytes) -> None:
    """The short cut for events of a known shape must not let it through."""
    record, answer = _read(_HEAD + _chunked(*[_event("a")] * 5, bad, _event("b", "stop"), b"data: [DONE]\n\n"))
    assert (record.error, len(record.events)) == ("malformed", 5)
    assert answer.done
    assert not answer.reusable


def test_a_bad_finish_reason_is_an_error() -> None:
    """An aborted answer is none."""
    record, _ = _read(_HEAD + _chunked(_event("a"), _event("", "abort"), b"data: [DONE]\n\n"))
    assert record.error == "stream_error"


def test_an_answer_that_ends_with_the_connection() -> None:
    """Without chunks and length the close is the end, if the stream said that it was complete."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    for tail, error in ((_event("b", "stop"), ""), (_event("b"), "cut")):
        record, answer = _read(head + _event("a"), tail)
        assert not answer.done
        answer.end_of_stream(99)
        assert (record.error, len(record.events), record.end_ns) == (error, 2, 99)


def test_interim_responses_are_passed_over() -> None:
    """100 Continue is not the answer."""
    record, _ = _read(b"HTTP/1.1 100 Continue\r\n\r\n" + _STREAM)
    assert (record.status, record.error) == (200, "")


def test_an_error_status_counts_even_when_its_body_is_cut() -> None:
    """The status is known, so it is the class."""
    record, answer = _read(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nover")
    answer.end_of_stream(50)
    assert (record.error, record.detail) == ("http_503", "over")


def test_tool_calls_are_tokens() -> None:
    """A call of a tool is output as well."""
    call = b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0}]}, "finish_reason": null}]}\n\n'
    record, _ = _read(_HEAD + _chunked(call, b"data: [DONE]\n\n"))
    assert (record.error, len(record.events)) == ("", 1)
