"""Overhead per notebook, ours against plain papermill in the same process and the same minute.

    python benchmarks/notebook_overhead.py [--repeat 9] [--network 127.88.0]

Overhead is wall time less the stage's own time from its events. Two notebooks: `preflight` in mode plan on a twin
(imports our library), and an empty one. Each round runs all four cases one after the other, so that whatever else the
machine does falls on all of them; the ratio is that of the medians. One round warms up and is not counted; how long
the first notebook waits for the preloaded process is printed apart. Exits 1 when a ratio is above its goal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from notebook_bed import (
    Home,
    home,
    own_seconds,
    plain_papermill,
)

from runbook_lib.runs.kernels.fork_server import preloaded
from runbook_lib.runs.notebook import execute_notebook
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable

GOALS = {"preflight": 1 / 3, "empty": 1 / 2}
STAGE = "10_preflight.ipynb"


def ours(source: Path, target: Path, parameters: dict[str, str]) -> None:
    result = execute_notebook(source, target, parameters, deadline_s=120, redactor=Redactor(), cwd=Path.cwd())
    if result.status != "completed":
        raise RuntimeError(f"{source.name}: {result.status}: {result.error}")


def overhead_s(run: Callable[[Path, Path, dict[str, str]], None], notebook: str, bed: Home) -> float:
    """Run a notebook and return its wall time less the stage's own time, in seconds."""
    cluster = bed.clusters[0]
    folder = bed.folder(cluster)
    target = folder.path / f"{notebook}.ipynb"
    source = bed.path / "notebooks" / STAGE if notebook == "preflight" else bed.path / "empty.ipynb"
    parameters = bed.parameters(cluster, folder, "plan") if notebook == "preflight" else {}
    began = time.monotonic()
    run(source, target, parameters)
    wall = time.monotonic() - began
    own: float = own_seconds(folder)
    if (own > 0) != (notebook == "preflight"):
        raise RuntimeError(f"{folder.path}: its events show {own} s of own time")
    return wall - own


def write_empty(path: Path) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])  # type: ignore[no-untyped-call]  # untyped
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)  # type: ignore[no-untyped-call]  # untyped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9, help="rounds that count")
    parser.add_argument("--network", default="127.88.0", help="127.A.B of the twin")
    given = parser.parse_args()
    ways = {"papermill": plain_papermill, "runbook": ours}
    taken: dict[tuple[str, str], list[float]] = {(notebook, way): [] for notebook in GOALS for way in ways}
    with home([given.network]) as bed:
        write_empty(bed.path / "empty.ipynb")
        with preloaded():
            first = overhead_s(ours, "preflight", bed)
            for number in range(given.repeat + 1):
                for (notebook, way), seconds in taken.items():
                    seconds.append(overhead_s(ways[way], notebook, bed))
                if number == 0:
                    for seconds in taken.values():
                        seconds.clear()
    good = True
    print(
        f"overhead per notebook in seconds, median (least) of {given.repeat}; the first, with preloading: {first:.2f}"
    )
    print(f"{'notebook':10} {'papermill':>16} {'runbook':>16} {'ratio':>7} {'goal':>6}")
    for notebook, goal in GOALS.items():
        plain, own = (taken[notebook, way] for way in ways)
        ratio = statistics.median(own) / statistics.median(plain)
        good &= ratio <= goal
        cells = [f"{statistics.median(each):.2f} ({min(each):.2f})" for each in (plain, own)]
        print(f"{notebook:10} {cells[0]:>16} {cells[1]:>16} {ratio:7.2f} {goal:6.2f}")
    print("holds" if good else "does not hold")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
