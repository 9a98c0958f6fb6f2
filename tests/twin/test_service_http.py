"""The emulated MindIE service over real HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.twin.service_engine import EngineConfig, kv_blocks
from runbook_lib.twin.service_http import BUSINESS, MANAGEMENT, METRICS, Service, ServiceConfig
from runbook_lib.twin.service_text import count_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ADDRESS = "127.77.9.1"
FAST = 2000.0


def config(*, engine: EngineConfig | None = None, **changes: Any) -> ServiceConfig:
    """Return a fast service on free ports."""
    values: dict[str, Any] = {
        "model": "deepseek-r1",
        "max_seq_len": 2560,
        "max_input_token_len": 2560,
        "max_iter_times": 512,
        "max_link_num": 300,
        "engine": engine or EngineConfig(time_factor=FAST),
        "monitor": True,
        "planes": {BUSINESS: (ADDRESS, 0), MANAGEMENT: (ADDRESS, 0), METRICS: (ADDRESS, 0)},
    }
    return ServiceConfig(**(values | changes))


@asynccontextmanager
async def running(settings: ServiceConfig) -> AsyncIterator[tuple[Service, int]]:
    """Run a service for a while."""
    service = Service(settings)
    await service.start()
    try:
        yield service, service.ports[0]
    finally:
        await service.close()


async def call(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """One request on its own connection; a chunked answer is returned with its framing removed."""
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        raw = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    answer, _, rest = raw.partition(b"\r\n\r\n")
    if b"chunked" in answer:
        parts = []
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        rest = b"".join(parts)
    return int(answer.split()[1]), rest


def chat(tokens: int | None = 24, text: str = "What limits decode speed?", **more: Any) -> dict[str, Any]:
    """Return a chat request."""
    limit = {} if tokens is None else {"max_tokens": tokens}
    return {"model": "deepseek-r1", "messages": [{"role": "user", "content": text}], **limit, **more}


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream that ended as it should."""
    lines = body.decode().strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that the service's own loop will make true."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("the condition did not come true in 10 s")


def run(scenario: Callable[[Service, int], Awaitable[None]], settings: ServiceConfig | None = None) -> None:
    """Run a scenario against a service."""

    async def main() -> None:
        async with running(settings or config()) as (service, port):
            await scenario(service, port)

    asyncio.run(main())


def test_a_stream_has_one_event_for_each_token_thoughts_first_and_usage_at_the_end() -> None:
    """A stream has one event for each token thoughts first and usage at the end."""

    async def scenario(_: Service, port: int) -> None:
        body = chat(stream=True, stream_options={"include_usage": True})
        status, answer = await call(port, "POST", "/v1/chat/completions", body)
        assert status == 200
        *pieces, usage = events(answer)
        assert len(pieces) == 24
        kinds = ["reasoning_content" in piece["choices"][0]["delta"] for piece in pieces]
        assert kinds == [True] * 12 + [False] * 12
        assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * 23 + ["length"]
        prompt = count_tokens("What limits decode speed?") + 4
        assert usage["usage"] == {"prompt_tokens": prompt, "completion_tokens": 24, "total_tokens": prompt + 24}

    run(scenario)


def test_without_stream_the_same_answer_comes_whole() -> None:
    """Without stream the same answer comes whole."""

    async def scenario(__: Service, port: int) -> None:
        _, answer = await call(port, "POST", "/v1/chat/completions", chat())
        message = json.loads(answer)["choices"][0]["message"]
        _, streamed = await call(port, "POST", "/v1/chat/completions", chat(stream=True))
        deltas = [event["choices"][0]["delta"] for event in events(streamed)]
        assert message["content"] == "".join(delta.get("content", "") for delta in deltas)
        assert message["reasoning_content"] == "".join(delta.get("reasoning_content", "") for delta in deltas)
        _, plain = await call(port, "POST", "/v1/completions", {"model": "deepseek-r1", "prompt": "Once upon"})
        assert json.loads(plain)["choices"][0]["finish_reason"] == "stop"

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", {"model": "deepseek-r1"}, "`inputs` or `prompt` must be necessary"),
        ("/v1/chat/completions", b"{", "Req body converts to json fail."),
        ("/v1/chat/completions", chat() | {"model": "other"}, "MIE04E020207"),
        ("/v1/chat/completions", chat(tokens=0), "`max_tokens` must be an integer"),
        (
            "/v1/completions",
            {"model": "deepseek-r1", "prompt": "a " * 2756},
            "This model's maximum input ids length cannot be greater than 2559,the input ids length is 2757",
        ),
    ],
)
def test_bad_requests_are_refused_in_the_service_s_words(path: str, body: object, words: str) -> None:
    """Bad requests are refused in the service's words."""

    async def scenario(_: Service, port: int) -> None:
        status, answer = await call(port, "POST", path, body)
        assert status == 422
        error = json.loads(answer)
        assert words in error["error"]
        assert error["error_type"] == "validation"

    run(scenario)


def test_planes_answer_and_an_unhealthy_service_says_so() -> None:
    """Planes answer and an unhealthy service says so."""

    async def scenario(service: Service, port: int) -> None:
        for path in ("/v2/health/live", "/v2/health/ready", "/health", "/v1/config", "/v2/status", "/v1/models"):
            assert (await call(port, "GET", path))[0] == 200
        assert (await call(port, "GET", "/nothing"))[0] == 404
        await call(port, "POST", "/v1/chat/completions", chat())
        _, page = await call(port, "GET", "/metrics")
        assert b'request_success_total{model_name="deepseek-r1"} 1' in page
        assert b'generation_tokens_total{model_name="deepseek-r1"} 24' in page
        service.healthy = False
        assert (await call(port, "GET", "/v2/health/ready"))[0] == 503
        assert (await call(port, "POST", "/v1/chat/completions", chat()))[0] == 503

    run(scenario)


def test_metrics_want_the_monitor_mode() -> None:
    """Metrics want the monitor mode."""

    async def scenario(_: Service, port: int) -> None:
        status, page = await call(port, "GET", "/metrics")
        assert (status, page) == (500, b"Environment variable MIES_SERVICE_MONITOR_MODE is not set.")

    run(scenario, config(monitor=False))


def test_400_streams_at_once_all_get_their_tokens() -> None:
    """400 streams at once all get their tokens."""

    async def scenario(service: Service, port: int) -> None:
        body = chat(tokens=12, stream=True)
        answers = await asyncio.gather(*(call(port, "POST", "/v1/chat/completions", body) for _ in range(400)))
        assert {(status, len(events(answer))) for status, answer in answers} == {(200, 12)}
        assert service.engine.free_blocks == service.config.engine.blocks
        assert service.in_flight == 0

    run(scenario, config(max_link_num=400, engine=EngineConfig(max_batch=512, time_factor=FAST)))


def test_more_than_three_times_max_link_num_is_refused() -> None:
    """More than three times max link num is refused."""

    async def scenario(_: Service, port: int) -> None:
        body = chat(tokens=40)
        calls = (call(port, "POST", "/v1/chat/completions", body) for _ in range(8))
        statuses = sorted(status for status, _ in await asyncio.gather(*calls))
        assert statuses == [200] * 6 + [429] * 2

    run(scenario, config(max_link_num=2, engine=EngineConfig(time_factor=100.0)))


def test_short_of_blocks_the_old_prefill_budget_never_finishes_and_a_larger_one_does() -> None:
    """Short of blocks the old prefill budget never finishes and a larger one does."""

    async def scenario(service: Service, port: int) -> None:
        body = {"model": "deepseek-r1", "prompt": "a " * 300, "max_tokens": 500}
        calls = asyncio.gather(*(call(port, "POST", "/v1/completions", body) for _ in range(4)))
        if service.config.engine.prefill_budget > 1000:
            assert {status for status, _ in await calls} == {200}
            assert service.engine.preemptions > 0
            return
        await until(lambda: bool(service.engine.waiting) and not service.engine.running)
        await asyncio.sleep(0.1)
        assert service.engine.waiting  # the head does not fit into one prefill: nothing will ever run
        assert not service.engine.running
        assert (await call(port, "GET", "/health"))[0] == 200
        calls.cancel()
        await asyncio.gather(calls, return_exceptions=True)

    for budget in (2560, 320):
        run(scenario, config(engine=EngineConfig(blocks=14, prefill_budget=budget, time_factor=20000.0)))


def test_a_client_that_leaves_gives_its_blocks_back() -> None:
    """A client that leaves gives its blocks back."""

    async def scenario(service: Service, port: int) -> None:
        _, writer = await asyncio.open_connection(ADDRESS, port)
        data = json.dumps(chat(tokens=500, stream=True)).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        await until(lambda: bool(service.engine.running))
        writer.transport.abort()
        await until(lambda: service.in_flight == 0)
        assert service.engine.free_blocks == service.config.engine.blocks
        assert service.metrics.failed == 1

    run(scenario, config(engine=EngineConfig(time_factor=50.0)))


def test_blocks_follow_the_documented_rule() -> None:
    """Blocks follow the documented rule."""
    documented = {("w8a8", 32, 0.8): 3130, ("w8a8", 16, 0.8): 792, ("w8a8", 16, 0.95): 1938, ("bf16", 32, 0.95): 1951}
    for (weights, cards, fraction), blocks in documented.items():
        assert kv_blocks(weights, cards, fraction) == pytest.approx(blocks, abs=6)
    assert kv_blocks("bf16", 16, 0.95) < 0
