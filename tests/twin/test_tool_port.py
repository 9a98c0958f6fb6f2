"""What the resident process does with a message, in whatever pieces it comes, and with a caller who leaves."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.twin import tool_port
from runbook_lib.twin.tool_port import ToolPort
from runbook_lib.twin.tools import TOOLS
from runbook_lib.twin.world import Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runbook_lib.twin.world import World

CALL = ["tool", "t", "node1", "", "7", "/root", "3", "said", "a b", "", "HOME=/root", "EMPTY=", ""]


def _bytes(fields: list[str]) -> bytes:
    return "".join(f"{field}\0" for field in fields).encode()


@pytest.fixture
def talk(world: World) -> Callable[..., bytes]:
    """Return what sends pieces to a port and gives back all that it says; `leave`: without waiting for an answer."""

    async def admin(question: dict[str, Any]) -> dict[str, Any]:
        return {"did": question}

    async def work(pieces: list[bytes], leave: Awaitable[Any] | None) -> bytes:
        port = ToolPort(world, ("t", "a"), admin)
        number = await port.start("127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        if leave is not None:
            writer.close()
            await asyncio.wait_for(leave, 5)
        said = b"" if leave is not None else await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await port.close()
        return said

    return lambda pieces, leave=None: asyncio.run(work(pieces, leave))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[ToolCall]:
    """Make a tool `said` known, and return the calls it gets."""
    seen: list[ToolCall] = []

    async def said(call: ToolCall) -> Reply:
        seen.append(call)
        return Reply(3, out="out", err="error")

    monkeypatch.setitem(TOOLS, "said", said)
    return seen


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_call_is_answered_once_it_is_whole(talk: Callable[..., bytes], calls: list[ToolCall], size: int) -> None:
    message = _bytes(CALL)
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    assert talk(pieces) == b"text 3 5 3\nerrorout"
    assert [(call.argv, call.env, call.pid, call.cwd) for call in calls] == [
        (["said", "a b", ""], {"HOME": "/root", "EMPTY": ""}, 7, "/root")
    ]


def test_an_admin_is_answered(talk: Callable[..., bytes]) -> None:
    assert json.loads(talk([_bytes(["admin", "a", '{"x": 1}'])])) == {"did": {"x": 1}}


@pytest.mark.parametrize(
    "fields",
    [
        ["tool", "wrong", *CALL[2:]],
        ["tool", "t", "stranger", *CALL[3:]],
        [*CALL[:6], "0", ""],
        [*CALL[:6], "many", ""],
        ["admin", "t", "{}"],
        ["ask", "t", "node1", "not JSON"],
        ["order", "t"],
    ],
)
def test_what_makes_no_sense_gets_no_answer(
    talk: Callable[..., bytes], calls: list[ToolCall], fields: list[str]
) -> None:
    assert talk([_bytes(fields)]) == b""
    assert calls == []


def test_a_message_without_end_is_refused(talk: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_port, "_MAX_MESSAGE", 1000)
    assert talk([b"x" * 1001]) == b""


def test_a_tool_dies_with_its_caller(talk: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def slow(_call: ToolCall) -> Reply:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return Reply()

    monkeypatch.setitem(TOOLS, "said", slow)
    talk([_bytes(CALL)], leave=ended.wait())
    assert ended.is_set()
