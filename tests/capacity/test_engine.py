"""The engine's state machine: skipping changes nothing, and nothing is lost or made up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.capacity.engine import Engine, _steps_until
from runbook_lib.capacity.group import Request
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.rules import Generation, Rules
from runbook_lib.capacity.simulate import Measured, closed_loop, open_loop
from runbook_lib.capacity.step_time import PS, StepTimes
from runbook_lib.capacity.workload import Lengths, poisson, requests, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Rules(
    blocks=400,
    max_batch_size=64,
    max_prefill_tokens=4000,
    max_seq_len=4000,
    max_input_token_len=1000,
    max_iter_times=3000,
)


def times(dp: int = 1) -> StepTimes:
    """Return step times of six cards."""
    return StepTimes(HARDWARE["910b3"], Layout(1, 6, dp=dp))


def mixed(count: int, seed: int = 0) -> Iterator[Request]:
    """Return requests of mixed lengths."""
    return requests(count, Lengths(300, 120, high=900), Lengths(150, 60), seed)


scheduling = st.fixed_dictionaries(
    {
        "blocks": st.sampled_from([40, 60, 150, 400]),
        "max_batch_size": st.sampled_from([8, 30, 200]),
        "max_prefill_batch_size": st.sampled_from([1, 8, 200]),
        "max_prefill_tokens": st.sampled_from([1000, 4000]),
        "support_select_batch": st.booleans(),
        "generation": st.sampled_from(Generation),
        "max_queue_delay_us": st.sampled_from([500, 5000, 1_000_000]),
        "max_link_num": st.sampled_from([7, 1000]),
        "victims_first": st.booleans(),
        "lookahead": st.sampled_from([0, 1]),
        "reserved": st.sampled_from([0.0, 0.05, 0.2]),
    }
)


@given(scheduling, st.sampled_from([1, 1, 2, 3]), st.integers(0, 1000), st.sampled_from([0.0, 0.5, 5.0]))
@settings(max_examples=50, deadline=None)
def test_skipping_changes_nothing(scheduling: dict[str, object], dp: int, seed: int, rate_per_s: float) -> None:
    """Many steps at once and one step at a time give the same requests the same times, to the picosecond."""
    rules = replace(RULES, **scheduling)  # type: ignore[arg-type]
    seen = []
    for single in (False, True):
        engine = Engine(rules, times(dp), dp=dp)
        log: list[tuple[int, ...]] = []

        def observe(request: Request, log: list[tuple[int, ...]] = log) -> None:
            log.append((request.ident, request.first, request.finished, request.preempted))

        if rate_per_s:
            measured = open_loop(engine, poisson(rate_per_s, mixed(40, seed), seed), single=single, observe=observe)
        else:
            measured = closed_loop(engine, mixed(40, seed), 15, single=single, observe=observe)
        totals = engine.totals
        free = [group.free for group in engine.groups]
        seen.append((log, measured.duration_s, measured.stalled, totals.preemptions, totals.decodes, free))
    assert seen[0] == seen[1]


def audit(engine: Engine) -> None:
    """Recount a whole engine from its requests."""
    for group in engine.groups:
        lengths = [request.input + group.generated(request) for request in group.running]
        held = sum(group.blocks_of(length - 1) for length in lengths)
        held += sum(group.blocks_of(request.input + request.generated) for request in group.admitting)
        assert group.free + held == engine.rules.blocks
        assert group.free >= 0
        assert (group.live, group.context) == (len(lengths), sum(lengths))
        assert sum(group.need) == group.live
        assert sum(len(ends) for ends in group.ends.values()) == group.live
        assert group.live + len(group.admitting) <= engine.rules.max_batch_size


@pytest.mark.parametrize("dp", [1, 2])
@pytest.mark.parametrize("select", [False, True])
def test_blocks_tokens_and_requests_are_conserved_at_every_step(dp: int, *, select: bool) -> None:
    """After every step: blocks held and free are all, every request is somewhere once, tokens add up."""
    rules = replace(RULES, blocks=60, support_select_batch=select, generation=Generation.NEW)
    engine = Engine(rules, times(dp), dp=dp)
    everyone = list(mixed(40))
    for request in everyone:
        assert engine.submit(request)
    done: list[Request] = []
    tokens = 0
    preempted = 0
    while (step := engine.start(single=True)) is not None or engine.wake() is not None:
        if step is None:
            engine.wait_until(engine.wake() or 0)
            continue
        made = engine.running if step.decodes else sum(len(group.admitting) for group in engine.groups)
        before = engine.now
        done += engine.finish(step)[1]
        assert engine.now > before
        tokens += made
        audit(engine)
        here = sum(group.generated(each) for group in engine.groups for each in (*group.running, *group.waiting))
        assert here + sum(request.output for request in done) == tokens
        assert len(done) + engine.running + engine.waiting == len(everyone)
        preempted = max(preempted, engine.totals.preemptions)
    assert preempted > 0
    assert tokens == sum(request.output for request in everyone)
    assert sorted(request.ident for request in done) == list(range(1, 41))
    assert (
        engine.totals.prefilled_tokens == sum(request.input for request in everyone) + engine.totals.recomputed_tokens
    )


def test_first_come_first_served() -> None:
    """Without preemption, first tokens come in the order of arrival, whatever the lengths."""
    engine = Engine(RULES, times())
    order: list[Request] = []
    open_loop(engine, poisson(2.0, mixed(200)), observe=order.append)
    by_arrival = sorted(order, key=lambda request: request.ident)
    assert engine.totals.preemptions == 0
    assert [request.arrived for request in by_arrival] == sorted(request.arrived for request in order)
    assert [request.first for request in by_arrival] == sorted(request.first for request in order)


def test_little_s_law() -> None:
    """The number in flight, averaged over time, is the arrival rate times the mean time in the system."""
    engine = Engine(RULES, times())
    arrivals = list(poisson(1.0, mixed(300)))
    area, spans, index = 0, 0, 0
    while True:
        while index < len(arrivals) and arrivals[index].arrived <= engine.now:
            engine.submit(arrivals[index])
            index += 1
        limit = arrivals[index].arrived if index < len(arrivals) else None
        step = engine.start(limit)
        before, inside = engine.now, engine.running + engine.waiting
        if step is not None:
            for request in engine.finish(step)[1]:
                spans += request.finished - request.arrived
        elif (wake := min(filter(None, (engine.wake(), limit)), default=None)) is not None:
            engine.wait_until(wake)
        else:
            break
        # who arrived while the step ran has waited since
        came = [each for each in arrivals[index:] if each.arrived <= engine.now]
        area += inside * (engine.now - before) + sum(engine.now - each.arrived for each in came)
    assert area == spans


def test_preempted_requests_come_back_before_new_ones_or_after_them() -> None:
    """The order of victims is a setting: the field report's version puts them first."""
    waits = []
    for first in (True, False):
        engine = Engine(replace(RULES, blocks=60, victims_first=first, generation=Generation.NEW), times())
        again: list[Request] = []
        closed_loop(engine, mixed(80), 40, observe=again.append)
        hit = [request for request in again if request.preempted]
        waits.append(sum(request.finished - request.first for request in hit) / len(hit))
    assert waits[0] < waits[1]


@pytest.mark.parametrize("budget", [1024, 2048, 4096])
@pytest.mark.parametrize("generation", Generation)
def test_recompute_dead_end(budget: int, generation: Generation) -> None:
    """400 blocks, 512 in, 2048 out, 64 clients: under the old rule a small prefill budget stands still for ever."""
    rules = Rules(
        blocks=400,
        max_prefill_tokens=budget,
        max_seq_len=4096,
        max_input_token_len=1024,
        max_iter_times=4096,
        generation=generation,
    )
    engine = Engine(rules, StepTimes(HARDWARE["910b3"], Layout(4, 8)))
    measured = closed_loop(engine, requests(128, Lengths(512), Lengths(2048)), 64)
    assert engine.totals.preemptions > 0
    if budget < 2560 and generation is Generation.OLD:
        assert measured.stalled > 0
        head = engine.groups[0].waiting[0]
        assert head.input + head.generated > budget
        assert measured.requests + measured.stalled < 128  # who is behind never gets a turn
        assert engine.start() is None
        assert engine.wake() is None
    else:
        assert (measured.requests, measured.stalled) == (128, 0)


def test_a_sequence_longer_than_the_whole_cache_never_ends() -> None:
    """Rule R3: one request that needs more blocks than there are stands still, alone."""
    engine = Engine(replace(RULES, blocks=4, generation=Generation.NEW), times())
    assert closed_loop(engine, requests(1, Lengths(300), Lengths(400)), 1).stalled == 1


@pytest.mark.parametrize(("running", "rounds"), [(16, 1), (32, 3), (56, 21)])
def test_waste_rule_spaces_prefills(running: int, rounds: int) -> None:
    """With supportSelectBatch, 3R/(B-R) decode steps stand between two prefills (150/50)."""
    rules = replace(RULES, blocks=4000, support_select_batch=True, max_prefill_batch_size=1)
    engine = Engine(rules, times())
    for _ in range(running):
        engine.submit(Request(10, 2900))
    engine.wait_until(PS)
    while engine.running < running:
        step = engine.start(single=True)
        assert step is not None
        engine.finish(step)
    engine.groups[0].waste = 0
    engine.submit(Request(10, 2900, engine.now))
    decodes = 0
    while True:
        step = engine.start(single=True)
        assert step is not None
        engine.finish(step)
        if not step.decodes:
            break
        decodes += 1
    assert decodes == rounds - 1  # the round that prefills has seen its own waste


def test_no_prefill_at_full_batch_with_the_waste_rule() -> None:
    """R >= B: nobody is let in until somebody ends."""
    rules = replace(RULES, max_batch_size=4, support_select_batch=True)
    engine = Engine(rules, times())
    measured = closed_loop(engine, requests(12, Lengths(100), Lengths(20)), 8)
    assert measured.requests == 12


def test_queue_delay_is_waited_for() -> None:
    """An idle engine begins after maxQueueDelay."""
    engine = Engine(replace(RULES, max_queue_delay_us=500_000), times())
    measured = open_loop(engine, trace([(1.0, 100, 1)]))
    assert measured.ttft.mean == pytest.approx(0.5 + times().prefill_ps(100, 10_000, 100) / PS, rel=1e-9)


def test_prefill_batches_end_at_the_first_limit() -> None:
    """The limits are maxPrefillTokens and maxPrefillBatchSize, the first that is reached counts."""
    for changes, batch in (({"max_prefill_tokens": 1000}, 10), ({"max_prefill_batch_size": 3}, 3)):
        engine = Engine(replace(RULES, max_input_token_len=500, **changes), times())  # type: ignore[arg-type]
        for _ in range(12):
            engine.submit(Request(100, 5))
        engine.wait_until(PS)
        assert engine.start() is not None
        assert len(engine.groups[0].admitting) == batch


def test_links_bound_what_is_served_and_three_times_as_many_are_refused() -> None:
    """As many as maxLinkNum are served, twice as many wait, the rest are refused."""
    engine = Engine(replace(RULES, max_link_num=4), times())
    taken = [engine.submit(Request(100, 5)) for _ in range(14)]
    assert taken == [True] * 12 + [False] * 2
    assert (len(engine.groups[0].waiting), len(engine.lobby), engine.totals.refused) == (4, 8, 2)
    measured = closed_loop(engine, iter(()), 0)
    assert measured.requests == 12


@pytest.mark.parametrize("when", ["waiting", "lobby", "prefill", "running", "granted", "done"])
def test_who_leaves_gives_everything_back(when: str) -> None:
    """Cancelling at any moment, also in the middle of a step, leaves a clean engine."""
    engine = Engine(replace(RULES, max_link_num=2), times())
    one, two = Request(128 * 2 - 2, 300), Request(100, 300)
    engine.submit(one)
    if when == "lobby":
        engine.submit(Request(10, 1))
    engine.submit(two)
    if when in {"waiting", "lobby"}:
        engine.cancel(two)
    else:
        engine.wait_until(PS)
        step = engine.start(single=True)
        assert step is not None
        if when == "prefill":
            engine.cancel(one)
        for _ in range({"prefill": 0, "running": 1, "granted": 2, "done": 400}[when]):
            engine.finish(step)
            step = engine.start(single=True)
            if step is None:
                break
        if when in {"granted", "running", "done"}:
            engine.cancel(one)
        if step is not None:
            engine.finish(step)
    audit(engine)
    closed_loop(engine, iter(()), 0)
    assert engine.free_blocks == RULES.blocks
    assert (engine.running, engine.waiting, engine.linked) == (0, 0, 0)
    assert engine.groups[0].context == 0


def test_groups_share_the_load_and_the_slowest_sets_the_pace() -> None:
    """With dp the requests are spread evenly, and a step lasts as long as in the fullest group."""
    engine = Engine(RULES, times(2), dp=2)
    for length in (100, 900):
        engine.submit(Request(length, 50))
    engine.wait_until(PS)
    prefill = engine.start()
    assert prefill is not None
    assert prefill.duration == times(2).prefill_ps(900, 900**2, 1000)
    engine.finish(prefill)
    step = engine.start(single=True)
    assert step is not None
    assert step.duration == times(2).decode_ps(1, 2) + 901 * times(2).context_ps
    assert [group.live for group in engine.groups] == [1, 1]


@given(st.integers(-5, 10**6), st.integers(1, 5000), st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_steps_until(time: int, first: int, growth: int) -> None:
    """The closed form finds the fewest steps that reach a time."""
    steps, passed = 0, 0
    while passed < time or steps == 0:
        passed += first + growth * steps
        steps += 1
    assert _steps_until(time, first, growth) == steps


def test_a_run_adds_to_what_another_instance_measured() -> None:
    """Several instances serve at the same time: requests add up, the duration is the longest."""
    measured = Measured()
    for count in (10, 30):
        closed_loop(Engine(RULES, times()), mixed(count), 5, measured=measured)
    alone = closed_loop(Engine(RULES, times()), mixed(30), 5)
    assert measured.requests == 40
    assert measured.duration_s == alone.duration_s
