"""A small chat completions service with a schedule and with bad manners on demand."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%sTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Mock:
    """The service. `manner` is how each `every`-th request is answered, the others are answered well."""

    manner: str = "well"
    every: int = 1
    ttft_s: float = 0.03
    itl_s: float = 0.005
    channel: str = "content"
    max_running: int = 0
    tls: ssl.SSLContext | None = None
    prompts: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    running: int = 0
    most_running: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        """The root of the service."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.connections += 1
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.lower().split("content-length:")[1].split("\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        self.heads.append(head)
        self.bodies.append(body)
        self.prompts.append(body["messages"][0]["content"])
        manner = self.manner if len(self.bodies) % self.every == 0 else "well"
        while self.max_running and self.running >= self.max_running:  # noqa: ASYNC110 - simplest queue there is
            await asyncio.sleep(0.001)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(writer, body, manner)
        finally:
            self.running -= 1

    async def _answer(self, writer: asyncio.StreamWriter, body: dict[str, Any], manner: str) -> bool:
        await asyncio.sleep(self.ttft_s)
        if manner == "silent":
            await asyncio.sleep(60)
        if manner == "http_500":
            writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 12\r\n\r\nout of cards")
            return True
        if manner == "json":
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"choices":[]}')
            return True
        if manner == "no_http":
            writer.write(b"SSH-2.0-not what you think\r\n\r\n")
            return False
        writer.write(_HEAD % (b"Connection: close\r\n" if manner == "close" else b""))
        self._chunk(writer, _event({"role": "assistant", "content": ""}))
        if manner != "empty" and not await self._tokens(writer, body["max_tokens"], manner):
            return False
        if manner not in {"no_usage", "empty", "no_end"}:
            usage = {"prompt_tokens": 33, "completion_tokens": body["max_tokens"]}
            self._chunk(writer, b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        if manner != "no_end":
            self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        return manner != "close"

    async def _tokens(self, writer: asyncio.StreamWriter, count: int, manner: str) -> bool:
        burst = b""
        for number in range(count):
            if number and manner != "burst":
                await asyncio.sleep(self.itl_s)
            last = number == count - 1 and manner != "no_end"
            event = _event({self.channel: f" t{number}"}, "length" if last else None)
            if manner == "crlf":
                event = b": ping\r\n\r\n" + event.replace(b"\n", b"\r\n")
            if manner == "burst":
                burst += event
            elif manner == "cut_event":
                self._chunk(writer, event[:37])
                await asyncio.sleep(0.002)
                self._chunk(writer, event[37:-1])
                await asyncio.sleep(0.002)
                self._chunk(writer, event[-1:])
            elif manner == "malformed" and number == count // 2:
                self._chunk(writer, event[:-9] + b"\n\n")
            elif manner == "stream_error" and number == count // 2:
                self._chunk(writer, b'data: {"error": {"message": "engine died"}}\n\n')
            elif manner == "cut" and number == count // 2:
                return False
            else:
                self._chunk(writer, event)
        if burst:
            self._chunk(writer, burst)
        return True

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    value = {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


class Serve(Protocol):
    """Start a mock and return it; it ends with the test."""

    def __call__(self, **manners: Any) -> Mock:
        """Take the fields of the mock."""
        ...


class _Thread:
    """One mock in a thread with its own loop."""

    def __init__(self, mock: Mock) -> None:
        self._mock = mock
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._mock.connection, "127.0.0.1", 0, ssl=self._mock.tls, backlog=512)
        self._mock.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        await asyncio.sleep(0.02)  # asyncio leaks a connection that it is accepting while the server closes
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # aborted transports close their sockets in the next rounds of the loop

    def close(self) -> None:
        """End the service and all its connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start mocks that end with the test."""
    threads: list[_Thread] = []

    def start(**manners: Any) -> Mock:
        mock = Mock(**manners)
        threads.append(_Thread(mock))
        return mock

    yield start
    for thread in threads:
        thread.close()
