"""The engine: MindIE's continuous batching as a state machine without clock or I/O.

`start` decides the next step and says how long it takes, `finish` lets it happen. A simulation calls them one after the
other; a server waits in between. A decode step may stand for many: all that follow until the next thing happens
(somebody is done, a block is missing, a request arrives, a prefill becomes due). Taking them one by one gives the same.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import isqrt
from typing import TYPE_CHECKING, Protocol

from runbook_lib.capacity.group import Group, Request

if TYPE_CHECKING:
    from runbook_lib.capacity.rules import Rules

_PS_PER_US = 1_000_000
_QUEUE_FACTOR = 3  # more than 3 x maxLinkNum in flight are refused


class Times(Protocol):
    """Step times in ps; see step_time.StepTimes."""

    @property
    def context_ps(self) -> int:
        """What one token of context adds to a decode step."""

    def decode_ps(self, largest: int, total: int) -> int:
        """Return a decode step without the part of its context."""

    def prefill_ps(self, tokens: int, squares: int, total: int) -> int:
        """Return a prefill step."""


@dataclass(slots=True)
class Step:
    """What happens next: one prefill, or `decodes` decode steps. Duration in ps."""

    duration: int
    decodes: int


@dataclass(slots=True)
class Totals:
    """Counts since the start."""

    prefills: int = 0
    decodes: int = 0
    events: int = 0
    prefilled_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    refused: int = 0


@dataclass
class Engine:
    """One instance. `now` is its clock in ps, moved by `finish` and `wait_until` only; `delay`: maxQueueDelay in ps."""

    rules: Rules
    times: Times
    dp: int = 1
    now: int = 0
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self.groups = [Group(index, self.rules) for index in range(self.dp)]
        self.lobby: deque[Request] = deque()  # accepted, but all maxLinkNum links are taken
        self.linked = 0
        self.delay = self.rules.max_queue_delay_us * _PS_PER_US
        self._count = 0
        self._only = self.groups[0] if self.dp == 1 else None

    @property
    def running(self) -> int:
        """Sequences in decode."""
        return sum(group.live for group in self.groups)

    @property
    def waiting(self) -> int:
        """Requests without a place in the running set."""
        return len(self.lobby) + sum(len(group.waiting) + len(group.admitting) for group in self.groups)

    @property
    def free_blocks(self) -> int:
        """Free KV blocks of all groups."""
        return sum(group.free for group in self.groups)

    def submit(self, request: Request) -> bool:
        """Queue a request; False when it is refused, since 3 x maxLinkNum are in flight."""
        if self.linked >= self.rules.max_link_num:
            if self.linked + len(self.lobby) >= _QUEUE_FACTOR * self.rules.max_link_num:
                self.totals.refused += 1
                return False
            self.lobby.append(request)
            return True
        self._link(request, request.arrived)
        return True

    def hand_over(self, request: Request, at: int) -> None:
        """Take in a request whose cache came from a prefill instance at that time; the links are the other side's."""
        self._link(request, at)

    def _link(self, request: Request, at: int) -> None:
        self.linked += 1
        self._count += 1
        request.ident = self._count
        request.queued = at
        # how MindIE chooses the group is not documented: the least loaded one
        group = self._only or min(self.groups, key=Group.load)
        request.group = group.index
        group.waiting.append(request)

    def _unlink(self, request: Request) -> None:
        request.group = -1
        self.linked -= 1
        if self.lobby:
            self._link(self.lobby.popleft(), self.now)

    def cancel(self, request: Request) -> None:
        """Drop a request, wherever it is; also while a step is under way. Nothing happens when it is done."""
        if request.group < 0:
            if request in self.lobby:
                self.lobby.remove(request)
            return
        group = self.groups[request.group]
        if request.end >= 0:
            del group.ends[request.end][request]
            group.leave(request)
        elif request in group.admitting:
            group.admitting.remove(request)
            group.free += group.blocks_of(request.input + request.generated)
        else:
            group.waiting.remove(request)
        self._unlink(request)

    def start(self, limit: int | None = None, *, single: bool = False) -> Step | None:
        """Decide the next step; None when nothing can run now (see `wake`).

        limit: no decode step begins at or after this time (the next arrival); single: never more than one step.
        """
        prefill = self._start_prefill()
        if prefill is not None:
            return prefill
        groups = [group for group in self.groups if group.live]
        for group in groups:
            if group.need[group.step % group.block_size] > group.free:
                self.totals.preemptions += len(group.make_room())
                single = True  # what the victims left over may let a prefill start in the next round
        left = [group for group in groups if group.live]
        if not left:
            # the last one running gave up its own blocks: it may come back at once, now that all are free
            return self._start_prefill() if groups else None
        groups = left
        return self._start_decode(groups, limit, single=single)

    def _start_prefill(self) -> Step | None:
        largest = most_squares = total = 0
        for group in self.groups:
            if self.rules.prefilled:
                group.receive()
            if group.wants_prefill(self.now, self.delay):
                tokens, squares = group.admit()
                largest, most_squares, total = max(largest, tokens), max(most_squares, squares), total + tokens
        if not total:
            return None
        return Step(self.times.prefill_ps(largest, most_squares, total), 0)

    def _start_decode(self, groups: list[Group], limit: int | None, *, single: bool) -> Step:
        if len(groups) == 1:
            leader = groups[0]
            fixed = self.times.decode_ps(leader.live, leader.live)
        else:
            fixed = self.times.decode_ps(max(group.live for group in groups), sum(group.live for group in groups))
            leader = max(groups, key=lambda group: (group.context, group.live))
        slope = self.times.context_ps
        steps = 1
        if not single:
            steps = min([group.steps_to_end() for group in groups])
            if steps > 1 and len(groups) > 1:
                steps = min(steps, *(_until_overtaken(leader, group) for group in groups if group is not leader))
            if steps > 1:
                steps = self._until_event(leader, steps, limit, fixed)
            if steps > 1:
                steps = min([group.steps_with_room(steps) for group in groups])
        for group in groups:
            if steps > 1 and group.waiting and self.rules.support_select_batch:
                # the rounds that are skipped count their waste too
                group.waste += (steps - 1) * self.rules.decode_time_ms * (self.rules.max_batch_size - group.live)
            group.grant(steps)
        context = steps * leader.context + leader.live * (steps * (steps - 1) // 2)
        return Step(steps * fixed + slope * context, steps)

    def _until_event(self, leader: Group, steps: int, limit: int | None, fixed: int) -> int:
        """Bound the steps by the next arrival and by the next round in which a prefill could be chosen."""
        until = limit
        for group in self.groups:
            if not group.waiting:
                continue
            if self.rules.support_select_batch and group.live:
                steps = min(steps, group.rounds_to_prefill())
            else:
                due = group.waiting[0].queued + self.delay
                if due > self.now and (until is None or due < until):
                    until = due
        if until is None or steps <= 1:
            return steps
        first = fixed + self.times.context_ps * leader.context
        return min(steps, _steps_until(until - self.now, first, self.times.context_ps * leader.live))

    def finish(self, step: Step) -> tuple[list[Request], list[Request]]:
        """Let a started step end; return (requests whose first token came, requests that are done)."""
        self.now += step.duration
        self.totals.events += 1
        if step.decodes:
            self.totals.decodes += step.decodes
            done: list[Request] = []
            for group in self.groups:
                if group.live:
                    done += group.advance(step.decodes)
                else:
                    group.granted = False
            return [], self._done(done)
        self.totals.prefills += 1
        first: list[Request] = []
        done = []
        for group in self.groups:
            batch, group.admitting = group.admitting, []
            for request in batch:
                self.totals.prefilled_tokens += request.input + request.generated
                self.totals.recomputed_tokens += request.input + request.generated if request.preempted else 0
                request.generated += 1
                if request.first < 0:
                    request.first = self.now
                    first.append(request)
                if request.generated >= request.output:
                    group.free += group.blocks_of(request.input + request.generated - 1)
                    done.append(request)
                else:
                    group.join(request)
        return first, self._done(done)

    def _done(self, done: list[Request]) -> list[Request]:
        now = self.now
        for request in done:
            request.finished = now
            self._unlink(request)
        return done

    def wake(self) -> int | None:
        """Return when a request that waits now may start although nothing else happens; None for never.

        Never, with requests waiting and nothing running, is the recompute dead end: the queue's head does not fit.
        """
        due = [group.waiting[0].queued + self.delay for group in self.groups if group.waiting]
        later = [time for time in due if time > self.now]
        return min(later) if later else None

    def wait_until(self, time: int) -> None:
        """Let time pass in which nothing runs."""
        self.now = max(self.now, time)


def _until_overtaken(leader: Group, other: Group) -> int:
    """Return after how many steps another group's context, which grows faster, is larger than the leader's."""
    growth = other.live - leader.live
    if growth <= 0:
        return 1 << 60
    return (leader.context - other.context) // growth + 1


def _steps_until(time: int, first: int, growth: int) -> int:
    """Return the fewest steps that take at least `time`, when each takes `growth` longer than the one before."""
    if time <= 0:
        return 1
    if growth == 0:
        return max(1, -(-time // first))
    # n x first + growth x n (n - 1) / 2 >= time
    linear = 2 * first - growth
    steps = max(1, (isqrt(linear * linear + 8 * growth * time) - linear) // (2 * growth))
    while steps * first + growth * (steps * (steps - 1) // 2) < time:
        steps += 1
    while steps > 1 and (steps - 1) * first + growth * ((steps - 1) * (steps - 2) // 2) >= time:
        steps -= 1
    return steps
