"""One measured point: numbers and the verdict on them. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runbook_lib.load import measures
from runbook_lib.load.measures import Stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.load.record import Clock, Record, Trace
    from runbook_lib.load.spec import PointSpec

# From twice the concurrency on, there is a time between ramp and tail to judge the delivered load by.
_STEADY_FROM = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point of a benchmark; distributions are None when no request came back whole.

    concurrency / delivered: requested clients, and how many requests were really in flight on average, as
        `delivered_basis` says: in the `steady` window (from all first in flight to the last start), or over
        the `whole` load when it is too short for one. Requests that wait in the server's queue count.
    mean_in_flight: over the whole load, with ramp and tail
    requests: all that were sent or tried; errors: how many of them failed, by class
    output_tokens: mean per answer; `output_tokens_estimated` when usage was missing and chunks were counted
    input_tokens: mean per prompt; `input_tokens_estimated` when usage was missing
    tokens_per_s_per_client: throughput / concurrency; generation_tokens_per_s_per_client: 1 / mean TPOT
    client_lateness_ms: how much later than its arrival the client saw a read; with clock `loop`, an upper bound
    reason: why the point is not ok, "" when it is
    """

    concurrency: int
    delivered: float
    delivered_basis: Literal["steady", "whole"]
    requests: int
    errors: dict[str, int]
    ttft_ms: Stats | None
    itl_ms: Stats | None
    tpot_ms: Stats | None
    e2e_ms: Stats | None
    decode_ms: Stats | None
    lpct_ms: Stats | None
    output_tokens_per_s: float
    requests_per_s: float
    tokens_per_s_per_client: float
    generation_tokens_per_s_per_client: float | None
    mean_in_flight: float
    client_lateness_ms: Stats | None
    clock: Clock
    duration_s: float
    input_tokens: float
    input_tokens_estimated: bool
    output_tokens: float
    output_tokens_estimated: bool
    finish_reasons: dict[str, int]
    ok: bool
    reason: str
    error_samples: dict[str, str] = field(default_factory=dict)
    warmup_errors: dict[str, int] = field(default_factory=dict)

    @property
    def succeeded(self) -> int:
        """How many requests came back whole."""
        return self.requests - sum(self.errors.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; distributions as {mean, p50, p90, p99}."""
        result: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            result[item.name] = (
                {part.name: getattr(value, part.name) for part in fields(value)} if isinstance(value, Stats) else value
            )
        return result

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Point:
        """Take what `to_json` gave. Raises TypeError for anything else."""
        parts: dict[str, Any] = {
            name: Stats(**part) if isinstance(part, dict) and name in _DISTRIBUTIONS else part
            for name, part in value.items()
        }
        return cls(**parts)


_DISTRIBUTIONS = frozenset({"ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "decode_ms", "lpct_ms", "client_lateness_ms"})


def make_point(spec: PointSpec, trace: Trace, *, warmup: Sequence[Record] = ()) -> Point:
    """Compute the point of a load. It is ok only when nothing at all speaks against it."""
    records = trace.records
    good = measures.whole(records)
    starts, ends = measures.intervals(records)
    duration = measures.duration_s(records)
    end_ns = float(ends.max()) if len(ends) else 0.0
    in_flight = measures.mean_in_flight(starts, ends, (0.0, end_ns))
    window = None
    if len(records) >= _STEADY_FROM * spec.concurrency:
        window = measures.steady_window(starts, ends, spec.concurrency)
    tpot = measures.stats(measures.tpot_ms(good))
    tokens = sum(record.output_tokens for record in good)
    rate = tokens / duration if duration else 0.0
    lateness = measures.stats(np.array(trace.lateness_ns, dtype=np.float64) / 1e6)
    errors = Counter(record.error or "cut" for record in records if not measures.is_whole(record))
    samples = {record.error: record.detail for record in reversed([*warmup, *records]) if record.error}
    point = Point(
        concurrency=spec.concurrency,
        delivered=measures.mean_in_flight(starts, ends, window) if window else in_flight,
        delivered_basis="steady" if window else "whole",
        requests=len(records),
        errors=dict(errors),
        ttft_ms=measures.stats(measures.ttft_ms(good)),
        itl_ms=measures.stats(measures.itl_ms(good)),
        tpot_ms=tpot,
        e2e_ms=measures.stats(measures.e2e_ms(good)),
        decode_ms=measures.stats(measures.decode_ms(good)),
        lpct_ms=measures.stats(measures.lpct_ms(good, spec.input_tokens)),
        output_tokens_per_s=rate,
        requests_per_s=len(good) / duration if duration else 0.0,
        tokens_per_s_per_client=rate / spec.concurrency,
        generation_tokens_per_s_per_client=1000.0 / tpot.mean if tpot and tpot.mean > 0 else None,
        mean_in_flight=in_flight,
        client_lateness_ms=lateness,
        clock=trace.clock,
        duration_s=duration,
        input_tokens=_mean([record.prompt_tokens or spec.input_tokens for record in good], spec.input_tokens),
        input_tokens_estimated=not good or any(not record.prompt_tokens for record in good),
        output_tokens=_mean([record.output_tokens for record in good], 0),
        output_tokens_estimated=not good or any(not record.completion_tokens for record in good),
        finish_reasons=dict(Counter(record.finish_reason for record in good)),
        ok=False,
        reason="not judged yet",
        error_samples=samples,
        warmup_errors=dict(Counter(record.error for record in warmup if record.error)),
    )
    reasons = judge(point, spec)
    return replace(point, ok=not reasons, reason="; ".join(reasons))


def judge(point: Point, spec: PointSpec) -> list[str]:
    """Return all that speaks against the point, nothing when it is ok."""
    reasons = []
    failed = sum(point.errors.values())
    if point.warmup_errors:
        reasons.append(f"the warm-up failed: {_listing(point.warmup_errors, point.error_samples)}")
    if failed:
        listing = _listing(point.errors, point.error_samples)
        reasons.append(f"{failed} of {point.requests} requests failed: {listing}")
    if point.requests < spec.requests:
        reasons.append(f"{point.requests} of {spec.requests} requests were sent")
    if not point.succeeded:
        reasons.append("no request succeeded, nothing was measured")
        return reasons
    needed = spec.min_delivered * point.concurrency
    if point.requests >= _STEADY_FROM * point.concurrency:
        if point.delivered_basis != "steady":
            reasons.append(f"{point.concurrency} requests were never in flight together")
        elif point.delivered < needed:
            reasons.append(
                f"{point.delivered:.1f} requests were in flight on average in the steady window, "
                f"{point.concurrency} were asked for, at least {needed:.1f} are expected"
            )
    lateness = point.client_lateness_ms
    if lateness is None:
        reasons.append("the client's lateness is unknown")
    elif lateness.p99 > spec.max_lateness_ms:
        reasons.append(
            f"the load generator itself was {lateness.p99:.1f} ms late at p99, at most "
            f"{spec.max_lateness_ms:g} ms is allowed; use an idle machine or a lower concurrency"
        )
    return reasons


def _listing(errors: dict[str, int], samples: dict[str, str]) -> str:
    return ", ".join(
        f"{errors[name]} x {name}" + (f" ({samples[name]})" if samples.get(name) else "")
        for name in sorted(errors, key=lambda name: -errors[name])
    )


def _mean(values: Sequence[int], otherwise: int) -> float:
    return float(np.mean(values)) if len(values) else float(otherwise)
