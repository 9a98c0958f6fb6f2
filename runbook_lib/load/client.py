"""The closed loop itself: one epoll loop over all connections, in one thread, with nothing else to do.

What keeps the numbers true: all connections are open and all requests composed before a request is stamped;
the stamp is taken right before the send; arrivals carry the kernel's own time, so a late loop falsifies
nothing, and how late it was is measured; the garbage collector is off while the load runs.
Linux only (epoll, SO_TIMESTAMPNS).
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import ssl
import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from runbook_lib.errors import LoadError
from runbook_lib.load import prompts, sockets
from runbook_lib.load.record import Clock, Record, Trace
from runbook_lib.load.stream import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.spec import PointSpec

_BILLION = 1_000_000_000
# More connects at once than a listen backlog holds would be answered after a SYN retransmission of 1 s.
CONNECTS_AT_ONCE = 64
# One nap per round gathers many small reads; from this width on it saves a quarter of the CPU time and costs
# nothing in accuracy, since arrivals are stamped by the kernel.
_NAP_FROM = 64
_NAP_S = 0.001
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


class _Slot:
    """One client of the closed loop: its connection, and the request that is under way on it."""

    __slots__ = ("answer", "index", "opened_ns", "ready", "record", "wire", "writing")

    def __init__(self, index: int) -> None:
        self.index = index
        self.wire: sockets.Wire | None = None
        self.ready = False
        self.writing = False
        self.opened_ns = 0
        self.record: Record | None = None
        self.answer: Answer | None = None


class Client:
    """`concurrency` connections to one service, kept open from warm-up to the end of the point.

    Use as a context manager. lifeline: a file descriptor whose end of file means that nobody waits for the
    result any more; then `run` raises LoadError.
    """

    def __init__(self, spec: PointSpec, *, lifeline: int = -1) -> None:
        self._spec = spec
        self._target = prompts.endpoint(spec.url)
        self._context = sockets.tls_context(spec.ca_file) if self._target.scheme == "https" else None
        _raise_file_limit(spec.concurrency + _SPARE_FILES)
        self._family, self._address = sockets.resolve(self._target)
        self._epoll = select.epoll()
        self._lifeline = lifeline
        if lifeline >= 0:
            self._epoll.register(lifeline, select.EPOLLIN)
        self._slots = [_Slot(index) for index in range(spec.concurrency)]
        self._by_fd: dict[int, _Slot] = {}
        self._connecting: dict[_Slot, int] = {}  # until when; oldest first
        self._idle: deque[_Slot] = deque()
        self._timeouts: deque[tuple[int, Record, _Slot]] = deque()
        self._lateness = array("q")
        self._unstamped = 0
        self._wall_minus_mono = 0
        self._ready_since_ns = 0
        self._requests: prompts.Requests | None = None
        self._records: list[Record] = []
        self._done = self._failed = 0

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
        while todo or self._connecting:
            while todo and len(self._connecting) < CONNECTS_AT_ONCE:
                self._connect(todo.popleft())
            if self._connecting:
                self._round(nap=False)

    def run(
        self,
        requests: prompts.Requests,
        count: int,
        *,
        phase: str = "measure",
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Trace:
        """Send `count` requests, `concurrency` at a time, and return what happened to each.

        Raises LoadError when the load cannot be made at all (certificate refused, parent gone).
        """
        self._requests, self._records = requests, []
        self._lateness, self._unstamped = array("q"), 0
        self._done = self._failed = 0
        self._idle = deque(self._slots)
        next_report_ns = 0
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while self._done < count:
                while self._idle and len(self._records) < count:
                    self._launch(self._idle.popleft())
                stamped = not self._unstamped and bool(self._lateness)
                if self._done < count:
                    self._round(nap=stamped and len(self._slots) >= _NAP_FROM)
                if on_progress and time.monotonic_ns() >= next_report_ns:
                    on_progress(Progress(phase, self._done, self._failed, count))
                    next_report_ns = time.monotonic_ns() + _PROGRESS_EVERY_NS
        finally:
            gc.enable()
            gc.unfreeze()
        clock: Clock = "loop" if self._unstamped or not self._lateness else "kernel"
        return Trace(self._records, self._lateness, clock)

    # --- one round of the loop

    def _round(self, *, nap: bool) -> None:
        if nap:
            time.sleep(_NAP_S)
        before_ns = time.monotonic_ns()
        ready = self._epoll.poll(self._patience_s(before_ns), len(self._slots) + 1)
        now_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        # Whoever is interrupted between the two clocks gets a wrong difference: then the last one stays.
        if time.monotonic_ns() - now_ns < _CLOCK_GAP_NS or not self._wall_minus_mono:
            self._wall_minus_mono = wall_ns - now_ns
        # Without kernel stamps: what is ready now arrived after the last poll; if this poll had to wait, just now.
        waited = now_ns - before_ns > _WAITED_NS
        if waited or not self._ready_since_ns:
            self._ready_since_ns = now_ns
        for fd, events in ready:
            if fd == self._lifeline:
                self._check_lifeline()
                continue
            slot = self._by_fd.get(fd)
            if slot is not None:
                self._handle(slot, events)
        self._ready_since_ns = now_ns
        self._expire(time.monotonic_ns())

    def _patience_s(self, now_ns: int) -> float:
        while self._timeouts and self._timeouts[0][1].end_ns:
            self._timeouts.popleft()
        deadline_ns = now_ns + int(_LONGEST_POLL_S * _BILLION)
        if self._timeouts:
            deadline_ns = min(deadline_ns, self._timeouts[0][0])
        if self._connecting:
            deadline_ns = min(deadline_ns, next(iter(self._connecting.values())))
        return max(0.0, (deadline_ns - now_ns) / _BILLION + 0.001)

    def _check_lifeline(self) -> None:
        if not os.read(self._lifeline, 4096):
            raise LoadError("the process that asked for this load is gone; the load was stopped")

    def _handle(self, slot: _Slot, events: int) -> None:
        wire = slot.wire
        if wire is None:
            return
        try:
            if not slot.ready:
                self._go_on_connecting(slot, wire)
                return
            if events & select.EPOLLOUT:
                wire.flush()
            if events & ~select.EPOLLOUT:
                self._read(slot, wire)
        except sockets.Closed:
            self._ended_by_peer(slot)
        self._watch(slot)

    def _read(self, slot: _Slot, wire: sockets.Wire) -> None:
        data, wall_ns = wire.read()
        now_ns = time.monotonic_ns()
        answer, record = slot.answer, slot.record
        if answer is None or record is None:
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
            answer.feed(data, stamp_ns)
            if answer.done:
                self._finish(slot, reusable=answer.reusable)

    def _ended_by_peer(self, slot: _Slot) -> None:
        if slot.answer is None:
            self._drop(slot)
            return
        slot.answer.end_of_stream(time.monotonic_ns())
        self._finish(slot, reusable=False)

    def _expire(self, now_ns: int) -> None:
        while self._timeouts and (self._timeouts[0][1].end_ns or self._timeouts[0][0] <= now_ns):
            _, record, slot = self._timeouts.popleft()
            if not record.end_ns and slot.record is record:
                self._fail(slot, "timeout", f"no whole answer within {self._spec.timeout_s:g} s", now_ns)
        for slot, deadline_ns in list(self._connecting.items()):
            if deadline_ns > now_ns:
                break
            detail = f"no connection within {self._spec.connect_timeout_s:g} s"
            self._connect_failed(slot, "timeout", detail)

    # --- connections

    def _connect(self, slot: _Slot) -> None:
        slot.opened_ns = time.monotonic_ns()
        try:
            slot.wire = sockets.Wire(self._family, self._address, context=self._context, server_name=self._target.host)
        except OSError as error:
            if slot.record is not None:
                self._connect_failed(slot, *_connect_error(error))
            return
        self._by_fd[slot.wire.fd] = slot
        self._epoll.register(slot.wire.fd, select.EPOLLIN | select.EPOLLOUT)
        slot.ready, slot.writing = False, True
        self._connecting[slot] = slot.opened_ns + int(self._spec.connect_timeout_s * _BILLION)

    def _go_on_connecting(self, slot: _Slot, wire: sockets.Wire) -> None:
        try:
            if not wire.started:
                wire.connected()
            else:
                wire.read()  # the server's part of the TLS handshake; it can carry no answer yet
                wire.flush()
        except ssl.SSLCertVerificationError as error:
            raise LoadError(
                f"{self._target.authority}: its certificate is not trusted: {error.verify_message}",
                next_command="name the CA file that signed the service's certificate (ca_file)",
            ) from error
        except OSError as error:
            self._connect_failed(slot, *_connect_error(error))
            return
        except sockets.Closed:
            self._connect_failed(slot, "cut", "connection closed before it was ready")
            return
        if not wire.secured:
            self._watch(slot)
            return
        slot.ready = True
        self._forget_connecting(slot)
        if slot.record is not None:
            self._send(slot)
        self._watch(slot)

    def _connect_failed(self, slot: _Slot, error: str, detail: str) -> None:
        self._forget_connecting(slot)
        self._drop(slot)
        if slot.record is not None:
            # Never in flight: it begins and ends now.
            slot.record.start_ns = time.monotonic_ns()
            self._fail(slot, error, detail, slot.record.start_ns)

    def _forget_connecting(self, slot: _Slot) -> None:
        self._connecting.pop(slot, None)

    def _watch(self, slot: _Slot) -> None:
        wire = slot.wire
        if wire is None or (not slot.ready and not wire.started):
            return
        wanted = wire.wants_write
        if wanted != slot.writing:
            slot.writing = wanted
            self._epoll.modify(wire.fd, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def _drop(self, slot: _Slot) -> None:
        wire, slot.wire, slot.ready = slot.wire, None, False
        if wire is not None:
            self._by_fd.pop(wire.fd, None)
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(wire.fd)
            wire.close()

    # --- requests

    def _launch(self, slot: _Slot) -> None:
        slot.record = Record(len(self._records))
        self._records.append(slot.record)
        if slot.wire is None:
            self._connect(slot)  # the request goes out once it is open
        else:
            self._send(slot)
            self._watch(slot)

    def _send(self, slot: _Slot) -> None:
        wire, record = slot.wire, slot.record
        if wire is None or record is None or self._requests is None:
            return
        wire.prepare(self._requests.build(record.index))
        slot.answer = Answer(record)
        record.start_ns = time.monotonic_ns()
        try:
            wire.flush()
        except sockets.Closed:
            self._ended_by_peer(slot)
            return
        self._timeouts.append((record.start_ns + int(self._spec.timeout_s * _BILLION), record, slot))

    def _fail(self, slot: _Slot, error: str, detail: str, now_ns: int) -> None:
        record = slot.record
        if record is not None:
            record.error, record.detail, record.end_ns = error, detail, now_ns
        self._finish(slot, reusable=False)

    def _finish(self, slot: _Slot, *, reusable: bool) -> None:
        record = slot.record
        if record is None:
            return
        self._done += 1
        self._failed += bool(record.error)
        slot.record = slot.answer = None
        if not reusable:
            self._drop(slot)
        self._idle.append(slot)


def _connect_error(error: OSError) -> tuple[str, str]:
    if isinstance(error, ssl.SSLError):
        return "unreachable", f"TLS: {error}"
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    if isinstance(error, TimeoutError):
        return "timeout", "no connection: timed out"
    return "unreachable", str(error)


def _raise_file_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise LoadError(f"{needed} open files are needed, the limit is {hard}", next_command=f"ulimit -n {needed}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
