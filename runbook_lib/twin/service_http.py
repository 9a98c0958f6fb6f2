"""The HTTP server of the emulated MindIE service: business, management and metrics planes (mindie.md section 5)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.capacity.step_time import PS
from runbook_lib.twin.service_api import BadRequest, Completion, parse_completion
from runbook_lib.twin.service_engine import EngineConfig, LiveEngine
from runbook_lib.twin.service_metrics import Metrics
from runbook_lib.twin.service_text import reasoning_length

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping
    from typing import SupportsIndex

    from runbook_lib.capacity.group import Request
    from runbook_lib.capacity.rules import Rules

_HEAD_LIMIT = 64 * 1024
_BODY_LIMIT = 40 * 1024 * 1024  # maxRequestLength: 40 MB
_CONNECTIONS_PER_LINK = 3  # served, and waiting for a link
_OTHER_FILES = 100
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Entity",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
BUSINESS, MANAGEMENT, METRICS = "business", "management", "metrics"


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What the service takes from config.json and its environment."""

    model: str
    engine: EngineConfig
    monitor: bool = False
    version: str = "2.0.T3.1"
    planes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    tls: Mapping[str, ssl.SSLContext] = field(default_factory=dict)  # by plane; one without is plain HTTP

    @property
    def rules(self) -> Rules:
        """Lengths and limits."""
        return self.engine.rules


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: bytes
    keep: bool
    came_s: float  # when the last of it was there, by the loop's clock


class _Reader(asyncio.StreamReader):
    """Knows when its newest bytes came: the requests of a burst come together, but are read one after the other."""

    came_s = 0.0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.came_s = asyncio.get_running_loop().time()
        super().feed_data(data)


class Service:
    """One running service. `healthy` is set by the daemon; an unhealthy service answers 503."""

    def __init__(self, config: ServiceConfig, log: Callable[[str], None] = lambda _: None) -> None:
        self.config = config
        self.log = log
        self.healthy = True
        self.metrics = Metrics()
        self.engine = LiveEngine(config.engine)
        self._started_s = time.monotonic()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind every plane's address (equal ones are merged) and start the engine. Raises OSError."""
        _allow_files(_CONNECTIONS_PER_LINK * self.config.rules.max_link_num + _OTHER_FILES)
        by_socket: dict[tuple[str, int], set[str]] = {}
        for plane, place in self.config.planes.items():
            by_socket.setdefault(place, set()).add(plane)
        try:
            for (address, port), planes in by_socket.items():
                self._servers.append(await self._listen(address, port, planes))
        except OSError:
            await self.close()
            raise
        self._loop_task = asyncio.create_task(self.engine.run())

    async def _listen(self, address: str, port: int, planes: set[str]) -> asyncio.Server:
        def protocol() -> asyncio.StreamReaderProtocol:
            reader = _Reader(limit=_HEAD_LIMIT)

            async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._connection(reader, writer, planes)

            return asyncio.StreamReaderProtocol(reader, connected)

        # planes that share a port share its certificate: the first of them that has one
        tls = next((self.config.tls[plane] for plane in sorted(planes) if plane in self.config.tls), None)
        return await asyncio.get_running_loop().create_server(protocol, address, port, backlog=1024, ssl=tls)

    @property
    def ports(self) -> list[int]:
        """The ports that were bound, in the order of the planes."""
        return [int(server.sockets[0].getsockname()[1]) for server in self._servers]

    async def close(self) -> None:
        """Stop everything."""
        for server in self._servers:
            server.close()
        tasks = [*self._tasks, *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    async def _connection(self, reader: _Reader, writer: asyncio.StreamWriter, planes: set[str]) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            while (request := await _read(reader, writer)) is not None:
                await self._route(request, planes, writer)
                await writer.drain()
                if not request.keep:
                    break
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client went away or spoke no HTTP, or the service stops
        finally:
            if task is not None:
                self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _route(self, request: _Request, planes: set[str], writer: asyncio.StreamWriter) -> None:
        if BUSINESS in planes and request.path in {"/v1/chat/completions", "/v1/completions"}:
            if request.method == "POST":
                await self._complete(request, writer)
            else:
                _json(writer, 405, _error("Method not allowed.", "validation"))
        elif BUSINESS in planes and request.path == "/v1/models":
            _json(writer, 200, self._models())
        elif MANAGEMENT in planes and (answer := self._management(request.path)) is not None:
            _answer(writer, *answer)
        elif METRICS in planes and request.path == "/metrics":
            self._metrics_page(writer)
        else:
            _json(writer, 404, _error(f"{request.path} not found", "not_found"))

    def _models(self) -> dict[str, Any]:
        model = {"id": self.config.model, "object": "model", "owned_by": "MindIE Server", "created": int(time.time())}
        return {"object": "list", "data": [model | {"max_model_len": self.config.rules.max_seq_len}]}

    def _management(self, path: str) -> tuple[int, bytes, str] | None:
        kind = "application/json"
        if path in {"/v2/health/live", "/v2/health/ready", "/health"} or path.startswith("/health/timed"):
            return (200 if self.healthy else 503), b"", kind
        config, rules, state = self.config, self.config.rules, self.engine.engine
        if path == "/v1/config":
            facts: dict[str, Any] = {
                "modelName": config.model,
                "maxSeqLen": rules.max_seq_len,
                "maxInputTokenLen": rules.max_input_token_len,
                "maxIterTimes": rules.max_iter_times,
                "maxPrefillTokens": rules.max_prefill_tokens,
                "maxPrefillBatchSize": rules.max_prefill_batch_size,
                "maxBatchSize": rules.max_batch_size,
                "maxLinkNum": rules.max_link_num,
                "cacheBlockSize": rules.block_size,
            }
        elif path in {"/v1/status", "/v2/status"}:
            blocks = config.engine.blocks * state.dp
            facts = {
                "service": {"roles": "none", "version": config.version},
                "resource": {"availSlotsNum": max(0, rules.max_batch_size * state.dp - state.running)}
                | {"availBlockNum": state.free_blocks, "totalBlockNum": blocks},
                "requests": {"running": state.running, "waiting": state.waiting},
                "liveness": "healthy" if self.healthy else "unhealthy",
            }
        else:
            return None
        return 200, json.dumps(facts).encode(), kind

    def _metrics_page(self, writer: asyncio.StreamWriter) -> None:
        if not self.config.monitor:
            _answer(writer, 500, b"Environment variable MIES_SERVICE_MONITOR_MODE is not set.", "text/plain")
            return
        state = self.engine.engine
        blocks = self.config.engine.blocks * state.dp
        gauges: dict[str, float] = {
            "num_requests_running": state.running,
            "num_requests_waiting": state.waiting,
            "npu_cache_usage_perc": (blocks - state.free_blocks) / blocks,
            "num_preemptions_total": state.totals.preemptions,
        }
        up_s = (time.monotonic() - self._started_s) * self.config.engine.time_factor
        _answer(writer, 200, self.metrics.text(self.config.model, gauges, up_s).encode(), "text/plain; version=0.0.4")

    async def _complete(self, request: _Request, writer: asyncio.StreamWriter) -> None:
        self.metrics.received += 1
        try:
            completion = self._admit(request)
        except BadRequest as refused:
            self.metrics.failed += 1
            if refused.log:
                self.log(refused.log)
            _json(writer, refused.status, _error(refused.text, refused.kind))
            return
        await self._run(completion, request.came_s, writer)

    def _admit(self, request: _Request) -> Completion:
        completion = parse_completion(request.body, self.config, chat=request.path.endswith("chat/completions"))
        if not self.healthy:
            raise BadRequest(503, "The service is unhealthy.", "unavailable")
        return completion

    async def _run(self, completion: Completion, came_s: float, writer: asyncio.StreamWriter) -> None:
        stream = _Stream(self, completion, writer)
        request = self.engine.submit(completion.prompt_tokens, completion.limit, stream, came_s)
        if request is None:
            self.metrics.failed += 1
            # the documentation says "refused"; the status code is an assumption
            _json(writer, 429, _error("The number of requests is more than 3 times maxLinkNum.", "overloaded"))
            return
        try:
            await stream.done
        finally:
            self.engine.cancel(request)
        if not stream.ok:
            self.metrics.failed += 1
            raise ConnectionResetError("the client went away")
        self._count(completion, request)

    def _count(self, completion: Completion, request: Request) -> None:
        """Count a request that is done; its times are the engine's own."""
        metrics = self.metrics
        metrics.succeeded += 1
        metrics.prompt_tokens += completion.prompt_tokens
        metrics.generation_tokens += completion.limit
        metrics.prompt_lengths.observe(completion.prompt_tokens)
        metrics.output_lengths.observe(completion.limit)
        metrics.ttft.observe((request.first - request.arrived) / PS)
        metrics.e2e.observe((request.finished - request.arrived) / PS)
        if completion.limit > 1:
            metrics.tpot.observe((request.finished - request.first) / PS / (completion.limit - 1))


class _Stream:
    """One request under way: writes its pieces as the engine makes them, one write a token."""

    __slots__ = ("completion", "done", "ok", "prefix", "reasoning", "sent", "service", "transport", "writer")

    def __init__(self, service: Service, completion: Completion, writer: asyncio.StreamWriter) -> None:
        self.service = service
        self.completion = completion
        self.writer = writer
        self.transport = writer.transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ok = False
        self.sent = 0
        self.prefix = completion.prefix()
        self.reasoning = reasoning_length(completion.limit) if completion.chat else 0

    def token(self) -> None:
        if self.transport.is_closing():
            self._finish()
            return
        index, completion = self.sent, self.completion
        self.sent = index + 1
        last = self.sent == completion.limit
        if completion.stream:
            data = completion.token_chunk(self.prefix, index, self.reasoning)
            if index == 0:
                data = _STREAM_HEAD + data
            if last:
                data += completion.end_chunks(self.prefix)
            self.transport.write(data)
        elif last:
            _json(self.writer, 200, completion.whole(self.reasoning))
        if last:
            self.ok = True
            self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def _allow_files(needed: int) -> None:
    """Raise the soft limit of open files where the hard one allows it: each client holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _error(text: str, kind: str) -> dict[str, str]:
    return {"error": text, "error_type": kind}


def _json(writer: asyncio.StreamWriter, status: int, content: object) -> None:
    _answer(writer, status, json.dumps(content, ensure_ascii=False).encode(), "application/json")


def _answer(writer: asyncio.StreamWriter, status: int, body: bytes, kind: str) -> None:
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode("latin-1") + body)


async def _read(reader: _Reader, writer: asyncio.StreamWriter) -> _Request | None:
    """Return the next request, or None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = await _read_chunked(reader)
    elif length := int(headers.get("content-length", "0")):
        if length > _BODY_LIMIT:
            _json(writer, 413, _error("The request body is too large.", "validation"))
            return None
        body = await reader.readexactly(length)
    keep = headers.get("connection", "").lower() != "close"
    return _Request(method, target.partition("?")[0], body, keep, reader.came_s)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        total += size
        if total > _BODY_LIMIT:
            raise ValueError("body too large")
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while (await reader.readuntil(b"\r\n")) != b"\r\n":
        pass
    return b"".join(parts)
