"""How fast the simulation is, on one core, and against others on the same load.

    python benchmarks/capacity_speed.py [--million] [--plan] [--vidur PYTHON] [--repeats N]

--vidur: a Python that has vidur 0.0.26 (`python -m venv V; V/bin/pip install vidur`); it runs the same 1000 requests
of 512/512, all there at once, with the same cache and our step times in place of its predictor (vidur_driver.py).
aiconfigurator answers another question (steady-state search over tables of NVIDIA cards), so it is not compared.
Without vidur the named alternative is a plain simulation: one step at a time, a loop over the running requests.
vidur ends in an assertion of its own when a request is preempted, so that comparison has a cache that is large enough.
Times are CPU seconds of one core, the best of several runs. Exits 1 when one is above its limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.capacity.level import Load, run_level
from runbook_lib.capacity.simulate import closed_loop
from runbook_lib.capacity.step_time import PS
from runbook_lib.capacity.workload import Lengths, requests
from runbook_lib.params import load_params
from runbook_lib.runs.capacity import planned, setup_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.capacity.setup import Setup

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (1, 16, 64, 100, 200, 300, 400, 500, 600, 700, 800, 1000)
PLAN_LIMIT_S = 20
ROOMY, BATCH = 6000, 512  # KV blocks and batch size of the comparison with vidur: nothing is preempted
MOST_MIB = 200  # more than twice what an empty interpreter with numpy takes


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Return the shortest CPU time of several runs, in s."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


@dataclass
class Plain:
    """A request of the plain simulation."""

    length: int
    left: int
    blocks: int = 0


def plain_simulation(setup: Setup, count: int, tokens: int) -> float:
    """Simulate without any skipping or counting; return the simulated seconds."""
    free, budget, size = setup.memory.blocks, setup.rules.prefill_budget, setup.rules.block_size
    times = setup.times
    waiting = deque(Plain(tokens, tokens) for _ in range(count))
    running: list[Plain] = []
    now = 0
    while waiting or running:
        batch: list[Plain] = []
        total = 0
        while waiting and total + waiting[0].length <= budget and -(-(waiting[0].length + 1) // size) <= free:
            request = waiting.popleft()
            request.blocks = -(-(request.length + 1) // size)
            free -= request.blocks
            total += request.length
            batch.append(request)
        if batch:
            now += times.prefill_ps(total, sum(request.length**2 for request in batch), total)
            running += batch
            stepped = batch
        else:
            position = 0
            while position < len(running):
                request = running[position]
                need = -(-(request.length + 1) // size) - request.blocks
                while need > free and len(running) > position:
                    victim = running.pop()
                    free += victim.blocks
                    victim.blocks = 0
                    waiting.appendleft(victim)
                if position < len(running):
                    request.blocks += need
                    free -= need
                position += 1
            now += times.decode_ps(len(running), len(running))
            now += times.context_ps * sum(request.length for request in running)
            stepped = running
        for request in stepped:
            request.length += 1
            request.left -= 1
        free += sum(request.blocks for request in running if not request.left)
        running = [request for request in running if request.left]
    return now / PS


def vidur(python: str) -> dict[str, float]:
    """Run vidur on the same load in its own interpreter; CPU and simulated seconds."""
    with tempfile.TemporaryDirectory(prefix="vidur-") as folder:
        argv = [python, str(ROOT / "benchmarks" / "vidur_driver.py"), "--blocks", str(ROOMY), "--batch", str(BATCH)]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=900, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def roomy_run(setup: Setup) -> float:
    """Run ours with the cache and batch that vidur gets; return the simulated seconds."""
    engine = replace(setup, rules=replace(setup.rules, max_batch_size=BATCH)).engine(ROOMY)
    return closed_loop(engine, requests(1000, Lengths(512), Lengths(512)), 1000).duration_s


def report(what: str, count: int, seconds: float, limit_s: float | None = None) -> bool:
    """Print one line; return whether the limit is kept."""
    good = limit_s is None or seconds <= limit_s
    limit = "" if limit_s is None else f", limit {limit_s:g} s{'' if good else '  TOO SLOW'}"
    print(f"{what}: {seconds:.3f} s, {count / seconds:,.0f} requests/s{limit}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="also 1,000,000 requests: half a minute")
    parser.add_argument("--plan", action="store_true", help="also a plan over all layouts of 4 hosts")
    parser.add_argument("--vidur", default="", help="a Python with vidur")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    params = load_params(ROOT / "params" / "example-4x8-switch.yaml")
    setup, load = setup_of(params), Load()
    run_level(setup, load, 100)
    sweep_s = best_of(options.repeats, lambda: [run_level(setup, load, level) for level in LEVELS])
    good = report("12 levels x 1000 requests, 512/512", 12_000, sweep_s, 0.5)
    mixed = Load(Lengths(512, 150), Lengths(512, 150), 10_000)
    good &= report("10,000 requests of mixed lengths", 10_000,
                   best_of(options.repeats, lambda: run_level(setup, mixed, 500)), 0.3)  # fmt: skip
    if options.million:
        many = Load(Lengths(512, 150), Lengths(512, 150), 1_000_000)
        report("1,000,000 requests of mixed lengths", 1_000_000, best_of(1, lambda: run_level(setup, many, 500)))
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory {peak_mib:.0f} MiB, limit {MOST_MIB}")
        good &= peak_mib <= MOST_MIB
    if options.plan:
        plan_s = best_of(1, lambda: planned(params, load, (None, None)))
        good &= plan_s <= PLAN_LIMIT_S
        late = "" if plan_s <= PLAN_LIMIT_S else "  TOO SLOW"
        print(f"plan over all layouts of 4 hosts: {plan_s:.1f} s, limit {PLAN_LIMIT_S} s{late}")
    ours_s = best_of(options.repeats, lambda: run_level(setup, load, 1000))
    simulated_s = run_level(setup, load, 1000).duration_s
    report(f"one level, 1000 at once, {simulated_s:.0f} s simulated", 1000, ours_s)
    plain_s = best_of(1, lambda: plain_simulation(setup, 1000, 512))
    report(f"the same, plain simulation, {plain_simulation(setup, 1000, 512):.0f} s simulated", 1000, plain_s)
    print(f"  ours is {plain_s / ours_s:.0f} times as fast")
    if options.vidur:
        ours_s = best_of(options.repeats, lambda: roomy_run(setup))
        report(f"1000 at once, batch {BATCH}, {ROOMY} blocks, {roomy_run(setup):.0f} s simulated", 1000, ours_s)
        answer = vidur(options.vidur)
        report(f"the same, vidur 0.0.26, {answer['simulated_s']:.0f} s simulated", 1000, answer["cpu_s"])
        print(f"  ours is {answer['cpu_s'] / ours_s:.0f} times as fast")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
