"""A chat completions server with a fixed schedule that logs what it really did: the truth for load_truth.py.

One process, one epoll loop. Every `bad_every`-th request is answered badly, in the given manner. When told to stop
(stdin closes) it writes one JSON object with the truth to stdout.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


_SO_TIMESTAMPNS = 35  # asm-generic/socket.h


@dataclass
class _Request:
    """One request as the server saw it; times in ns of the monotonic clock."""

    received_ns: int
    tokens: int
    number: int
    sent: list[int] = field(default_factory=list)
    ended_ns: int = 0
    bad: str = ""


@dataclass(eq=False)
class _Connection:
    sock: socket.socket
    data: bytes = b""
    request: _Request | None = None
    done: int = 0


class Server:
    """Serves until stdin closes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._log: list[_Request] = []
        self._due: list[tuple[int, int, _Connection]] = []
        self._connections: dict[int, _Connection] = {}
        self._epoll = select.epoll()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)  # noqa: FBT003 - the socket module's own interface
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(0, select.EPOLLIN)
        self._turn = 0

    def run(self) -> None:
        """Say the port, serve, and say the truth."""
        sys.stdout.write(f"{self._listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            wait_s = 0.5
            if self._due:
                wait_s = max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9)
            for fd, _ in self._epoll.poll(wait_s, 4096):
                if fd == 0:
                    if not os.read(0, 4096):
                        sys.stdout.write(json.dumps(self._truth()) + "\n")
                        return
                elif fd == self._listener.fileno():
                    self._accept()
                elif fd in self._connections:
                    self._read(self._connections[fd])
            now_ns = time.monotonic_ns()
            while self._due and self._due[0][0] <= now_ns:
                due_ns, _, connection = heapq.heappop(self._due)
                self._emit(connection, due_ns)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            sock.setblocking(False)  # noqa: FBT003 - as above
            self._connections[sock.fileno()] = _Connection(sock)
            self._epoll.register(sock, select.EPOLLIN)

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            connection.sock.close()

    def _read(self, connection: _Connection) -> None:
        try:
            data, ancillary, _, _ = connection.sock.recvmsg(65536, 64)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._close(connection)
            return
        connection.data += data
        head, found, body = connection.data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0) if found else 0
        if not found or len(body) < size:
            return
        connection.data = body[size:]
        now_ns = _arrived_ns(ancillary)
        request = _Request(now_ns, json.loads(body[:size])["max_tokens"], len(self._log) + 1)
        self._log.append(request)
        if self._options.bad and request.number % self._options.bad_every == 0:
            request.bad = self._options.bad
        if request.bad == "error":
            request.ended_ns = now_ns
            connection.sock.send(_BUSY)
            return
        connection.request, connection.done = request, 0
        self._push(now_ns + int(self._options.ttft_ms * 1e6), connection)

    def _push(self, due_ns: int, connection: _Connection) -> None:
        self._turn += 1
        heapq.heappush(self._due, (due_ns, self._turn, connection))

    def _emit(self, connection: _Connection, due_ns: int) -> None:
        request = connection.request
        if request is None or connection.sock.fileno() < 0:
            return
        if request.bad == "cut" and connection.done >= request.tokens // 2:
            request.ended_ns = time.monotonic_ns()
            self._close(connection)
            return
        burst = min(self._options.burst, request.tokens - connection.done)
        last = connection.done + burst >= request.tokens
        thinking = connection.done < self._options.reasoning * request.tokens
        data = _HEAD if not connection.done else b""
        data += _chunk(
            request.number, connection.done, burst, "reasoning_content" if thinking else "content", last=last
        )
        connection.done += burst
        request.sent.append(time.monotonic_ns())
        if last:
            data += _usage(request.tokens) + _END
        try:
            connection.sock.send(data)
        except OSError:
            self._close(connection)
            return
        if last:
            request.ended_ns, connection.request = time.monotonic_ns(), None
        else:
            self._push(due_ns + int(self._options.itl_ms * 1e6 * burst), connection)

    def _truth(self) -> dict[str, object]:
        good = [each for each in self._log if each.ended_ns and not each.bad]
        first, last = min(each.received_ns for each in self._log), max(each.ended_ns for each in self._log)
        return {
            "first_ns": first,
            "requests": len(self._log),
            "bad": sum(bool(each.bad) for each in self._log),
            "tokens": sum(each.tokens for each in good),
            "ttft_ms": sorted((each.sent[0] - each.received_ns) / 1e6 for each in good),
            "itl_ms": sorted(
                (after - before) / 1e6 for each in good for before, after in zip(each.sent, each.sent[1:], strict=False)
            ),
            "in_flight": sum(each.ended_ns - each.received_ns for each in self._log) / max(1, last - first),
            "seconds": (last - first) / 1e9,
        }


def _wrapped(value: object) -> bytes:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _arrived_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """Return when the kernel received the request: this loop may be late when many come at once."""
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    [(_, _, stamp)] = ancillary
    seconds, nanoseconds = struct.unpack("qq", stamp)
    return now_ns - (wall_ns - (int(seconds) * 1_000_000_000 + int(nanoseconds)))


def _chunk(number: int, done: int, burst: int, channel: str, *, last: bool) -> bytes:
    text = "".join(f" word{(number + done + step) % 997}" for step in range(burst))
    delta = {channel: text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": "length" if last else None}
    return _wrapped({"id": f"c{number}", "object": "chat.completion.chunk", "model": "mock", "choices": [choice]})


def _usage(tokens: int) -> bytes:
    return _wrapped({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttft-ms", type=float, default=200.0)
    parser.add_argument("--itl-ms", type=float, default=50.0)
    parser.add_argument("--bad", choices=("", "error", "cut"), default="")
    parser.add_argument("--bad-every", type=int, default=7)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--reasoning", type=float, default=0.0)
    Server(parser.parse_args()).run()


if __name__ == "__main__":
    main()
