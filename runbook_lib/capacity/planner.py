"""Ranks deployments for given hosts, lengths and service level: instances x layouts x settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runbook_lib.capacity.checks import Check, check, longest_recompute, safe_batch
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.level import Level, Load, run_level
from runbook_lib.capacity.pairs import PairSetup, pair_setups, run_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runbook_lib.capacity.setup import Setup

LEVELS = (1, 16, 64, 100, 200, 300, 400, 500, 600, 800, 1000)
_HEADS = 128
_PLATEAU = 0.95  # as load/knee.py: the knee is the lowest level with that share of the best throughput,
_PATIENCE = 2.0  # and a first token may come twice as late as at the knee
HIGH_FRACTION = 0.95  # the model page's own script exports it
_CURVES = 4  # so many of the best options get intervals
_MEASURED_FROM = 100  # no open point below
# the measured layout: what the fit leaves open (engine_model.md section 3), as shares of the constants
_FITTED = {"decode_bus_efficiency": 0.04, "prefill_bus_efficiency": 0.04, "host_ms": 0.15, "runtime_gib": 0.2}
_WORSE_WHEN_LOW = frozenset(
    {
        "memory_efficiency", "compute_efficiency", "attention_efficiency", "decode_bus_efficiency",
        "prefill_bus_efficiency", "exchange_efficiency", "mtp_acceptance",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slo:
    """The service level: means, in ms; None for whatever comes."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    def met_by(self, level: Level) -> bool:
        """Whether a level keeps it."""
        return (
            not level.stalled
            and (self.ttft_ms is None or level.ttft_mean_s * 1e3 <= self.ttft_ms)
            and (self.tpot_ms is None or level.decode_mean_ms <= self.tpot_ms)
        )


@dataclass(frozen=True, slots=True)
class Option:
    """One deployment with its curve.

    settings: `params` is what the params describe, `given` another layout with the same settings, `safe` one with a
    batch size at which nothing is recomputed.
    reason: why it cannot be used, "" when it can. needs: what is missing to use it, "" for nothing.
    knee: the lowest concurrency on the plateau of throughput. recommended: where to run it, None when no level keeps
    the service level. low, high: the same curve with every constant at the bad and at the good end of its interval;
    empty where it was not computed.
    measured: published points lie behind this layout; the others are extrapolations.
    """

    name: str
    setup: Setup
    settings: str
    reason: str = ""
    needs: str = ""
    levels: tuple[Level, ...] = ()
    knee: int = 0
    recommended: int | None = None
    checks: tuple[Check, ...] = ()
    low: tuple[Level, ...] = ()
    high: tuple[Level, ...] = ()
    measured: bool = False
    pair: PairSetup | None = None

    @property
    def at(self) -> Level | None:
        """The level at the recommended concurrency."""
        return next((level for level in self.levels if level.concurrency == self.recommended), None)

    @property
    def usable(self) -> bool:
        """Whether these hosts can run it as they are, and it keeps the service level."""
        return self.at is not None and not self.needs

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Sort key: usable first, then the most tokens per second."""
        at = self.at
        return (at is None, bool(self.needs), -at.output_tokens_per_s if at is not None else 0.0)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What one change would bring to the best option: output tokens/s, first token in s, and blocks of all groups."""

    change: str
    option: str
    before: Level | None
    after: Level | None
    blocks_before: int
    blocks_after: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All options, best first; `current` is what the params describe."""

    load: Load
    slo: Slo
    options: tuple[Option, ...]
    current: Option
    what_ifs: tuple[WhatIf, ...]

    @property
    def best(self) -> Option | None:
        """The best option that can be used."""
        return next((option for option in self.options if option.usable), None)

    def best_of(self, instances: int) -> Option | None:
        """Return the best option with so many instances (a pair of prefill and decode counts as none)."""
        usable = (each for each in self.options if each.usable and each.setup.instances == instances and not each.pair)
        return next(usable, None)


def layouts(hosts: int, cards: int) -> Iterator[tuple[int, Layout]]:
    """Yield (instances, layout) for so many hosts: tp from 4 to all cards, experts by tp, and by ep where dp > 1."""
    for each in sorted({hosts // count for count in range(1, hosts + 1) if hosts % count == 0}, reverse=True):
        ranks = each * cards
        for dp in range(1, ranks // 4 + 1):
            if ranks % dp or _HEADS % (ranks // dp):
                continue
            for moe_ep in (1, ranks) if dp > 1 else (1,):
                yield hosts // each, Layout(each, cards, dp=dp, moe_ep=moe_ep)


def _safe(setup: Setup, load: Load) -> Setup:
    """Return a deployment in which nothing is recomputed, and nothing could not come back."""
    rules = setup.rules
    budget = max(rules.max_prefill_tokens, min(rules.max_seq_len, longest_recompute(setup) + 1))
    setup = replace(setup, rules=replace(rules, max_prefill_tokens=budget))
    batch = safe_batch(setup, load)
    prefill = min(max(rules.max_prefill_batch_size, budget // max(1, round(load.inputs.mean))), batch)
    return replace(setup, rules=replace(setup.rules, max_batch_size=batch, max_prefill_batch_size=prefill))


def edge(setup: Setup, *, bad: bool, measured: bool) -> Setup:
    """Return a deployment with its constants at the bad or good end: of the fit where it was measured, else of all."""
    values = {}
    for row in setup.constants.describe():
        name, value = str(row["name"]), float(getattr(setup.constants, str(row["name"])))
        worse_low = name in _WORSE_WHEN_LOW
        if measured:
            if name not in _FITTED:
                continue
            values[name] = value * (1 + _FITTED[name] * (-1 if bad == worse_low else 1))
        else:
            low, high = float(str(row["low"])), float(str(row["high"]))
            values[name] = min(low, value) if bad == worse_low else max(high, value)
    return replace(setup, constants=setup.constants.changed(**values))


class Planner:
    """Plans for one load. `measured`: the deployment whose layout the constants were fitted on.

    new_keys: whether the image knows dp, tp and moe_ep; without, other layouts than the default need a newer image.
    """

    def __init__(  # noqa: PLR0913 - three of them are options
        self,
        load: Load,
        slo: Slo,
        levels: Sequence[int] = LEVELS,
        *,
        measured: Callable[[Setup], bool] = lambda _: False,
        new_keys: bool = True,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.load = load
        self.slo = slo
        self.levels = sorted(set(levels))
        self.measured = measured
        self.new_keys = new_keys
        self.progress = progress

    def plan(self, current: Setup) -> Plan:
        """Rank everything that the hosts of `current` could run; what cannot be used is an option with its reason."""
        here = self.option(current, "params", _name(current))
        hosts, cards = current.layout.hosts * current.instances, current.layout.cards_per_host
        options = sorted([here, *self._options(here, hosts, cards)], key=lambda option: option.rank)
        options = [
            self._with_interval(option) if place < _CURVES or option is here else option
            for place, option in enumerate(options)
        ]
        here = next(option for option in options if option.settings == "params")
        best = next((option for option in options if option.usable), None)
        what_ifs = self._what_ifs(best, hosts, cards) if best is not None else []
        return Plan(self.load, self.slo, tuple(options), here, tuple(what_ifs))

    def _options(self, here: Option, hosts: int, cards: int) -> Iterator[Option]:
        current = here.setup
        for instances, layout in layouts(hosts, cards):
            setup = replace(current, instances=instances, layout=layout)
            name = _name(setup)
            if setup == current:
                given = here
            else:
                given = self.option(setup, "given", name)
                yield given
            safe = _safe(setup, self.load)
            # where nothing is preempted there is nothing to make safe
            if safe.memory.fits and any(level.preemptions or level.stalled for level in given.levels):
                yield self.option(safe, "safe", name)
        for pair in pair_setups(current, hosts, cards):
            yield self._pair_option(pair)

    def option(self, setup: Setup, settings: str, name: str) -> Option:
        """Simulate one deployment at all levels."""
        self.progress(f"{name}, {settings} settings")
        measured = self.measured(setup)
        if reason := self._reason(setup):
            return Option(name, setup, settings, reason, measured=measured)
        levels = tuple(run_level(setup, self.load, level) for level in self.levels if level <= self.load.requests)
        needs = self._needs(setup)
        return self._judged(Option(name, setup, settings, needs=needs, levels=levels, measured=measured))

    def _pair_option(self, pair: PairSetup) -> Option:
        self.progress(pair.name)
        if reason := self._reason(pair.prefill) or self._reason(pair.decode):
            return Option(pair.name, pair.decode, "given", reason, pair=pair)
        levels = tuple(run_pair(pair, self.load, level) for level in self.levels if level <= self.load.requests)
        needs = self._needs(pair.prefill, pair.decode)
        return self._judged(Option(pair.name, pair.decode, "given", needs=needs, levels=levels, pair=pair))

    def _reason(self, setup: Setup) -> str:
        """Return why a deployment cannot be used, "" when it can."""
        picture = setup.memory
        if not picture.fits:
            return (
                f"does not fit: weights {picture.weights_gib:.1f} GiB per card leave {picture.kv_gib:.1f} GiB of KV "
                f"cache ({max(0, picture.blocks)} blocks, the warm-up needs {picture.warm_up_blocks})"
            )
        return ""

    def _needs(self, *setups: Setup) -> str:
        if self.new_keys or all(setup.layout.dp == setup.layout.moe_ep == 1 for setup in setups):
            return ""
        return "an image from 2.0.RC1 on: this one knows no dp, tp and moe_ep"

    def _judged(self, option: Option) -> Option:
        """Find the knee and the recommended concurrency of a curve, and check the rules there."""
        sound = [level for level in option.levels if not level.stalled]
        if not sound:
            return replace(option, reason="every level ends in the recompute dead end", levels=option.levels)
        best = max(level.output_tokens_per_s for level in sound)
        knee = next(level for level in sound if level.output_tokens_per_s >= _PLATEAU * best)
        if self.slo == Slo():
            good = [
                level
                for level in sound
                if level.output_tokens_per_s >= _PLATEAU * best
                and level.ttft_mean_s <= _PATIENCE * knee.ttft_mean_s
                and level.concurrency >= knee.concurrency
            ]
            chosen: int | None = good[-1].concurrency
        else:
            kept = [level for level in sound if self.slo.met_by(level)]
            chosen = max(kept, key=lambda level: level.output_tokens_per_s).concurrency if kept else None
        reason = "" if chosen is not None else self._missed(sound[0])
        checks = tuple(check(option.setup, self.load, chosen or knee.concurrency))
        return replace(option, knee=knee.concurrency, recommended=chosen, checks=checks, reason=reason)

    def _missed(self, level: Level) -> str:
        return (
            f"misses the service level already at concurrency {level.concurrency}: first token "
            f"{level.ttft_mean_s:.2f} s, {level.decode_mean_ms:.0f} ms per token"
        )

    def _with_interval(self, option: Option) -> Option:
        if not option.levels or option.pair is not None:
            return option
        self.progress(f"interval of {option.name}")
        curves = []
        for bad in (True, False):
            curve = []
            for level in option.levels:
                measured = option.measured and level.concurrency >= _MEASURED_FROM
                setup = edge(option.setup, bad=bad, measured=measured)
                if setup.memory.fits:
                    curve.append(run_level(setup, self.load, level.concurrency))
            curves.append(tuple(curve))
        return replace(option, low=curves[0], high=curves[1])

    def _what_ifs(self, best: Option, hosts: int, cards: int) -> list[WhatIf]:
        """Return what a larger memory fraction and one more host would bring."""
        if best.at is None or best.pair is not None:
            return []
        found = []
        if best.setup.fraction < HIGH_FRACTION:
            more = replace(best.setup, fraction=HIGH_FRACTION)
            more = _safe(more, self.load) if best.settings == "safe" else more
            found.append(self._what_if(f"npu_memory_fraction {HIGH_FRACTION}", best, [more]))
        self.progress("one more host")
        larger = [
            replace(best.setup, instances=instances, layout=layout)
            for instances, layout in layouts(hosts + 1, cards)
            if layout.tp == best.setup.layout.tp and (layout.moe_ep > 1) == (best.setup.layout.moe_ep > 1)
        ]
        usable = [each for each in larger if not self._reason(each)]
        if usable:
            found.append(self._what_if("one more host", best, usable))
        return found

    def _what_if(self, change: str, best: Option, setups: list[Setup]) -> WhatIf:
        tried = sorted((self.option(setup, best.settings, change) for setup in setups), key=lambda each: each.rank)
        after = tried[0]
        return WhatIf(change, _name(after.setup), best.at, after.at, all_blocks(best.setup), all_blocks(after.setup))


def _name(setup: Setup) -> str:
    return f"{setup.instances} x {setup.layout.name}"


def all_blocks(setup: Setup) -> int:
    """Return the KV blocks of all groups of all instances."""
    return max(0, setup.memory.blocks) * setup.layout.dp * setup.instances
