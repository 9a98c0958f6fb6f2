"""Runs an engine over a workload in virtual time, and says what a client would have measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.capacity.statistics import Sample
from runbook_lib.capacity.step_time import PS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runbook_lib.capacity.engine import Engine
    from runbook_lib.capacity.group import Request


@dataclass
class Measured:
    """What was measured over a whole run, ramp and drain included. Seconds, unless a name says otherwise.

    decode: mean time per token after the first, of each request; stalled: requests that will never get a token.
    steady_tokens_per_s: output rate between the end of the first wave and the last arrival, nan when there was none.
    """

    requests: int = 0
    output_tokens: int = 0
    duration_s: float = 0.0
    stalled: int = 0
    refused: int = 0
    ttft: Sample = field(default_factory=Sample)
    decode: Sample = field(default_factory=Sample)
    latency: Sample = field(default_factory=Sample)
    steady_tokens_per_s: float = float("nan")

    @property
    def requests_per_s(self) -> float:
        """Finished requests per second."""
        return self.requests / self.duration_s if self.duration_s else 0.0

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens of finished requests per second."""
        return self.output_tokens / self.duration_s if self.duration_s else 0.0

    @property
    def mean_in_flight(self) -> float:
        """Average number of requests in the system over the run (sum of their times over the run's)."""
        return self.latency.total / self.duration_s if self.duration_s else 0.0

    def add(self, request: Request) -> None:
        """Count a request that is done."""
        self.requests += 1
        self.output_tokens += request.output
        self.ttft.add((request.first - request.arrived) / PS)
        self.latency.add((request.finished - request.arrived) / PS)
        if request.output > 1:
            self.decode.add((request.finished - request.first) / PS / (request.output - 1))


class _Clients:
    """The clients of a closed loop: what they have yet to send, and the steady part of the run."""

    def __init__(self, engine: Engine, unsent: Iterator[Request], measured: Measured, concurrency: int) -> None:
        self.engine = engine
        self.unsent = unsent
        self.measured = measured
        self.dry = False
        self.wave = measured.requests + concurrency
        self.begin: tuple[int, int] | None = None
        measured.steady_tokens_per_s = float("nan")

    def send(self, count: int) -> None:
        """Let `count` clients send their next request now."""
        engine, now = self.engine, self.engine.now
        for _ in range(count):
            request = next(self.unsent, None)
            if request is None:
                self._end()
                return
            request.arrived = now
            _send(engine, request, self.measured)
        if self.begin is None and self.measured.requests >= self.wave:
            self.begin = self._tokens()

    def _tokens(self) -> tuple[int, int]:
        groups = self.engine.groups
        partial = sum(group.generated(request) for group in groups for request in (*group.running, *group.waiting))
        return self.engine.now, self.measured.output_tokens + partial

    def _end(self) -> None:
        """Nothing is left to send: the steady part ends here."""
        self.dry = True
        if self.begin is not None:
            (start, before), (stop, after) = self.begin, self._tokens()
            if stop > start:
                self.measured.steady_tokens_per_s = (after - before) / (stop - start) * PS


def closed_loop(  # noqa: PLR0913 - three of them are options
    engine: Engine,
    unsent: Iterator[Request],
    concurrency: int,
    *,
    measured: Measured | None = None,
    observe: Callable[[Request], None] = lambda _: None,
    single: bool = False,
) -> Measured:
    """Let `concurrency` clients each send a request when their last one is done, until none is left.

    measured: what to add to, when several instances serve at the same time. observe: called with every request done.
    single: take decode steps one by one.
    """
    measured = Measured() if measured is None else measured
    clients = _Clients(engine, unsent, measured, concurrency)
    clients.send(concurrency)
    add, start, finish = measured.add, engine.start, engine.finish
    while True:
        step = start(single=single)
        if step is None:
            wake = engine.wake()
            if wake is None:
                return _close(engine, measured)
            engine.wait_until(wake)
            continue
        done = finish(step)[1]
        for request in done:
            add(request)
            observe(request)
        if done and not clients.dry:
            clients.send(len(done))


def open_loop(
    engine: Engine,
    arrivals: Iterator[Request],
    *,
    observe: Callable[[Request], None] = lambda _: None,
    single: bool = False,
) -> Measured:
    """Let requests arrive at their own times (Poisson, a trace), whatever the engine does."""
    measured = Measured()
    pending = next(arrivals, None)
    while True:
        while pending is not None and pending.arrived <= engine.now:
            _send(engine, pending, measured)
            pending = next(arrivals, None)
        arrival = pending.arrived if pending is not None else None
        step = engine.start(arrival, single=single)
        if step is None:
            later = [time for time in (engine.wake(), arrival) if time is not None]
            if not later:
                return _close(engine, measured)
            engine.wait_until(min(later))
            continue
        for request in engine.finish(step)[1]:
            measured.add(request)
            observe(request)


def _send(engine: Engine, request: Request, measured: Measured) -> None:
    if not engine.submit(request):
        measured.refused += 1


def _close(engine: Engine, measured: Measured) -> Measured:
    measured.duration_s = max(measured.duration_s, engine.now / PS)
    measured.stalled += engine.waiting
    return measured
