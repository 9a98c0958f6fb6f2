"""Two runs side by side, as HTML and as text."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.views.html import page, plain, render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LONGEST_VALUE = 300
_SHOWN_ROWS = 40

# Names of views.points, with their units; what is better: more or less
_UNITS = {
    "output_tokens_per_s": ("throughput, tok/s", "more"),
    "ttft_mean": ("first token mean, ms", "less"),
    "ttft_p99": ("first token p99, ms", "less"),
    "tpot_mean": ("per token mean, ms", "less"),
    "requests_per_s": ("requests/s", "more"),
    "in_flight": ("mean in flight", ""),
}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the runs. `record` says whether its files are those of its manifest; signatures are not looked at."""

    run_id: str
    cluster: str
    mode: str
    started: str
    outcome: str
    record: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing with its value in both runs; "" where it is absent."""

    where: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Measured:
    """One number of one level of the sweep; None or nan where it was not measured."""

    concurrency: int
    name: str
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """B over A; None when either is missing or zero."""
        if self.a is None or self.b is None or math.isnan(self.a) or math.isnan(self.b) or self.a == 0:
            return None
        return self.b / self.a

    @property
    def title(self) -> str:
        """The name with its unit."""
        return _UNITS.get(self.name, (self.name, ""))[0]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs. `stages` and `benchmark` hold both sides in full; the rest only what is not the same.

    without_facts: runs that recorded none, so that nothing can be said of their facts
    """

    a: Side
    b: Side
    stages: Sequence[Difference] = field(default=())
    findings: Sequence[Difference] = field(default=())
    facts: Sequence[Difference] = field(default=())
    params: Sequence[Difference] = field(default=())
    versions: Sequence[Difference] = field(default=())
    changes: Sequence[Difference] = field(default=())
    benchmark: Sequence[Measured] = field(default=())
    without_facts: Sequence[str] = field(default=())

    def sections(self) -> list[tuple[str, Sequence[Difference]]]:
        """Return the lists of differences with their titles."""
        return [
            ("findings", self.findings),
            ("facts", self.facts),
            ("params", self.params),
            ("versions", self.versions),
            ("changes", self.changes),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `runbook compare --json` prints; see docs/json.md."""
        plain_form = asdict(self)
        plain_form["benchmark"] = [
            {**asdict(each), "a": _finite(each.a), "b": _finite(each.b), "ratio": each.ratio} for each in self.benchmark
        ]
        return plain_form


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def comparison_html(found: Comparison) -> str:
    """Return the comparison as one self-contained page."""
    body = render("compare.html.j2", found=found, number=_number, ratio=_ratio, limit=_LONGEST_VALUE)
    return page(f"{found.a.run_id} / {found.b.run_id}", body)


def comparison_text(found: Comparison) -> str:
    """Return the comparison for a terminal; long lists are cut, and say so."""
    return "\n".join(plain(line, limit=len(line)) for line in _lines(found))


def _lines(found: Comparison) -> Iterator[str]:
    for name, side in (("A", found.a), ("B", found.b)):
        yield f"{name} {side.cluster} {side.run_id}: {side.mode}, {side.outcome}, {side.started}; {side.record}"
    yield "\nstages (A -> B)"
    for row in found.stages:
        mark = " " if row.a == row.b else "*"
        yield f" {mark} {row.where}: {row.a} -> {row.b}"
    for title, rows in found.sections():
        yield f"\n{title}: {len(rows)} differ" if rows else f"\n{title}: no difference"
        if title == "facts":
            yield from (f"  {run_id} recorded no facts: nothing can be said of them" for run_id in found.without_facts)
        for row in rows[:_SHOWN_ROWS]:
            yield f"  {row.where}: {_short(row.a)} -> {_short(row.b)}"
        if len(rows) > _SHOWN_ROWS:
            yield f"  ... {len(rows) - _SHOWN_ROWS} more; all of them with --json or --html FILE"
    if found.benchmark:
        yield "\nbenchmark (A, B, B/A)"
        for each in found.benchmark:
            yield f"  {each.concurrency:>5} {each.title}: {_number(each.a)}  {_number(each.b)}  {_ratio(each.ratio)}"


def _short(value: str) -> str:
    shown = " ".join(value.split())
    return (shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}...") or "(absent)"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"x{value:.3f}"
