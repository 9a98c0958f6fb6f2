"""Benchmark pages: valid and invalid points cannot be mixed up, missing numbers stay missing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.views.benchmark import benchmark_html, number
from runbook_lib.views.figures import latency_figure, throughput_figure, verdict_heatmap
from runbook_lib.views.points import point_views


def point(concurrency: int, *, ok: bool = True, **values: Any) -> dict[str, Any]:
    """Make a point in its JSON form."""
    return {
        "concurrency": concurrency,
        "output_tokens_per_s": 800.0 + concurrency,
        "tokens_per_s_per_client": 8.27,
        "generation_tokens_per_s_per_client": 8.88,
        "ttft_ms": {"mean": 4300.0, "p50": 4100.0, "p90": 6800.0, "p99": 8100.0},
        "tpot_ms": {"mean": 112.6, "p50": 110.0, "p90": 130.0, "p99": 150.0},
        "requests_per_s": 1.616,
        "mean_in_flight": 99.0,
        "ok": ok,
        "reason": "" if ok else "3 of 500 requests failed",
    } | values


@dataclass
class Knee:
    """A conclusion as runbook_lib.load gives it."""

    concurrency: int | None
    reason: str


def body(html: str) -> str:
    """Return what stands after the style."""
    return html.split("</style>", 1)[1]


def test_figures_name_axes_both_senses_of_speed_and_load_nothing() -> None:
    """They are well-formed SVG with texts that can be read and searched."""
    text = throughput_figure([point(100), point(300)])
    assert ET.fromstring(text).tag.endswith("svg")  # noqa: S314 - our own text
    for label in ("concurrent requests", "output tokens/s", "waiting included", "after its first token"):
        assert label in text
    assert "not valid" not in text
    assert "scaled down" not in text
    assert "<style" not in text
    assert 'href="http' not in text
    assert "time to first token, s" in latency_figure([point(100)])


def test_invalid_points_are_hollow_and_named() -> None:
    """They are drawn, never joined to the curve, and named in the legend."""
    for draw in (throughput_figure, latency_figure):
        text = draw([point(100), point(500, ok=False)], scaled_down=True)
        assert "hollow = not valid: 500" in text
        assert "fill-opacity: 0" in text or "fill: none" in text
        assert "scaled down" in text


def test_figures_without_points_say_so_and_equal_input_gives_equal_text() -> None:
    """No empty axes without a word; a record can be compared byte by byte."""
    assert "no points measured" in throughput_figure([])
    assert throughput_figure([point(100)]) == throughput_figure([point(100)])


def test_two_figures_on_one_page_share_no_id() -> None:
    """Else one figure's clip path would cut the other's."""
    both = [throughput_figure([point(1)]), latency_figure([point(1)])]
    ids = [{element.get("id") for element in ET.fromstring(text).iter()} - {None} for text in both]  # noqa: S314 - our own text
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_failed_point_without_measures_is_drawn_as_missing() -> None:
    """A distribution that is None is a gap and a dash, not a zero."""
    bad = point(500, ok=False, ttft_ms=None, tpot_ms=None, generation_tokens_per_s_per_client=None)
    assert "not valid: 500" in latency_figure([point(100), bad])
    assert "<td>– / –</td>" in benchmark_html([bad], "x", scaled_down=False, figures=False)  # noqa: RUF001 - the dash that is shown


def test_a_point_that_does_not_say_ok_is_not_ok() -> None:
    """Only True is ok."""
    views = point_views([{"concurrency": 1}, point(2, ok=True) | {"ok": "yes"}])
    assert [view.ok for view in views] == [False, False]
    assert all(view.reason for view in views)


def test_the_page_has_conclusion_table_and_figures() -> None:
    """Invalid points carry their reason."""
    points = [point(500, ok=False), point(100)]
    html = body(benchmark_html(points, Knee(400, "further clients mostly wait"), scaled_down=True))
    assert "Recommended concurrency: 400" in html
    assert "further clients mostly wait" in html
    assert "Scaled down" in html
    assert html.count("<svg") == 2
    assert html.index("<td>100</td>") < html.index("<td>500</td>")
    assert "fail</span> 3 of 500 requests failed" in html


def test_a_missing_conclusion_is_unknown() -> None:
    """No knee is said loudly, and no points at all is no result."""
    html = body(benchmark_html([point(1)], Knee(None, "not saturated"), scaled_down=False, figures=False))
    assert "v-unknown" in html
    assert "Recommended" not in html
    assert "<svg" not in html
    assert "No point was measured" in benchmark_html([], "", scaled_down=False)


def test_numbers_have_three_digits() -> None:
    """Enough to compare, not more than was measured."""
    values = (0.0, 0.01234, 8.276, 112.64, 1269.4, float("nan"))
    assert [number(value) for value in values] == ["0", "0.0123", "8.28", "113", "1,269", "–"]  # noqa: RUF001 - the dash that is shown


def test_the_heatmap_names_each_verdict() -> None:
    """Also for texts that its font cannot draw or would read as a formula."""
    findings = [
        Finding("A", "network", Subject("节点$1$", card), verdict)
        for card, verdict in enumerate((Verdict.OK, Verdict.FAIL, Verdict.UNKNOWN))
    ]
    text = verdict_heatmap([*findings, Finding("B", "network", Subject("n"), Verdict.WARN)])
    for word in ("ok", "fail", "unknown", "warn"):
        assert f" {word}</text>" in text
    assert "nothing was checked: unknown" in verdict_heatmap([])
