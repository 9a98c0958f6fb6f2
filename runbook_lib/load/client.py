"""The load itself: one epoll loop over all connections, in one thread, with nothing else to do.

What keeps the numbers true: connections are open and requests composed before a request is stamped; the stamp is
taken right before the send; arrivals carry the kernel's own time, so a late loop falsifies nothing, and how late it
was is measured; the garbage collector is off while the load runs. An open loop counts from the time at which a
request was meant to go out, so waiting for a late client is part of its latency.
Linux only (epoll, SO_TIMESTAMPNS).
"""

from __future__ import annotations

import gc
import os
import select
import struct
import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from runbook_lib.errors import LoadError
from runbook_lib.load import machine, prompts, sockets
from runbook_lib.load.connections import ConnectFailed, Connections
from runbook_lib.load.record import Clock, Record, Trace
from runbook_lib.load.slot import Slot, Stock
from runbook_lib.load.stream import LAST, PLAIN_ASCII, Answer, is_plain
from runbook_lib.load.workload import split

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.spec import PointSpec
    from runbook_lib.load.stream import Shapes
    from runbook_lib.load.workload import Workload

_BILLION = 1_000_000_000
# More connects at once than a listen backlog holds would be answered after a SYN retransmission of 1 s.
CONNECTS_AT_ONCE = 64
# A nap in every round gathers many small reads and saves a third of the CPU time. It costs no accuracy, since
# arrivals are stamped by the kernel: it only delays a client's next request, so it is a small share of an answer;
# and it is so much shorter than the time between two tokens of an answer that each of them has its own stamp.
_NAP_FROM = 64
_NAP_FIRST_S = 0.001
_NAP_LONGEST_S = 0.0125
_NAP_OF_AN_ANSWER = 0.002
_NAP_OF_A_GAP = 0.25
# A service reads requests one after the other. Sent faster than it reads, those of a burst would wait in its sockets,
# and the wait would count as first-token time. Not without the kernel's stamps: what is not read in time is then late.
_BETWEEN_SENDS_NS = 25_000
_SENDS_AHEAD_NS = 200_000
# epoll waits in whole milliseconds; what is due sooner is slept for.
_FINE_S = 0.002
_OPEN_AT_FIRST = 64
# With fewer connections ready at once there is time for what may wait.
_FEW = 32
# How long reads are looked into before the loop turns to the connections again.
_DIGEST_NS = 4_000_000
# Building one request takes less.
_BUILD_NS = 50_000
_PROGRESS_EVERY_NS = _BILLION // 2
_LONGEST_POLL_S = 0.5
_SPARE_FILES = 32
_CLOCK_GAP_NS = 20_000
_WAITED_NS = 50_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a point is: `phase` is `warm-up` or `measure`."""

    phase: str
    done: int
    failed: int
    total: int


class Client:
    """The connections to one service, kept open from warm-up to the end of the point.

    A closed loop opens `concurrency` of them, an open loop a few, and more as they are needed, up to `concurrency`.
    Use as a context manager. lifeline: a file descriptor whose end of file means that nobody waits for the
    result any more; then `run` raises LoadError. part: which of the point's processes this is.
    """

    def __init__(self, spec: PointSpec, *, part: int = 0, lifeline: int = -1) -> None:
        self._spec = spec
        self._most = split(spec.concurrency, spec.processes, part)
        machine.raise_file_limit(self._most + _SPARE_FILES)
        self._connections = Connections(spec)
        self._epoll = self._connections.epoll
        self._lifeline = lifeline
        if lifeline >= 0:
            self._epoll.register(lifeline, select.EPOLLIN)
        at_first = min(self._most, _OPEN_AT_FIRST) if spec.open_loop else self._most
        self._slots = [Slot() for _ in range(at_first)]
        # by fd, while plain reads of an answer may take the short way: receive, the slot, the answer's short way
        self._hot: dict[int, tuple[Any, Slot, Shapes, bytes, bytes, Callable[[int], None]]] = {}
        self._idle: deque[Slot] = deque()
        self._timeouts: deque[tuple[int, Record, Slot]] = deque()
        self._lateness = array("q")
        self._unstamped = 0
        self._stamped = True  # nobody has seen a read without the kernel's time so far
        self._wall_minus_mono = 0
        self._ready_since_ns = self._looked_ns = 0
        self._requests: prompts.Requests | None = None
        self._work: Workload | None = None
        self._closed: Workload | None = None  # the same, while clients send as soon as they are free
        self._records: list[Record] = []
        self._stock: Stock | None = None
        self._reads: deque[tuple[Slot, sockets.Wire, bytes, int]] = deque()  # stamped, not looked into yet
        self._ended: list[tuple[Record, Answer]] = []  # what came last on them is still to be read
        self._timeout_ns = int(spec.timeout_s * _BILLION)
        self._next = self._count = self._zero_ns = self._flying = 0
        self._done = self._failed = 0
        self._answer_ns = self._answers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            self._drop(slot)
        self._epoll.close()

    # --- the two things a caller does

    def open(self) -> None:
        """Open all connections, a few at a time. One that fails is tried again by its first request."""
        todo = deque(self._slots)
        connecting = self._connections.connecting
        while todo or connecting:
            while todo and len(connecting) < CONNECTS_AT_ONCE:
                self._connect(todo.popleft())
            if connecting:
                self._round()

    def run(
        self,
        requests: prompts.Requests,
        work: Workload,
        *,
        phase: str = "measure",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Trace:
        """Send the requests of `work`, each when it is due or a client is free, and return what happened to each.

        Raises LoadError when the load cannot be made at all (certificate refused, parent gone).
        """
        self._requests, self._work, self._records = requests, work, []
        self._closed = None if work.at_ns else work
        self._stamped = not self._unstamped
        self._lateness, self._unstamped = array("q"), 0
        self._done = self._failed = self._next = self._answer_ns = self._answers = 0
        self._count = work.count
        self._idle = deque(self._slots)
        for slot in self._slots:
            slot.next_turn, slot.history = -1, []
        self._stock = Stock(requests, work, 0 if work.turns > 1 else len(self._slots))
        self._stock.fill(0)
        next_report_ns = 0
        gc.collect()
        gc.freeze()
        gc.disable()
        cpu_s, waited_s = time.thread_time(), machine.waited_s()
        self._zero_ns = time.monotonic_ns()
        try:
            while True:
                self._launch_due(work)
                if not self._flying and self._over(work):
                    self._conclude_ended()
                    break
                self._round(self._nap_s())
                now_ns = time.monotonic_ns()
                if on_progress and now_ns >= next_report_ns:
                    on_progress(Progress(phase, self._done, self._failed, self._count))
                    next_report_ns = now_ns + _PROGRESS_EVERY_NS
        finally:
            gc.enable()
            gc.unfreeze()
        clock: Clock = "loop" if self._unstamped or not self._lateness else "kernel"
        wall_s = (time.monotonic_ns() - self._zero_ns) / _BILLION
        return Trace(
            self._records,
            self._lateness,
            clock,
            self._zero_ns,
            cpu_s=time.thread_time() - cpu_s,
            waited_s=machine.waited_s() - waited_s,
            wall_s=wall_s,
        )

    def _over(self, work: Workload) -> bool:
        """Whether no further request will be sent: none is left, or the time is up."""
        return self._next >= self._count or self._past_deadline(work, time.monotonic_ns())

    def _past_deadline(self, work: Workload, now_ns: int) -> bool:
        return bool(work.deadline_ns) and now_ns - self._zero_ns >= work.deadline_ns

    def _launch_due(self, work: Workload) -> None:
        now_ns = time.monotonic_ns()
        if self._past_deadline(work, now_ns):
            return
        if work.at_ns:
            self._launch_open(work, now_ns)
            return
        while self._idle:
            index = self._idle[0].next_turn
            if index < 0:
                if self._next >= self._count:
                    return
                index, self._next = self._next, self._next + work.turns
            self._launch(self._idle.popleft(), index)
            now_ns += _BETWEEN_SENDS_NS
            ahead_ns = now_ns - time.monotonic_ns()
            if ahead_ns > _SENDS_AHEAD_NS and self._stamped:
                time.sleep(ahead_ns / _BILLION)

    def _launch_open(self, work: Workload, now_ns: int) -> None:
        while self._next < self._count and self._zero_ns + work.at_ns[self._next] <= now_ns:
            if not self._idle:
                if len(self._slots) >= self._most:
                    return  # it waits in the client, and its latency counts
                self._slots.append(Slot())
                self._idle.append(self._slots[-1])
            slot = self._idle.popleft()
            slot.intended_ns = self._zero_ns + work.at_ns[self._next]
            self._launch(slot, self._next)
            self._next += 1
            now_ns = time.monotonic_ns()

    def _nap_s(self) -> float:
        """How long to let reads gather: none where it would cost accuracy."""
        if self._reads or self._unstamped or not self._lateness or len(self._slots) < _NAP_FROM:
            return 0.0
        longest_s = min(_NAP_LONGEST_S, max(_NAP_FIRST_S, _NAP_OF_A_GAP * self._gap_s()))
        if self._answers:
            return min(longest_s, _NAP_OF_AN_ANSWER * self._answer_ns / self._answers / _BILLION)
        so_far_s = (time.monotonic_ns() - self._zero_ns) / _BILLION
        return min(longest_s, max(_NAP_FIRST_S, _NAP_OF_AN_ANSWER * so_far_s))

    def _gap_s(self) -> float:
        """Return the time between two reads of the oldest answer that is under way, s; 0 as long as nobody knows."""
        record = self._timeouts[0][1] if self._timeouts else None
        if record is None or record.end_ns or len(record.events) < 2:  # noqa: PLR2004 - a gap has two ends
            return 0.0
        return (record.events[-1] - record.events[0]) / (len(record.events) - 1) / _BILLION

    def _due_in_s(self, now_ns: int) -> float:
        """Seconds to the next request of an open loop; a long time when there is none or no client is free for it."""
        work = self._work
        if work is None or not work.at_ns or self._next >= self._count:
            return _LONGEST_POLL_S
        if not self._idle and len(self._slots) >= self._most:
            return _LONGEST_POLL_S
        return max(0.0, (self._zero_ns + work.at_ns[self._next] - now_ns) / _BILLION)

    # --- one round of the loop

    def _round(self, nap_s: float = 0.0) -> None:
        before_ns = time.monotonic_ns()
        due_s = self._due_in_s(before_ns)
        nap_s -= (before_ns - self._looked_ns) / _BILLION  # a long round needs no nap
        if nap_s > 0 or due_s < _FINE_S:
            sleep_s = min(due_s, nap_s) if nap_s > 0 else due_s
            end_ns = before_ns + int(sleep_s * _BILLION)
            if self._stock is not None:
                self._stock.fill(self._next, end_ns - _BUILD_NS)
            before_ns = time.monotonic_ns()
            if before_ns < end_ns:
                time.sleep((end_ns - before_ns) / _BILLION)
                before_ns = time.monotonic_ns()
        patience_s = 0.0 if due_s < _FINE_S else min(self._patience_s(before_ns), due_s - _FINE_S / 2)
        ready = self._epoll.poll(patience_s, len(self._slots) + 1)
        self._looked_ns = now_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        # Whoever is interrupted between the two clocks gets a wrong difference: then the last one stays.
        if time.monotonic_ns() - now_ns < _CLOCK_GAP_NS or not self._wall_minus_mono:
            self._wall_minus_mono = wall_ns - now_ns
        # Without kernel stamps: what is ready now arrived after the last poll; if this poll had to wait, just now.
        waited = now_ns - before_ns > _WAITED_NS
        if waited or not self._ready_since_ns:
            self._ready_since_ns = now_ns
        self._serve(ready)
        self._digest(time.monotonic_ns() + _DIGEST_NS)
        if len(ready) < _FEW or len(self._ended) > len(self._slots):
            self._conclude_ended()
        self._ready_since_ns = now_ns
        self._expire(time.monotonic_ns())

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        """Read what is ready. The short way is all that most reads of a load ever see, so it is written out here."""
        hot, clock, unpack, readable = self._hot, time.monotonic_ns, sockets.TIMESPEC.unpack, select.EPOLLIN
        wall_minus_mono, note, size, room = (
            self._wall_minus_mono,
            self._lateness.append,
            sockets.READ,
            sockets.ANCILLARY,
        )
        for fd, events in ready:
            short = hot.get(fd)
            if short is None or events != readable:
                self._handle(fd, events)
                self._relaunch()
                continue
            receive, slot, shapes, prefix, end_mark, append = short
            try:
                data, ancillary, _, _ = receive(size, room)
                seconds, nanoseconds = unpack(ancillary[0][2])
            except BlockingIOError:
                continue
            except OSError:
                self._closed_by_peer(slot)
                continue
            except (IndexError, struct.error):  # no stamp, or something else beside the data
                if data:
                    self._take(slot, data, 0)
                else:
                    self._closed_by_peer(slot)
                continue
            wall_ns = seconds * _BILLION + nanoseconds
            stamp_ns = wall_ns - wall_minus_mono
            now_ns = clock()
            size_line, start, begin, end = shapes[len(data)]
            if (
                stamp_ns <= now_ns
                and data.startswith(size_line)
                and data.startswith(prefix, start)
                and data.endswith(end_mark)
                and (PLAIN_ASCII(data, begin, end) or is_plain(data[begin:end]))
            ):
                append(stamp_ns)
                note(now_ns - stamp_ns)
                continue
            if data:
                self._take(slot, data, wall_ns)
            else:
                self._closed_by_peer(slot)

    def _relaunch(self) -> None:
        """Let a client that has just become free send at once: in a closed loop its next request waits for nobody."""
        if self._idle and self._closed is not None:
            self._launch_due(self._closed)

    def _patience_s(self, now_ns: int) -> float:
        if self._reads:
            return 0.0
        while self._timeouts and self._timeouts[0][1].end_ns:
            self._timeouts.popleft()
        deadline_ns = now_ns + int(_LONGEST_POLL_S * _BILLION)
        if self._timeouts:
            deadline_ns = min(deadline_ns, self._timeouts[0][0])
        if self._connections.connecting:
            deadline_ns = min(deadline_ns, next(iter(self._connections.connecting.values())))
        return max(0.0, (deadline_ns - now_ns) / _BILLION + 0.001)

    def _check_lifeline(self) -> None:
        if not os.read(self._lifeline, 4096):
            raise LoadError("the process that asked for this load is gone; the load was stopped")

    def _handle(self, fd: int, events: int) -> None:
        """Do whatever a connection is ready for: connecting, sending, reading."""
        if fd == self._lifeline:
            self._check_lifeline()
        slot = self._connections.slot_of(fd)
        wire = slot.wire if slot is not None else None
        if slot is None or wire is None:
            return
        try:
            if not slot.ready:
                self._connections.go_on(slot, wire)
                if slot.ready:
                    self._send(slot)
            else:
                if events & select.EPOLLOUT:
                    wire.flush()
                if events & ~select.EPOLLOUT:
                    self._take(slot, *wire.read())
        except ConnectFailed as failed:
            self._connect_failed(slot, failed.kind, failed.detail)
        except sockets.Closed:
            self._closed_by_peer(slot)
        self._connections.watch(slot)

    def _take(self, slot: Slot, data: bytes, wall_ns: int) -> None:
        """Stamp what came, and keep it for `_digest`: were it looked into now, a burst would spoil the next stamps."""
        now_ns = time.monotonic_ns()
        wire, record = slot.wire, slot.record
        if wire is None or record is None:
            if data:  # an answer that nobody asked for
                self._drop(slot)
            return
        if wall_ns:
            # The wall clock may be set at any time, hence the difference of this very round.
            stamp_ns = min(now_ns, max(record.start_ns, wall_ns - self._wall_minus_mono))
            self._lateness.append(now_ns - stamp_ns)
        else:
            if not data:
                return
            stamp_ns = now_ns
            self._unstamped += 1
            self._lateness.append(now_ns - max(record.start_ns, min(now_ns, self._ready_since_ns)))
        if data:
            self._reads.append((slot, wire, data, stamp_ns))
            self._hot.pop(wire.fd, None)  # what comes next comes after this
            if data.endswith(LAST):  # a client that is free waits for nobody
                self._digest()

    def _digest(self, until_ns: int = 0) -> None:
        """Look into the reads in their order, until that time; clients that become free go on at once."""
        behind = len(self._reads) > len(self._slots)  # then it is the reads' turn, and the client's lateness shows it
        while self._reads and (behind or not until_ns or time.monotonic_ns() < until_ns):
            slot, wire, data, stamp_ns = self._reads.popleft()
            answer, record = slot.answer, slot.record
            if slot.wire is not wire:  # it has failed meanwhile
                continue
            if answer is None or record is None:
                self._drop(slot)
                continue
            answer.feed(data, stamp_ns, hold=True)
            if answer.held:
                self._ended.append((record, answer))
                self._free(slot, reusable=answer.reusable)
                self._relaunch()
            elif answer.done:
                self._finish(slot, reusable=answer.reusable)
                self._relaunch()
            elif answer.between and wire.receive is not None:
                self._hot[wire.fd] = (wire.receive, slot, *answer.short_way())

    def _closed_by_peer(self, slot: Slot) -> None:
        """Take the end of a connection that was found by reading."""
        wire = slot.wire
        self._digest()  # what came before the end
        if slot.wire is wire:
            self._ended_by_peer(slot)
            self._relaunch()

    def _ended_by_peer(self, slot: Slot) -> None:
        if slot.answer is None:
            self._drop(slot)
            return
        slot.answer.end_of_stream(time.monotonic_ns())
        self._finish(slot, reusable=False)

    def _expire(self, now_ns: int) -> None:
        while self._timeouts and (self._timeouts[0][1].end_ns or self._timeouts[0][0] <= now_ns):
            _, record, slot = self._timeouts.popleft()
            if not record.end_ns and slot.record is record:
                self._digest()  # what came in time counts
            if not record.end_ns and slot.record is record:
                self._fail(slot, "timeout", f"no whole answer within {self._spec.timeout_s:g} s", now_ns)
        for slot in self._connections.overdue(now_ns) if self._connections.connecting else ():
            self._connect_failed(slot, "timeout", f"no connection within {self._spec.connect_timeout_s:g} s")

    def _connect(self, slot: Slot) -> None:
        try:
            self._connections.begin(slot)
        except ConnectFailed as failed:
            self._connect_failed(slot, failed.kind, failed.detail)

    def _connect_failed(self, slot: Slot, error: str, detail: str) -> None:
        self._drop(slot)
        if slot.record is not None:
            # Never in flight: it begins and ends now.
            slot.record.start_ns = time.monotonic_ns()
            self._fail(slot, error, detail, slot.record.start_ns)

    def _drop(self, slot: Slot) -> None:
        if slot.wire is not None:
            self._hot.pop(slot.wire.fd, None)
        self._connections.drop(slot)

    # --- requests

    def _launch(self, slot: Slot, index: int) -> None:
        if self._stock is None:  # before the first run
            return
        self._flying += 1
        slot.record, slot.built = self._stock.take(index)
        slot.record.intended_ns = slot.intended_ns
        self._records.append(slot.record)
        if slot.wire is None:
            self._connect(slot)  # the request goes out once it is open
        else:
            self._send(slot)
            self._connections.watch(slot)

    def _send(self, slot: Slot) -> None:
        wire, record, requests, work = slot.wire, slot.record, self._requests, self._work
        if wire is None or record is None or requests is None or work is None:
            return
        if slot.built is not None:
            (data, slot.answer), slot.built = slot.built, None
        else:
            prompt = requests.prompt(record.index)
            data = requests.wrap(record.index, prompt, slot.history)
            slot.prompt = prompt if work.turns > 1 else ""
            record.input_tokens = work.input_tokens(record.index)
            slot.answer = Answer(record, keep_text=work.turns > 1)
        wire.prepare(data)
        record.start_ns = time.monotonic_ns()
        try:
            wire.flush()
        except sockets.Closed:
            self._ended_by_peer(slot)
            return
        self._timeouts.append((record.start_ns + self._timeout_ns, record, slot))

    def _fail(self, slot: Slot, error: str, detail: str, now_ns: int) -> None:
        record = slot.record
        if record is not None:
            record.error, record.detail, record.end_ns = error, detail, now_ns
        self._finish(slot, reusable=False)

    def _conclude_ended(self) -> None:
        """Read the ends of answers whose clients have gone on: when many end together, none waits for another's end."""
        for record, answer in self._ended:
            answer.conclude()
            self._count_end(record)
            answer.release()
        self._ended.clear()

    def _finish(self, slot: Slot, *, reusable: bool) -> None:
        record, answer = slot.record, slot.answer
        if record is None:
            return
        self._count_end(record)
        self._go_on(slot, record, answer)
        if answer is not None:
            answer.release()
        self._free(slot, reusable=reusable)

    def _count_end(self, record: Record) -> None:
        self._done += 1
        if record.error:
            self._failed += 1
        else:
            self._answers += 1
            self._answer_ns += record.end_ns - record.start_ns

    def _free(self, slot: Slot, *, reusable: bool) -> None:
        """Let the client take its next request."""
        self._flying -= 1
        slot.record = slot.answer = slot.built = None
        if slot.wire is not None:
            self._hot.pop(slot.wire.fd, None)
        if not reusable:
            self._drop(slot)
        if slot.next_turn < 0:
            self._idle.append(slot)
        else:
            self._idle.appendleft(slot)

    def _go_on(self, slot: Slot, record: Record, answer: Answer | None) -> None:
        """Note the next turn of this client's conversation; a failed turn ends it."""
        work = self._work
        if work is None or work.turns == 1:
            return
        left = work.turns - 1 - record.index % work.turns
        if record.error or answer is None or answer.text is None:
            self._done += left  # they will never be sent, which the point tells
        elif left:
            slot.history.append(prompts.Turn(slot.prompt, "".join(answer.text)))
            slot.next_turn = record.index + 1
            return
        slot.next_turn, slot.history = -1, []
