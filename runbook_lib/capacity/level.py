"""One level of a sweep: what `concurrency` clients would measure on a deployment."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.capacity.simulate import Measured, closed_loop
from runbook_lib.capacity.workload import Lengths, requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.capacity.engine import Engine
    from runbook_lib.capacity.setup import Setup


_PUBLISHED = Lengths(512)  # the field report's, in and out


@dataclass(frozen=True, slots=True)
class Load:
    """What every level asks for: `requests` in all, of these lengths in tokens."""

    inputs: Lengths = _PUBLISHED
    outputs: Lengths = _PUBLISHED
    requests: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """One row. Ramp and drain count, as they do for a client that sends a fixed number of requests.

    tokens_per_s_per_client: output rate / concurrency, waiting included; after_first_tokens_per_s: 1000 / decode_ms.
    stalled: requests that never get a token (recompute dead end); recomputed_share: of all prefilled tokens.
    steady_tokens_per_s: between the end of the first wave and the last arrival; nan when there was no such time.
    """

    concurrency: int
    requests: int
    requests_per_s: float
    output_tokens_per_s: float
    tokens_per_s_per_client: float
    after_first_tokens_per_s: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    decode_mean_ms: float
    preemptions: int
    recomputed_share: float
    mean_in_flight: float
    stalled: int
    refused: int
    steady_tokens_per_s: float
    duration_s: float
    simulated_requests_per_wall_s: float


def run_level(setup: Setup, load: Load, concurrency: int) -> Level:
    """Simulate one level; clients and requests are spread evenly over the instances.

    Raises UsageError when the deployment would not start.
    """
    began = time.perf_counter()
    measured = Measured()
    engines = []
    steady = 0.0
    for index in range(setup.instances):
        clients, count = (_share(whole, index, setup.instances) for whole in (concurrency, load.requests))
        if not clients:
            continue
        engine = setup.engine()
        closed_loop(engine, requests(count, load.inputs, load.outputs, load.seed + index), clients, measured=measured)
        engines.append(engine)
        steady += measured.steady_tokens_per_s
    measured.steady_tokens_per_s = steady
    return level_of(measured, concurrency, engines, time.perf_counter() - began)


def level_of(measured: Measured, concurrency: int, engines: Sequence[Engine], wall_s: float) -> Level:
    """Return the row of a finished run."""
    prefilled = sum(engine.totals.prefilled_tokens for engine in engines)
    recomputed = sum(engine.totals.recomputed_tokens for engine in engines)
    decode_ms = measured.decode.mean * 1e3
    return Level(
        concurrency=concurrency,
        requests=measured.requests,
        requests_per_s=measured.requests_per_s,
        output_tokens_per_s=measured.output_tokens_per_s,
        tokens_per_s_per_client=measured.output_tokens_per_s / concurrency,
        after_first_tokens_per_s=1e3 / decode_ms if decode_ms > 0 else math.nan,
        ttft_mean_s=measured.ttft.mean,
        ttft_p50_s=measured.ttft.percentile(0.5),
        ttft_p99_s=measured.ttft.percentile(0.99),
        decode_mean_ms=decode_ms,
        preemptions=sum(engine.totals.preemptions for engine in engines),
        recomputed_share=recomputed / prefilled if prefilled else 0.0,
        mean_in_flight=measured.mean_in_flight,
        stalled=measured.stalled,
        refused=measured.refused,
        steady_tokens_per_s=measured.steady_tokens_per_s,
        duration_s=measured.duration_s,
        simulated_requests_per_wall_s=measured.requests / wall_s,
    )


def _share(whole: int, index: int, parts: int) -> int:
    return whole // parts + (index < whole % parts)


def sweep(setup: Setup, load: Load, levels: list[int]) -> list[Level]:
    """Simulate several levels."""
    return [run_level(setup, load, level) for level in levels]
