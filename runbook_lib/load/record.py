"""What one request did, and what a whole load left behind: raw times, nothing computed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Clock = Literal["kernel", "loop"]


def _times() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Record:
    """One request. All times are nanoseconds of the monotonic clock; 0 means that it never happened.

    intended_ns: when an open load meant to send it; 0 in a closed loop, where that is `start_ns`
    events: one time per SSE event that carried tokens, on any channel
    channels: (number of the first event, channel) wherever the channel changes, as from thinking to answer
    input_tokens: how many the prompt was made to have
    error: "" when the answer came whole, else refused, unreachable, timeout, cut, http_<status>, malformed,
        empty, stream_error (the server reported an error inside the stream)
    prompt_tokens, completion_tokens, reasoning_tokens: what the server's `usage` said, 0 when it said nothing
    """

    index: int
    start_ns: int = 0
    end_ns: int = 0
    intended_ns: int = 0
    input_tokens: int = 0
    events: array[int] = field(default_factory=_times)
    status: int = 0
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    channels: list[tuple[int, str]] = field(default_factory=list)
    error: str = ""
    detail: str = ""

    @property
    def output_tokens(self) -> int:
        """Tokens by the server's usage, else the number of token events."""
        return self.completion_tokens or len(self.events)

    @property
    def begin_ns(self) -> int:
        """From when latency counts: when it was meant to go out, in a closed loop when it did."""
        return self.intended_ns or self.start_ns

    @property
    def thinking_events(self) -> int:
        """Token events on a reasoning channel."""
        borders = [*self.channels, (len(self.events), "")]
        return sum(
            after - first for (first, channel), (after, _) in pairwise(borders) if channel.startswith("reasoning")
        )

    def to_json(self, zero_ns: int) -> dict[str, Any]:
        """Return the record with times in milliseconds after `zero_ns`."""
        return {
            "index": self.index,
            "intended_ms": (self.begin_ns - zero_ns) / 1e6,
            "start_ms": (self.start_ns - zero_ns) / 1e6,
            "end_ms": (self.end_ns - zero_ns) / 1e6,
            "events_ms": [(time - zero_ns) / 1e6 for time in self.events],
            "status": self.status,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "input_tokens": self.input_tokens,
            "channels": self.channels,
            "error": self.error,
            "detail": self.detail,
        }


@dataclass(slots=True)
class Trace:
    """All requests of one load.

    lateness_ns: per read, how much later than its arrival the client saw it
    zero_ns: when the load began; cpu_s, waited_s: what the process used of a CPU, and how long it waited for one
        while it wanted to run (0 where the kernel does not tell), out of wall_s
    clock: `kernel` when every read had the kernel's receive time, else `loop`; then lateness is an upper
        bound, taken from the client's own rounds
    """

    records: list[Record]
    lateness_ns: array[int]
    clock: Clock
    zero_ns: int = 0
    cpu_s: float = 0.0
    waited_s: float = 0.0
    wall_s: float = 0.0

    def pack(self) -> dict[str, Any]:
        """Return plain JSON values with the exact times, for another process."""
        rows = [
            [list(value) if isinstance(value, array) else value for value in (getattr(each, name) for name in _FIELDS)]
            for each in self.records
        ]
        rest = {name: getattr(self, name) for name in ("clock", "zero_ns", "cpu_s", "waited_s", "wall_s")}
        return {"records": rows, "lateness_ns": list(self.lateness_ns), **rest}

    @classmethod
    def unpack(cls, value: dict[str, Any]) -> Trace:
        """Take what `pack` gave."""
        records = [Record(**dict(zip(_FIELDS, row, strict=True))) for row in value.pop("records")]
        for record in records:
            record.events = array("q", record.events)
            record.channels = [(first, channel) for first, channel in record.channels]
        return cls(records, array("q", value.pop("lateness_ns")), **value)

    @classmethod
    def merged(cls, traces: Sequence[Trace]) -> Trace:
        """Join the raw times of several processes: one machine, one monotonic clock."""
        records = sorted((record for trace in traces for record in trace.records), key=lambda each: each.start_ns)
        lateness = array("q")
        for trace in traces:
            lateness.extend(trace.lateness_ns)
        return cls(
            records,
            lateness,
            "loop" if any(trace.clock == "loop" for trace in traces) else "kernel",
            min(trace.zero_ns for trace in traces),
            max(trace.cpu_s for trace in traces),
            max(trace.waited_s for trace in traces),
            max(trace.wall_s for trace in traces),
        )


_FIELDS = tuple(item.name for item in fields(Record))
