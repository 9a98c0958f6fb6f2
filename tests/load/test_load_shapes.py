"""Open loops, conversations, loads of a fixed time, lengths by the server's count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.load.client import Client
from runbook_lib.load.prompts import Requests
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.worker import load, measure
from runbook_lib.load.workload import make_workload

if TYPE_CHECKING:
    from tests.load.conftest import Serve


def _spec(url: str, **changes: Any) -> PointSpec:
    return PointSpec(
        **{
            "url": url, "model": "m", "concurrency": 4, "requests": 12, "input_tokens": 32, "output_tokens": 3,
            "timeout_s": 20.0, "max_lateness_ms": 1e6, "min_delivered": 0.01, **changes,
        }
    )  # fmt: skip


def test_an_open_loop_keeps_its_times_whatever_the_service_does(serve: Serve) -> None:
    """Twenty per second into a service that runs one at a time: the queue grows, and so do latencies."""
    mock = serve(ttft_s=0.1, max_running=1)
    point = measure(_spec(mock.url, concurrency=64, arrival="constant", rate_per_s=40, requests=10))
    assert point.ok, point.reason
    assert (point.succeeded, point.arrival, point.rate_per_s) == (10, "constant", 40)
    assert point.ttft_ms is not None
    assert point.ttft_ms.max is not None
    assert point.ttft_ms.max > 5 * 100, "ten requests came within 225 ms and were served one by one"
    assert point.send_delay_ms is not None
    assert mock.connections > 4


def test_waiting_for_a_free_connection_counts(serve: Serve) -> None:
    """Two connections for what needs ten: latency is from the intended time, and the point is not ok."""
    mock = serve(ttft_s=0.1)
    spec = _spec(mock.url, concurrency=2, arrival="constant", rate_per_s=100, requests=10, max_lateness_ms=50)
    point = measure(spec)
    assert point.ttft_ms is not None
    assert point.ttft_ms.max is not None
    assert point.ttft_ms.max > 300
    assert not point.ok
    assert "later than meant" in point.reason
    assert "all 2 connections were busy" in point.reason


def test_turns_carry_the_conversation(serve: Serve) -> None:
    """Every turn holds all earlier questions and answers; one client speaks one conversation after the other."""
    mock = serve()
    point = measure(_spec(mock.url, concurrency=2, requests=12, turns=3))
    assert point.ok, point.reason
    assert point.succeeded == 12
    lengths = [len(body["messages"]) for body in mock.bodies]
    assert sorted(lengths) == [1] * 4 + [3] * 4 + [5] * 4
    longest = next(body["messages"] for body in mock.bodies if len(body["messages"]) == 5)
    assert [message["role"] for message in longest] == ["user", "assistant"] * 2 + ["user"]
    assert longest[1]["content"] == " t0 t1 t2"
    shorter = [body["messages"] for body in mock.bodies if len(body["messages"]) == 3]
    assert longest[:3] in shorter


def test_a_failed_turn_ends_its_conversation(serve: Serve) -> None:
    """What was to follow is never sent, and the point says so."""
    mock = serve(manner="http_500", every=2)
    point = measure(_spec(mock.url, concurrency=1, requests=4, turns=4))
    assert len(mock.bodies) == 2
    assert "2 of 4 requests were sent" in point.reason


def test_a_fixed_time_ends_a_closed_loop(serve: Serve) -> None:
    """Nothing new is sent afterwards; what is under way is finished, and counts."""
    mock = serve(ttft_s=0.05)
    point = measure(_spec(mock.url, requests=100_000, duration_s=0.3))
    assert point.ok, point.reason
    assert 4 <= point.requests == len(mock.bodies) < 100
    assert 0.3 <= point.duration_s < 10


def test_a_fixed_time_ends_conversations(serve: Serve) -> None:
    """Also in the middle of one."""
    point = measure(_spec(serve(ttft_s=0.05).url, requests=100_000, turns=50, duration_s=0.3))
    assert not point.errors
    assert point.requests < 100


def test_the_warm_up_measures_the_chat_template(serve: Serve) -> None:
    """The server counts 33 tokens whatever it gets: one more than asked for, so the next prompts are one shorter."""
    mock = serve()
    load(_spec(mock.url, warmup_requests=4, requests=4), seed=1)
    words = [len(prompt.split()) for prompt in mock.prompts]
    assert words == [28] * 4 + [27] * 4


def test_thinking_and_answer_apart(serve: Serve) -> None:
    """By the channel of their events."""
    spec = _spec(serve(channel="reasoning_content").url, requests=4)
    point = measure(spec)
    assert (point.thinking_tokens, point.content_tokens) == (3.0, 0.0)
    work = make_workload(spec, 1)
    with Client(spec) as client:
        client.open()
        records = client.run(Requests(spec, work, nonce=1), work).records
    assert records[0].channels == [(0, "reasoning_content")]
    assert records[0].thinking_events == 3


def test_goodput_counts_what_kept_the_bounds(serve: Serve) -> None:
    """Half of the requests wait for the other half."""
    mock = serve(ttft_s=0.1, max_running=2)
    point = measure(_spec(mock.url, concurrency=4, requests=4, slo_ttft_ms=180.0))
    assert point.goodput_share == 0.5
    assert measure(_spec(mock.url, requests=4)).goodput_share is None
