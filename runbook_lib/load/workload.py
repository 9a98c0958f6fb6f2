"""What is sent, request by request, and when: all drawn before the load begins."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.load import lengths
from runbook_lib.load.traces import read_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.spec import PointSpec

_MOST_DRAWN = 65536
_BILLION = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of one load, by index.

    count: how many at most; deadline_ns: no request is begun later after the begin of the load, 0 for no deadline
    at_ns: when each is meant to go out, after the begin of the load; empty in a closed loop
    blocks: hash ids of the prompts of a trace; empty otherwise
    turns: of a conversation; request i is turn i % turns
    """

    count: int
    inputs: array[int]
    outputs: array[int]
    at_ns: array[int] = field(default_factory=lambda: array("q"))
    blocks: tuple[tuple[int, ...], ...] = ()
    deadline_ns: int = 0
    turns: int = 1

    def input_tokens(self, index: int) -> int:
        """Tokens that the prompt of a request is made to have."""
        return self.inputs[index % len(self.inputs)]

    def output_tokens(self, index: int) -> int:
        """Tokens that a request asks for."""
        return self.outputs[index % len(self.outputs)]


def make_workload(spec: PointSpec, seed: int) -> Workload:
    """Draw the requests of a point. Raises UsageError for a trace that cannot be read."""
    deadline_ns = int(spec.duration_s * _BILLION)
    if spec.arrival == "trace":
        trace = read_trace(spec.trace_file, limit=spec.requests)
        at = array("q", (int(each.at_ms * 1e6 / spec.trace_speed) for each in trace))
        inputs = array("q", (each.input_tokens for each in trace))
        outputs = array("q", (each.output_tokens for each in trace))
        blocks = tuple(each.blocks for each in trace)
        return Workload(len(trace), inputs, outputs, at, blocks if any(blocks) else (), deadline_ns)
    source = random.Random(seed)  # noqa: S311 - lengths and gaps, no secret
    at = _arrivals(spec, source)
    count = len(at) or spec.requests
    drawn = min(count, _MOST_DRAWN)
    return Workload(
        count,
        _drawn(spec.input_lengths, spec.input_tokens, drawn, source),
        _drawn(spec.output_lengths, spec.output_tokens, drawn, source),
        at,
        deadline_ns=deadline_ns,
        turns=spec.turns,
    )


def warmup_workload(spec: PointSpec, count: int) -> Workload:
    """Return a closed load of `count` requests of the reference lengths, with short answers."""
    output = min(spec.output_tokens, spec.warmup_output_tokens)
    return Workload(count, array("q", [spec.input_tokens]), array("q", [output]))


def _arrivals(spec: PointSpec, source: random.Random) -> array[int]:
    """Return the times of an open loop: `requests` of them, or as many as fit into the duration."""
    at = array("q")
    if not spec.open_loop:
        return at
    gaps: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0 / spec.rate_per_s,
        "poisson": lambda: source.expovariate(spec.rate_per_s),
        "gamma": lambda: source.gammavariate(spec.burstiness, 1.0 / (spec.rate_per_s * spec.burstiness)),
    }
    gap_s = gaps[spec.arrival]
    now_s = 0.0
    while len(at) < spec.requests and not (spec.duration_s and now_s > spec.duration_s):
        at.append(int(now_s * _BILLION))
        now_s += gap_s()
    return at


def _drawn(text: str, fixed: int, count: int, source: random.Random) -> array[int]:
    if not text:
        return array("q", [fixed])
    draw = lengths.parse(text).draw
    return array("q", (draw(source) for _ in range(count)))


def share(spec: PointSpec, workload: Workload, part: int) -> Workload:
    """Return what one of several processes sends: every `processes`-th request of an open loop, or its share."""
    if spec.processes == 1:
        return workload
    if workload.at_ns:
        step = slice(part, None, spec.processes)
        return Workload(
            len(workload.at_ns[step]),
            array("q", (workload.input_tokens(i) for i in range(part, workload.count, spec.processes))),
            array("q", (workload.output_tokens(i) for i in range(part, workload.count, spec.processes))),
            workload.at_ns[step],
            workload.blocks[step],
            workload.deadline_ns,
        )
    count = split(workload.count, spec.processes, part)
    return Workload(
        count,
        workload.inputs[part % len(workload.inputs) :] + workload.inputs[: part % len(workload.inputs)],
        workload.outputs[part % len(workload.outputs) :] + workload.outputs[: part % len(workload.outputs)],
        deadline_ns=workload.deadline_ns,
        turns=workload.turns,
    )


def split(total: int, parts: int, part: int) -> int:
    """Return the share of one of `parts`; the shares add up to `total`."""
    return total // parts + (part < total % parts)
