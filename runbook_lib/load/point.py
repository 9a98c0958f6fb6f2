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
# The kernel's stamps keep a late loop out of the latencies; then lateness only delays the next request.
_LATE_WITH_KERNEL_MS, _LATE_WITH_LOOP_MS = 20.0, 5.0
_LATE_SENDS_MS = 20.0
# Above this share of a core the client may have become what is measured.
_BUSY = 0.9
_LENGTH_OFF = 0.02


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
    tokens_per_s_per_client: throughput / concurrency, so waiting counts
    generation_tokens_per_s_per_client: 1 / mean TPOT
    client_lateness_ms: how much later than its arrival the client saw a read; with clock `loop`, an upper bound
    reason: why the point is not ok, "" when it is
    steady: rates between ramp and tail, None when there is no such time
    arrival, rate_per_s: how requests went out, and the asked rate of an open loop; send_delay_ms: how much later
        than meant (open loop)
    thinking_tokens, content_tokens: means per answer, by the server's count where it gives one, else by the events
    first_content_ms: to the first token of the answer proper, where thinking came before
    tokens_per_event: above 1 when one event carries several tokens (MTP); then ITL is per event, TPOT per token
    goodput_per_s, goodput_share: requests that kept the SLO, of all that were sent; None without SLO
    client_cpu_share, client_waited_share: of one core used by the busiest load process, and of the time in which
        it was ready and had no core
    asked_*_tokens: the lengths that were asked for; repeat: which measurement of this point it is, from 1
    percentiles: 0 to 100 in steps of one, of ttft_ms, itl_ms, tpot_ms: the whole distributions, for plots
    notes: what is not wrong but must be known
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
    steady: dict[str, float] | None = None
    arrival: str = "closed"
    rate_per_s: float = 0.0
    send_delay_ms: Stats | None = None
    thinking_tokens: float = 0.0
    content_tokens: float = 0.0
    first_content_ms: Stats | None = None
    tokens_per_event: float = 1.0
    goodput_per_s: float | None = None
    goodput_share: float | None = None
    client_cpu_share: float = 0.0
    client_waited_share: float = 0.0
    processes: int = 1
    asked_input_tokens: int = 0
    asked_output_tokens: int = 0
    repeat: int = 1
    percentiles: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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


_DISTRIBUTIONS = frozenset(
    {
        "ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "decode_ms", "lpct_ms", "client_lateness_ms", "send_delay_ms",
        "first_content_ms",
    }
)  # fmt: skip


def make_point(spec: PointSpec, trace: Trace, *, warmup: Sequence[Record] = ()) -> Point:
    """Compute the point of a load. It is ok only when nothing at all speaks against it.

    The trace gives up its lateness on the way: with it and all gaps in memory a load process would be at its largest.
    """
    lateness = measures.stats(np.frombuffer(trace.lateness_ns, dtype=np.int64), 1e6)
    trace.lateness_ns = trace.lateness_ns[:0]
    records = trace.records
    good = measures.whole(records)
    starts, ends = measures.intervals(records)
    duration = measures.duration_s(records)
    end_ns = float(ends.max()) if len(ends) else 0.0
    in_flight = measures.mean_in_flight(starts, ends, (0.0, end_ns))
    window = None
    if not spec.open_loop and len(records) >= _STEADY_FROM * spec.concurrency:
        window = measures.steady_window(starts, ends, spec.concurrency)
    whole = {"ttft_ms": measures.ttft_ms(good), "itl_ms": measures.itl_ms(good), "tpot_ms": measures.tpot_ms(good)}
    percentiles = {
        name: [float(value) for value in np.percentile(values, range(101), overwrite_input=True)]
        for name, values in whole.items()
        if len(values)
    }
    ttft, itl, tpot = (measures.stats(values) for values in whole.values())
    del whole
    tokens = sum(record.output_tokens for record in good)
    rate = tokens / duration if duration else 0.0
    zero_ns = min((record.start_ns for record in records), default=0)
    chunks = sum(len(record.events) for record in good)
    thinking = [_thinking(record) for record in good]
    bounds = (spec.slo_ttft_ms, spec.slo_tpot_ms, spec.slo_e2e_ms)
    kept = measures.within_slo(good, *bounds) if any(bounds) else None
    wall = trace.wall_s
    errors = Counter(record.error or "cut" for record in records if not measures.is_whole(record))
    samples = {record.error: record.detail for record in reversed([*warmup, *records]) if record.error}
    point = Point(
        concurrency=spec.concurrency,
        delivered=measures.mean_in_flight(starts, ends, window) if window else in_flight,
        delivered_basis="steady" if window else "whole",
        requests=len(records),
        errors=dict(errors),
        ttft_ms=ttft,
        itl_ms=itl,
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
        input_tokens=_mean(
            [record.prompt_tokens or record.input_tokens or spec.input_tokens for record in good], spec.input_tokens
        ),
        input_tokens_estimated=not good or any(not record.prompt_tokens for record in good),
        output_tokens=_mean([record.output_tokens for record in good], 0),
        output_tokens_estimated=not good or any(not record.completion_tokens for record in good),
        finish_reasons=dict(Counter(record.finish_reason for record in good)),
        ok=False,
        reason="not judged yet",
        error_samples=samples,
        warmup_errors=dict(Counter(record.error for record in warmup if record.error)),
        steady=_steady(good, window, zero_ns),
        arrival=spec.arrival,
        rate_per_s=_asked_rate(spec, records),
        send_delay_ms=measures.stats(measures.send_delay_ms(records)) if spec.open_loop else None,
        thinking_tokens=_mean(thinking, 0),
        content_tokens=_mean([record.output_tokens - own for record, own in zip(good, thinking, strict=True)], 0),
        first_content_ms=measures.stats(measures.first_content_ms(good)),
        tokens_per_event=tokens / chunks if chunks else 1.0,
        goodput_per_s=None if kept is None else (kept / duration if duration else 0.0),
        goodput_share=None if kept is None else kept / max(1, len(records)),
        client_cpu_share=trace.cpu_s / wall if wall else 0.0,
        client_waited_share=trace.waited_s / wall if wall else 0.0,
        processes=spec.processes,
        percentiles=percentiles,
        asked_input_tokens=spec.input_tokens,
        asked_output_tokens=spec.output_tokens,
    )
    point = replace(point, notes=_notes(point, spec))
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
    if point.requests < spec.requests and not spec.duration_s and spec.arrival != "trace":
        reasons.append(f"{point.requests} of {spec.requests} requests were sent")
    if not point.succeeded:
        reasons.append("no request succeeded, nothing was measured")
        return reasons
    reasons += _undelivered_rate(point, spec) if spec.open_loop else _undelivered_width(point, spec)
    lateness = point.client_lateness_ms
    allowed = spec.max_lateness_ms or (_LATE_WITH_KERNEL_MS if point.clock == "kernel" else _LATE_WITH_LOOP_MS)
    if lateness is None:
        reasons.append("the client's lateness is unknown")
    elif lateness.p99 > allowed:
        reasons.append(
            f"the load generator itself was {lateness.p99:.1f} ms late at p99, at most {allowed:g} ms is allowed "
            f"({_cpu(point)}); use an idle machine, more processes or a lower concurrency"
        )
    return reasons


def _cpu(point: Point) -> str:
    return (
        f"it used {100 * point.client_cpu_share:.0f} % of a core and waited for one "
        f"{100 * point.client_waited_share:.0f} % of the time"
    )


def _undelivered_width(point: Point, spec: PointSpec) -> list[str]:
    needed = spec.min_delivered * point.concurrency
    if point.requests < _STEADY_FROM * point.concurrency:
        return []
    if point.delivered_basis != "steady":
        return [f"{point.concurrency} requests were never in flight together"]
    if point.delivered < needed:
        reason = (
            f"{point.delivered:.1f} requests were in flight on average in the steady window, "
            f"{point.concurrency} were asked for, at least {needed:.1f} are expected ({_cpu(point)})"
        )
        return [reason]
    return []


def _undelivered_rate(point: Point, spec: PointSpec) -> list[str]:
    delay = point.send_delay_ms
    if delay is None:
        return ["when the requests went out is unknown"]
    if delay.p99 <= (spec.max_lateness_ms or _LATE_SENDS_MS):
        return []
    full = f"all {spec.concurrency} connections were busy, or " if point.mean_in_flight > spec.concurrency / 2 else ""
    reason = (
        f"requests went out up to {delay.p99:.1f} ms later than meant (p99): {full}the load generator had no time "
        f"({_cpu(point)}); latencies count from the intended time"
    )
    return [reason]


def _thinking(record: Record) -> int:
    """Thinking tokens by the server's count, else its share of the events."""
    if record.reasoning_tokens:
        return record.reasoning_tokens
    return round(record.output_tokens * record.thinking_events / len(record.events))


def _steady(good: Sequence[Record], window: tuple[float, float] | None, zero_ns: int) -> dict[str, float] | None:
    if window is None:
        return None
    tokens, ended = measures.rates_in(good, window, zero_ns)
    return {"duration_s": (window[1] - window[0]) / 1e9, "output_tokens_per_s": tokens, "requests_per_s": ended}


def _asked_rate(spec: PointSpec, records: Sequence[Record]) -> float:
    """Return the asked rate; that of a trace is the one of its requests."""
    if spec.arrival != "trace":
        return spec.rate_per_s
    begins = [record.begin_ns for record in records]
    span_s = (max(begins) - min(begins)) / 1e9 if begins else 0.0
    return (len(begins) - 1) / span_s if span_s else 0.0


def _notes(point: Point, spec: PointSpec) -> list[str]:
    notes = []
    varied = bool(spec.input_lengths or spec.trace_file or spec.turns > 1)
    if point.input_tokens_estimated:
        notes.append("the server gave no usage: token counts are estimates")
    elif not varied and abs(point.input_tokens - spec.input_tokens) > _LENGTH_OFF * spec.input_tokens:
        notes.append(
            f"prompts of {spec.input_tokens} tokens were asked for, the server counted {point.input_tokens:.0f}; "
            "give the model's tokenizer, or a warm-up to measure the difference"
        )
    if point.client_cpu_share > _BUSY:
        notes.append(f"the load generator used {100 * point.client_cpu_share:.0f} % of its core: take more processes")
    if point.clock == "loop":
        notes.append("the kernel gave no receive times: latencies carry the client's own lateness")
    if set(point.finish_reasons) - {"length", ""} and spec.ignore_eos:
        notes.append("some answers ended before the asked length")
    return notes


def _listing(errors: dict[str, int], samples: dict[str, str]) -> str:
    return ", ".join(
        f"{errors[name]} x {name}" + (f" ({samples[name]})" if samples.get(name) else "")
        for name in sorted(errors, key=lambda name: -errors[name])
    )


def _mean(values: Sequence[int], otherwise: int) -> float:
    return float(np.mean(values)) if len(values) else float(otherwise)
