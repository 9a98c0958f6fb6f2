"""What holds a service back at its plateau, from the client's numbers and, where they are there, the server's. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FULL = 0.95
_NEAR = 0.9
_FLAT = 1.1
_HALF = 0.5
STARVED = 0.2  # above this share of the time without a core, fewer clients would not help


@dataclass(frozen=True, slots=True)
class Binding:
    """kind: client, links, batch, kv, admission (batch or KV, which of them is open), prefill, decode or unknown."""

    kind: str
    reason: str


def binding(
    points: Sequence[Mapping[str, Any]],
    server: Mapping[int, Mapping[str, float]],
    *,
    max_batch_size: int = 0,
    max_link_num: int = 0,
) -> Binding:
    """Say what binds at the highest level that was measured well.

    server: summary of the scraped metrics by concurrency (scrape.summary); limits: of the service, 0 for not known
    """
    ordered = sorted(points, key=lambda point: int(point["concurrency"]))
    good = [point for point in ordered if point["ok"]]
    if ordered and _client_failed(ordered[-1]):
        return Binding("client", f"the load generator itself, at {ordered[-1]['concurrency']}: {ordered[-1]['reason']}")
    if not good:
        return Binding("unknown", "no point measured well")
    top = good[-1]
    level = int(top["concurrency"])
    said = server.get(level, {})
    if max_link_num and level > max_link_num:
        return Binding("links", f"{level} clients, and the service takes max_link_num {max_link_num} at once")
    if said.get("preemptions", 0.0) > 0 or said.get("kv_usage_max", 0.0) >= _FULL:
        return Binding(
            "kv",
            f"the KV cache was {100 * said.get('kv_usage_max', 0.0):.0f} % full at {level} clients, with "
            f"{said.get('preemptions', 0.0):.0f} preemptions: what was thrown out is prefilled again",
        )
    running = said.get("running_max", 0.0)
    if max_batch_size and running >= _NEAR * max_batch_size and said.get("waiting_max", 0.0) > 0:
        return Binding("batch", f"{running:.0f} ran and others waited: max_batch_size {max_batch_size} is full")
    return _by_shape(good, max_batch_size)


def _client_failed(point: Mapping[str, Any]) -> bool:
    """Whether the point failed by its client: late, or without a core while requests were missing."""
    if point["ok"]:
        return False
    waited = float(point.get("client_waited_share", 0.0)) > STARVED and not any(point.get("errors", {}).values())
    return "load generator" in str(point["reason"]) or waited


def _by_shape(good: Sequence[Mapping[str, Any]], max_batch_size: int) -> Binding:
    """Judge without the server's word, by how many requests decode at once (Little's law)."""
    decoding = [(int(point["concurrency"]), in_decode(point)) for point in good]
    (level, most), half = decoding[-1], [entry for entry in decoding if entry[0] <= _HALF * decoding[-1][0]]
    if half and most <= _FLAT * half[-1][1] and most < _NEAR * level:
        if max_batch_size and most >= _NEAR * max_batch_size:
            return Binding("batch", f"about {most:.0f} decode at once whatever comes: max_batch_size {max_batch_size}")
        return Binding(
            "admission",
            f"about {most:.0f} requests decode at once at {half[-1][0]} and at {level} clients, the rest waits for its "
            "first token: the KV cache or the batch limit is full",
        )
    alone = next((point for point in good if int(point["concurrency"]) == 1 and point["ttft_ms"]), None)
    if alone is not None:
        busy = float(good[-1]["requests_per_s"]) * float(alone["ttft_ms"]["mean"]) / 1000
        if busy >= _HALF:
            return Binding(
                "prefill", f"computing prompts takes about {100 * min(busy, 1.0):.0f} % of the time at {level} clients"
            )
    first, last = good[0], good[-1]
    slower = first["tpot_ms"] and last["tpot_ms"] and last["tpot_ms"]["mean"] > _FLAT * first["tpot_ms"]["mean"]
    if slower:
        return Binding(
            "decode",
            f"about {most:.0f} of {level} requests decode at once, and a step takes "
            f"{float(last['tpot_ms']['mean']):.0f} ms instead of "
            f"{float(first['tpot_ms']['mean']):.0f} ms at {first['concurrency']} clients",
        )
    return Binding(
        "unknown", "these points cannot tell; measure more levels, and read the server's metrics beside them"
    )


def in_decode(point: Mapping[str, Any]) -> float:
    """Return how many requests were being decoded on average: rate x decode time."""
    decode = point.get("decode_ms")
    return float(point["requests_per_s"]) * float(decode["mean"]) / 1000 if decode else 0.0
