"""The port on which shims, node processes and the command line talk to the resident process.

Every message is a list of NUL-ended fields; the first says what it is:
  tool   token node container pid cwd argc argv... env... ""   -> `reply code err-length out-length` NL err out
                                                               (`text` in place of `reply`: short, without NUL)
                                                               or `exec 0 0 0` NL argv NUL-ended
  ask    token node json                                       -> JSON
  admin  token json                                            -> JSON
The tool token is known in the nodes; the admin token only to the owner of the twin's folder.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from typing import TYPE_CHECKING, Any, cast

from runbook_lib.errors import RunbookError
from runbook_lib.twin.tools import TOOLS
from runbook_lib.twin.world import Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runbook_lib.twin.world import World

LOG = logging.getLogger(__name__)
_MAX_MESSAGE = 8 << 20
_MAX_ARGUMENTS = 10_000
# How many fields a message has, those of a tool without its arguments and environment.
_FIELDS = {"tool": 7, "ask": 4, "admin": 3}
_SHORT = 1500  # bytes that the shim's shell reads by itself, one system call each


class ToolPort:
    """Serves one twin. `admin` carries out what the command line asks for."""

    def __init__(
        self,
        world: World,
        tokens: tuple[str, str],
        admin: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    ) -> None:
        self.world = world
        self.tool_token, self.admin_token = tokens
        self.admin = admin
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: str) -> int:
        """Listen on a free port of `address` and return it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self), address, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and give up all calls under way."""
        if self._server is not None:
            self._server.close()
        mine = asyncio.current_task()
        others = [task for task in self.tasks if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def answer(self, fields: list[str]) -> bytes:
        """Return the answer to a whole message. Raises ValueError when it makes no sense."""
        kind, token = fields[:2]
        wanted = self.admin_token if kind == "admin" else self.tool_token
        if not hmac.compare_digest(token.encode(), wanted.encode()):
            raise ValueError("wrong token")
        if kind == "tool":
            return _frame(await _tool(_call(self.world, fields)))
        if kind == "ask":
            return await self._ask(fields[2], json.loads(fields[3]))
        return _json(await _guarded(self.admin(json.loads(fields[2]))))

    async def _ask(self, node: str, question: dict[str, Any]) -> bytes:
        answer = self.world.answers.get(str(question.get("question", "")))
        if answer is None or node not in self.world.nodes:
            return _json({"error": f"nobody answers {question.get('question')!r}"})
        return _json(await _guarded(answer(self.world.nodes[node], question)))


class _Caller(asyncio.Protocol):
    """One connection: one message, its answer, the end. A tool dies with the shim that called it.

    A protocol, not streams: they cost more than most of the tools do.
    """

    def __init__(self, port: ToolPort) -> None:
        self._port = port
        self._received = bytearray()
        self._fields: list[str] | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._task is not None:
            return  # nobody has more to say than one message
        self._received += data
        try:
            self._fields = _message(self._received)
        except ValueError as error:
            LOG.info("a caller of the tool port made no sense: %r", error)
            self._transport.abort()
            return
        if self._fields is not None:
            self._task = asyncio.get_running_loop().create_task(self._serve(self._fields))
            self._port.tasks.add(self._task)
            self._task.add_done_callback(self._port.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is None:
            LOG.info("a caller of the tool port left early: %r", exc)
        elif self._fields is not None and self._fields[0] == "tool" and not self._task.done():
            LOG.info("%s was killed by its caller", self._fields[7])
            self._task.cancel()

    async def _serve(self, fields: list[str]) -> None:
        try:
            self._transport.write(await self._port.answer(fields))
        except (OSError, ValueError, LookupError) as error:
            LOG.info("a caller of the tool port left or made no sense: %r", error)
        finally:
            self._transport.close()


def _message(received: bytearray) -> list[str] | None:
    """Return the fields of a message that is whole, None while more is to come. Raises ValueError."""
    if len(received) > _MAX_MESSAGE:
        raise ValueError(f"a message of more than {_MAX_MESSAGE} bytes")
    if not received.endswith(b"\0"):
        return None
    fields = received[:-1].decode("utf-8", "surrogateescape").split("\0")
    kind = fields[0]
    if kind not in _FIELDS:
        raise ValueError(f"unknown kind {kind!r}")
    if kind != "tool":
        return fields if len(fields) >= _FIELDS[kind] else None
    if len(fields) < _FIELDS[kind]:
        return None
    count = int(fields[6])
    if not 1 <= count <= _MAX_ARGUMENTS:
        raise ValueError(f"{count} arguments")
    # An argument may be empty; the first empty field behind them ends the environment.
    return fields if len(fields) > _FIELDS[kind] + count and not fields[-1] else None


async def _tool(call: ToolCall) -> Reply:
    name = call.argv[0]
    tool = TOOLS.get(name)
    if tool is None:
        return Reply(127, err=f"{name}: command not found\n")
    try:
        return await tool(call)
    except Exception:
        LOG.exception("the emulated %s failed", name)
        return Reply(125, err=f"{name}: the twin's own fault; see twin.log\n")


def _call(world: World, fields: list[str]) -> ToolCall:
    node, container, pid, cwd, count = fields[2:7]
    behind = 7 + int(count)
    env = dict(item.partition("=")[::2] for item in fields[behind:-1])
    return ToolCall(world, world.nodes[node], fields[7:behind], cwd, env, int(pid), container)


def _frame(reply: Reply) -> bytes:
    if reply.exec_argv is not None:
        return b"exec 0 0 0\n" + b"".join(_bytes(word) + b"\0" for word in reply.exec_argv)
    out, err = _bytes(reply.out), _bytes(reply.err)
    short = len(out) + len(err) <= _SHORT and 0 not in out and 0 not in err
    return f"{'text' if short else 'reply'} {reply.code & 255} {len(err)} {len(out)}\n".encode() + err + out


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _json(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode()


async def _guarded(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Turn an error into an answer: the asker is another process."""
    try:
        return await work
    except RunbookError as error:
        return {"error": error.message, "next": error.next_command}
    except Exception as error:
        LOG.exception("a question to the twin failed")
        return {"error": f"the twin's own fault: {error!r}; see twin.log", "next": ""}
