"""The planner: what fits, what is best, why, and what would help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from runbook_lib.capacity.checks import check, longest_recompute, safe_batch
from runbook_lib.capacity.disaggregated import Pair
from runbook_lib.capacity.fragment import fragment
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.level import Load, run_level
from runbook_lib.capacity.pairs import PairSetup, run_pair
from runbook_lib.capacity.planner import Option, Plan, Planner, Slo, edge, layouts
from runbook_lib.capacity.rules import Generation, Rules
from runbook_lib.capacity.setup import Setup
from runbook_lib.capacity.workload import Lengths, requests
from runbook_lib.model import Verdict

if TYPE_CHECKING:
    from runbook_lib.capacity.checks import Check

RULES = Rules(
    blocks=0,
    max_batch_size=4096,
    max_prefill_batch_size=4096,
    max_prefill_tokens=32768,
    max_seq_len=32768,
    max_input_token_len=16384,
    max_iter_times=16384,
)
FOUR = Setup(Layout(4, 8), RULES)
LEVELS = (100, 300, 400, 500, 600, 1000)


def plan(setup: Setup = FOUR, slo: Slo = Slo(), **options: object) -> Plan:  # noqa: B008 - frozen
    """Plan with few levels."""
    return Planner(Load(), slo, LEVELS, measured=lambda each: each.layout == FOUR.layout, **options).plan(setup)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole() -> Plan:
    """Plan for the published cluster and its image, which knows the default layout only."""
    return plan(new_keys=False)


def find(options: tuple[Option, ...], layout: Layout, settings: str) -> Option:
    """Return one option."""
    return next(each for each in options if each.setup.layout == layout and each.settings == settings and not each.pair)


def test_the_published_deployment_is_read_as_the_field_report_reads_it(whole: Plan) -> None:
    """Knee at 400, 500 recommended, and overcommit is named."""
    here = whole.current
    assert (here.knee, here.recommended) == (400, 500)
    assert here.measured
    verdicts = {each.rule: each for each in here.checks}
    assert verdicts["R1"].verdict is Verdict.OK
    assert verdicts["R2"].verdict is Verdict.WARN
    assert "max_batch_size 366 never is" in verdicts["R2"].said
    assert here.at is not None
    assert here.at.stalled == 0


def test_more_hosts_in_one_instance_leave_more_cache(whole: Plan) -> None:
    """At fraction 0.8 one instance of four hosts beats two of two: the report's advice, derived."""
    one, two = whole.best_of(1), whole.best_of(2)
    assert one is not None
    assert two is not None
    assert one.at is not None
    assert two.at is not None
    assert one.setup.memory.blocks > 4 * two.setup.memory.blocks
    assert one.at.output_tokens_per_s > two.at.output_tokens_per_s
    assert whole.best_of(4) is None


def test_the_advice_turns_around_when_memory_is_ample() -> None:
    """At fraction 0.95 and 512/512 two instances serve more (engine_model.md section 3, extrapolated)."""
    rich = replace(FOUR, fraction=0.95)
    two = run_level(replace(rich, instances=2, layout=Layout(2, 8)), Load(), 400)
    assert two.output_tokens_per_s > run_level(rich, Load(), 400).output_tokens_per_s


def test_what_does_not_fit_and_what_needs_another_image_say_so(whole: Plan) -> None:
    """One host cannot hold the weights; dp wants a newer image, and is ranked behind what can be used."""
    small = find(whole.options, Layout(1, 8), "given")
    assert "weights 78.7 GiB per card" in small.reason
    assert small.at is None
    wide = find(whole.options, Layout(4, 8, dp=4), "given")
    assert "2.0.RC1" in wide.needs
    assert not wide.usable
    assert wide.at is not None
    assert whole.options.index(wide) > max(whole.options.index(each) for each in whole.options if each.usable)


def test_safe_settings_recompute_nothing(whole: Plan) -> None:
    """The batch size follows the documented rule, and the simulation agrees."""
    safe = find(whole.options, FOUR.layout, "safe")
    assert safe.setup.rules.max_batch_size == 2928 // 8
    assert {level.preemptions for level in safe.levels} == {0}
    assert "max_batch_size: 366" in fragment(safe)
    assert "parallel" not in fragment(safe)
    wide = find(whole.options, Layout(4, 8, dp=4, moe_ep=32), "given")
    assert "parallel: {dp: 4, tp: 8, moe_ep: 32}" in fragment(wide)


def test_intervals_hold_the_curve_and_are_narrow_where_it_was_measured(whole: Plan) -> None:
    """Every level lies between its ends; measured levels within 6 %, extrapolated ones far wider."""
    here = whole.current
    for level, low, high in zip(here.levels, here.low, here.high, strict=True):
        assert low.output_tokens_per_s <= level.output_tokens_per_s <= high.output_tokens_per_s
        assert high.output_tokens_per_s < 1.06 * level.output_tokens_per_s
    guess = replace(FOUR, layout=Layout(4, 8, dp=4, moe_ep=32))
    ends = [run_level(edge(guess, bad=bad, measured=False), Load(), 400).output_tokens_per_s for bad in (True, False)]
    assert ends[0] * 1.5 < ends[1]


def test_a_larger_fraction_and_another_host_are_weighed(whole: Plan) -> None:
    """The fraction's gain is told with blocks; without dp no fifth host can join (128 heads do not divide by 40)."""
    (fraction,) = whole.what_ifs
    assert fraction.change == "npu_memory_fraction 0.95"
    assert fraction.blocks_after == pytest.approx(1.39 * fraction.blocks_before, rel=0.01)
    assert fraction.before is not None
    assert fraction.after is not None
    assert fraction.after.output_tokens_per_s > fraction.before.output_tokens_per_s


def test_service_level_bounds_the_concurrency() -> None:
    """The recommended level keeps both bounds; what keeps them nowhere says by how much it misses."""
    bounds = Slo(ttft_ms=6000, tpot_ms=130)
    planner = Planner(Load(), bounds, LEVELS)
    option = planner.option(FOUR, "given", "x")
    assert option.recommended == 100
    assert option.at is not None
    assert bounds.met_by(option.at)
    missed = Planner(Load(), Slo(tpot_ms=20), LEVELS).option(FOUR, "given", "x")
    assert missed.at is None
    assert "misses the service level already at concurrency 100" in missed.reason


def rules_of(setup: Setup, load: Load, concurrency: int) -> dict[str, Check]:
    """Return checks by rule."""
    return {each.rule: each for each in check(setup, load, concurrency)}


def test_dead_end_and_overcommit_are_flagged() -> None:
    """R1 fails when preemption is possible, is only warned of when it is not, and is fine under the new rule."""
    load = Load(Lengths(512), Lengths(2048))
    short = replace(FOUR, rules=replace(RULES, max_prefill_tokens=8192, max_input_token_len=8192))
    assert longest_recompute(short) == 8192 + 16384 - 1
    at_400 = rules_of(short, load, 400)["R1"]
    assert at_400.verdict is Verdict.FAIL
    assert "max_prefill_tokens 32768" in at_400.said
    assert rules_of(short, load, 20)["R1"].verdict is Verdict.WARN
    new = replace(short, rules=replace(short.rules, generation=Generation.NEW))
    checks = rules_of(new, load, 400)
    assert checks["R1"].verdict is Verdict.OK
    assert checks["R4"].verdict is Verdict.WARN
    assert safe_batch(short, load) == short.memory.blocks // 20
    assert rules_of(FOUR, load, 5000)["LINKS"].verdict is Verdict.WARN


def test_a_plan_of_dead_ends_finds_no_current_level() -> None:
    """A deployment that stands still at every level is no option."""
    stuck = replace(FOUR, fraction=0.55, rules=replace(RULES, max_prefill_tokens=700, max_input_token_len=600))
    option = Planner(Load(), Slo(), (600, 800)).option(stuck, "given", "x")
    assert option.reason == "every level ends in the recompute dead end"
    assert option.at is None


def test_layouts_divide_hosts_and_heads() -> None:
    """Every layout uses all cards, and tp divides the 128 heads."""
    found = list(layouts(4, 8))
    assert {instances for instances, _ in found} == {1, 2, 4}
    for instances, layout in found:
        assert instances * layout.ranks == 32
        assert layout.dp * layout.tp == layout.ranks
        assert layout.tp >= 4
        assert 128 % layout.tp == 0
    assert [layout.tp for _, layout in layouts(5, 8) if layout.hosts == 5] == [8, 8, 4, 4]


def test_a_pair_hands_requests_over() -> None:
    """Prefill and decode apart: all requests come back, decode is not stalled by prefills, blocks all return."""
    half = replace(FOUR, layout=Layout(2, 8), fraction=0.95)
    pair = PairSetup(half, replace(half, rules=replace(RULES, prefilled=True)))
    prefill, decode = pair.prefill.engine(), pair.decode.engine()
    measured = Pair(prefill, decode, pair.transfer_s).run(requests(200, Lengths(512), Lengths(256)), 50)
    assert (measured.requests, measured.stalled) == (200, 0)
    assert prefill.free_blocks == prefill.rules.blocks
    assert decode.free_blocks == decode.rules.blocks
    assert decode.totals.prefills == 0
    assert prefill.totals.decodes == 0
    assert measured.mean_in_flight == pytest.approx(50, rel=0.2)
    mixed = Load(Lengths(512, 150), Lengths(256, 100), 200)
    assert run_pair(pair, mixed, 25).decode_mean_ms < 0.95 * run_level(half, mixed, 25).decode_mean_ms


def test_a_pair_with_one_token_answers() -> None:
    """Answers of one token end at the prefill side."""
    half = replace(FOUR, layout=Layout(2, 8), fraction=0.95)
    pair = PairSetup(half, replace(half, rules=replace(RULES, prefilled=True)))
    level = run_pair(pair, Load(Lengths(100), Lengths(1), 20), 4)
    assert (level.requests, level.stalled) == (20, 0)
