"""The stage's measuring: the twin's clock, points on disk, what archived results say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.load.point import Point
from runbook_lib.load.store import Store, Stored, point_key
from runbook_lib.params import load_params, project_root
from runbook_lib.runs import conclusions, measure
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.redaction import Redactor
from runbook_lib.stages import tuning

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.load.spec import PointSpec
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
        store.save(Stored(measure._key(params, measure.level_spec(params, 8)), {}, _point(8, ok=ok)))
        assert (measure.known_level(params, store, 8) is not None) is ok
    other = load_params(project_root() / "params" / "demo.yaml", {"service.max_batch_size": 300})
    assert measure.known_level(other, store, 8) is None
    assert measure.known_level(params, store, 16) is None
    assert measure._key(params, measure.level_spec(params, 8)) != point_key(measure.level_spec(params, 8))


def test_archived_points_of_a_run_and_of_a_bench_folder(tmp_path: Path) -> None:
    """Both give points and answers, without a cluster."""
    run, bench = tmp_path / "run", Store(tmp_path / "bench")
    run.mkdir()
    points = [_point(level) for level in (1, 2, 4, 8, 16)]
    (run / conclusions.POINTS).write_text(json.dumps(points))
    found, said = conclusions.archived(run)
    assert (len(found), said["sweeps"][0]["saturates_at"]) == (5, 4)
    bench.prepare()
    lengths = {"input_tokens": 64, "output_tokens": 48, "rate_per_s": 0.0}
    for point in points:
        metrics = {"metrics": {"summary": {"preemptions": 7.0}}}
        bench.save(Stored(f"k{point['concurrency']}", lengths | {"concurrency": point["concurrency"]}, point, metrics))
    found, said = conclusions.archived(bench.folder)
    assert [point["concurrency"] for point in found] == [1, 2, 4, 8, 16]
    assert said["sweeps"][0]["binds"] == "kv"
    (run / conclusions.POINTS).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        conclusions.archived(run)


class _Beside:
    """Stands for the scraper and the card sampler."""

    authorities: ClassVar[list[str]] = []  # the CA files that were given to scrapers

    def __init__(self, *_: object, ca_file: str | None = None) -> None:
        if ca_file is not None:
            self.authorities.append(ca_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def result(self) -> dict[str, Any]:
        """Nothing was read."""
        return {}


def test_a_run_measures_repeats_search_and_grid_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the params ask; bounds are those of the twin's clock; a second sweep finds all of it on disk."""
    more = {
        "benchmark.concurrency": [4, 16], "benchmark.repeats": 2, "benchmark.slo_ttft_ms": 500.0,
        "benchmark.slo_share": 0.9, "benchmark.grid_input_tokens": [32], "benchmark.grid_output_tokens": [16, 48],
    }  # fmt: skip
    params = load_params(project_root() / "params" / "demo.yaml", more)
    asked: list[PointSpec] = []

    def run_point(spec: PointSpec) -> Point:
        asked.append(spec)
        lengths = {"asked_input_tokens": spec.input_tokens, "asked_output_tokens": spec.output_tokens}
        share = 1.0 if spec.concurrency <= 9 else 0.5
        return Point.from_json(_point(spec.concurrency, goodput_share=share, **lengths))

    monkeypatch.setattr(measure, "run_point", run_point)
    for name in ("Scraper", "CardSampler"):
        monkeypatch.setattr(measure, name, _Beside)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    log = EventLog(folder.path / "events.jsonl", Redactor(()))
    found = measure.sweep(params, folder, log)
    assert [(point["concurrency"], point["repeat"]) for point in found.points][:2] == [(4, 1), (4, 2)]
    assert found.found == 9
    assert [point["asked_output_tokens"] for point in found.grid] == [16, 48]
    assert {spec.slo_ttft_ms for spec in asked} == {20.0}
    before = len(asked)
    assert measure.sweep(params, folder, log) == found
    assert len(asked) == before
    conclusions.keep(params, found, folder)
    points, said = conclusions.archived(folder.path)
    assert len(points) == len(found.points)
    assert said["slo"]["found"] == 9
    assert len(said["grid"]) == 2
    assert [line.split(":")[0] for line in said["not_measured"]] == ["tokenizer and detokenizer times"]
    assert said["calibration"]["next_command"] == f"runbook capacity calibrate params/demo.yaml {folder.path}"
    assert said["levels"][0]["output_tokens_per_s"]["repeats"] == 2


def test_the_metrics_are_read_with_the_ca_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https service with an authority of its own: load and metrics are verified by the same file."""
    more = {"service.https": True, "service.ca_file": str(tmp_path / "ca.pem"), "benchmark.concurrency": [4]}
    params = load_params(project_root() / "params" / "demo.yaml", more)
    asked: list[PointSpec] = []

    def run_point(spec: PointSpec) -> Point:
        asked.append(spec)
        return Point.from_json(_point(spec.concurrency))

    monkeypatch.setattr(measure, "run_point", run_point)
    monkeypatch.setattr(_Beside, "authorities", [])
    for name in ("Scraper", "CardSampler"):
        monkeypatch.setattr(measure, name, _Beside)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    measure.sweep(params, folder, EventLog(folder.path / "events.jsonl", Redactor(())))
    assert [spec.ca_file for spec in asked] == _Beside.authorities == [str(tmp_path / "ca.pem")]


def test_what_is_not_measured_is_named(params: Params, tmp_path: Path) -> None:
    """Nothing is asked for beside the sweep: three things, and the times that no service gives."""
    folder = RunFolder(tmp_path / "run")
    said = conclusions.conclude(params, measure.Measured([_point(8)], [], None, {}), folder)
    assert (said["slo"], said["grid"], len(said["not_measured"])) == (None, [], 4)


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
