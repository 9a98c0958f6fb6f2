"""The emulated inference engine: the planner's state machine (capacity/engine.py) against a real clock.

One loop, one timer per step, all streams of a step written to together. Engine times are emulated picoseconds; the
real clock runs `time_factor` times slower. A late timer is made up for: steps end at absolute times.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from runbook_lib.capacity.group import Request
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.rules import Rules
from runbook_lib.capacity.setup import Setup
from runbook_lib.capacity.step_time import PS

if TYPE_CHECKING:
    from runbook_lib.capacity.engine import Engine, Step

TWIN_CARD = HARDWARE["910b3"]
TIMER_S = 0.001  # epoll counts whole ms and rounds up: the last one is waited for in turns of the loop
# A burst is over when nothing came for so many real seconds (shortest, longest), or after so many times that
BURST_QUIET_S, BURST_LULL_S, BURST_MOST = 0.002, 0.01, 20


class Stream(Protocol):
    """Whoever asked."""

    def token(self) -> None:
        """Be told that the next token is there."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine takes from config.json and the layout. `setup.rules.blocks` are not read, `blocks` are."""

    setup: Setup = field(default_factory=lambda: Setup(Layout(2, 8), Rules(blocks=0)))
    blocks: int = 1938
    time_factor: float = 1.0

    @property
    def rules(self) -> Rules:
        """The scheduling settings."""
        return self.setup.rules


@dataclass
class Lateness:
    """How late the steps ended, in real milliseconds."""

    steps: int = 0
    total_ms: float = 0.0
    worst_ms: float = 0.0

    def add(self, late_ms: float) -> None:
        """Count one step."""
        self.steps += 1
        self.total_ms += late_ms
        self.worst_ms = max(self.worst_ms, late_ms)


class LiveEngine:
    """Runs requests. `submit` adds one, `cancel` drops one; `run` is the loop, to be kept as one task."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.engine: Engine = config.setup.engine(config.blocks)
        self.lateness = Lateness()
        self._work = asyncio.Event()
        self._idle = False
        self._newest_s = 0.0

    def now(self) -> int:
        """Return the emulated clock, in ps."""
        return int(asyncio.get_running_loop().time() * self.config.time_factor * PS)

    @property
    def free_blocks(self) -> int:
        """Free KV blocks of one dp group, the fullest; `config.blocks` when idle."""
        return min(group.free for group in self.engine.groups)

    def submit(self, prompt_tokens: int, limit: int, stream: Stream, came_s: float) -> Request | None:
        """Queue a request that came at that time of the loop; None when 3 x maxLinkNum are in flight: it is refused."""
        self._newest_s = asyncio.get_running_loop().time()
        request = Request(prompt_tokens, limit, int(came_s * self.config.time_factor * PS), stream)
        if not self.engine.submit(request):
            return None
        if self._idle and not self._work.is_set():  # the first one wakes the engine; more of its burst move no clock
            self.engine.wait_until(request.arrived)
        self._work.set()
        return request

    def cancel(self, request: Request) -> None:
        """Drop a request whose client has gone; nothing happens to one that is done."""
        if self._idle:
            self.engine.wait_until(self.now())
        self.engine.cancel(request)
        self._work.set()  # a place in the queue or the cache may be free now

    async def run(self) -> None:
        """Step for ever."""
        engine = self.engine
        while True:
            step = engine.start(single=True)
            if step is None:
                await self._rest()
            else:
                await self._pass(engine.now + step.duration)
                self._end(step)

    async def _rest(self) -> None:
        """Nothing can run: wait until a request has waited long enough, or for a request at all.

        A head of the queue that never fits is not waited for by time: it stands there until somebody gives up.
        """
        wake = self.engine.wake()
        if wake is None:
            self._idle = True
            self._work.clear()
            await self._work.wait()
            self._idle = False
        else:
            await self._sleep_until(wake)
            await self._burst()
            self._begin(wake)

    def _begin(self, wake: int) -> None:
        """Let a burst count as having come all at once, at the mean of its times."""
        engine = self.engine
        waiting = [request for group in engine.groups for request in group.waiting]
        first = wake - engine.delay
        came = [request.queued for request in waiting if request.queued >= first]
        start = wake + sum(came) // len(came) - first if came else wake
        engine.wait_until(start)
        for request in waiting:
            request.arrived = min(request.arrived, start)

    async def _burst(self) -> None:
        """Let a burst come in whole before the first step.

        Clients do not speed up with the clock: requests that reach a real service within its queue delay are, to a
        service that runs `time_factor` times as fast, spread over many.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while (now_s := loop.time()) < self._newest_s + (quiet_s := self._quiet_s()):
            if now_s > began_s + BURST_MOST * quiet_s:
                return
            await asyncio.sleep(BURST_QUIET_S)

    def _quiet_s(self) -> float:
        """Return after how long without a request a burst is over: a quarter of the step that it leads to, in bounds.

        A client that shares its core pauses for milliseconds; a short step must not be late for waiting longer.
        """
        tokens = sum(request.input for group in self.engine.groups for request in group.waiting)
        step_s = self.engine.times.prefill_ps(tokens, 0, tokens) / PS / self.config.time_factor
        return min(max(step_s / 4, BURST_QUIET_S), BURST_LULL_S)

    async def _sleep_until(self, time: int) -> None:
        left_s = (time - self.now()) / PS / self.config.time_factor
        await asyncio.sleep(max(0.0, left_s - TIMER_S))
        while self.now() < time:  # noqa: ASYNC110 - it is the clock that is waited for
            await asyncio.sleep(0)

    async def _pass(self, end: int) -> None:
        await self._sleep_until(end)
        self.lateness.add(max(0.0, (self.now() - end) / PS / self.config.time_factor * 1e3))

    def _end(self, step: Step) -> None:
        groups = self.engine.groups
        if step.decodes:
            woken = [request.owner for group in groups for request in group.running]
        else:
            woken = [request.owner for group in groups for request in group.admitting]
        self.engine.finish(step)
        for stream in woken:
            stream.token()
