"""The emulated MindIE service over real HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.rules import Generation, Rules
from runbook_lib.capacity.setup import Setup
from runbook_lib.twin.service_engine import EngineConfig
from runbook_lib.twin.service_http import BUSINESS, MANAGEMENT, METRICS, Service, ServiceConfig
from runbook_lib.twin.service_text import count_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ADDRESS = "127.77.9.1"
FAST = 2000.0


def config(
    *, blocks: int = 1938, time_factor: float = FAST, layout: Layout | None = None, monitor: bool = True, **changes: Any
) -> ServiceConfig:
    """Return a fast service on free ports; `changes` are scheduling settings."""
    settings: dict[str, Any] = {"max_seq_len": 2560, "max_input_token_len": 2560, "max_iter_times": 512}
    rules = Rules(blocks=0, **(settings | {"max_link_num": 300} | changes))
    return ServiceConfig(
        model="deepseek-r1",
        engine=EngineConfig(Setup(layout or Layout(2, 8), rules), blocks, time_factor),
        monitor=monitor,
        planes={BUSINESS: (ADDRESS, 0), MANAGEMENT: (ADDRESS, 0), METRICS: (ADDRESS, 0)},
    )


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
        assert service.engine.engine.linked == 0

    run(scenario, config(max_link_num=400, max_batch_size=512))


def test_more_than_three_times_max_link_num_is_refused() -> None:
    """More than three times max link num is refused."""

    async def scenario(_: Service, port: int) -> None:
        body = chat(tokens=40)
        calls = (call(port, "POST", "/v1/chat/completions", body) for _ in range(8))
        statuses = sorted(status for status, _ in await asyncio.gather(*calls))
        assert statuses == [200] * 6 + [429] * 2

    run(scenario, config(max_link_num=2, time_factor=100.0))


@pytest.mark.parametrize(("generation", "ends"), [(Generation.OLD, False), (Generation.NEW, True)])
def test_the_recompute_dead_end_is_there_under_the_old_rule_only(generation: Generation, *, ends: bool) -> None:
    """Preempted requests that are longer than maxPrefillTokens never come back; health stays green all the while."""

    async def scenario(service: Service, port: int) -> None:
        body = {"model": "deepseek-r1", "prompt": "a " * 300, "max_tokens": 500}
        calls = asyncio.gather(*(call(port, "POST", "/v1/completions", body) for _ in range(4)))
        state = service.engine.engine
        if ends:
            assert {status for status, _ in await calls} == {200}
            assert state.totals.preemptions > 0
            return
        await until(lambda: state.waiting > 0 and state.running == 0 and state.totals.preemptions > 0)
        decodes = state.totals.decodes
        late = asyncio.create_task(call(port, "POST", "/v1/completions", body | {"prompt": "short"}))
        await asyncio.sleep(0.1)
        assert (state.running, state.totals.decodes) == (0, decodes)  # also who came later gets no token, for ever
        assert not late.done()
        assert (await call(port, "GET", "/health"))[0] == 200
        assert (await call(port, "GET", "/v2/health/ready"))[0] == 200
        assert b'num_requests_running{model_name="deepseek-r1"} 0' in (await call(port, "GET", "/metrics"))[1]
        for task in (calls, late):
            task.cancel()
        await asyncio.gather(calls, late, return_exceptions=True)

    run(
        scenario,
        config(blocks=14, time_factor=20000.0, max_input_token_len=320, max_prefill_tokens=320, generation=generation),
    )


def test_streams_are_told_what_the_engine_decided() -> None:
    """First-token and decode times on the wire are those of the engine, and metrics count them."""

    async def scenario(service: Service, port: int) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        data = json.dumps(chat(tokens=20, stream=True)).encode()
        start_s = loop.time()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        await reader.readuntil(b'"role":"assistant"')
        first_s = loop.time() - start_s
        await reader.readuntil(b"[DONE]")
        end_s = loop.time() - start_s
        writer.close()
        await writer.wait_closed()
        times, factor = service.config.engine.setup.times, service.config.engine.time_factor
        prompt = count_tokens("What limits decode speed?") + 4
        prefill_s = (times.prefill_ps(prompt, prompt**2, prompt) + 5e9) / 1e12 / factor
        context = sum(prompt + index for index in range(1, 20))
        decode_s = (19 * times.decode_ps(1, 1) + context * times.context_ps) / 1e12 / factor
        assert first_s >= prefill_s
        assert end_s >= prefill_s + decode_s
        assert service.engine.lateness.steps == 20
        (ttft, decode) = (service.metrics.ttft, service.metrics.tpot)
        assert ttft.total == pytest.approx(prefill_s * factor, rel=1e-6)
        assert decode.total == pytest.approx(decode_s * factor / 19, rel=1e-6)

    run(scenario, config(time_factor=20.0))


def test_groups_have_queues_and_blocks_of_their_own() -> None:
    """With dp 2 the requests are spread over two groups, whose blocks all come back."""

    async def scenario(service: Service, port: int) -> None:
        body = chat(tokens=40, stream=True)
        calls = asyncio.gather(*(call(port, "POST", "/v1/chat/completions", body) for _ in range(8)))
        groups = service.engine.engine.groups
        await until(lambda: [group.live for group in groups] == [4, 4])
        assert {status for status, _ in await calls} == {200}
        assert [group.free for group in groups] == [500, 500]
        status = json.loads((await call(port, "GET", "/v1/status"))[1])
        assert status["resource"]["totalBlockNum"] == status["resource"]["availBlockNum"] == 1000

    run(scenario, config(blocks=500, layout=Layout(2, 8, dp=2), time_factor=100.0))


def test_a_client_that_leaves_gives_its_blocks_back() -> None:
    """A client that leaves gives its blocks back."""

    async def scenario(service: Service, port: int) -> None:
        _, writer = await asyncio.open_connection(ADDRESS, port)
        data = json.dumps(chat(tokens=500, stream=True)).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        await until(lambda: service.engine.engine.running > 0)
        writer.transport.abort()
        await until(lambda: service.engine.engine.linked == 0)
        assert service.engine.free_blocks == service.config.engine.blocks
        assert service.metrics.failed == 1

    run(scenario, config(time_factor=50.0))
