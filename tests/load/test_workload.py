"""Lengths, arrival times, traces: what is drawn before a load begins."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.lengths import parse
from runbook_lib.load.prompts import Requests
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.traces import read_trace
from runbook_lib.load.workload import Workload, make_workload, share

if TYPE_CHECKING:
    from pathlib import Path


def _spec(**changes: Any) -> PointSpec:
    return PointSpec(**{"url": "http://h", "model": "m", "concurrency": 100, "requests": 4000, "input_tokens": 64,
                        "output_tokens": 8, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "low", "high", "middle"),
    [
        ("512", 512, 512, 512),
        ("uniform:100-300", 100, 300, 200),
        ("normal:512,50", 300, 730, 512),
        ("lognormal:400,0.5", 1, 5000, 400),
        ("choice:10,20,30", 10, 30, 20),
        ("choice:10*8,20", 10, 20, 10),
    ],
)
def test_lengths(text: str, low: int, high: int, middle: int) -> None:
    """Within their bounds, around their middle."""
    draw, source = parse(text).draw, Random(1)  # noqa: S311 - lengths, no secret
    drawn = [draw(source) for _ in range(2001)]
    assert low <= min(drawn) <= max(drawn) <= high
    assert statistics.median(drawn) == pytest.approx(middle, rel=0.1)


@pytest.mark.parametrize(
    "text", ["", "0", "uniform:9-3", "normal:5", "normal:nan,1", "zipf:3", "choice:", "choice:3*0"]
)
def test_what_is_no_distribution(text: str) -> None:
    """It is refused before anything is sent, and the right form is shown."""
    with pytest.raises(UsageError, match="right would be like"):
        parse(text)
    if text:
        with pytest.raises(UsageError):
            _spec(input_lengths=text)


@pytest.mark.parametrize(
    ("arrival", "burstiness", "variation"), [("constant", 1.0, 0.0), ("poisson", 1.0, 1.0), ("gamma", 0.25, 2.0)]
)
def test_arrivals(arrival: str, burstiness: float, variation: float) -> None:
    """The rate is right, and so is the coefficient of variation of the gaps: 1 / sqrt(shape) for gamma."""
    at = make_workload(_spec(arrival=arrival, rate_per_s=50, burstiness=burstiness), 3).at_ns
    gaps = [(after - before) / 1e9 for before, after in pairwise(at)]
    assert len(at) == 4000
    assert statistics.mean(gaps) == pytest.approx(0.02, rel=0.1)
    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(variation, abs=0.15 * max(variation, 0.01))


def test_a_duration_bounds_the_arrivals() -> None:
    """At 50 per second, two seconds hold a hundred."""
    assert make_workload(_spec(arrival="constant", rate_per_s=50, duration_s=1.99), 3).count == 100


def test_shares_of_processes_add_up() -> None:
    """No request is lost or sent twice, whatever the number of processes."""
    for spec in (_spec(processes=3, requests=1001), _spec(processes=3, requests=1001, arrival="poisson", rate_per_s=9)):
        whole = make_workload(spec, 1)
        parts = [share(spec, whole, part) for part in range(3)]
        assert sum(part.count for part in parts) == 1001
        assert sorted(time for part in parts for time in part.at_ns) == list(whole.at_ns)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arrival": "poisson"}, "rate_per_s"),
        ({"arrival": "sometimes"}, "right would be one of"),
        ({"arrival": "trace"}, "go together"),
        ({"turns": 2, "arrival": "constant", "rate_per_s": 1}, "closed loop"),
        ({"turns": 50}, "need more requests"),
        ({"processes": 101}, "cannot share"),
    ],
)
def test_workloads_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    """The spec says what would be right."""
    with pytest.raises(UsageError, match=words):
        _spec(**changes)


def _mooncake(*rows: tuple[int, int, int, list[int]]) -> str:
    return "".join(
        json.dumps({"timestamp": at, "input_length": inputs, "output_length": outputs, "hash_ids": ids}) + "\n"
        for at, inputs, outputs, ids in rows
    )


def test_a_mooncake_trace_is_played_with_its_shared_beginnings(tmp_path: Path) -> None:
    """Prompts share exactly the blocks whose ids are equal; times and lengths are the trace's."""
    path = tmp_path / "trace.jsonl"
    path.write_text(_mooncake((2000, 1100, 5, [7, 8, 9]), (1000, 1100, 6, [7, 8, 5]), (1500, 30, 7, [3])))
    spec = _spec(arrival="trace", trace_file=str(path), trace_speed=2.0)
    work = make_workload(spec, 1)
    assert [time // 1_000_000 for time in work.at_ns] == [0, 250, 500]
    assert list(work.outputs) == [6, 7, 5]
    requests = Requests(spec, work, nonce=11, template_tokens=0)
    first, short, last = (requests.prompt(index).split() for index in range(3))
    assert [len(words) for words in (first, short, last)] == [1100, 30, 1100]
    assert first[:1024] == last[:1024]
    assert first[1024] != last[1024]
    assert short[:4] != first[:4]
    assert requests.prompt(0).split() == first, "the same every time"


@pytest.mark.parametrize(
    "text",
    [
        "timestamp_ms,input_tokens,output_tokens\n250,10,4\n0,20,5\n",
        "Timestamp,Request tokens,Response tokens\n0.25,10,4\n0,20,5\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.2500000,10,4\n2023-11-16 18:17:03.0000000,20,5\n",
    ],
)
def test_csv_traces(text: str, tmp_path: Path) -> None:
    """The columns of the common public traces; rows in any order."""
    path = tmp_path / "trace.csv"
    path.write_text(text)
    found = read_trace(str(path))
    assert [(round(each.at_ms), each.input_tokens, each.output_tokens) for each in found] == [(0, 20, 5), (250, 10, 4)]
    assert len(read_trace(str(path), limit=1)) == 1


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"timestamp": 1, "input_length": 5}\n', ":1: "),
        (_mooncake((0, 5, 5, [])) + "no json\n", ":2: "),
        (_mooncake((0, 0, 5, [])), ":1: "),
        ("a,b\n1,2\n", ":1: columns a, b"),
        ("timestamp_s,input_tokens,output_tokens\n0,5,5\n1,x,5\n", ":3: "),
        ("timestamp_s,input_tokens,output_tokens\n", "has no request"),
    ],
)
def test_broken_traces(text: str, where: str, tmp_path: Path) -> None:
    """File and line are named."""
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_trace(str(path))
    assert where in str(caught.value)


def test_a_missing_trace() -> None:
    """It is named."""
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace("/no/such/trace")


def test_lengths_differ_between_requests() -> None:
    """Each request has its own lengths, in the prompt and in what is asked for."""
    spec = _spec(input_lengths="choice:20,40", output_lengths="choice:3,5")
    work: Workload = make_workload(spec, 4)
    requests = Requests(spec, work, nonce=1, template_tokens=0)
    for index in range(20):
        body = json.loads(requests.build(index).partition(b"\r\n\r\n")[2])
        assert body["max_tokens"] == work.output_tokens(index) in {3, 5}
        assert len(body["messages"][0]["content"].split()) == work.input_tokens(index) in {20, 40}
