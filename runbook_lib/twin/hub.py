"""The emulated weights hub: an HTTP/1.1 file server with Range, ETag, limits, a request log and faults.

It is a plain mirror and speaks the APIs of the hubs (hub_apis.py), whose large files come from a second port, the CDN.
Faults are keys of the dict `knobs` (world.state["hub"]); the first five act once and are then removed:
  cut_after_bytes   int: close the connection after so many body bytes
  wrong_byte_at     int: flip the byte at this offset of the file
  retry_after_s     number: answer 429 with Retry-After
  stall_s           number: say nothing for so long in the middle of a body
  etag              str: another ETag, as after a change of the file on the server
  client_bytes_per_s, total_bytes_per_s   number: limits of each client, and of all together (they stay)
  ignore_range      true: answer 200 with everything, whatever Range says (stays until removed)
  only              str: the faults above act only on paths that contain this word
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from runbook_lib.twin.hub_apis import Answer, Apis
from runbook_lib.twin.weights_repo import build_repository, file_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runbook_lib.twin.world import World

_CHUNK = 256 * 1024
_PACED_CHUNK = 16 * 1024
_LIMITS = {"client_bytes_per_s", "total_bytes_per_s"}
_HEAD_LIMIT = 16 * 1024
_REASONS = {
    200: "OK",
    206: "Partial Content",
    302: "Found",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    416: "Range Not Satisfiable",
    429: "Too Many Requests",
}


@dataclass
class ClientLog:
    """What one client address has asked for."""

    requests: int = 0
    bytes: int = 0
    ranges: int = 0
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Body:
    path: Path
    start: int
    length: int
    cut_after: int | None = None
    wrong_at: int | None = None
    stall_s: float = 0.0


class Hub:
    """Serves the files below `folder`. `clients` is the request log."""

    def __init__(self, folder: Path, knobs: dict[str, Any], repository: Path | None = None) -> None:
        self.folder = folder
        self.knobs = knobs
        self.clients: dict[str, ClientLog] = {}
        self.apis = Apis(repository or folder, knobs)
        self._etags: dict[Path, tuple[int, int, str]] = {}
        self._server: asyncio.Server | None = None
        self._cdn: asyncio.Server | None = None
        self._due: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._connection, address, port, limit=_HEAD_LIMIT)
        self._cdn = await asyncio.start_server(self._connection, address, 0, limit=_HEAD_LIMIT)
        self.apis.cdn = f"http://{address}:{self._cdn.sockets[0].getsockname()[1]}"

    @property
    def port(self) -> int:
        """The port that was bound."""
        if self._server is None:
            raise RuntimeError("the hub is not started")
        return int(self._server.sockets[0].getsockname()[1])

    def log(self) -> dict[str, dict[str, Any]]:
        """Return the request log as plain data."""
        return {address: asdict(entry) for address, entry in self.clients.items()}

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        servers = [server for server in (self._server, self._cdn) if server is not None]
        for server in servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in servers:
            await server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client went away, or the hub closes: nothing to answer
        finally:
            if task is not None:
                self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; true when the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        try:
            method, target, _ = head[0].split(" ", 2)
        except ValueError:
            await _answer(writer, 400, {}, b"bad request\n")
            return False
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        path = unquote(urlsplit(target).path)
        entry = self.clients.setdefault(writer.get_extra_info("peername")[0], ClientLog())
        entry.requests += 1
        entry.paths.append(path)
        entry.ranges += "range" in headers
        keep = headers.get("connection", "").lower() != "close"
        if method not in {"GET", "HEAD"}:
            await _answer(writer, 405, {"Allow": "GET, HEAD"}, b"")
            return False
        hub = self.apis.answer(target, headers)
        if hub is not None and not hub.file:
            return await self._said(writer, hub, path, head_only=method == "HEAD") and keep
        file = self.apis.folder / hub.file if hub is not None else self._find(path)
        if hub is not None and not hub.resumable:
            headers.pop("range", None)
        if file is None:
            await _answer(writer, 404, {}, b"not found\n", head_only=method == "HEAD")
            return keep
        if (wait := self._take("retry_after_s", path)) is not None:
            await _answer(writer, 429, {"Retry-After": str(wait)}, b"slow down\n", head_only=method == "HEAD")
            return keep
        return await self._send_file(file, path, headers, writer, entry, head_only=method == "HEAD") and keep

    async def _said(self, writer: asyncio.StreamWriter, hub: Answer, path: str, *, head_only: bool) -> bool:
        """Send what a hub's API says, unless it is told to be busy."""
        if (wait := self._take("retry_after_s", path)) is not None:
            limit = {"Retry-After": str(wait), "RateLimit": f'"api";r=0;t={int(wait)}'}
            await _answer(writer, 429, limit, b"slow down\n", head_only=head_only)
        else:
            await _answer(writer, hub.status, hub.headers, hub.body, head_only=head_only)
        return True

    async def _paced(self, client: str, count: int) -> None:
        """Wait until so many bytes may go to a client."""
        for who, limit in ((client, self.knobs.get("client_bytes_per_s")), ("", self.knobs.get("total_bytes_per_s"))):
            if limit:
                now = time.monotonic()
                self._due[who] = max(self._due.get(who, now), now - 0.02) + count / limit
                await asyncio.sleep(max(0.0, self._due[who] - now))

    def _find(self, path: str) -> Path | None:
        parts = [part for part in path.split("/") if part]
        if not parts or any(part.startswith(".") for part in parts):
            return None
        file = self.folder.joinpath(*parts)
        return file if file.is_file() else None

    def _applies(self, knob: str, path: str) -> bool:
        return knob in self.knobs and str(self.knobs.get("only", "")) in path

    def _take(self, knob: str, path: str) -> Any:  # noqa: ANN401 - a knob is any JSON value
        return self.knobs.pop(knob) if self._applies(knob, path) else None

    async def _etag(self, file: Path) -> str:
        stamp = _stamp(file)
        known = self._etags.get(file)
        if known is None or known[:2] != stamp:
            known = self._etags[file] = (*stamp, await asyncio.to_thread(file_sha256, file))
        return f'"{known[2]}"'

    async def _send_file(  # noqa: PLR0913 - the parts of one request
        self,
        file: Path,
        path: str,
        headers: Mapping[str, str],
        writer: asyncio.StreamWriter,
        entry: ClientLog,
        *,
        head_only: bool,
    ) -> bool:
        _, size = _stamp(file)
        etag = self._take("etag", path) or await self._etag(file)
        fields = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = headers.get("range")
        if wanted is not None and (self._applies("ignore_range", path) or headers.get("if-range", etag) != etag):
            wanted = None
        span = (0, size) if wanted is None else _span(wanted, size)
        if span is None:
            await _answer(writer, 416, fields | {"Content-Range": f"bytes */{size}"}, b"", head_only=head_only)
            return True
        start, length = span
        if wanted is not None:
            fields["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        fields["Content-Length"] = str(length)
        writer.write(_head(200 if wanted is None else 206, fields))
        if head_only:
            await writer.drain()
            return True
        body = _Body(
            file,
            start,
            length,
            self._take("cut_after_bytes", path),
            self._take("wrong_byte_at", path),
            float(self._take("stall_s", path) or 0.0),
        )
        return await self._stream(body, writer, entry)

    async def _stream(self, body: _Body, writer: asyncio.StreamWriter, entry: ClientLog) -> bool:
        """Send the bytes; false when a fault cut them short."""
        end = body.length if body.cut_after is None else min(body.length, body.cut_after)
        client, limited = writer.get_extra_info("peername")[0], _LIMITS & self.knobs.keys()
        if limited:  # else megabytes lie in the kernel, and the limit is none for a small model
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACED_CHUNK * 2)
        piece = _PACED_CHUNK if limited else _CHUNK
        with body.path.open("rb") as file:
            file.seek(body.start)
            sent = 0
            while sent < end:
                chunk = bytearray(file.read(min(piece, end - sent)))
                if not chunk:
                    return False
                if body.wrong_at is not None and 0 <= (at := body.wrong_at - body.start - sent) < len(chunk):
                    chunk[at] ^= 0xFF
                if body.stall_s and sent + len(chunk) >= end // 2:
                    await asyncio.sleep(body.stall_s)
                await self._paced(client, len(chunk))
                writer.write(bytes(chunk))
                entry.bytes += len(chunk)  # before it is known whether they arrive: a client that leaves had them sent
                await writer.drain()
                sent += len(chunk)
        return end == body.length


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


def _span(header: str, size: int) -> tuple[int, int] | None:
    """Return (start, length) of a single byte range, or None when it cannot be satisfied."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return (0, size)  # RFC 9110: an unreadable Range is ignored
    if not match[1]:
        length = min(int(match[2]), size)
        return (size - length, length) if length else None
    start = int(match[1])
    end = min(int(match[2]) + 1 if match[2] else size, size)
    return (start, end - start) if start < end else None


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _answer(
    writer: asyncio.StreamWriter, status: int, fields: Mapping[str, str], body: bytes, *, head_only: bool = False
) -> None:
    writer.write(_head(status, {**fields, "Content-Length": str(len(body))}) + (b"" if head_only else body))
    await writer.drain()


async def start_hub(world: World) -> Hub | None:
    """Build the repository of the params and serve it where they say; None for weights from a folder of a host."""
    source = world.params.model.weights.source
    twin = world.params.twin
    if twin is None:
        raise ValueError("a twin needs params.twin")
    if source.kind == "path":
        return None
    url = urlsplit(source.endpoint)
    if not (url.hostname or "").startswith(f"{twin.network}."):
        raise OSError(f"a twin's hub has an address {twin.network}.x, not {url.hostname}")
    root = world.root / "hub"
    name = url.path.strip("/") if source.kind == "mirror" else source.repository
    repository = root.joinpath(*name.split("/"))
    await asyncio.to_thread(
        build_repository,
        repository,
        weights_format=world.params.model.format,
        weights_bytes=twin.weights_bytes,
    )
    hub = Hub(root, world.state.setdefault("hub", {}), repository)
    await hub.start(str(url.hostname), url.port or 80)
    return hub
