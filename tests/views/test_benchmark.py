"""Benchmark pages: valid and invalid points cannot be mixed up, missing numbers stay missing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Any

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.views.benchmark import benchmark_html, number, percent
from runbook_lib.views.figures import (
    distribution_figure,
    latency_figure,
    length_heatmap,
    throughput_figure,
    verdict_heatmap,
)
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


def test_distributions_show_only_what_was_recorded() -> None:
    """One curve for each level, at most six; points that are not ok have none."""
    curves = {"ttft_ms": [float(value) for value in range(101)], "itl_ms": [50.0] * 101}
    text = distribution_figure([point(level, percentiles=curves) for level in (8, 16)])
    assert ET.fromstring(text).tag.endswith("svg")  # noqa: S314 - our own text
    for label in ("time to first token, s", "gap between chunks, ms", ">8<", ">16<"):
        assert label in text
    many = distribution_figure([point(level, percentiles=curves) for level in range(1, 21)])
    assert ">20<" in many
    assert ">19<" not in many
    assert "no distribution recorded" in distribution_figure([point(8), point(16, ok=False, percentiles=curves)])


def test_the_grid_of_lengths_is_a_map_and_has_no_curves() -> None:
    """The best throughput of each pair; a pair that was not measured well is a dot."""
    points = [
        point(level, ok=(inputs, outputs) != (512, 512), asked_input_tokens=inputs, asked_output_tokens=outputs)
        for inputs in (128, 512) for outputs in (128, 512) for level in (8, 16)
    ]  # fmt: skip
    text = length_heatmap(points)
    assert "input tokens" in text
    assert text.count(">816</text>") == 3
    assert ">.</text>" in text
    assert not length_heatmap([point(8, asked_input_tokens=1, asked_output_tokens=1)])
    html = body(benchmark_html(points, "x", scaled_down=False))
    assert html.count("<svg") == 1
    assert "<td>128 / 512</td>" in html


def test_what_binds_repeats_and_comparisons_are_shown() -> None:
    """With their source; a comparison without a common level is left out."""
    difference = {"concurrency": 400, "output_tokens_per_s": -0.031, "ttft": None, "decode": 0.5}
    spread = {"mean": 882.7, "std": 1.0, "ci95": 9.9, "repeats": 3}
    level = {"input_tokens": 64, "output_tokens": 20, "concurrency": 64, "repeats": 3, "ok": True}
    answers = {
        "sweeps": [{"binds": "kv", "binds_reason": "the cache was full", "input_tokens": 64, "output_tokens": 20}],
        "levels": [{**level, "output_tokens_per_s": spread}],
        "comparisons": [
            {"name": "field report", "source": "example.org/<plot>", "differences": [difference]},
            {"name": "nothing in common", "source": "", "differences": []},
        ],
    }
    html = body(benchmark_html([point(400)], "x", scaled_down=False, figures=False, answers=answers))
    assert "What binds: <strong>kv</strong>. the cache was full" in html
    assert "883 ± 9.90" in html
    assert "<td>-3.1 %</td><td>–</td><td>+50.0 %</td>" in html  # noqa: RUF001 - the dash that is shown
    assert "example.org/&lt;plot&gt;" in html
    assert "nothing in common" not in html
    assert percent(float("nan")) == "–"  # noqa: RUF001 - the dash that is shown


def test_slo_grid_and_prediction_are_shown_and_what_is_missing_is_named() -> None:
    """Predicted and measured stand side by side; nothing found is said."""
    difference = {"concurrency": 400, "output_tokens_per_s": 0.1, "ttft": None, "decode": None}
    row = {"concurrency": 400, "output_tokens_per_s": 1000.0, "ttft_s": None, "decode_ms": None}
    fit = {"mean_error": {"output_tokens_per_s": 0.1}, "holds": False, "twin": False, "next_command": "runbook c"}
    slo = {"ttft_ms": 450.0, "tpot_ms": 0, "e2e_ms": 0, "share": 0.9, "lowest": 4, "highest": 64, "found": None}
    cells = [point(8, asked_input_tokens=n, asked_output_tokens=16) for n in (32, 128)]
    answers = {
        "comparisons": [{"name": "capacity model", "source": "", "rows": [row], "differences": [difference]}],
        "calibration": fit, "slo": slo, "grid": cells, "not_measured": ["repeats: <none>"],
    }  # fmt: skip
    lengths: dict[str, Any] = {"asked_input_tokens": 64, "asked_output_tokens": 48}
    html = body(benchmark_html([point(400, **lengths)], "x", scaled_down=False, answers=answers))
    for text in (
        "1,000 / 1,100 (+10.0 %)", "off by 10.0 % in throughput", "fit it to these points", "<code>runbook c</code>",
        "<strong>none</strong>: not even 4 clients keep it", "first token at most 450 ms", "128 / 16",
        "Best output tokens/s", "repeats: &lt;none&gt;",
    ):  # fmt: skip
        assert text in html, text
    twin = body(benchmark_html([point(400)], "x", scaled_down=False, answers={"calibration": fit | {"twin": True}}))
    assert "nothing to fit" in twin


def test_repeats_are_one_line_with_bars() -> None:
    """The mean is joined; the interval is drawn only where there is one."""
    spreads = {400: {"output_tokens_per_s": {"mean": 1200.0, "ci95": 50.0}, "ttft_ms": {"mean": 1.0, "ci95": None}}}
    points = [point(400, repeat=1), point(400, repeat=2), point(800)]
    assert "95 % interval between repeats" in throughput_figure(points, spreads)
    assert "95 % interval" not in latency_figure(points, spreads)


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
