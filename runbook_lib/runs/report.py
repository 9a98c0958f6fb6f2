"""The report of a run: read from its record, written beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError, UsageError
from runbook_lib.model import Finding, Plan, Verdict, from_json
from runbook_lib.runs import events
from runbook_lib.runs.folder import atomic_write
from runbook_lib.runs.results import NOT_REACHED, is_closed, read_result
from runbook_lib.stages import STAGES
from runbook_lib.views.figures import latency_figure, throughput_figure
from runbook_lib.views.notebook import notebook_html
from runbook_lib.views.report import Ran, RunSummary, StageSummary, run_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runbook_lib.runs.folder import RunFolder
    from runbook_lib.stages import Stage
    from runbook_lib.views.style import Language

REPORT = "report.html"


def write_report(folder: RunFolder) -> Path:
    """Write report.html and an HTML page for every executed notebook. Raises RecordError on a record that is torn."""
    for stage in STAGES:
        notebook_page(folder, stage.name)
    return _render(folder, folder.path / REPORT, "en", with_links=True)


def write_report_to(folder: RunFolder, path: Path, language: str = "en") -> Path:
    """Render a run's record into one file, anywhere but in a closed run. Raises RecordError, UsageError."""
    inside = path.resolve().is_relative_to(folder.path.resolve())
    if inside and is_closed(folder):
        raise UsageError(f"{folder.run_id} is closed: nothing in its folder changes; right would be a file elsewhere")
    return _render(folder, path, "zh" if language == "zh" else "en", with_links=inside)


def _render(folder: RunFolder, path: Path, language: Language, *, with_links: bool) -> Path:
    page = run_report(summarize(folder, with_links=with_links), language)
    atomic_write(path, page.encode("utf-8"))
    return path


def recorded_report(folder: RunFolder) -> Path:
    """Return the report of a run: that of a closed one as it is, that of an open one written anew.

    Raises RecordError when a closed run's report is missing; whether it was changed is said by the audit.
    """
    if not is_closed(folder):
        return write_report(folder)
    path = folder.path / REPORT
    if not path.is_file():
        raise RecordError(
            f"{path} is missing, though the run is closed",
            next_command=f"runbook report {folder.run_id} --html FILE; runbook audit verify {folder.run_id}",
        )
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


def summarize(folder: RunFolder, *, with_links: bool = True) -> RunSummary:
    """Read a run's record. A stage without an end is unknown, whatever its notebook claims."""
    chain = events.read(folder.events)
    start = next((event for event in chain if event.kind == "run_start"), None)
    end = next((event for event in chain if event.kind == "run_end"), None)
    said = start.data if start is not None else {}
    status = folder.status()
    wanted = said.get("stages") or [stage.name for stage in STAGES]
    scaled = bool(said.get("scaled_down"))
    ran = _commands(chain)
    summaries = [
        replace(_stage(folder, stage, status, scaled=scaled, with_links=with_links), ran=ran.get(stage.name, ()))
        for stage in STAGES
        if stage.name in wanted
    ]
    return RunSummary(
        cluster=folder.path.parent.name,
        run_id=folder.run_id,
        started=start.time if start is not None else "",
        ended=end.time if end is not None else "",
        mode=str(said.get("mode", "")),
        twin_level=_twin_level(folder, said) if said.get("twin") else None,
        stages=summaries,
        chain_head=chain[-1].hash if chain else "",
        params_yaml=str(said.get("params", "")),
    )


def _stage(
    folder: RunFolder, stage: Stage[Any], status: dict[str, str], *, scaled: bool, with_links: bool
) -> StageSummary:
    name, title = stage.name, stage.title
    result = read_result(folder, name)
    state = status.get(name, NOT_REACHED)
    verdict = Verdict(state) if state in set(Verdict) else Verdict.UNKNOWN
    page = folder.notebook(name).with_suffix(".html")
    href = page.name if with_links and page.is_file() else ""
    if result is None:
        return StageSummary(name, title, verdict, notebook_href=href, note="" if state in set(Verdict) else state)
    points = result.get("points")
    figures = (
        [throughput_figure(points, scaled_down=scaled), latency_figure(points, scaled_down=scaled)] if points else []
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


def _commands(chain: Sequence[events.Event]) -> dict[str, list[Ran]]:
    """Return the commands that ran for each stage."""
    ran: dict[str, list[Ran]] = {}
    for event in chain:
        if event.kind == "commands":
            ran.setdefault(str(event.data.get("stage")), []).extend(
                Ran(str(each["host"]), [str(word) for word in each["argv"]], each.get("exit"), each.get("seconds"))
                for each in event.data["commands"]
            )
    return ran


def _twin_level(folder: RunFolder, said: Mapping[str, Any]) -> str:
    """Return the isolation level that was recorded; that of the running twin while the run is open, else "?"."""
    if said.get("twin_level"):
        return str(said["twin_level"])
    if is_closed(folder):
        return "?"
    try:
        return str(json.loads((folder.path.parent / ".twin" / "server.json").read_text(encoding="utf-8"))["level"])
    except (OSError, ValueError, KeyError):
        return "?"
