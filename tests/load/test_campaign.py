"""Many points: what is measured next, what is found on disk, what it all says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.answers import answers
from runbook_lib.load.bench import Bench
from runbook_lib.load.binding import binding
from runbook_lib.load.campaign import Campaign, saturated
from runbook_lib.load.export import request_row
from runbook_lib.load.measures import Stats
from runbook_lib.load.point import Point
from runbook_lib.load.reference import compare, fits_published, of_points, published
from runbook_lib.load.repeats import spread
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.store import Store, point_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.load.conftest import Serve

_SPEC = PointSpec("http://h", "m", 2, 8, 32, 4)


def _easy(url: str, concurrency: int, requests: int, **changes: Any) -> PointSpec:
    """Return a point that a busy test machine cannot fail by its own lateness."""
    return PointSpec(url, "m", concurrency, requests, 32, 3, max_lateness_ms=1e6, min_delivered=0.01, **changes)


def _point(spec: PointSpec, rate: float, **changes: Any) -> Point:
    stats = Stats(100.0, 100.0, 100.0, 100.0)
    point = Point(
        concurrency=spec.concurrency, delivered=spec.concurrency, delivered_basis="steady", requests=spec.requests,
        errors={}, ttft_ms=stats, itl_ms=stats, tpot_ms=stats, e2e_ms=stats, decode_ms=stats, lpct_ms=stats,
        output_tokens_per_s=rate, requests_per_s=rate / 4, tokens_per_s_per_client=1.0,
        generation_tokens_per_s_per_client=1.0, mean_in_flight=1.0, client_lateness_ms=stats, clock="kernel",
        duration_s=1.0, input_tokens=32.0, input_tokens_estimated=False, output_tokens=4.0,
        output_tokens_estimated=False, finish_reasons={}, ok=True, reason="",
        asked_input_tokens=spec.input_tokens, asked_output_tokens=spec.output_tokens,
    )  # fmt: skip
    return replace(point, **changes)


class _Service:
    """A service whose throughput saturates; it remembers what was asked of it."""

    def __init__(self, limit: int = 8) -> None:
        self.limit = limit
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, spec: PointSpec, repeat: int) -> Point:
        """Measure."""
        self.asked.append((spec.input_tokens, spec.concurrency, repeat))
        return _point(spec, 10.0 * min(spec.concurrency, self.limit), repeat=repeat)


def test_a_grid_with_repeats_in_order() -> None:
    """Every cell, every level, every repeat; the same number of requests at each level where it was given."""
    service = _Service()
    Campaign(_SPEC, [1, 2], inputs=[16, 32], repeats=2).run(service)
    assert service.asked == [(i, level, repeat) for i in (16, 32) for level in (1, 2) for repeat in (1, 2)]
    spec = Campaign(_SPEC, [1, 7], requests=20).level_spec(_SPEC, 7)
    assert (spec.concurrency, spec.requests, spec.warmup_requests) == (7, 20, 7)
    assert Campaign(_SPEC, [7]).level_spec(_SPEC, 7).requests == 28
    seeded = replace(_SPEC, seed=5)
    assert len({Campaign(seeded, [1, 2]).level_spec(seeded, level).seed for level in (1, 2)}) == 2


def test_a_sweep_stops_when_it_is_saturated() -> None:
    """Two levels without gain are enough."""
    service = _Service()
    Campaign(_SPEC, [2, 4, 8, 16, 32, 64, 128], stop_saturated=True).run(service)
    assert [level for _, level, _ in service.asked] == [2, 4, 8, 16, 32]
    assert not saturated([10.0, 20.0, 20.1])
    assert not saturated([10.0, 20.0, 20.1, 22.0])


@pytest.mark.parametrize(("bound", "found"), [(1, 0), (2, 2), (23, 23), (100, 100), (1000, 128)])
def test_the_search_finds_the_highest_level_that_holds(bound: int, found: int) -> None:
    """Within a sixteenth, and in few measurements."""
    service = _Service()
    level, points = Campaign(_SPEC, [2, 128]).search(service, lambda point: point.concurrency <= bound)
    assert found - max(1, found // 16) <= level <= found
    assert len(points) <= 13


@pytest.mark.parametrize("levels", [[], [2, 2], [0]])
def test_bad_levels_are_refused(levels: list[int]) -> None:
    """Before anything is measured."""
    with pytest.raises(UsageError):
        Campaign(_SPEC, levels)


def test_points_on_disk_are_not_measured_again(serve: Serve, tmp_path: Path) -> None:
    """Unless they were not ok, or something about them is another."""
    mock = serve()
    spec = _easy(mock.url, 2, 4)
    first = Bench(Store(tmp_path))
    point = first.measure(spec)
    assert (point.ok, first.reused, len(mock.bodies)) == (True, 0, 4)
    again = Bench(Store(tmp_path))
    assert (again.measure(spec), again.reused, len(mock.bodies)) == (point, 1, 4)
    again.measure(spec, 2)
    again.measure(replace(spec, output_tokens=2))
    assert len(mock.bodies) == 12
    mock.manner = "http_500"
    bad = replace(spec, input_tokens=16)
    assert not again.measure(bad).ok
    assert not again.measure(bad).ok
    assert len(mock.bodies) == 20, "a point that was not ok is measured again"
    stored = Store(tmp_path).all()
    assert [each.spec["input_tokens"] for each in stored] == [16, 32, 32, 32]
    assert all(each.raw for each in stored)


def test_the_store_names_what_it_cannot_read(tmp_path: Path) -> None:
    """An empty folder, a torn file, another format."""
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="no measured point"):
        store.all()
    store.prepare()
    path = tmp_path / "points" / f"{point_key(_SPEC)}.json"
    path.write_text('{"format"')
    with pytest.raises(UsageError, match="is no point"):
        store.get(point_key(_SPEC))
    path.write_text('{"format": "other/9"}')
    with pytest.raises(UsageError, match="other/9"):
        store.all()


def test_the_api_key_is_in_no_file(serve: Serve, tmp_path: Path) -> None:
    """Nor does it make another point."""
    spec = _easy(serve().url, 1, 1, api_key="k-secret")
    Bench(Store(tmp_path)).measure(spec)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all("k-secret" not in path.read_text(encoding="utf-8") for path in files)
    assert point_key(spec) == point_key(replace(spec, api_key="other"))


def test_the_result_of_one_point_is_also_flat(serve: Serve) -> None:
    """For scripts that read the last line."""
    bench = Bench()
    result = bench.result([bench.measure(_easy(serve().url, 2, 4))])
    assert (result["ok"], result["requests"], result["errors"], result["tokens"]) == (True, 4, 0, 12)
    assert result["ttft_p99"] == result["points"][0]["ttft_ms"]["p99"]
    assert "answers" not in result


def test_failures_have_a_next_command(serve: Serve) -> None:
    """The service's own list of models is the first thing to look at."""
    bench = Bench()
    result = bench.result([bench.measure(PointSpec(serve(manner="http_500").url, "m", 2, 4, 32, 3))])
    assert not result["ok"]
    assert result["failures"][0]["next_command"].endswith("/v1/models")


def test_the_spread_of_repeats() -> None:
    """Student's t for three values: 4.303 s / sqrt(3)."""
    found = spread([10.0, 12.0, 14.0])
    assert (found.mean, found.std, found.repeats) == (12.0, 2.0, 3)
    assert found.ci95 == pytest.approx(4.303 * 2 / 3**0.5)
    assert spread([5.0]).ci95 is None


def test_answers_of_a_grid_with_repeats() -> None:
    """One sweep for each pair of lengths; the repeat in the middle stands for its level."""
    points = [
        _point(replace(_SPEC, input_tokens=inputs, concurrency=level, requests=level), 10.0 * min(level, 4) + repeat,
               repeat=repeat).to_json()
        for inputs in (16, 32) for level in (1, 2, 4, 8, 16) for repeat in (1, 2, 3)
    ]  # fmt: skip
    said = answers(json.loads(json.dumps(points)))
    assert [sweep["saturates_at"] for sweep in said["sweeps"]] == [4, 4]
    first = said["levels"][0]["output_tokens_per_s"]
    assert (first["mean"], first["std"], first["repeats"]) == (12.0, 1.0, 3)
    assert first["ci95"] == pytest.approx(2.484, abs=1e-3)
    assert said["conclusion"].count("saturates at 4") == 2


def _rows(*levels: tuple[int, float, float, float], **changes: Any) -> list[dict[str, Any]]:
    """Make points from concurrency, requests/s, decode time in ms, time per token in ms."""
    return [
        _point(replace(_SPEC, concurrency=level, requests=level), 1.0, requests_per_s=rate,
               decode_ms=Stats(decode, 0, 0, 0), tpot_ms=Stats(tpot, 0, 0, 0), **changes).to_json()
        for level, rate, decode, tpot in levels
    ]  # fmt: skip


def test_what_binds() -> None:
    """Each cause from its own evidence."""
    growing = _rows((8, 4, 2000, 20), (16, 6, 2600, 26), (64, 8, 8000, 80))
    stuck = _rows((16, 4, 4000, 20), (32, 5, 5000, 25), (64, 5, 5000, 25))
    assert binding(growing, {}).kind == "decode"
    assert binding(stuck, {}).kind == "admission"
    assert binding(stuck, {}, max_batch_size=26).kind == "batch"
    assert binding(stuck, {}, max_link_num=40).kind == "links"
    assert binding(stuck, {64: {"kv_usage_max": 0.99}}).kind == "kv"
    assert binding(stuck, {64: {"preemptions": 3.0}}).kind == "kv"
    assert binding(growing, {64: {"running_max": 60.0, "waiting_max": 9.0}}, max_batch_size=64).kind == "batch"
    first = _rows((1, 2, 10, 10), ok=True, ttft_ms=Stats(400.0, 0, 0, 0))
    assert binding([*first, *_rows((8, 2.4, 2000, 10))], {}).kind == "prefill"
    late = _rows((128, 1, 1, 1), ok=False, reason="the load generator itself was late")
    assert binding([*growing, *late], {}).kind == "client"
    starved = _rows((128, 1, 1, 1), ok=False, reason="90 were in flight", client_waited_share=0.6)
    assert binding([*growing, *starved], {}).kind == "client"
    assert binding([], {}).kind == "unknown"
    assert binding(_rows((8, 4, 2000, 20), (16, 8, 2000, 20)), {}).kind == "unknown"


def test_beside_the_published_curve() -> None:
    """Only levels that both have; only the same deployment may be compared without being asked."""
    curve = published()
    assert "github.com" in curve.source
    points = [_point(replace(_SPEC, concurrency=level, requests=level), rate).to_json()
              for level, rate in ((100, 828.0 * 1.1), (200, 1000.0), (400, 1269.0))]  # fmt: skip
    changes = {each.concurrency: each.output_tokens_per_s for each in compare(points, curve)}
    assert changes == {100: pytest.approx(0.1), 400: pytest.approx(0.0)}
    assert [row["concurrency"] for row in of_points("", "", points).rows] == [100, 200, 400]
    same = {"cards": 32, "weights": "w8a8", "input_tokens": 512, "output_tokens": 512, "requests": 1000}
    assert fits_published(**same)  # type: ignore[arg-type]  # numbers and one word
    assert not fits_published(**(same | {"requests": 100}))  # type: ignore[arg-type]  # as above


def test_a_raw_request_as_a_row() -> None:
    """What did not happen is missing, never zero."""
    raw: dict[str, Any] = {
        "index": 3, "intended_ms": 5.0, "start_ms": 7.0, "end_ms": 40.0, "events_ms": [15.0, 25.0, 35.0],
        "status": 200, "finish_reason": "length", "prompt_tokens": 9, "completion_tokens": 5, "error": "",
    }  # fmt: skip
    row = request_row(raw)
    assert (row["ttft_ms"], row["tpot_ms"], row["e2e_ms"], row["token_events"]) == (10.0, 5.0, 35.0, 3)
    failed = request_row(raw | {"events_ms": [], "error": "cut"})
    assert (failed["ttft_ms"], failed["first_token_ms"], failed["error"]) == (None, None, "cut")
