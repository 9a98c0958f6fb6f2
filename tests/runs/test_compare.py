"""Two records side by side, and what drifted since the last good one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.runs.check import StageCheck
from runbook_lib.runs.compare import compare_runs
from runbook_lib.runs.drift import drift_of
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.facts import flat, recorded_facts
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.manifest import write_manifest
from runbook_lib.runs.redaction import Redactor
from runbook_lib.views.compare import comparison_html, comparison_text

if TYPE_CHECKING:
    from pathlib import Path

IDS = ("20260102T030405.678Z-1a2b", "20260103T030405.678Z-3c4d")


def finding(verdict: str, seen: str) -> dict[str, Any]:
    subject = {"host": "node2", "card": 3, "item": ""}
    return {"code": "NET-MTU", "stage": "network", "subject": subject, "verdict": verdict, "seen": seen}


def record(outputs: Path, run_id: str, *, mode: str = "apply", mtu: int = 1500, ok: bool = True) -> RunFolder:
    run = RunFolder(outputs / "c" / run_id)
    run.path.mkdir(parents=True)
    log = EventLog(run.events, Redactor())
    log.append("run_start", mode=mode, params=f"service:\n  port: {1025 if ok else 1035}\n")
    log.append("stage_start", stage="network")
    verdict = "ok" if ok else "fail"
    change = {"subject": {"host": "node2", "card": 3, "item": ""}, "summary": "set MTU to 1500", "state": "done"}
    facts = {"cards": {"node2": {"3": {"mtu": {"value": mtu, "message": "x"}, "clock_s": mtu, "ports": [2, 1]}}}}
    point = {"concurrency": 8, "ok": True, "output_tokens_per_s": 100.0 * mtu, "ttft_ms": {"mean": 5.0}}
    result = {"findings": [finding(verdict, str(mtu))], "changes": [change] if ok else [], "facts": facts}
    run.write_json(run.stage_json("network"), result)
    run.write_json(run.stage_json("benchmark"), {"findings": [], "changes": [], "points": [point]})
    log.append("stage_end", stage="network", verdict=verdict)
    log.append("run_end", ok=ok)
    write_manifest(run)
    return run


def test_what_differs_is_shown_and_nothing_else(tmp_path: Path) -> None:
    found = compare_runs(record(tmp_path, IDS[0]), record(tmp_path, IDS[1], mtu=1280, ok=False))
    assert [(row.where, row.a, row.b) for row in found.stages] == [("network", "ok", "fail")]
    assert [(row.where, row.a, row.b) for row in found.findings] == [
        ("network: NET-MTU node2 card 3", "ok", "fail: 1280")
    ]
    assert [(row.where, row.a, row.b) for row in found.facts] == [("network: cards.node2.3.mtu.value", "1500", "1280")]
    assert [(row.where, row.a, row.b) for row in found.params] == [("service.port", "1025", "1035")]
    assert [(row.a, row.b) for row in found.changes] == [("done", "")]
    assert found.versions == []
    by_name = {each.name: each for each in found.benchmark}
    assert by_name["output_tokens_per_s"].ratio == pytest.approx(1280 / 1500)
    assert by_name["ttft_p99"].ratio is None
    assert found.to_json()["benchmark"][2]["a"] is None
    assert found.b.outcome == "not ok"
    text, page = comparison_text(found), comparison_html(found)
    for shown in ("cards.node2.3.mtu.value", "service.port", "x0.853", IDS[1]):
        assert shown in text
        assert shown in page


def test_the_same_run_differs_in_nothing_and_a_changed_one_is_named(tmp_path: Path) -> None:
    run = record(tmp_path, IDS[0])
    found = compare_runs(run, run)
    assert not any(rows for _, rows in found.sections())
    assert found.a.record == "its files are those of its manifest"
    run.stage_json("network").write_text('{"findings": []}')
    found = compare_runs(run, run)
    assert found.a.record.startswith("network.json: was changed")
    assert found.without_facts == [IDS[0], IDS[0]]
    assert "recorded no facts" in comparison_text(found)


def test_facts_are_flat_and_long_texts_short() -> None:
    assert flat({"a": {"b": [2, 1], "clock_s": 5}, "c": [{"d": None}]}) == {"a.b": "1, 2", "c.0.d": ""}
    assert "clock_s" in flat({"clock_s": 5}, moving=True)
    short = recorded_facts({"log": "x" * 5000, "line": "x"})
    assert short["log"].startswith("[5000 characters, sha256 ")
    assert short["line"] == "x"


def check(mtu: int) -> StageCheck:
    verdict = Verdict.OK if mtu == 1500 else Verdict.FAIL
    facts = {"cards": {"node2": {"3": {"mtu": {"value": mtu}, "ports": [1, 2]}}}}
    return StageCheck(
        "network", "Network", (Finding("NET-MTU", "network", Subject("node2", 3), verdict, str(mtu)),), facts
    )


def test_drift_is_what_changed_since_the_last_good_run(tmp_path: Path) -> None:
    assert drift_of([check(1500)], tmp_path, "c").since == {"network": ""}
    record(tmp_path, IDS[0])
    record(tmp_path, IDS[1], mtu=1280, ok=False)  # newer, and no good one
    assert drift_of([check(1500)], tmp_path, "c").changed == []
    drift = drift_of([check(1280)], tmp_path, "c")
    assert drift.since == {"network": IDS[0]}
    assert [(each.kind, each.where, each.before, each.now) for each in drift.changed] == [
        ("finding", "NET-MTU node2 card 3", "ok", "fail: 1280"),
        ("fact", "cards.node2.3.mtu.value", "1500", "1280"),
    ]
    assert "was 1500, is 1280" in drift.text("network")


@pytest.mark.parametrize("spoil", ["plan", "file", "chain", "open"])
def test_no_drift_is_told_from_a_record_that_is_not_good(tmp_path: Path, spoil: str) -> None:
    run = record(tmp_path, IDS[0], mode="plan" if spoil == "plan" else "observe")
    if spoil == "file":
        run.stage_json("network").write_text("{}")
    elif spoil == "chain":
        run.events.write_bytes(run.events.read_bytes().replace(b'"ok":true', b'"ok":null'))
    elif spoil == "open":
        (run.path / "manifest.json").unlink()
    assert drift_of([check(1500)], tmp_path, "c").since == {"network": ""}
