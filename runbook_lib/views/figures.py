"""Figures as SVG text: throughput and latency over concurrency, and a heatmap of verdicts.

matplotlib's object interface only: no pyplot, no global figure list, safe in worker threads. Texts stay text
(small files, searchable) and take the colour of the page around them, so figures are readable in the dark too.
"""

from __future__ import annotations

import io
import math
import re
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from runbook_lib.model import Verdict
from runbook_lib.views.findings import verdict_grids
from runbook_lib.views.html import plain
from runbook_lib.views.points import PointView, point_views
from runbook_lib.views.style import LIGHT, LOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes

    from runbook_lib.model import Finding

# Drawn in this colour, then replaced: currentColor is the colour of the surrounding text.
_INK = "#0a0b0c"
_GRID = "#8a94a0"
# Readable on white and on dark paper, and apart for colour-blind eyes (blue, orange, teal); shapes differ too.
_BLUE, _ORANGE, _TEAL, _GREY = "#2f7fd1", "#d9730d", "#2a9d8f", "#8a94a0"
_CURVES = (_BLUE, _ORANGE, _TEAL, "#8e5bb5", "#b5485b", _GREY)
_MOST_CURVES = len(_CURVES)
_WIDTH_IN, _HEIGHT_IN = 8.4, 4.4


def _axes(title: str, x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    axes.set_xlabel(x_label, color=_INK)
    _quiet(axes)
    axes.grid(visible=True, color=_GRID, alpha=0.25, linewidth=0.7)
    return figure, axes


def _quiet(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_color(_GRID)
    axes.spines["top"].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)


def _line(
    axes: Axes, views: Sequence[PointView], read: Callable[[PointView], float], label: str, look: tuple[str, str]
) -> None:
    """Draw valid points filled and joined, repeats as their mean; what is not valid hollow and alone.

    look: colour, marker
    """
    colour, marker = look
    repeated: dict[int, list[float]] = {}
    for view in views:
        if view.ok and math.isfinite(read(view)):
            repeated.setdefault(view.concurrency, []).append(read(view))
    good = [(level, sum(values) / len(values)) for level, values in repeated.items()]
    bad = [(view.concurrency, read(view)) for view in views if not view.ok and math.isfinite(read(view))]
    axes.plot(*_xy(good), color=colour, marker=marker, markersize=5.5, linewidth=1.6, label=label)
    axes.plot(*_xy(bad), color=colour, marker=marker, markersize=7, markerfacecolor="none", linestyle="none")


def _xy(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _finish(figure: Figure, parts: Sequence[Axes], views: Sequence[PointView], *, scaled_down: bool, name: str) -> str:
    for axes in parts:
        axes.set_ylim(bottom=0)
    parts[0].set_xlim(left=0)
    handles = [handle for axes in parts for handle in axes.get_legend_handles_labels()[0]]
    labels = [label for axes in parts for label in axes.get_legend_handles_labels()[1]]
    bad = [str(view.concurrency) for view in views if not view.ok]
    if bad:
        hollow = parts[0].plot([], [], color=_INK, marker="o", markerfacecolor="none", linestyle="none")[0]
        handles.append(hollow)
        labels.append(f"hollow = not valid: {', '.join(bad)}")
    if not views:
        parts[0].text(0.5, 0.5, "no points measured", color=_INK, ha="center", transform=parts[0].transAxes)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK, fontsize=9)
    if scaled_down:
        parts[0].set_title("scaled down: shape, not size", color=_INK, fontsize=9, loc="right", style="italic")
    return svg(figure, name)


def _bars(
    axes: Axes, spreads: Mapping[int, Mapping[str, Any]], measure: str, scale: float, look: tuple[str, str]
) -> None:
    """Draw the 95 % interval of the levels that were repeated. `look`: colour, label."""
    rows = [
        (level, said[measure]["mean"] / scale, said[measure]["ci95"] / scale)
        for level, said in sorted(spreads.items())
        if said.get(measure) and said[measure]["ci95"] is not None
    ]
    if rows:
        x, y, half = zip(*rows, strict=True)
        axes.errorbar(x, y, yerr=half, color=look[0], linestyle="none", capsize=4, linewidth=1.2, label=look[1])


def throughput_figure(
    points: Iterable[object], spreads: Mapping[int, Mapping[str, Any]] | None = None, *, scaled_down: bool = False
) -> str:
    """Return output tokens/s (left), and the speed per client in both of its senses (right), over concurrency.

    spreads: by concurrency, the spread of each measure between repeats, as load.answers gives it
    """
    views = point_views(points)
    figure, axes = _axes("Throughput", "concurrent requests")
    axes.set_ylabel("output tokens/s, all clients", color=_INK)
    right = axes.twinx()
    right.set_ylabel("tokens/s per client", color=_INK)
    _quiet(right)
    _line(axes, views, lambda view: view.output_tokens_per_s, "output tokens/s, all clients (left)", (_BLUE, "o"))
    _bars(axes, spreads or {}, "output_tokens_per_s", 1.0, (_BLUE, "95 % interval between repeats (left)"))
    _line(right, views, lambda view: view.per_client, "per client, waiting included (right)", (_ORANGE, "s"))
    _line(right, views, lambda view: view.generation, "per client, after its first token (right)", (_TEAL, "^"))
    return _finish(figure, [axes, right], views, scaled_down=scaled_down, name="throughput over concurrency")


def latency_figure(
    points: Iterable[object], spreads: Mapping[int, Mapping[str, Any]] | None = None, *, scaled_down: bool = False
) -> str:
    """Return first-token time (left, s; mean and p90) and decode time per token (right, ms) over concurrency."""
    views = point_views(points)
    figure, axes = _axes("Latency", "concurrent requests")
    axes.set_ylabel("time to first token, s", color=_INK)
    right = axes.twinx()
    right.set_ylabel("decode time per token, ms", color=_INK)
    _quiet(right)
    _line(axes, views, lambda view: view.ttft_mean / 1000, "first token, mean (left)", (_BLUE, "o"))
    _line(axes, views, lambda view: view.ttft_p90 / 1000, "first token, p90 (left)", (_GREY, "v"))
    _bars(axes, spreads or {}, "ttft_ms", 1000.0, (_BLUE, "95 % interval between repeats (left)"))
    _line(right, views, lambda view: view.tpot_mean, "decode per token, mean (right)", (_ORANGE, "s"))
    return _finish(figure, [axes, right], views, scaled_down=scaled_down, name="latency over concurrency")


def distribution_figure(points: Iterable[object], *, scaled_down: bool = False) -> str:
    """Return, for a few levels, which share of the requests had their first token, and of the gaps passed, by when."""
    views = list({view.concurrency: view for view in point_views(points) if view.ok and view.percentiles}.values())
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    both = figure.subplots(1, 2, sharey=True)
    step = max(1, -(-len(views) // _MOST_CURVES))
    shown = [view for index, view in enumerate(reversed(views)) if index % step == 0][::-1]
    for axes, name, scale, label in zip(
        both, ("ttft_ms", "itl_ms"), (1000.0, 1.0), ("time to first token, s", "gap between chunks, ms"), strict=True
    ):
        axes.patch.set_alpha(0)
        axes.set_xlabel(label, color=_INK)
        _quiet(axes)
        axes.grid(visible=True, color=_GRID, alpha=0.25, linewidth=0.7)
        for index, view in enumerate(shown):
            values = view.percentiles.get(name, [])
            axes.plot([value / scale for value in values], range(len(values)), color=_CURVES[index % len(_CURVES)],
                      linewidth=1.5, label=str(view.concurrency))  # fmt: skip
    both[0].set_ylabel("per cent of all", color=_INK)
    title = "Distributions" + (" (scaled down: shape, not size)" if scaled_down else "")
    both[0].set_title(title, color=_INK, fontsize=11, loc="left")
    if shown:
        figure.legend(*both[0].get_legend_handles_labels(), title="concurrent requests", loc="outside lower center",
                      ncols=len(shown), frameon=False, labelcolor=_INK, fontsize=9)  # fmt: skip
    else:
        both[0].text(0.5, 0.5, "no distribution recorded", color=_INK, ha="center", transform=both[0].transAxes)
    return svg(figure, "distributions of first-token time and gaps")


def length_heatmap(points: Iterable[object]) -> str:
    """Return the best throughput of each pair of lengths; "" when there is only one pair."""
    best: dict[tuple[int, int], float] = {}
    for view in point_views(points):
        pair = (view.input_tokens, view.output_tokens)
        if view.ok and math.isfinite(view.output_tokens_per_s):
            best[pair] = max(best.get(pair, 0.0), view.output_tokens_per_s)
    inputs, outputs = (sorted({pair[side] for pair in best}) for side in (0, 1))
    if len(best) < 2:  # noqa: PLR2004 - a map of one cell is a number
        return ""
    size = (2.2 + 0.9 * len(inputs), 1.6 + 0.45 * len(outputs))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.pcolormesh([[best.get((x, y), math.nan) for x in inputs] for y in outputs], cmap="Blues", alpha=0.55,
                    vmin=0, edgecolors=_GRID, linewidth=0.5)  # fmt: skip
    for column, x in enumerate(inputs):
        for row, y in enumerate(outputs):
            text = f"{best[x, y]:.0f}" if (x, y) in best else "."
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9, color=_INK)
    axes.set_xticks([i + 0.5 for i in range(len(inputs))], [str(x) for x in inputs])
    axes.set_yticks([i + 0.5 for i in range(len(outputs))], [str(y) for y in outputs])
    axes.set_xlabel("input tokens", color=_INK)
    axes.set_ylabel("output tokens", color=_INK)
    axes.set_title("Best output tokens/s", color=_INK, fontsize=11, loc="left")
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return svg(figure, "best throughput over lengths")


def verdict_heatmap(findings: Iterable[Finding]) -> str:
    """Return all checks x subjects as one coloured map; each cell has its symbol and word, unchecked cells a dot."""
    columns: list[str] = []
    cells: dict[tuple[str, str], Verdict] = {}
    codes: dict[str, None] = {}
    for grid in verdict_grids(findings):
        names = [name if name.startswith(grid.title) or grid.title == "Hosts" else f"{grid.title} {name}"
                 for name in grid.columns]  # fmt: skip
        columns += names
        for code, _, verdicts in grid.rows:
            codes[code] = None
            cells |= {(code, name): verdict for name, verdict in zip(names, verdicts, strict=True) if verdict}
    order = list(Verdict)
    figure = Figure(figsize=(2.6 + 0.62 * max(1, len(columns)), 1.3 + 0.3 * max(1, len(codes))), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    values = [[order.index(cells[code, name]) if (code, name) in cells else math.nan for name in columns]
              for code in codes]  # fmt: skip
    if values:
        colours = ListedColormap([LIGHT[f"{verdict.value}-bg"] for verdict in order])
        axes.pcolormesh(values, cmap=colours, norm=BoundaryNorm(range(len(order) + 1), len(order)),
                        edgecolors=_GRID, linewidth=0.5)  # fmt: skip
    for row, code in enumerate(codes):
        for column, name in enumerate(columns):
            verdict = cells.get((code, name))
            text = "." if verdict is None else f"{_ascii(LOOKS[verdict].symbol)} {LOOKS[verdict].en}"
            colour = _INK if verdict is None else LIGHT[verdict.value]
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks([i + 0.5 for i in range(len(columns))], [_ascii(name) for name in columns], rotation=60, ha="right")
    axes.set_yticks([i + 0.5 for i in range(len(codes))], [_ascii(code) for code in codes])
    axes.invert_yaxis()
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not values:
        axes.text(0.5, 0.5, "nothing was checked: unknown", color=_INK, ha="center", transform=axes.transAxes)
    return svg(figure, "verdicts per check and subject")


def _ascii(text: str) -> str:
    """Keep what the figure's font can measure; `$` would start a formula."""
    safe = "".join(char if char.isprintable() and ord(char) < 0x2800 else "?" for char in plain(text, 60))  # noqa: PLR2004 - scripts beyond have no glyphs in DejaVu Sans
    return safe.replace("$", r"\$")


def svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG to be put into HTML: no prologue, no network name to load, no page-wide rules.

    Equal figures give equal text. Ids are made unique by content, since one page holds several figures.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": ["DejaVu Sans"]}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style\b.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+id="[A-Za-z0-9.]+_\d+"', "", text)
    mark = sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|url\(#|href="#)([mp][0-9a-f]{10})', rf"\g<1>f{mark}\2", text)
    text = text.replace(_INK, "currentColor")
    label = escape(name, quote=True)
    return text.replace(
        "<svg", f'<svg role="img" aria-label="{label}" stroke-linejoin="round" stroke-linecap="butt"', 1
    )
