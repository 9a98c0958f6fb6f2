"""A benchmark for the eye: what it says, one table, two figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup

from runbook_lib.views.figures import latency_figure, throughput_figure
from runbook_lib.views.html import embed, render
from runbook_lib.views.points import point_views

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIGITS = 3


def number(value: float) -> str:
    """Spell a number with three significant digits, whole from 100 on; what was not measured is a dash."""
    if not math.isfinite(value):
        return "–"  # noqa: RUF001 - an en dash stands for "nothing here"
    if value == 0:
        return "0"
    digits = max(0, _DIGITS - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def benchmark_html(points: Iterable[object], conclusion: object, *, scaled_down: bool, figures: bool = True) -> str:
    """Return conclusion, table and figures of a sweep.

    conclusion: a sentence, or an object with `concurrency` (None when it cannot be told) and `reason`
    """
    points = list(points)
    known = isinstance(conclusion, str) or getattr(conclusion, "concurrency", None) is not None
    pictures = [throughput_figure, latency_figure] if figures else []
    return embed(
        render(
            "benchmark.html.j2",
            points=point_views(points),
            number=number,
            conclusion=conclusion if isinstance(conclusion, str) else getattr(conclusion, "reason", ""),
            recommended=None if isinstance(conclusion, str) else getattr(conclusion, "concurrency", None),
            known=known,
            scaled_down=scaled_down,
            figures=[Markup(draw(points, scaled_down=scaled_down)) for draw in pictures],  # noqa: S704 - our own SVG
        )
    )
