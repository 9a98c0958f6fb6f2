"""What one request did, and what a whole load left behind: raw times, nothing computed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Literal

Clock = Literal["kernel", "loop"]


def _times() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Record:
    """One request. All times are nanoseconds of the monotonic clock; 0 means that it never happened.

    events: one time per SSE event that carried tokens, on any channel
    error: "" when the answer came whole, else refused, unreachable, timeout, cut, http_<status>, malformed,
        empty, stream_error (the server reported an error inside the stream)
    prompt_tokens, completion_tokens: what the server's `usage` said, 0 when it said nothing
    """

    index: int
    start_ns: int = 0
    end_ns: int = 0
    events: array[int] = field(default_factory=_times)
    status: int = 0
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    detail: str = ""

    @property
    def output_tokens(self) -> int:
        """Tokens by the server's usage, else the number of token events."""
        return self.completion_tokens or len(self.events)

    def to_json(self, zero_ns: int) -> dict[str, Any]:
        """Return the record with times in milliseconds after `zero_ns`."""
        return {
            "index": self.index,
            "start_ms": (self.start_ns - zero_ns) / 1e6,
            "end_ms": (self.end_ns - zero_ns) / 1e6,
            "events_ms": [(time - zero_ns) / 1e6 for time in self.events],
            "status": self.status,
            "finish_reason": self.finish_reason,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "error": self.error,
            "detail": self.detail,
        }


@dataclass(slots=True)
class Trace:
    """All requests of one load.

    lateness_ns: per read, how much later than its arrival the client saw it
    clock: `kernel` when every read had the kernel's receive time, else `loop`; then lateness is an upper
        bound, taken from the client's own rounds
    """

    records: list[Record]
    lateness_ns: array[int]
    clock: Clock
