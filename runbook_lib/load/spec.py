"""What one point of a benchmark asks for: service, model, workload, limits."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from runbook_lib.errors import UsageError
from runbook_lib.load import lengths

Arrival = Literal["closed", "constant", "poisson", "gamma", "trace"]

# Enough words to make each prompt of a point distinct (see prompts.py).
SHORTEST_INPUT = 4
MOST_PROCESSES = 64
_SECRET = frozenset({"api_key"})


@dataclass(frozen=True, slots=True)
class PointSpec:
    """One measured point.

    Closed loop: `concurrency` clients, each sends its next request when one ends. Open loop: requests go out at
    their own times, whatever the service does; `concurrency` is then the most that may be in flight.

    url: service root, `.../v1`, or the full `.../chat/completions`; proxies from the environment are not used
    input_tokens, output_tokens: of every request, or the reference lengths where a distribution is given
    input_lengths, output_lengths: distributions, see lengths.py; "" for fixed lengths
    arrival: `closed`; `constant`, `poisson`, `gamma` with rate_per_s (gamma: burstiness 1 is Poisson, below 1 more
        bursty); `trace` takes times and lengths from trace_file (see traces.py), played trace_speed times as fast
    duration_s: stop sending after so long; 0 for as many as `requests`. With both, what comes first ends it
    turns: requests of one conversation, each with the earlier turns and answers before it; closed loop only
    tokenizer: folder or tokenizer.json for exact prompt lengths (needs the library `tokenizers`); "" estimates
    warmup_requests: sent before the point on the same connections, not measured
    timeout_s: of one request, from its first byte sent to its end
    extra: more fields of the request body; `ignore_eos` keeps outputs at their full length
    max_lateness_ms: p99 of the client's own lateness above which the point is not ok; 0 for 20 with the kernel's
        time stamps, 5 without
    min_delivered: share of `concurrency`, or of rate_per_s, that must really be delivered
    slo_*_ms: bounds of one request for goodput and the search; 0 for none
    processes: how many processes share the load
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
    arrival: Arrival = "closed"
    rate_per_s: float = 0.0
    burstiness: float = 1.0
    trace_file: str = ""
    trace_speed: float = 1.0
    duration_s: float = 0.0
    turns: int = 1
    input_lengths: str = ""
    output_lengths: str = ""
    tokenizer: str = ""
    timeout_s: float = 600.0
    connect_timeout_s: float = 10.0
    ignore_eos: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    api_key: str = field(default="", repr=False)
    ca_file: str = ""
    seed: int | None = None
    max_lateness_ms: float = 0.0
    min_delivered: float = 0.95
    slo_ttft_ms: float = 0.0
    slo_tpot_ms: float = 0.0
    slo_e2e_ms: float = 0.0
    processes: int = 1
    raw_file: str = ""

    def __post_init__(self) -> None:
        least = {
            "concurrency": 1, "requests": 1, "output_tokens": 1, "input_tokens": SHORTEST_INPUT, "turns": 1,
            "warmup_requests": 0, "warmup_output_tokens": 1, "processes": 1, "duration_s": 0,
        }  # fmt: skip
        problems = [
            f"{name} is {getattr(self, name)}, at least {bound} is needed"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        positive = ("timeout_s", "connect_timeout_s", "burstiness", "trace_speed")
        problems += [
            f"{name} is {getattr(self, name)}, it must be above 0" for name in positive if not getattr(self, name) > 0
        ]
        problems += self._load_problems()
        if problems:
            raise UsageError("\n".join(problems))
        for text in (self.input_lengths, self.output_lengths):
            lengths.parse(text or "1")

    def _load_problems(self) -> list[str]:
        problems = []
        if self.arrival not in get_args(Arrival):
            problems.append(f"arrival is {self.arrival!r}, right would be one of {', '.join(get_args(Arrival))}")
        if self.arrival in {"constant", "poisson", "gamma"} and not self.rate_per_s > 0:
            problems.append(f"arrival {self.arrival} needs rate_per_s above 0")
        if (self.arrival == "trace") != bool(self.trace_file):
            problems.append("arrival trace and trace_file go together")
        if self.open_loop and self.turns > 1:
            problems.append("turns are for the closed loop: a turn cannot begin before the one before it has ended")
        if not self.open_loop and not self.duration_s and self.requests < self.concurrency:
            problems.append(
                f"{self.requests} requests cannot keep {self.concurrency} in flight; "
                f"take at least {self.concurrency}, better {4 * self.concurrency}"
            )
        if not self.open_loop and self.turns > 1 and self.requests < self.concurrency * self.turns:
            problems.append(f"{self.concurrency} conversations of {self.turns} turns need more requests")
        if self.processes > min(self.concurrency, MOST_PROCESSES):
            problems.append(f"{self.processes} processes cannot share {self.concurrency} clients")
        return problems

    @property
    def open_loop(self) -> bool:
        """Whether requests go out at their own times."""
        return self.arrival != "closed"

    def to_json(self) -> dict[str, Any]:
        """Return all fields, with the API key in clear: for the pipe to the load process only."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def public(self) -> dict[str, Any]:
        """Return all fields without secrets, for the record and as the identity of the point."""
        return {name: value for name, value in self.to_json().items() if name not in _SECRET}
