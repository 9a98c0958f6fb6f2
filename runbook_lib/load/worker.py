"""What happens inside the load process: warm up, measure, write the raw records, compute the point."""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.errors import LoadError
from runbook_lib.load.client import Client
from runbook_lib.load.prompts import TEMPLATE_TOKENS, Requests
from runbook_lib.load.record import Trace
from runbook_lib.load.workload import make_workload, share, split, warmup_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.load.client import Progress
    from runbook_lib.load.point import Point
    from runbook_lib.load.record import Record
    from runbook_lib.load.spec import PointSpec

# Half of the space of own words: warm-up and point never share a beginning. Each process has its own part.
_WARMUP_OFFSET = 1 << 31
_PROCESS_OFFSET = 1 << 24


def new_seed(spec: PointSpec) -> int:
    """Return the seed of this load: the given one, else one that no earlier load had."""
    return int.from_bytes(os.urandom(4)) >> 2 if spec.seed is None else spec.seed


def measure(spec: PointSpec, *, on_progress: Callable[[Progress], None] | None = None, lifeline: int = -1) -> Point:
    """Measure one point in this process. When no request of the warm-up succeeds, the point is not begun.

    Raises LoadError.
    """
    if spec.raw_file:
        write_raw(Path(spec.raw_file), [])  # better now than after the load
    trace, warmup = load(spec, seed=new_seed(spec), on_progress=on_progress, lifeline=lifeline)
    return conclude(spec, trace, warmup)


def conclude(spec: PointSpec, trace: Trace, warmup: Sequence[Record]) -> Point:
    """Write the raw records and compute the point."""
    _give_back()
    from runbook_lib.load.point import make_point  # noqa: PLC0415 - numpy is needed only now: a lean load process

    if spec.raw_file:
        write_raw(Path(spec.raw_file), trace.records)
    return make_point(spec, trace, warmup=warmup)


def _give_back() -> None:
    """Return the memory of connections and requests to the kernel, before numpy takes its own; only glibc can."""
    import ctypes  # noqa: PLC0415 - numpy needs it as well

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def load(  # noqa: PLR0913 - one load, and how it is part of a larger one
    spec: PointSpec,
    *,
    seed: int,
    part: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    lifeline: int = -1,
    wait: Callable[[], None] | None = None,
) -> tuple[Trace, list[Record]]:
    """Warm up and load; return the trace and the records of the warm-up.

    part: of several processes; seed is the same in all. wait: called before the load, for a common start
    """
    work = share(spec, make_workload(spec, seed), part)
    nonce = seed + part * _PROCESS_OFFSET
    with Client(spec, part=part, lifeline=lifeline) as client:
        client.open()
        warmup = _warm_up(client, spec, nonce, part, on_progress)
        if warmup and all(record.error for record in warmup):
            return Trace([], array("q"), "loop"), warmup
        requests = Requests(spec, work, nonce=nonce, template_tokens=_template_tokens(warmup))
        if wait is not None:
            wait()
        return client.run(requests, work, on_progress=on_progress), warmup


def _warm_up(
    client: Client, spec: PointSpec, nonce: int, part: int, on_progress: Callable[[Progress], None] | None
) -> list[Record]:
    work = warmup_workload(spec, split(spec.warmup_requests, spec.processes, part))
    if not work.count:
        return []
    requests = Requests(spec, work, nonce=nonce + _WARMUP_OFFSET)
    return client.run(requests, work, phase="warm-up", on_progress=on_progress).records


def _template_tokens(warmup: Sequence[Record]) -> int:
    """Return what the chat template adds, as the server's usage shows it; a guess without usage, or if it varies."""
    added = {record.prompt_tokens - record.input_tokens for record in warmup if record.prompt_tokens}
    if len(added) != 1:
        return TEMPLATE_TOKENS
    return max(0, TEMPLATE_TOKENS + added.pop())


def write_raw(path: Path, records: Sequence[Record]) -> None:
    """Write one JSON line per request, times after the first start. Raises LoadError."""
    zero_ns = min((record.begin_ns for record in records), default=0)
    try:
        with path.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(record.to_json(zero_ns), ensure_ascii=False) + "\n")
    except OSError as error:
        raise LoadError(f"raw records cannot be written to {path}: {error}") from error
