"""`hccn_tool -roce_test`: the RoCE perftest between two cards, a server that waits and a client that names it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from runbook_lib.twin.tools.hccn_get import SPEED_MBPS
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from runbook_lib.twin.world import ToolCall, World

TESTS = ("ib_read_bw", "ib_read_lat", "ib_send_bw", "ib_send_lat", "ib_write_bw", "ib_write_lat")
BUSY = "Roce perftest is doing, please try later.\n"
_WITH_VALUE = {"-s": "size", "-n": "count", "address": "address", "-p": "port", "-d": "device", "-q": "pairs"}
_FLAGS = {"-tcp", "-b", "-a"}
_LINE_RATE = 0.92  # of the speed, as perftest sees it
_LATENCY_US = 4.2

_Place = tuple[str, int]
_WAITING: WeakKeyDictionary[World, dict[_Place, asyncio.Future[str]]] = WeakKeyDictionary()


@dataclass(slots=True)
class _Options:
    test: str
    size: int = 65536
    count: int = 1000
    address: str = ""


async def roce_test(call: ToolCall, card: int, words: list[str]) -> Reply:
    """Wait for a client, or be one; `reset` ends what waits on the card."""
    waiting = _WAITING.setdefault(call.world, {})
    place = (call.node.name, card)
    if words == ["reset"]:
        if (server := waiting.pop(place, None)) is not None:
            server.cancel()
        return Reply(0, "Cmd executed successfully!\n")
    options = _parse(words)
    if options is None:
        return Reply(1, err="Get invalid parameters!\n")
    if place in waiting:
        return Reply(1, BUSY)
    if not call.world.fabric.link_up(*place):
        return Reply(1, err="Execute failed: Link status is down.\n")
    if options.address:
        return await _client(call, place, options)
    return await _serve(waiting, place)


async def _serve(waiting: dict[_Place, asyncio.Future[str]], place: _Place) -> Reply:
    waiting[place] = server = asyncio.get_running_loop().create_future()
    try:
        return Reply(0, await server)
    except asyncio.CancelledError:
        if server.cancelled() and waiting.get(place) is not server:
            return Reply(1, err="Cmd execute failed!\n")  # it was reset
        raise
    finally:
        if waiting.get(place) is server:
            del waiting[place]


def _parse(words: list[str]) -> _Options | None:
    if not words or words[0] not in TESTS:
        return None
    options, rest = _Options(words[0]), words[1:]
    while rest:
        word = rest.pop(0)
        if word in _FLAGS:
            continue
        if word not in _WITH_VALUE or not rest:
            return None
        value = rest.pop(0)
        if word == "address":
            options.address = value
        elif not value.isdigit():
            return None
        elif _WITH_VALUE[word] in {"size", "count"}:
            setattr(options, _WITH_VALUE[word], int(value))
    return options


async def _client(call: ToolCall, place: _Place, options: _Options) -> Reply:
    fabric, waiting = call.world.fabric, _WAITING[call.world]
    far = fabric.find_ip(options.address)
    own = fabric.cards[place[0]][place[1]].ip
    joined = far is not None and fabric.reachable(own, options.address) and fabric.reachable(options.address, own)
    server = waiting.get(far) if far is not None else None
    if not joined or far is None or server is None:
        await call.world.sleep(5.0)
        return Reply(1, f"roce_report:\nCouldn't connect to {options.address}:18515\n", "Cmd execute failed!\n")
    await call.world.sleep(2.0)
    report = _report(options, min(_left(call.world, end) for end in (place, far)))
    if not server.done():
        server.set_result(report)
    return Reply(0, report)


def _left(world: World, place: _Place) -> float:
    """Return which part of the usual bandwidth a port gives."""
    condition = world.fabric.hardware(*place)
    part = int(condition.get("speed", SPEED_MBPS)) / SPEED_MBPS
    return part * (0.05 if condition.get("lossy") else 1.0) * (0.3 if condition.get("flapping") else 1.0)


def _report(options: _Options, part: float) -> str:
    line = "-" * 87
    if options.test.endswith("_lat"):
        typical = _LATENCY_US / part
        head = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]"
        values = f"{typical * 0.97:<14.2f} {typical * 2.9:<12.2f} {typical:<18.2f} {typical * 1.01:.2f}"
        row = f" {options.size:<7} {options.count:<14} {values}"
    else:
        rate = SPEED_MBPS / 8 * _LINE_RATE * part * options.size / (options.size + 160)  # MB/s; headers cost
        head = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]"
        values = f"{rate * 1.004:<18.2f} {rate:<20.2f} {rate / options.size:.6f}"
        row = f" {options.size:<10} {options.count:<14} {values}"
    return f"roce_report:\n{line}\n{head}\n{row}\n{line}\n"
