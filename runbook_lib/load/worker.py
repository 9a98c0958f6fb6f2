"""What happens inside the load process: warm up, measure, write the raw records, compute the point."""

from __future__ import annotations

import json
import secrets
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.errors import LoadError
from runbook_lib.load.client import Client
from runbook_lib.load.point import Point, make_point
from runbook_lib.load.prompts import Requests
from runbook_lib.load.record import Record, Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.load.client import Progress
    from runbook_lib.load.spec import PointSpec

# Half of the space of own words: warm-up and point never share a beginning.
_WARMUP_OFFSET = 1 << 31


def measure(spec: PointSpec, *, on_progress: Callable[[Progress], None] | None = None, lifeline: int = -1) -> Point:
    """Measure one point in this process. When no request of the warm-up succeeds, the point is not begun.

    Raises LoadError.
    """
    nonce = secrets.randbits(31) if spec.seed is None else spec.seed
    warmup: list[Record] = []
    if spec.raw_file:
        _write_raw(Path(spec.raw_file), [])  # better now than after the load
    with Client(spec, lifeline=lifeline) as client:
        client.open()
        if spec.warmup_requests:
            tokens = min(spec.output_tokens, spec.warmup_output_tokens)
            requests = Requests(spec, output_tokens=tokens, nonce=nonce + _WARMUP_OFFSET)
            warmup = client.run(requests, spec.warmup_requests, phase="warm-up", on_progress=on_progress).records
        if warmup and all(record.error for record in warmup):
            trace = Trace([], array("q"), "loop")
        else:
            requests = Requests(spec, output_tokens=spec.output_tokens, nonce=nonce)
            trace = client.run(requests, spec.requests, on_progress=on_progress)
    if spec.raw_file:
        _write_raw(Path(spec.raw_file), trace.records)
    return make_point(spec, trace, warmup=warmup)


def _write_raw(path: Path, records: list[Record]) -> None:
    zero_ns = min((record.start_ns for record in records), default=0)
    try:
        with path.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record.to_json(zero_ns), ensure_ascii=False) + "\n")
    except OSError as error:
        raise LoadError(f"raw records cannot be written to {path}: {error}") from error
