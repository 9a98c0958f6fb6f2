"""A capacity plan for the eye: the ranking, its figures, the memory picture, and the settings to take over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from runbook_lib.capacity.fragment import fragment
from runbook_lib.capacity.planner import all_blocks
from runbook_lib.views.benchmark import number
from runbook_lib.views.figures import svg
from runbook_lib.views.html import embed, render

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from runbook_lib.capacity.level import Level
    from runbook_lib.capacity.memory import Memory
    from runbook_lib.capacity.planner import Option, Plan

_INK, _GRID = "#0a0b0c", "#8a94a0"  # the ink becomes the colour of the page's text, see figures.svg
_COLOURS = ("#2f7fd1", "#d9730d", "#2a9d8f", "#8a63d2", "#8a94a0")
_MARKERS = "os^Dv"
_SHOWN = 4
_TERMS = ("#2f7fd1", "#5b9bdc", "#8fbbe8", "#c3dbf3", "#d9730d", "#eba45e", "#2a9d8f", "#b6bdc6", "#dde1e6")


def _canvas(height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.4, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    parts = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axes in parts:
        axes.patch.set_alpha(0)
        for spine in axes.spines.values():
            spine.set_color(_GRID)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=9)
        axes.grid(visible=True, color=_GRID, alpha=0.25, linewidth=0.7)
    return figure, parts


def shown_options(plan: Plan) -> list[Option]:
    """Return the options that figures show: the best ones, and what the params describe."""
    best = [option for option in plan.options if option.levels][:_SHOWN]
    return best if plan.current in best or not plan.current.levels else [*best, plan.current]


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK, fontsize=9)


def pareto_figure(plan: Plan) -> str:
    """Return throughput of all against speed of one, a line per option; the ring marks the recommended level."""
    figure, (axes,) = _canvas(4.6)
    axes.set_title("What all get, and what one gets", color=_INK, fontsize=11, loc="left")
    axes.set_xlabel("tokens/s of one client after its first token", color=_INK)
    axes.set_ylabel("output tokens/s, all clients", color=_INK)
    for option, colour, marker in zip(shown_options(plan), _COLOURS, _MARKERS, strict=False):
        x = [level.after_first_tokens_per_s for level in option.levels]
        y = [level.output_tokens_per_s for level in option.levels]
        axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=_label(option))
        if option.at is not None:
            ring = ([option.at.after_first_tokens_per_s], [option.at.output_tokens_per_s])
            axes.plot(*ring, color=colour, marker="o", markersize=12, markerfacecolor="none", linestyle="none")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return svg(figure, "throughput against speed per client")


def curves_figure(plan: Plan) -> str:
    """Return throughput, first token and decode over concurrency; bands are the intervals of the constants."""
    figure, parts = _canvas(4.2, columns=3)
    reads: tuple[tuple[str, Callable[[Level], float]], ...] = (
        ("output tokens/s", lambda level: level.output_tokens_per_s),
        ("first token, mean, s", lambda level: level.ttft_mean_s),
        ("decode per token, ms", lambda level: level.decode_mean_ms),
    )
    for axes, (title, read) in zip(parts, reads, strict=True):
        axes.set_title(title, color=_INK, fontsize=10, loc="left")
        axes.set_xlabel("concurrent requests", color=_INK)
        for option, colour in zip(shown_options(plan), _COLOURS, strict=False):
            axes.plot(*_xy(option.levels, read), color=colour, linewidth=1.5, label=_label(option))
            if len(option.low) == len(option.high) == len(option.levels):
                x, low = _xy(option.low, read)
                axes.fill_between(x, low, _xy(option.high, read)[1], color=colour, alpha=0.12, linewidth=0)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    _legend(figure, parts[0])
    return svg(figure, "curves over concurrency")


def _xy(levels: Sequence[Level], read: Callable[[Level], float]) -> tuple[list[float], list[float]]:
    return [level.concurrency for level in levels], [read(level) for level in levels]


def memory_figure(pictures: Sequence[tuple[str, Memory]]) -> str:
    """Return one bar per deployment: what one card's memory holds, each part in GiB."""
    figure, (axes,) = _canvas(1.4 + 0.55 * max(1, len(pictures)))
    axes.set_title("Memory of one card, GiB", color=_INK, fontsize=11, loc="left")
    axes.grid(visible=False, axis="y")
    names: dict[str, str] = {}
    for row, (_, picture) in enumerate(pictures):
        left = 0.0
        for term in picture.terms:
            new = term.name not in names
            colour = names.setdefault(term.name, _TERMS[len(names) % len(_TERMS)])
            axes.barh(row, term.gib, left=left, color=colour, label=term.name if new else None)
            if term.gib >= picture.total_gib / 25:
                axes.text(left + term.gib / 2, row, f"{term.gib:.1f}", ha="center", va="center", fontsize=8, color=_INK)
            left += term.gib
        axes.axvline(picture.total_gib, color=_INK, linewidth=1.0)
    axes.set_yticks(range(len(pictures)), [name for name, _ in pictures])
    axes.invert_yaxis()
    _legend(figure, axes)
    return svg(figure, "memory of one card")


def _label(option: Option) -> str:
    return f"{option.name}, {option.settings}"


def capacity_html(plan: Plan) -> str:
    """Return the whole plan as a fragment."""
    best = plan.best
    bars = [(option.name, option.setup.memory) for option in shown_options(plan) if option.pair is None]
    figures = [pareto_figure(plan), curves_figure(plan), *([memory_figure(bars)] if bars else [])]
    return embed(
        render(
            "capacity.html.j2",
            plan=plan,
            best=best,
            conclusion=conclusion(plan),
            number=number,
            all_blocks=all_blocks,
            yaml=fragment(best) if best is not None else "",
            figures=[Markup(each) for each in figures],  # noqa: S704 - our own SVG
        )
    )


def conclusion(plan: Plan) -> str:
    """Say what the plan comes to, in a few sentences."""
    best, current = plan.best, plan.current
    if best is None or best.at is None:
        reasons = sorted({option.reason for option in plan.options})
        return f"No deployment of these hosts can be used: {reasons[0] if reasons else 'nothing was tried'}."
    figures = (
        f"{number(best.at.output_tokens_per_s)} output tokens/s, first token {number(best.at.ttft_mean_s)} s, "
        f"{number(best.at.decode_mean_ms)} ms per token"
    )
    said = [f"Best: {best.name} with {best.settings} settings at {best.recommended} concurrent requests: {figures}."]
    if not best.measured:
        said.append("No published point lies behind this layout: see its interval, and measure before you rely on it.")
    if current is not best and current.at is not None:
        said.append(
            f"As in the params: throughput saturates at {current.knee}, recommended {current.recommended}: "
            f"{number(current.at.output_tokens_per_s)} output tokens/s, first token {number(current.at.ttft_mean_s)} s."
        )
    elif current is not best:
        said.append(f"As in the params: {current.reason}.")
    return " ".join(said)


_HEAD = "  #  deployment                                settings  knee  take  out tok/s  first token s  ms/token"


def plan_text(plan: Plan) -> str:
    """Return the plan for a terminal."""
    rows = [f"{_HEAD}  preempted  KV blocks"]
    for place, option in enumerate(plan.options, 1):
        at = option.at
        if at is None:
            rows.append(f"{place:3d}  {option.name:42s}{option.settings:8s}  {option.reason}")
            continue
        rows.append(
            f"{place:3d}  {option.name:42s}{option.settings:8s} {option.knee:5d} {at.concurrency:5d} "
            f"{at.output_tokens_per_s:10.0f} {at.ttft_mean_s:14.2f} {at.decode_mean_ms:9.1f} {at.preemptions:10d} "
            f"{all_blocks(option.setup):10d}{_basis(option)}"
        )
    rows += ["", conclusion(plan), "", "as in the params:"]
    rows += [f"  {check.rule} {check.verdict.value}: {check.said}" for check in plan.current.checks]
    rows += [f"  {term.gib:6.2f} GiB {term.name}: {term.why}" for term in plan.current.setup.memory.terms]
    rows += ["", *(_instances_text(plan)), *(_what_if_text(plan))]
    best = plan.best
    return "\n".join([*rows, "", fragment(best) if best is not None else ""])


def _basis(option: Option) -> str:
    return ("" if option.measured else "  extrapolated") + (f"; needs {option.needs}" if option.needs else "")


def _instances_text(plan: Plan) -> list[str]:
    rows = []
    for instances in sorted({option.setup.instances for option in plan.options if option.pair is None}):
        best = plan.best_of(instances)
        if best is None or best.at is None:
            rows.append(f"{instances} instances: none can be used")
        else:
            speed, first = number(best.at.output_tokens_per_s), number(best.at.ttft_mean_s)
            rows.append(
                f"{instances} instances: {best.name}: {speed} tokens/s at {best.recommended}, "
                f"first token {first} s, {all_blocks(best.setup)} KV blocks"
            )
    return rows


def _what_if_text(plan: Plan) -> list[str]:
    rows = []
    for each in plan.what_ifs:
        gain = "does not help"
        if each.before is not None and each.after is not None:
            gain = (
                f"{number(each.before.output_tokens_per_s)} -> {number(each.after.output_tokens_per_s)} tokens/s, "
                f"first token {number(each.before.ttft_mean_s)} -> {number(each.after.ttft_mean_s)} s"
            )
        rows.append(f"{each.change} ({each.option}): {gain}, KV blocks {each.blocks_before} -> {each.blocks_after}")
    return rows
