"""The server's metrics: both spellings of the names, and a page that cannot be read."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.scrape import Scraper, parse, pick, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

_MINDIE = """# TYPE num_requests_running gauge
num_requests_running{model_name="r1"} 12.0
num_requests_waiting{model_name="r1"} 3
npu_cache_usage_perc{model_name="r1"} 0.25
generation_tokens_total{model_name="r1"} 1e3
"""
_VLLM = """vllm:num_requests_running{engine="0",model_name="m"} 5.0
vllm:num_requests_running{engine="1",model_name="m"} 7.0
vllm:num_preemptions_total{engine="0"} 2
vllm:gpu_cache_usage_perc NaN
broken line here
"""


def test_both_spellings() -> None:
    """Engines add up; what a page does not have is missing, not zero."""
    assert pick(parse(_MINDIE)) == {"running": 12.0, "waiting": 3.0, "kv_usage": 0.25, "generation_tokens": 1000.0}
    found = pick(parse(_VLLM))
    assert (found["running"], found["preemptions"]) == (12.0, 2.0)
    assert "waiting" not in found


def test_gauges_are_averaged_and_counters_grow() -> None:
    """Over the readings that had them."""
    rows = [{"running": 2.0, "preemptions": 5.0}, {"running": 4.0, "preemptions": 9.0}, {"kv_usage": 0.5}]
    assert summary(rows) == {
        "running_mean": 3.0, "running_max": 4.0, "kv_usage_mean": 0.5, "kv_usage_max": 0.5, "preemptions": 4.0,
    }  # fmt: skip
    assert summary([]) == {}


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer one path only."""
        good = self.path == "/metrics"
        self.send_response(200 if good else 404)
        self.end_headers()
        self.wfile.write(_MINDIE.encode() if good else b"")

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def port() -> Iterator[int]:
    """Serve the page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_scraping(port: int) -> None:
    """At the begin and at the end at least; a page that is not there is counted and named."""
    with Scraper(f"http://127.0.0.1:{port}/metrics", 10.0) as good:
        pass
    result = good.result()
    assert len(result["series"]) >= 1
    assert (result["failed_reads"], result["summary"]["running_max"]) == (0, 12.0)
    with Scraper(f"http://127.0.0.1:{port}/other", 10.0) as bad:
        pass
    assert bad.result()["series"] == []
    assert bad.result()["failed_reads"] >= 1
    assert "404" in bad.result()["last_error"]


def test_what_is_no_url() -> None:
    """It is refused at once."""
    with pytest.raises(UsageError, match="right would be"):
        Scraper("127.0.0.1:1027")
