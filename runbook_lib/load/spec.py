"""What one point of a benchmark asks for: service, model, concurrency, lengths, limits."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from runbook_lib.errors import UsageError

# Enough words to make each prompt of a point distinct (see prompts.py).
SHORTEST_INPUT = 4


@dataclass(frozen=True, slots=True)
class PointSpec:
    """One measured point, closed loop: `concurrency` clients, each sends its next request when one ends.

    url: service root, `.../v1`, or the full `.../chat/completions`; proxies from the environment are not used
    warmup_requests: sent before the point on the same connections, not measured
    timeout_s: of one request, from its first byte sent to its end
    extra: more fields of the request body; `ignore_eos` keeps outputs at their full length
    max_lateness_ms: p99 of the client's own lateness above which the point is not ok
    min_delivered: share of `concurrency` that must really be in flight in the steady window
    raw_file: where to write one JSON line per request, "" for nowhere
    Raises UsageError for values that cannot be measured.
    """

    url: str
    model: str
    concurrency: int
    requests: int
    input_tokens: int
    output_tokens: int
    warmup_requests: int = 0
    warmup_output_tokens: int = 64
    timeout_s: float = 600.0
    connect_timeout_s: float = 10.0
    ignore_eos: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    api_key: str = field(default="", repr=False)
    ca_file: str = ""
    seed: int | None = None
    max_lateness_ms: float = 5.0
    min_delivered: float = 0.95
    raw_file: str = ""

    def __post_init__(self) -> None:
        least = {
            "concurrency": 1, "requests": 1, "output_tokens": 1, "input_tokens": SHORTEST_INPUT,
            "warmup_requests": 0, "warmup_output_tokens": 1,
        }  # fmt: skip
        problems = [
            f"{name} is {getattr(self, name)}, at least {bound} is needed"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        problems += [
            f"{name} is {getattr(self, name)}, it must be above 0"
            for name in ("timeout_s", "connect_timeout_s")
            if not getattr(self, name) > 0
        ]
        if self.requests < self.concurrency:
            problems.append(
                f"{self.requests} requests cannot keep {self.concurrency} in flight; "
                f"take at least {self.concurrency}, better {4 * self.concurrency}"
            )
        if problems:
            raise UsageError("\n".join(problems))

    def to_json(self) -> dict[str, Any]:
        """Return all fields, with the API key in clear: for the pipe to the load process only."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
