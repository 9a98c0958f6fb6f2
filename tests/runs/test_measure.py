"""The stage's measuring: the twin's clock, points on disk, what archived results say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.store import Store, Stored, point_key
from runbook_lib.params import load_params, project_root
from runbook_lib.runs import measure
from runbook_lib.stages import tuning

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.params import Params


@pytest.fixture
def params() -> Params:
    """Return the demo's params."""
    return load_params(project_root() / "params" / "demo.yaml")


def _point(level: int, **changes: Any) -> dict[str, Any]:
    stats = {"mean": 10.0, "p50": 10.0, "p90": 12.0, "p99": 14.0, "std": 1.0, "max": None}
    names = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "decode_ms", "lpct_ms", "client_lateness_ms")
    return {
        "concurrency": level, "delivered": float(level), "delivered_basis": "steady", "requests": 2 * level,
        "errors": {}, **dict.fromkeys(names, stats), "output_tokens_per_s": 100.0 * min(level, 4),
        "requests_per_s": 10.0, "tokens_per_s_per_client": 5.0, "generation_tokens_per_s_per_client": 6.0,
        "mean_in_flight": float(level), "clock": "kernel", "duration_s": 2.0, "input_tokens": 64.0,
        "input_tokens_estimated": False, "output_tokens": 48.0, "output_tokens_estimated": False,
        "finish_reasons": {}, "ok": True, "reason": "", "percentiles": {"ttft_ms": [1.0, 2.0]},
        "steady": {"duration_s": 1.0, "output_tokens_per_s": 120.0, "requests_per_s": 11.0}, "notes": [], **changes,
    }  # fmt: skip


def test_a_point_in_the_twins_clock() -> None:
    """Times grow, rates shrink, counts stay; what is missing stays missing."""
    scaled = measure.in_twin_time(_point(8, tpot_ms=None), 25.0)
    assert scaled["ttft_ms"] == {"mean": 250.0, "p50": 250.0, "p90": 300.0, "p99": 350.0, "std": 25.0, "max": None}
    assert (scaled["tpot_ms"], scaled["delivered"], scaled["duration_s"]) == (None, 8.0, 50.0)
    assert (scaled["output_tokens_per_s"], scaled["requests_per_s"]) == (16.0, 0.4)
    assert scaled["percentiles"] == {"ttft_ms": [25.0, 50.0]}
    assert scaled["steady"] == {"duration_s": 25.0, "output_tokens_per_s": 4.8, "requests_per_s": 0.44}


def test_a_level_is_known_by_its_settings(params: Params, tmp_path: Path) -> None:
    """Other settings of the service are another point; what was not ok is not known."""
    store = Store(tmp_path)
    store.prepare()
    assert measure.known_level(params, store, 8) is None
    for ok in (False, True):
        store.save(Stored(measure._key(params, 8), {}, _point(8, ok=ok)))
        assert (measure.known_level(params, store, 8) is not None) is ok
    other = load_params(project_root() / "params" / "demo.yaml", {"service.max_batch_size": 300})
    assert measure.known_level(other, store, 8) is None
    assert measure.known_level(params, store, 16) is None
    assert measure._key(params, 8) != point_key(measure.level_spec(params, 8))


def test_archived_points_of_a_run_and_of_a_bench_folder(tmp_path: Path) -> None:
    """Both give points and answers, without a cluster."""
    run, bench = tmp_path / "run", Store(tmp_path / "bench")
    run.mkdir()
    points = [_point(level) for level in (1, 2, 4, 8, 16)]
    (run / measure.POINTS).write_text(json.dumps(points))
    found, said = measure.archived(run)
    assert (len(found), said["sweeps"][0]["saturates_at"]) == (5, 4)
    bench.prepare()
    lengths = {"input_tokens": 64, "output_tokens": 48, "rate_per_s": 0.0}
    for point in points:
        metrics = {"metrics": {"summary": {"preemptions": 7.0}}}
        bench.save(Stored(f"k{point['concurrency']}", lengths | {"concurrency": point["concurrency"]}, point, metrics))
    found, said = measure.archived(bench.folder)
    assert [point["concurrency"] for point in found] == [1, 2, 4, 8, 16]
    assert said["sweeps"][0]["binds"] == "kv"
    (run / measure.POINTS).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        measure.archived(run)


def test_knobs_keep_the_rules_of_the_params(params: Params) -> None:
    """No value that the params would refuse, or that could leave a preempted request waiting for ever."""
    knobs = {knob.name.removeprefix("service."): list(knob.values) for knob in tuning.knobs(params)}
    assert min(knobs["max_prefill_tokens"]) >= params.service.max_seq_len
    assert max(knobs["max_prefill_batch_size"]) <= params.service.max_batch_size
    for name, values in knobs.items():
        for value in values:
            load_params(project_root() / "params" / "demo.yaml", {f"service.{name}": value})
    assert set(tuning.start(params)) == {knob.name for knob in tuning.knobs(params)}
    weight = "service.prefill_time_ms"
    assert not tuning.worthwhile({"service.support_select_batch": False}, weight)
    assert tuning.worthwhile({"service.support_select_batch": True}, weight)
