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
import contextlib
import hmac
import json
import logging
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RunbookError
from runbook_lib.twin.tools import TOOLS
from runbook_lib.twin.world import Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runbook_lib.twin.world import World

LOG = logging.getLogger(__name__)
_MAX_FIELD = 4 << 20
_MAX_ARGUMENTS = 10_000
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
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str) -> int:
        """Listen on a free port of `address` and return it."""
        self._server = await asyncio.start_server(self._serve, address, 0, limit=_MAX_FIELD)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and give up all calls under way."""
        if self._server is not None:
            self._server.close()
        mine = asyncio.current_task()
        others = [task for task in self._tasks if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            answer = await self._answer(reader)
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            LOG.info("a caller of the tool port left or made no sense: %r", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        kind = await _field(reader)
        token = await _field(reader)
        wanted = self.admin_token if kind == "admin" else self.tool_token
        if not hmac.compare_digest(token.encode(), wanted.encode()):
            raise ValueError("wrong token")
        if kind == "tool":
            return await self._tool(reader)
        if kind == "ask":
            node = await _field(reader)
            return await self._ask(node, json.loads(await _field(reader)))
        if kind == "admin":
            return _json(await _guarded(self.admin(json.loads(await _field(reader)))))
        raise ValueError(f"unknown kind {kind!r}")

    async def _ask(self, node: str, question: dict[str, Any]) -> bytes:
        answer = self.world.answers.get(str(question.get("question", "")))
        if answer is None or node not in self.world.nodes:
            return _json({"error": f"nobody answers {question.get('question')!r}"})
        return _json(await _guarded(answer(self.world.nodes[node], question)))

    async def _tool(self, reader: asyncio.StreamReader) -> bytes:
        call = await _read_call(self.world, reader)
        tool = TOOLS.get(call.argv[0])
        if tool is None:
            return _frame(Reply(127, err=f"{call.argv[0]}: command not found\n"))
        work = asyncio.ensure_future(tool(call))
        gone = asyncio.ensure_future(reader.read(1))  # a shim sends nothing more: this ends when it dies
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ConnectionResetError(f"{call.argv[0]} was killed by its caller")
            return _frame(_result(work, call.argv[0]))
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


def _result(work: asyncio.Future[Reply], name: str) -> Reply:
    try:
        return work.result()
    except Exception:
        LOG.exception("the emulated %s failed", name)
        return Reply(125, err=f"{name}: the twin's own fault; see twin.log\n")


async def _read_call(world: World, reader: asyncio.StreamReader) -> ToolCall:
    node, container, pid, cwd, count = [await _field(reader) for _ in range(5)]
    if not 1 <= int(count) <= _MAX_ARGUMENTS:
        raise ValueError(f"{count} arguments")
    argv = [await _field(reader) for _ in range(int(count))]
    env: dict[str, str] = {}
    while item := await _field(reader):
        key, _, value = item.partition("=")
        env[key] = value
    return ToolCall(world, world.nodes[node], argv, cwd, env, int(pid), container)


async def _field(reader: asyncio.StreamReader) -> str:
    return (await reader.readuntil(b"\0"))[:-1].decode("utf-8", "surrogateescape")


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
