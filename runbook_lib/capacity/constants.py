"""Every number of the step-time and memory model that is not arithmetic, with its source and its interval.

Two sets: MindIE 2.0 on 910B over RoCE, fitted to the field report's curve; CloudMatrix384, from the operator table of
its paper. A user's own benchmark replaces the fitted ones: see calibrate.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any


def constant(value: float, low: float, high: float, unit: str, source: str) -> Any:  # noqa: ANN401 - a dataclass field
    """Declare a constant with its interval, unit and source."""
    return field(default=value, metadata={"low": low, "high": high, "unit": unit, "source": source})


_FIT = "fit to the field report's levels 100-1000 (performance_points.md S)"
_PAPER = "CloudMatrix384 paper, arXiv 2506.12708, operator tables"


@dataclass(frozen=True, slots=True)
class Constants:
    """Efficiencies, latencies and reserves; the defaults are MindIE on 910B over RoCE."""

    memory_efficiency: float = constant(
        0.40, 0.35, 0.55, "share of HBM bandwidth", "engine_model.md section 3; the field report fixes only the sum"
    )
    compute_efficiency: float = constant(
        0.45, 0.40, 0.60, "share of INT8/FP16 peak in matrix products", "engine_model.md section 3"
    )
    attention_efficiency: float = constant(
        0.45, 0.40, 0.65, "share of FP16 peak in attention", "engine_model.md section 3; 65 % in " + _PAPER
    )
    latency_between_us: float = constant(
        100.0, 60.0, 150.0, "us of one collective between hosts", "engine_model.md section 3, assumption"
    )
    latency_inside_us: float = constant(
        30.0, 15.0, 60.0, "us of one collective inside a host", "assumption: a third of the one between hosts"
    )
    decode_bus_efficiency: float = constant(
        0.09, 0.08, 0.105, "share of the ideal bus, all-reduces of a decode step (a few MB)", _FIT
    )
    prefill_bus_efficiency: float = constant(
        0.36, 0.34, 0.40, "share of the ideal bus, all-reduces of a prefill (hundreds of MB)", _FIT
    )
    exchange_efficiency: float = constant(
        0.30, 0.10, 0.50, "share of the link in expert dispatch and combine", "assumption; no measurement over RoCE"
    )
    imbalance: float = constant(
        1.0, 1.0, 1.3, "load of the busiest rank over the mean, experts by ep", "tensor-parallel experts have none"
    )
    host_ms: float = constant(18.0, 10.0, 30.0, "ms a step spends on the host (launch, sampling, scheduling)", _FIT)
    runtime_gib: float = constant(
        4.44, 3.75, 6.75, "GiB of run time, HCCL buffers, fragments", "with activations 5 GiB at maxPrefillTokens 8192"
    )
    activation_kib_per_token: float = constant(
        72.0, 48.0, 100.0, "KiB per token of maxPrefillTokens",
        "5 tensors of hidden width in BF16; " + _FIT + ": 2900 blocks at 32768",
    )  # fmt: skip
    mtp_acceptance: float = constant(0.7, 0.6, 0.85, "share of drafted tokens that is accepted", _PAPER)

    def describe(self) -> list[dict[str, object]]:
        """Return every constant with its interval and source, for tables."""
        rows: list[dict[str, object]] = []
        for each in fields(self):
            value = getattr(self, each.name)
            moved = value != each.default
            rows.append({"name": each.name, "value": value, **each.metadata}
                        | ({"source": "calibrated or from another set"} if moved else {}))  # fmt: skip
        return rows

    def changed(self, **values: float) -> Constants:
        """Return a copy with other values."""
        return replace(self, **values)


MINDIE_910B = Constants()
# MLA 65 % of BF16 peak and 84 % of HBM, INT8 GEMM 77-83 %. Dispatch 152 us and combine 149 us at EP256 and 128 tokens
# move 22 MB: 93 of 196 GB/s beside 30 us of latency each (assumed). Imbalance: what default EPLB costs prefill (C4)
# beside perfect EPLB (6688 tokens/s per NPU in the paper). host_ms: fit to C1-C3; captured graphs leave little to it.
CLOUDMATRIX = Constants(
    memory_efficiency=0.84,
    compute_efficiency=0.77,
    attention_efficiency=0.65,
    latency_between_us=30.0,
    latency_inside_us=30.0,
    exchange_efficiency=0.466,
    imbalance=1.28,
    host_ms=8.0,
)
