"""Benchmark points as the views read them: from dataclasses or from their JSON, with nothing made up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def _get(holder: object, name: str) -> Any:  # noqa: ANN401 - a field of a mapping or of an object
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _number(holder: object, *path: str) -> float:
    """Return a number, nan when any step of the path is missing or is no number."""
    for name in path:
        holder = _get(holder, name)
    return float(holder) if isinstance(holder, int | float) else math.nan


def _whole(holder: object, name: str) -> int:
    value = _number(holder, name)
    return int(value) if math.isfinite(value) else 0


@dataclass(frozen=True, slots=True)
class PointView:
    """The shown numbers of one point; nan where the point does not have one. Times in ms.

    lpct: first-token time / input tokens; lateness: the client's own; percentiles: 0 to 100 of ttft_ms, itl_ms, tpot_ms
    per_client: throughput / concurrency, so waiting counts; generation: 1 / mean time per token after the first
    """

    concurrency: int
    output_tokens_per_s: float
    per_client: float
    generation: float
    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    tpot_mean: float
    tpot_p90: float
    requests_per_s: float
    in_flight: float
    ok: bool
    reason: str
    input_tokens: int = 0
    output_tokens: int = 0
    e2e_mean: float = math.nan
    lpct_mean: float = math.nan
    goodput_share: float = math.nan
    lateness_p99: float = math.nan
    percentiles: Mapping[str, list[float]] = field(default_factory=dict)


def point_views(points: Iterable[object]) -> list[PointView]:
    """Read points, in the order of their concurrency. A point that does not say that it is ok is not ok."""
    views = []
    for point in points:
        ok = _get(point, "ok") is True
        reason = str(_get(point, "reason") or "")
        views.append(
            PointView(
                concurrency=int(_number(point, "concurrency")),
                output_tokens_per_s=_number(point, "output_tokens_per_s"),
                per_client=_number(point, "tokens_per_s_per_client"),
                generation=_number(point, "generation_tokens_per_s_per_client"),
                ttft_mean=_number(point, "ttft_ms", "mean"),
                ttft_p50=_number(point, "ttft_ms", "p50"),
                ttft_p90=_number(point, "ttft_ms", "p90"),
                ttft_p99=_number(point, "ttft_ms", "p99"),
                tpot_mean=_number(point, "tpot_ms", "mean"),
                tpot_p90=_number(point, "tpot_ms", "p90"),
                requests_per_s=_number(point, "requests_per_s"),
                in_flight=_number(point, "mean_in_flight"),
                ok=ok,
                reason=reason or ("" if ok else "the point does not say why"),
                input_tokens=_whole(point, "asked_input_tokens"),
                output_tokens=_whole(point, "asked_output_tokens"),
                e2e_mean=_number(point, "e2e_ms", "mean"),
                lpct_mean=_number(point, "lpct_ms", "mean"),
                goodput_share=_number(point, "goodput_share"),
                lateness_p99=_number(point, "client_lateness_ms", "p99"),
                percentiles=_get(point, "percentiles") or {},
            )
        )
    return sorted(views, key=lambda view: (view.input_tokens, view.output_tokens, view.concurrency))
