"""Measure points here or from disk, with the server's metrics beside them, and say what came of it."""

from __future__ import annotations

import shlex
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook_lib.load.binding import STARVED
from runbook_lib.load.prompts import endpoint
from runbook_lib.load.store import Stored, point_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runbook_lib.load.client import Progress
    from runbook_lib.load.point import Point
    from runbook_lib.load.scrape import Scraper
    from runbook_lib.load.spec import PointSpec
    from runbook_lib.load.store import Store

_TELL_EVERY_S = 5.0
_FLAT = ("ttft", "itl", "tpot")


class Bench:
    """Measures points one after the other.

    store: where points are kept and found again; None keeps nothing. say: takes lines of talk, None for silence
    """

    def __init__(
        self, store: Store | None = None, *, metrics_url: str = "", say: Callable[[str], None] | None = None
    ) -> None:
        self._store, self._metrics_url, self._say = store, metrics_url, say
        self.reused = 0
        self._told_s = time.monotonic()
        self._specs: list[PointSpec] = []
        if store is not None:
            store.prepare()

    def measure(self, spec: PointSpec, repeat: int = 1) -> Point:
        """Return the point: from disk when it was measured before and was ok, else measured now."""
        self._specs.append(spec)
        key = point_key(spec, repeat) if self._store is not None else ""
        before = self._store.get(key) if self._store is not None else None
        if before is not None and before.point["ok"]:
            from runbook_lib.load.point import Point  # noqa: PLC0415 - numpy is needed late: a lean load process

            self.reused += 1
            self._talk(f"concurrency {spec.concurrency}: measured on {before.measured_at}, not repeated")
            return Point.from_json(before.point)
        if self._store is not None:
            spec = replace(spec, raw_file=str(self._store.raw_file(key)))
        scraper = self._scraper(spec.ca_file)
        with scraper or nullcontext():
            point = replace(self._load(spec, apart=scraper is not None), repeat=repeat)
        if self._store is not None:
            server = {"metrics": scraper.result()} if scraper is not None else {}
            self._store.save(Stored(key, spec.public() | {"raw_file": ""}, point.to_json(), server))
        self._talk(
            f"concurrency {spec.concurrency}: {point.output_tokens_per_s:.1f} tokens/s"
            + ("" if point.ok else f", not ok: {point.reason}")
        )
        return point

    def _scraper(self, ca_file: str) -> Scraper | None:
        if not self._metrics_url:
            return None
        from runbook_lib.load.scrape import Scraper  # noqa: PLC0415 - see measure

        return Scraper(self._metrics_url, ca_file=ca_file)

    def _load(self, spec: PointSpec, *, apart: bool) -> Point:
        """Load from this process when it has nothing else to do, else from processes of its own."""
        progress = self._progress if self._say is not None else None
        if apart or spec.processes > 1:
            from runbook_lib.load.process import run_point  # noqa: PLC0415 - see measure

            return run_point(spec, on_progress=progress)
        from runbook_lib.load.worker import measure  # noqa: PLC0415 - see measure

        return measure(spec, on_progress=progress)

    def _progress(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            self._talk(f"  {progress.phase}: {progress.done}/{progress.total}, {progress.failed} failed")

    def _talk(self, line: str) -> None:
        if self._say is not None:
            self._say(line)

    def result(self, points: Sequence[Point]) -> dict[str, Any]:
        """Return what the command prints: points, failures, conclusion; one point also flat."""
        failures = [
            {
                "seen": f"concurrency {point.concurrency}: {point.reason}",
                "next_command": _next_command(spec, point),
            }
            for spec, point in zip(self._specs, points, strict=True)
            if not point.ok
        ]
        result: dict[str, Any] = {
            "ok": bool(points) and not failures,
            "failures": failures,
            "points": [point.to_json() for point in points],
            "reused": self.reused,
        }
        if len({point.concurrency for point in points}) > 1:
            from runbook_lib.load.answers import answers  # noqa: PLC0415 - only sweeps have answers

            result["answers"] = answers(result["points"])
        if len(points) == 1:
            result |= _flat(points[0])
        return result


def _flat(point: Point) -> dict[str, Any]:
    """Return the numbers of a single point at the top of the object, for one-line scripts."""
    flat: dict[str, Any] = {
        "requests": point.requests,
        "errors": sum(point.errors.values()),
        "tokens": round(point.output_tokens * point.succeeded),
    }
    for name in _FLAT:
        stats = getattr(point, f"{name}_ms")
        flat |= {f"{name}_{part}": None if stats is None else getattr(stats, part) for part in ("p50", "p99")}
    return flat


def _next_command(spec: PointSpec, point: Point) -> str:
    if point.errors or point.warmup_errors:
        target = endpoint(spec.url)
        url = f"{target.scheme}://{target.authority}{target.path.replace('/chat/completions', '/models')}"
        return f"curl -sS -i {shlex.quote(url)}"
    if point.client_waited_share > STARVED:
        return "ps -eo pid,pcpu,comm --sort=-pcpu | head   # what takes the CPU; then the same command again"
    options = {
        "url": spec.url,
        "model": spec.model,
        "concurrency": max(1, spec.concurrency // 2),
        "input-tokens": spec.input_tokens,
        "output-tokens": spec.output_tokens,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["runbook", "bench", *words])
