"""Memory and step time against what is documented and published."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from runbook_lib.capacity.calibrate import Point, calibrate, errors, mean_errors
from runbook_lib.capacity.cloudmatrix import decode_point, prefill_point
from runbook_lib.capacity.constants import CLOUDMATRIX, MINDIE_910B, Constants
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.level import Load, run_level, sweep
from runbook_lib.capacity.memory import memory
from runbook_lib.capacity.rules import Generation, Rules, generation_of
from runbook_lib.capacity.setup import Setup
from runbook_lib.capacity.shape import DEEPSEEK_671B
from runbook_lib.capacity.step_time import PS, StepTimes
from runbook_lib.errors import UsageError

CARD = HARDWARE["910b3"]
# the published run: JunyangZhangUSTC.github.io, thinking-4, revised 2025-03
PUBLISHED = Setup(
    Layout(4, 8),
    Rules(
        blocks=0,
        max_batch_size=4096,
        max_prefill_batch_size=4096,
        max_prefill_tokens=32768,
        max_seq_len=32768,
        max_input_token_len=16384,
        max_iter_times=16384,
    ),
)
CURVE = (
    Point(100, 828, 4.30, 112.6),
    Point(300, 1181, 9.39, 211.2),
    Point(400, 1269, 12.75, 255.0),
    Point(600, 1212, 32.94, 364.0),
    Point(700, 1221, 53.2, 359.8),
    Point(800, 1205, 72.5, 365.6),
    Point(1000, 1201, 109.9, 366.0),
)


def test_parameters_add_up_to_the_published_number() -> None:
    """671 B parameters, and a KV cache of 70,272 bytes per token."""
    assert DEEPSEEK_671B.total == pytest.approx(671.03e9, rel=1e-4)
    assert DEEPSEEK_671B.kv_bytes() == 70_272
    assert DEEPSEEK_671B.kv_bytes(mtp=True, kv_bytes_per_value=1) == 62 * 576
    assert DEEPSEEK_671B.coverage(1) == pytest.approx(8 / 256)
    assert DEEPSEEK_671B.coverage(10_000) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("hosts", "dp", "weights", "weights_gib", "blocks"),
    [
        (4, 1, "w8a8", 20.0, (3130, 3894, 4276)),
        (4, 2, "w8a8", 20.4, (3077, 3841, 4223)),
        (4, 4, "w8a8", 21.3, (2972, 3736, 4118)),
        (2, 1, "w8a8", 39.6, (792, 1556, 1938)),
        (2, 2, "w8a8", 40.4, (687, 1451, 1833)),
        (2, 4, "w8a8", 42.2, (477, 1241, 1623)),
        (4, 1, "bf16", 39.4, (805, 1569, 1951)),
        (4, 4, "bf16", 41.8, (529, 1293, 1675)),
        (8, 1, "bf16", 19.9, (3136, 3900, 4282)),
    ],
)
def test_blocks_follow_the_documented_rule(
    hosts: int, dp: int, weights: str, weights_gib: float, blocks: tuple[int, ...]
) -> None:
    """Weights per rank and KV blocks per group at maxPrefillTokens 8192 (engine_model.md section 2)."""
    for fraction, wanted in zip((0.8, 0.9, 0.95), blocks, strict=True):
        picture = memory(CARD, Layout(hosts, 8, dp=dp), weights=weights, fraction=fraction)
        assert picture.weights_gib == pytest.approx(weights_gib, abs=0.05)
        assert picture.blocks == pytest.approx(wanted, abs=3)
        assert sum(term.gib for term in picture.terms) == pytest.approx(64.0)
        assert picture.fits


def test_what_does_not_fit_says_so() -> None:
    """BF16 on two hosts is short of memory; one W8A8 host too; the error names both sizes."""
    assert memory(CARD, Layout(2, 8), weights="bf16", fraction=0.95).blocks < 0
    setup = replace(PUBLISHED, layout=Layout(1, 8), fraction=0.95)
    assert not setup.memory.fits
    with pytest.raises(UsageError, match="warm-up of 32768 tokens needs 256"):
        setup.engine()


def test_what_else_shrinks_and_grows_the_cache() -> None:
    """A larger prefill costs blocks, npuMemSize caps them, INT8 KV doubles them, MTP costs a layer."""
    layout = Layout(4, 8)
    usual = memory(CARD, layout)
    assert memory(CARD, layout, prefill_tokens=32768).blocks == pytest.approx(2900, abs=50)
    capped = memory(CARD, layout, npu_mem_gib=10)
    assert capped.blocks == int(10 * 1024 / usual.block_mib)
    assert sum(term.gib for term in capped.terms) == pytest.approx(64.0)
    assert memory(CARD, layout, npu_mem_gib=40).blocks == usual.blocks
    assert memory(CARD, layout, kv_value_bytes=1).blocks == pytest.approx(2 * usual.blocks, abs=2)
    assert memory(CARD, layout, mtp=True).block_mib == pytest.approx(8.72, abs=0.01)


def test_layouts_multiply() -> None:
    """Sizes that do not fit together are refused."""
    assert Layout(4, 8, dp=4).tp == 8
    assert Layout(4, 8, dp=4).tp_inside
    assert not Layout(4, 8).tp_inside
    for wrong in ({"dp": 3}, {"dp": 2, "tp": 8}, {"moe_ep": 5}):
        with pytest.raises(UsageError):
            Layout(4, 8, **wrong)


def test_step_time_is_the_measured_line_at_100_to_500() -> None:
    """The field report's decode is 61 + 0.487 B ms, and 64 prompts of 512 take 3.55 s."""
    times = StepTimes(CARD, Layout(4, 8))
    for batch in (100, 200, 300, 400, 500):
        step_ms = (times.decode_ps(batch, batch) + times.context_ps * batch * 768) / PS * 1e3
        assert step_ms == pytest.approx(61 + 0.487 * batch, rel=0.02)
    assert times.prefill_ps(32768, 64 * 512**2, 32768) / PS == pytest.approx(3.55, rel=0.05)


def test_published_curve() -> None:
    """Table S, 1000 requests a level: within 2 % throughput, 6 % first token, 2 % decode."""
    mean = mean_errors(errors(PUBLISHED, Load(), CURVE))
    assert mean["throughput"] < 0.02
    assert mean["ttft"] < 0.06
    assert mean["decode"] < 0.02


def test_the_field_report_s_conclusions_come_out() -> None:
    """Saturation near 400, 500 still good, 1000 holds; speed per client falls from 8 to about 1 token/s."""
    at = {level.concurrency: level for level in sweep(PUBLISHED, Load(), [100, 300, 400, 500, 600, 1000])}
    best = max(level.output_tokens_per_s for level in at.values())
    assert at[300].output_tokens_per_s < 0.95 * best <= at[400].output_tokens_per_s
    assert at[500].ttft_mean_s < 2 * at[400].ttft_mean_s < at[600].ttft_mean_s
    assert at[1000].stalled == 0
    assert at[1000].output_tokens_per_s > 0.9 * best
    assert at[100].tokens_per_s_per_client == pytest.approx(8.27, rel=0.03)
    assert at[1000].tokens_per_s_per_client == pytest.approx(1.2, rel=0.03)
    assert at[1000].after_first_tokens_per_s == pytest.approx(2.7, rel=0.05)
    assert at[1000].mean_in_flight == pytest.approx(710, rel=0.05)
    assert at[1000].recomputed_share > 0.2


@pytest.mark.parametrize(
    ("inputs", "batch", "published_ms", "limit"),
    [(2048, 112, 47.4, 0.15), (4096, 96, 49.4, 0.15), (4096, 8, 14.9, 0.25)],
)
def test_cloudmatrix_decode(inputs: int, batch: int, published_ms: float, limit: float) -> None:
    """C1, C2 and C3 of another system, by its own operator table."""
    assert decode_point(inputs, 256, batch) == pytest.approx(published_ms, rel=limit)


def test_cloudmatrix_prefill() -> None:
    """C4: 4096 in, 16,384 tokens a batch."""
    assert prefill_point(4096, 16384) == pytest.approx(5655, rel=0.15)


def test_every_constant_has_an_interval_and_a_source() -> None:
    """The value lies in its interval, which has a width, and somebody said it."""
    for each in fields(Constants):
        data = each.metadata
        assert data["low"] <= each.default <= data["high"], each.name
        assert data["low"] < data["high"], each.name
        assert len(data["source"]) > 10
        assert data["unit"]
    rows = {row["name"]: row["source"] for row in CLOUDMATRIX.describe()}
    assert rows["host_ms"] == "calibrated or from another set"


def test_calibration_finds_what_was_changed() -> None:
    """Points made with other constants are fitted again; what is left is small."""
    truth = MINDIE_910B.changed(host_ms=26.0, decode_bus_efficiency=0.1, prefill_bus_efficiency=0.39)
    load = Load(requests=200)
    points = []
    for concurrency in (20, 60, 120, 200):
        level = run_level(replace(PUBLISHED, constants=truth), load, concurrency)
        points.append(Point(concurrency, level.output_tokens_per_s, level.ttft_mean_s, level.decode_mean_ms))
    free = ("host_ms", "decode_bus_efficiency", "prefill_bus_efficiency")
    fit = calibrate(PUBLISHED, load, points, free)
    assert fit.constants.host_ms == pytest.approx(26.0, rel=0.03)
    assert fit.constants.decode_bus_efficiency == pytest.approx(0.1, rel=0.03)
    assert fit.constants.prefill_bus_efficiency == pytest.approx(0.39, rel=0.03)
    assert max(fit.mean_error.values()) < 0.01
    with pytest.raises(UsageError):
        calibrate(PUBLISHED, load, points[:1])


def test_generations() -> None:
    """What cannot be read counts as old."""
    assert [generation_of(version) for version in ("1.0.0", "2.0.T3.1", None)] == [Generation.OLD] * 3
    assert [generation_of(version) for version in ("2.1.RC1", "2.2.RC1", "3.0")] == [Generation.NEW] * 3
    assert Rules(blocks=1, max_prefill_tokens=8, max_seq_len=16, generation=Generation.NEW).prefill_budget == 16
    assert Rules(blocks=1).block_need(500, 5000) == 8


def test_two_instances_serve_half_each() -> None:
    """Requests and clients are divided; odd ones go to the first."""
    alone = run_level(PUBLISHED, Load(requests=50), 10)
    both = run_level(replace(PUBLISHED, instances=2), Load(requests=100), 20)
    assert both.requests == 100
    assert both.output_tokens_per_s == pytest.approx(2 * alone.output_tokens_per_s)
    assert run_level(replace(PUBLISHED, instances=2), Load(requests=3), 3).requests == 3
