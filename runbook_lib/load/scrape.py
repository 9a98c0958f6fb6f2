"""The server's own numbers beside the client's: /metrics read once a second by a thread, in Prometheus text.

Names differ between MindIE and vLLM; both have `num_requests_running` and its like behind a prefix.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^}]*\})? ([-+0-9.eE]+|NaN|[-+]Inf)\s*$")
_TIMEOUT_S = 5.0
# What is kept of a page, by the end of the name: how the service feels, and what it has done.
GAUGES = {
    "running": ("num_requests_running", "num_requests_batch"),
    "waiting": ("num_requests_waiting",),
    "swapped": ("num_requests_swapped",),
    "kv_usage": ("npu_cache_usage_perc", "gpu_cache_usage_perc", "kv_cache_usage_perc"),
}
COUNTERS = {
    "preemptions": ("num_preemptions_total", "num_preemptions"),
    "generation_tokens": ("generation_tokens_total",),
    "prompt_tokens": ("prompt_tokens_total",),
    "succeeded": ("request_success_total",),
    "failed": ("request_failed_total",),
}


def parse(text: str) -> dict[str, float]:
    """Read a page of Prometheus text; samples of one name with different labels add up."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            with suppress(ValueError):
                name = match[1].rpartition(":")[2]
                samples[name] = samples.get(name, 0.0) + float(match[2])
    return samples


def pick(samples: Mapping[str, float]) -> dict[str, float]:
    """Return the known quantities of a page; those that it does not have are missing."""
    picked = {}
    for kinds in (GAUGES, COUNTERS):
        for name, known in kinds.items():
            value = next((samples[each] for each in known if each in samples), None)
            if value is not None:
                picked[name] = value
    return picked


class Scraper:
    """Reads `url` every `every_s` seconds while it is open. A page that cannot be read is counted, not hidden."""

    def __init__(self, url: str, every_s: float = 1.0, ca_file: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(
                f"--metrics-url {url!r} is no http or https URL; right would be http://192.0.2.10:1027/metrics"
            )
        self._url, self._parts, self._every_s = url, parts, every_s
        self._tls = None
        if parts.scheme == "https":
            from runbook_lib.load import tls  # noqa: PLC0415 - most services speak http, and need none of its 5 MB

            self._tls = tls.context(ca_file)
        self._rows: list[dict[str, float]] = []
        self._failed, self._last_error = 0, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrape-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        while True:
            over = self._over.is_set()
            try:
                row = pick(parse(self._page()))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._failed, self._last_error = self._failed + 1, f"{type(error).__name__}: {error}"
            else:
                self._rows.append({"at_s": round(time.monotonic() - begin, 3), **row})
            if over:
                return
            self._over.wait(self._every_s)

    def _page(self) -> str:
        host, port = self._parts.hostname or "", self._parts.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=self._tls)
            if self._tls is not None
            else http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        )
        try:
            connection.request("GET", self._parts.path or "/metrics")
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ValueError(f"status {response.status}")
        return body

    def result(self) -> dict[str, Any]:
        """Return the series and its summary; call it after the end."""
        return {
            "url": self._url,
            "series": self._rows,
            "failed_reads": self._failed,
            "last_error": self._last_error,
            "summary": summary(self._rows),
        }


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return mean and maximum of each gauge, and the growth of each counter; what was never seen is missing."""
    result = {}
    for name in GAUGES:
        values = [row[name] for row in rows if name in row]
        if values:
            result[f"{name}_mean"], result[f"{name}_max"] = sum(values) / len(values), max(values)
    for name in COUNTERS:
        values = [row[name] for row in rows if name in row]
        if values:
            result[name] = values[-1] - values[0]
    return result
