"""Prompts and requests as bytes."""

from __future__ import annotations

import json

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.prompts import WORDS, Requests, endpoint, own_words
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.workload import make_workload


def _requests(spec: PointSpec, nonce: int) -> Requests:
    return Requests(spec, make_workload(spec, 1), nonce=nonce)


def _spec(input_tokens: int = 100) -> PointSpec:
    return PointSpec("http://h:1", 'm"@', 1, 1, input_tokens, 7, extra={"temperature": 0.5})


def test_words_are_distinct() -> None:
    """256 of them make the beginnings distinct."""
    assert len(set(WORDS)) == len(WORDS) >= 256


def test_a_request_is_whole() -> None:
    """The length is right, the body is JSON, the prompt has about the asked number of tokens."""
    head, _, body = _requests(_spec(), 3).build(0).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h:1\r\n")
    value = json.loads(body)
    assert (value["model"], value["max_tokens"], value["temperature"]) == ('m"@', 7, 0.5)
    assert value["stream"] is True
    assert len(value["messages"][0]["content"].split()) == 96


@pytest.mark.parametrize("tokens", [4, 9, 100])
def test_no_two_prompts_begin_alike(tokens: int) -> None:
    """The first four words differ, between requests and between loads."""
    spec = _spec(tokens)
    bodies = [
        json.loads(requests.build(index).partition(b"\r\n\r\n")[2])["messages"][0]["content"]
        for requests in (_requests(spec, 5), _requests(spec, 1 << 31))
        for index in range(1000)
    ]
    assert len({" ".join(body.split()[:4]) for body in bodies}) == 2000
    assert own_words(0, 5)[0] != own_words(1, 5)[0]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://192.0.2.1:1025", ("192.0.2.1", 1025, "/v1/chat/completions", "192.0.2.1:1025")),
        ("192.0.2.1:1025/", ("192.0.2.1", 1025, "/v1/chat/completions", "192.0.2.1:1025")),
        ("https://h/v1/", ("h", 443, "/v1/chat/completions", "h")),
        ("http://h/x/chat/completions?a=1", ("h", 80, "/x/chat/completions?a=1", "h")),
        ("http://[::1]:80", ("::1", 80, "/v1/chat/completions", "[::1]:80")),
    ],
)
def test_urls(url: str, expected: tuple[str, int, str, str]) -> None:
    """All spellings that people paste."""
    target = endpoint(url)
    assert (target.host, target.port, target.path, target.authority) == expected


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:99999"])
def test_bad_urls(url: str) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(UsageError, match="expected something like"):
        endpoint(url)
