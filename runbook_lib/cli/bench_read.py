"""What measured points say, without any service: report, comparison, table for pandas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runbook_lib.cli.base import Json, emit, say
from runbook_lib.cli.bench import bench_app
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

Folder = Annotated[str, typer.Argument(help="A folder of `bench --out`, or a run's folder below outputs/.")]


@bench_app.command("report")
def bench_report(
    folder: Folder,
    against: Annotated[str, typer.Option(help="Lay the points beside those of another folder.")] = "",
    published: Annotated[bool, typer.Option("--published", help="And beside the published curve.")] = False,
    html: Annotated[str, typer.Option(help="Write a page with tables and figures to this file.")] = "",
    as_json: Json = False,
) -> None:
    """Say what archived points mean: table, knee, what binds, differences."""
    from runbook_lib.load import reference
    from runbook_lib.runs.conclusions import archived

    points, answers = archived(Path(folder))
    others = []
    if against:
        others.append(reference.of_points(against, against, archived(Path(against))[0]))
    if published:
        others.append(reference.published())
    answers = dict(answers)
    answers["comparisons"] = [
        *answers.get("comparisons", []),
        *(reference.beside(points, other) for other in others),
    ]
    bad = [point for point in points if not point["ok"]]
    failures = [
        {"seen": f"concurrency {point['concurrency']}: {point['reason']}", "next_command": command}
        for point, command in zip(bad, _again(Path(folder), bad), strict=True)
    ]
    if html:
        Path(html).write_text(_page(points, answers), encoding="utf-8")
        say(f"written: {html}")
    if as_json:
        emit({"ok": not failures, "failures": failures, "points": points, "answers": answers})
    else:
        from runbook_lib.load.text import answers_text, differences_text, points_text

        print(points_text({"points": points, "failures": failures, "answers": answers}))
        print(differences_text(answers["comparisons"]) + answers_text(answers), end="")
    raise typer.Exit(0 if not failures else 1)


def _again(folder: Path, bad: list[dict[str, Any]]) -> list[str]:
    """Return the commands that measure these points again, as far as what is archived knows them."""
    import shlex

    from runbook_lib.load.store import Store

    if not (folder / "points").is_dir():
        params = f"params/{shlex.quote(folder.resolve().parent.name)}.yaml"
        return [f"runbook run {params} --mode apply --stage benchmark"] * len(bad)
    names = ("url", "model", "concurrency", "requests", "input_tokens", "output_tokens")
    commands = []
    for spec in (each.spec for each in Store(folder).all() if each.point in bad):
        asked = spec | {f"{end}_tokens": spec[f"{end}_lengths"] or spec[f"{end}_tokens"] for end in ("input", "output")}
        words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(asked[name]))]
        commands.append(shlex.join(["runbook", "bench", *words, "--out", str(folder)]))
    return commands


def _page(points: list[dict[str, Any]], answers: dict[str, Any]) -> str:
    from runbook_lib.views.benchmark import benchmark_html
    from runbook_lib.views.html import inner, page

    body = benchmark_html(points, str(answers["conclusion"]), scaled_down=False, answers=answers)
    return page("Benchmark", inner(body))


@bench_app.command("export")
def bench_export(
    folder: Folder, target: Annotated[str, typer.Argument(help="A file that ends with .csv or .parquet.")]
) -> None:
    """Write every raw request as one row for pandas; docs/benchmark.md describes the columns."""
    from runbook_lib.load import export

    frame = export.table(_rows(Path(folder)))
    if frame.empty:
        raise UsageError(f"{folder} holds no raw requests; expected raw/*.jsonl beside points/")
    export.write(frame, Path(target))
    print(f"{len(frame)} requests: {target}")


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    from runbook_lib.load import export
    from runbook_lib.load.store import Store

    inner = folder / "benchmark"
    for stored in Store(inner if inner.is_dir() else folder).all():
        if stored.raw:
            yield from export.rows_of(Path(stored.raw), stored.point, stored.key)
