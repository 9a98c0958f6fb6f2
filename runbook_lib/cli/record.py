"""Commands that read back what was recorded: report, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runbook_lib.cli.base import Json, RunWord, app, emit
from runbook_lib.errors import UsageError


@app.command()
def report(
    run: RunWord,
    html: Annotated[str, typer.Option("--html", help="Render the record anew, into this file.")] = "",
    language: Annotated[str, typer.Option("--language", help="en or zh; with --html.")] = "en",
    as_json: Json = False,
) -> None:
    """Print the path of a run's report, one HTML page; that of an open run is written anew."""
    from runbook_lib.runs.find import find_run
    from runbook_lib.runs.report import recorded_report, write_report_to

    if language not in {"en", "zh"}:
        raise UsageError(f"--language {language!r}; right would be en or zh")
    folder = find_run(run)
    if language != "en" and not html:
        raise UsageError("--language goes with --html FILE: the recorded report is in English")
    path = write_report_to(folder, Path(html).absolute(), language) if html else recorded_report(folder)
    if as_json:
        emit({"ok": True, "failures": [], "run_dir": str(folder.path), "report": str(path)})
    else:
        print(path)


@app.command()
def compare(
    a: RunWord,
    b: RunWord,
    html: Annotated[str, typer.Option("--html", help="Also write the comparison as one HTML page.")] = "",
    as_json: Json = False,
) -> None:
    """Show what differs between two recorded runs: verdicts, findings, facts, params, changes, benchmark."""
    from runbook_lib.runs.compare import compare_runs
    from runbook_lib.runs.find import find_run
    from runbook_lib.runs.folder import atomic_write
    from runbook_lib.views.compare import comparison_html, comparison_text

    found = compare_runs(find_run(a), find_run(b))
    if html:
        atomic_write(Path(html).absolute(), comparison_html(found).encode())
    if as_json:
        emit({"ok": True, "failures": [], **found.to_json(), "html": html or None})
    else:
        print(comparison_text(found))
