"""What settings make certain, before anything is simulated: rules R1 to R4 of engine_model.md section 4."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from runbook_lib.capacity.rules import Generation
from runbook_lib.model import Verdict

if TYPE_CHECKING:
    from runbook_lib.capacity.level import Load
    from runbook_lib.capacity.setup import Setup

_MANY_HOSTS = 4
_LINKS_SUGGESTED = 300


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: what it says, and what would be right."""

    rule: str
    verdict: Verdict
    said: str


def longest_recompute(setup: Setup) -> int:
    """Return the longest prompt that a preempted request can come back with, in tokens."""
    rules = setup.rules
    return min(rules.max_seq_len, rules.longest_input + rules.max_iter_times) - 1


def per_group(setup: Setup, concurrency: int) -> int:
    """Return how many of so many clients' requests one dp group can have in its running set."""
    return min(setup.rules.max_batch_size, ceil(concurrency / (setup.instances * setup.layout.dp)))


def block_need(setup: Setup, load: Load) -> int:
    """Return the documented block need of one request of a load, at its mean lengths."""
    return setup.rules.block_need(round(load.inputs.mean), round(load.outputs.mean))


def safe_batch(setup: Setup, load: Load) -> int:
    """Return the largest maxBatchSize with which no request of this load is ever preempted."""
    return max(1, setup.memory.blocks // block_need(setup, load))


def check(setup: Setup, load: Load, concurrency: int) -> list[Check]:
    """Return every rule with its verdict for a load at a concurrency."""
    rules, blocks = setup.rules, setup.memory.blocks
    need, running = block_need(setup, load), per_group(setup, concurrency)
    short = running * need > blocks
    longest = longest_recompute(setup)
    found = []
    if rules.prefill_budget >= longest:
        found.append(Check("R1", Verdict.OK, f"a preempted request fits into one prefill ({rules.prefill_budget})"))
    else:
        said = (
            f"recompute dead end: a preempted request of up to {longest} tokens never fits into a prefill of "
            f"{rules.prefill_budget}; right would be max_prefill_tokens {rules.max_seq_len} (= max_seq_len)"
        )
        waived = "; no preemption at this load, so it waits for a larger one"
        found.append(Check("R1", Verdict.FAIL if short else Verdict.WARN, said if short else said + waived))
    said = f"{running} sequences x {need} blocks, {blocks} in one dp group"
    if short:
        said += f": overcommitted, requests are recomputed; max_batch_size {safe_batch(setup, load)} never is"
    found.append(Check("R2", Verdict.WARN if short else Verdict.OK, said))
    whole = ceil(rules.max_seq_len / rules.block_size)
    said = f"one sequence of max_seq_len {rules.max_seq_len} needs {whole} of {blocks} blocks"
    found.append(Check("R3", Verdict.OK if whole <= blocks else Verdict.FAIL, said))
    if rules.generation is Generation.NEW and rules.max_seq_len > rules.max_prefill_tokens:
        said = f"prefill batches may reach max_seq_len {rules.max_seq_len}: activations are sized by that"
        found.append(Check("R4", Verdict.WARN, said))
    links = rules.max_link_num * setup.instances
    if concurrency > links:
        said = f"concurrency {concurrency} is above max_link_num: {links} are served, the rest wait"
        found.append(Check("LINKS", Verdict.WARN, said))
    elif setup.layout.hosts >= _MANY_HOSTS and rules.max_link_num > _LINKS_SUGGESTED:
        said = f"max_link_num {rules.max_link_num}; the model's page suggests {_LINKS_SUGGESTED} on four hosts"
        found.append(Check("LINKS", Verdict.OK, said))
    return found
