"""One client of a load, and the requests that are built before their turn comes."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from runbook_lib.load.record import Record
from runbook_lib.load.stream import Answer

if TYPE_CHECKING:
    from runbook_lib.load.prompts import Requests, Turn
    from runbook_lib.load.sockets import Wire
    from runbook_lib.load.workload import Workload


class Slot:
    """One client of the closed loop: its connection, and the request that is under way on it."""

    __slots__ = (
        "answer", "built", "history", "intended_ns", "next_turn", "opened_ns", "prompt", "ready", "record", "wire",
        "writing",
    )  # fmt: skip

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.intended_ns = 0
        self.built: tuple[bytes, Answer] | None = None  # the next request and its reader, until it is sent
        self.next_turn = -1  # the request that goes on with this client's conversation
        self.prompt = ""
        self.history: list[Turn] = []
        self.ready = False
        self.writing = False
        self.opened_ns = 0
        self.record: Record | None = None
        self.answer: Answer | None = None


class Stock:
    """The next requests, in their order, each with its record and the reader of its answer.

    Built while nothing else is to be done: when many answers end together, every client sends at once. most: how many
    are kept; 0 where a request cannot be built before the answer to an earlier one.
    """

    def __init__(self, requests: Requests, work: Workload, most: int) -> None:
        self._requests, self._work, self._most = requests, work, most
        self._built: deque[tuple[Record, tuple[bytes, Answer]]] = deque()
        self._end = 0

    def fill(self, begin: int, until_ns: int = 0) -> None:
        """Build on, from request `begin` at the earliest: until all is there, or until that time."""
        last = min(self._work.count, begin + self._most)
        self._end = max(self._end, begin)
        while self._end < last and not (until_ns and time.monotonic_ns() >= until_ns):
            index, self._end = self._end, self._end + 1
            record = Record(index, input_tokens=self._work.input_tokens(index))
            self._built.append((record, (self._requests.build(index), Answer(record))))

    def take(self, index: int) -> tuple[Record, tuple[bytes, Answer] | None]:
        """Return a request's record, and the rest where it is built."""
        if self._built and self._built[0][0].index == index:
            return self._built.popleft()
        return Record(index), None
