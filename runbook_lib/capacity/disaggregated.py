"""Prefill and decode on instances of their own: requests are handed over with their KV cache after the first token."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from runbook_lib.capacity.group import Request
from runbook_lib.capacity.simulate import Measured
from runbook_lib.capacity.step_time import PS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runbook_lib.capacity.engine import Engine


class Pair:
    """One prefill and one decode engine (its rules have `prefilled`), and the caches on their way between them.

    transfer_s: seconds that the cache of so many tokens takes.
    """

    def __init__(self, prefill: Engine, decode: Engine, transfer_s: Callable[[int], float]) -> None:
        self.prefill = prefill
        self.decode = decode
        self.transfer_s = transfer_s
        self.measured = Measured()
        self._on_the_way: list[tuple[int, int, Request]] = []
        self._count = 0

    def run(self, unsent: Iterator[Request], concurrency: int) -> Measured:
        """Let `concurrency` clients each send a request when their last one is done, until none is left."""
        for _ in range(concurrency):
            self._send(unsent)
        while self._advance(unsent):
            pass
        self.measured.duration_s = max(self.prefill.now, self.decode.now) / PS
        self.measured.stalled = self.prefill.waiting + self.decode.waiting
        return self.measured

    def _send(self, unsent: Iterator[Request]) -> None:
        whole = next(unsent, None)
        if whole is None:
            return
        whole.arrived = self.decode.now or self.prefill.now
        if not self.prefill.waiting:
            self.prefill.wait_until(whole.arrived)
        if not self.prefill.submit(Request(whole.input, 1, whole.arrived, whole)):
            self.measured.refused += 1

    def _advance(self, unsent: Iterator[Request]) -> bool:
        """Let the engine whose clock is behind do its next step; False when nothing can ever happen again."""
        busy = self.decode.running + self.decode.waiting > 0
        if self.prefill.waiting and (not busy or self.prefill.now <= self.decode.now):
            return self._prefill_step(idle=not busy and not self._on_the_way)
        return self._decode_step(unsent)

    def _prefill_step(self, *, idle: bool) -> bool:
        step = self.prefill.start()
        if step is None:
            wake = self.prefill.wake()
            if wake is None and idle:
                return False
            self.prefill.wait_until(self.decode.now + 1 if wake is None else wake)
            return True
        for part in self.prefill.finish(step)[1]:
            whole: Request = part.owner
            whole.first, whole.generated, whole.prefilled = part.first, 1, True
            ready = self.prefill.now + round(self.transfer_s(whole.input) * PS)
            self._count += 1
            heappush(self._on_the_way, (ready, self._count, whole))
        return True

    def _decode_step(self, unsent: Iterator[Request]) -> bool:
        decode, waiting = self.decode, self._on_the_way
        while waiting and waiting[0][0] <= decode.now:
            ready, _, request = heappop(waiting)
            if request.output == 1:
                self._finish(request, ready, unsent)
            else:
                request.queued = ready
                decode.hand_over(request, ready)
        # nothing new can come before the next hand-over, or before the prefill side has done its step
        known = [waiting[0][0]] if waiting else []
        if self.prefill.waiting and self.prefill.now > decode.now:
            known.append(self.prefill.now)
        limit = min(known, default=None)
        step = decode.start(limit)
        if step is None:
            later = [time for time in (limit, decode.wake()) if time is not None]
            if later:
                decode.wait_until(min(later))
            return bool(later) or self.prefill.waiting > 0
        for request in decode.finish(step)[1]:
            self._finish(request, decode.now, unsent)
        return True

    def _finish(self, request: Request, at: int, unsent: Iterator[Request]) -> None:
        request.finished = at
        self.measured.add(request)
        self._send(unsent)
