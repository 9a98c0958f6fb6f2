"""The report of a run: read from its record, written beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError
from runbook_lib.model import Finding, Plan, Verdict, from_json
from runbook_lib.runs import events
from runbook_lib.runs.folder import atomic_write
from runbook_lib.stages import STAGES
from runbook_lib.views.figures import latency_figure, throughput_figure
from runbook_lib.views.notebook import notebook_html
from runbook_lib.views.report import RunSummary, StageSummary, run_report

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.runs.folder import RunFolder

REPORT = "report.html"
NOT_REACHED = "not reached"


def write_report(folder: RunFolder, language: str = "en") -> Path:
    """Write report.html and an HTML page for every executed notebook. Raises RecordError on a record that is torn."""
    path = folder.path / REPORT
    page = run_report(summarize(folder), "zh" if language == "zh" else "en")
    atomic_write(path, page.encode("utf-8"))
    return path


def notebook_page(folder: RunFolder, stage: str) -> str:
    """Return the relative address of a stage's HTML page, made now if need be; "" when there is no notebook."""
    source = folder.notebook(stage)
    if not source.is_file():
        return ""
    target = source.with_suffix(".html")
    if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
        atomic_write(target, notebook_html(str(source)).encode("utf-8"))
    return target.name


def summarize(folder: RunFolder) -> RunSummary:
    """Read a run's record. A stage without an end is unknown, whatever its notebook claims."""
    chain = events.read(folder.events)
    start = next((event for event in chain if event.kind == "run_start"), None)
    end = next((event for event in chain if event.kind == "run_end"), None)
    said = start.data if start is not None else {}
    status = folder.status()
    wanted = said.get("stages") or [stage.name for stage in STAGES]
    summaries = [_stage(folder, stage.name, stage.title, status) for stage in STAGES if stage.name in wanted]
    return RunSummary(
        cluster=folder.path.parent.name,
        run_id=folder.run_id,
        started=start.time if start is not None else "",
        ended=end.time if end is not None else "",
        mode=str(said.get("mode", "")),
        twin_level=_twin_level(folder) if said.get("twin") else None,
        stages=summaries,
        chain_head=chain[-1].hash if chain else "",
        params_yaml=str(said.get("params", "")),
    )


def _stage(folder: RunFolder, name: str, title: str, status: dict[str, str]) -> StageSummary:
    result = read_result(folder, name)
    state = status.get(name, NOT_REACHED)
    verdict = Verdict(state) if state in set(Verdict) else Verdict.UNKNOWN
    href = notebook_page(folder, name)
    if result is None:
        return StageSummary(name, title, verdict, notebook_href=href, note="" if state in set(Verdict) else state)
    points = result.get("points")
    figures = (
        [throughput_figure(points, scaled_down=_scaled(folder)), latency_figure(points, scaled_down=_scaled(folder))]
        if points
        else []
    )
    notes = [f"waits for {', '.join(result['waits_for'])}"] if result.get("waits_for") else []
    notes += [result["error"]] if result.get("error") else []
    notes += [state] if state not in set(Verdict) else []
    notes += [result["note"]] if result.get("note") else []
    return StageSummary(
        name,
        title,
        verdict,
        findings=from_json(list[Finding], result["findings"]),
        plan=from_json(Plan, result["plan"]) if result.get("plan") else None,
        change_states=result.get("states") or [],
        seconds=result.get("seconds"),
        notebook_href=href,
        figures=figures,
        note="; ".join(notes),
    )


def _scaled(folder: RunFolder) -> bool:
    start = next((event for event in events.read(folder.events) if event.kind == "run_start"), None)
    return bool(start is not None and start.data.get("scaled_down"))


def read_result(folder: RunFolder, stage: str) -> dict[str, Any] | None:
    """Return a stage's recorded result, None when there is none. Raises RecordError when it cannot be read."""
    path = folder.stage_json(stage)
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    return result


def _twin_level(folder: RunFolder) -> str:
    """Return the isolation level that the running twin wrote down, "?" when it is down."""
    try:
        return str(json.loads((folder.path.parent / ".twin" / "server.json").read_text(encoding="utf-8"))["level"])
    except (OSError, ValueError, KeyError):
        return "?"
