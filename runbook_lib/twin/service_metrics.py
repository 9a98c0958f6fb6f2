"""The counters of the emulated service and their Prometheus text (names: mindie.md section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKENS = (16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 16384.0, 32768.0)


@dataclass
class Histogram:
    """A Prometheus histogram."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.bounds)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.total += value
        self.count += 1
        for index, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[index] += 1

    def lines(self, name: str, labels: str) -> list[str]:
        """Return the exposition lines."""
        rows = [
            f'{name}_bucket{{{labels},le="{bound}"}} {count}'
            for bound, count in zip(self.bounds, self.counts, strict=True)
        ]
        return [
            f"# TYPE {name} histogram",
            *rows,
            f'{name}_bucket{{{labels},le="+Inf"}} {self.count}',
            f"{name}_count{{{labels}}} {self.count}",
            f"{name}_sum{{{labels}}} {self.total:.6f}",
        ]


@dataclass
class Metrics:
    """All counters. Durations are emulated seconds."""

    received: int = 0
    succeeded: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    ttft: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    tpot: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    e2e: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    prompt_lengths: Histogram = field(default_factory=lambda: Histogram(_TOKENS))
    output_lengths: Histogram = field(default_factory=lambda: Histogram(_TOKENS))

    def text(self, model: str, gauges: dict[str, float], seconds_up: float) -> str:
        """Return the page. `gauges` are the values of now; throughputs are averages over `seconds_up`."""
        labels = f'model_name="{model}"'
        up = max(seconds_up, 1e-9)
        counters = {
            "request_received_total": self.received,
            "request_success_total": self.succeeded,
            "request_failed_total": self.failed,
            "prompt_tokens_total": self.prompt_tokens,
            "generation_tokens_total": self.generation_tokens,
        }
        now = {
            "avg_prompt_throughput_toks_per_s": self.prompt_tokens / up,
            "avg_generation_throughput_toks_per_s": self.generation_tokens / up,
            "failed_request_perc": self.failed / max(self.received, 1),
            "cpu_cache_usage_perc": 0.0,
            "npu_prefix_cache_hit_rate": 0.0,
            "num_requests_swapped": 0,
            "all_radix_match_num": 0,
            "npu_radix_match_hit_num": 0,
        } | gauges
        lines = []
        for kind, values in (("counter", counters), ("gauge", now)):
            for name, value in values.items():
                lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {value}"]
        for name, histogram in (
            ("time_to_first_token_seconds", self.ttft),
            ("time_per_output_token_seconds", self.tpot),
            ("e2e_request_latency_seconds", self.e2e),
            ("request_prompt_tokens", self.prompt_lengths),
            ("request_generation_tokens", self.output_lengths),
        ):
            lines += histogram.lines(name, labels)
        return "\n".join(lines) + "\n"
