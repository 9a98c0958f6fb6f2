"""A benchmark for the eye: what it says, one table, figures, what stands beside it, what was not measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runbook_lib.load.reference import side_by_side
from runbook_lib.views.figures import distribution_figure, latency_figure, length_heatmap, throughput_figure
from runbook_lib.views.html import embed, render
from runbook_lib.views.points import point_views

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DIGITS = 3


def number(value: float) -> str:
    """Spell a number with three significant digits, whole from 100 on; what was not measured is a dash."""
    if not math.isfinite(value):
        return "–"  # noqa: RUF001 - an en dash stands for "nothing here"
    if value == 0:
        return "0"
    digits = max(0, _DIGITS - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """Spell a change in per cent, with its sign."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:+.1f} %"  # noqa: RUF001 - as above


def benchmark_html(
    points: Iterable[object],
    conclusion: object,
    *,
    scaled_down: bool,
    figures: bool = True,
    answers: Mapping[str, Any] | None = None,
) -> str:
    """Return conclusion, table, figures and comparisons of one or several sweeps.

    conclusion: a sentence, or an object with `concurrency` (None when it cannot be told) and `reason`
    answers: what binds, the spread of repeats, the comparisons and so on, as load.answers and runs.conclusions say it
    """
    points = list(points)
    said = answers or {}
    grid = said.get("grid") or []
    pairs = {(view.input_tokens, view.output_tokens) for view in point_views(points)}
    known = isinstance(conclusion, str) or getattr(conclusion, "concurrency", None) is not None
    pictures: list[str] = []
    if figures:
        if len(pairs) <= 1:  # curves over concurrency need one pair of lengths
            spreads = {int(level["concurrency"]): level for level in said.get("levels", [])}
            pictures += [draw(points, spreads, scaled_down=scaled_down) for draw in (throughput_figure, latency_figure)]
            if any(view.percentiles for view in point_views(points)):
                pictures.append(distribution_figure(points, scaled_down=scaled_down))
        pictures += [text for text in [length_heatmap([*points, *grid])] if text]
    return embed(
        render(
            "benchmark.html.j2",
            points=point_views(points),
            number=number,
            percent=percent,
            conclusion=conclusion if isinstance(conclusion, str) else getattr(conclusion, "reason", ""),
            recommended=None if isinstance(conclusion, str) else getattr(conclusion, "concurrency", None),
            known=known,
            scaled_down=scaled_down,
            sweeps=said.get("sweeps", []),
            repeated=[level for level in said.get("levels", []) if level["repeats"] > 1],
            comparisons=[
                each | {"beside": side_by_side(each)} for each in said.get("comparisons", []) if each["differences"]
            ],
            calibration=said.get("calibration"),
            slo=said.get("slo"),
            slo_bounds=bounds(said.get("slo") or {}),
            grid=point_views(grid),
            not_measured=said.get("not_measured", []),
            figures=[Markup(picture) for picture in pictures],  # noqa: S704 - our own SVG
        )
    )


def bounds(slo: Mapping[str, Any]) -> str:
    """Spell the bounds of an SLO."""
    names = (("ttft_ms", "first token"), ("tpot_ms", "time per token"), ("e2e_ms", "whole answer"))
    return ", ".join(f"{name} at most {slo[key]:g} ms" for key, name in names if slo.get(key))
