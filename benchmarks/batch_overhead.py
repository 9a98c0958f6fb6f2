"""Overhead of a batch: N twin clusters x all stages with `runbook batch`, against a loop of plain papermill.

    python benchmarks/batch_overhead.py [--clusters 8] [--jobs 2] [--loop 2] [--repeat 1] [--network 127.88]

Overhead is wall time less the stages' own time (from the events) on the critical path: in the loop that is everything,
in a batch the lane that ends last. Mode plan, since it leaves the twins as they are, so that both see the same hosts;
an apply has the same notebooks and the same overhead, and its own time is minutes. The loop goes over `--loop` of
the clusters, half of them before and half after the batch, and counts for all (its notebooks run one after the other,
so its overhead is a sum); `--loop 0` takes all. The batch is the command, with its start and all imports; the loop
runs in a process that has imported papermill already. Exits 1 when the ratio is above the goal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from notebook_bed import (
    Home,
    home,
    own_seconds,
    plain_papermill,
    span,
)

from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.runner import OVERVIEW
from runbook_lib.stages import STAGES

GOAL = 1 / 3


def loop(bed: Home, cluster: str) -> tuple[float, float]:
    """Run all notebooks of a cluster with plain papermill; return wall and own time in seconds."""
    folder = bed.folder(cluster)
    began = time.monotonic()
    for name in [*(stage.notebook for stage in STAGES), OVERVIEW]:
        parameters = bed.parameters(cluster, folder, "plan")
        if name == OVERVIEW:
            parameters = {"params": parameters["params"], "run_dir": parameters["run_dir"]}
        plain_papermill(bed.path / "notebooks" / f"{name}.ipynb", folder.path / f"{name}.ipynb", parameters)
    return time.monotonic() - began, own_seconds(folder)


def batch(bed: Home, jobs: int) -> tuple[float, float]:
    """Run all clusters with our batch; return wall time and the own time on the critical path in seconds."""
    began = time.monotonic()
    done = bed.runbook("batch", *(bed.params(name) for name in bed.clusters), "--jobs", str(jobs), "--json")
    wall = time.monotonic() - began
    said = json.loads(done.stdout)
    if not said["ok"]:
        raise RuntimeError(f"the batch is not ok: {json.dumps(said['failures'])[:2000]}")
    folders = sorted((RunFolder(Path(each["run_dir"])) for each in said["clusters"]), key=span)
    # a cluster goes to the lane that is free first
    lanes = [(0.0, 0.0)] * jobs
    for folder in folders:
        lanes.sort()
        lanes[0] = span(folder)[1].timestamp(), lanes[0][1] + own_seconds(folder)
    return wall, max(lanes)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2, help="clusters at a time")
    parser.add_argument("--loop", type=int, default=2, help="clusters that plain papermill goes over; 0 for all")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--network", default="127.88", help="127.A of the twins; they take 127.A.0, 127.A.1 ...")
    given = parser.parse_args()
    loops: list[tuple[float, float]] = []
    batches: list[tuple[float, float]] = []
    with home([f"{given.network}.{number}" for number in range(given.clusters)]) as bed:
        looped = bed.clusters[: given.loop or None]
        for _ in range(given.repeat):
            # half of the loop before the batch and half after it: a machine that gets busy hits both
            half = (len(looped) + 1) // 2
            loops += [loop(bed, cluster) for cluster in looped[:half]]
            batches.append(batch(bed, given.jobs))
            loops += [loop(bed, cluster) for cluster in looped[half:]]
    plain_wall, plain_own = (statistics.mean(each) * given.clusters for each in zip(*loops, strict=True))
    our_wall, our_own = (statistics.median(each) for each in zip(*batches, strict=True))
    ratio = (our_wall - our_own) / (plain_wall - plain_own)
    counted = "" if len(looped) == given.clusters else f" (measured on {len(looped)})"
    print(f"{given.clusters} clusters x {len(STAGES)} stages and the overview, mode plan, seconds")
    print(f"{'':32} {'wall':>8} {'own':>8} {'overhead':>9}")
    print(f"{'loop of plain papermill' + counted:32} {plain_wall:8.1f} {plain_own:8.1f} {plain_wall - plain_own:9.1f}")
    print(f"{f'runbook batch --jobs {given.jobs}':32} {our_wall:8.1f} {our_own:8.1f} {our_wall - our_own:9.1f}")
    print(f"ratio {ratio:.2f}, goal {GOAL:.2f}: {'holds' if ratio <= GOAL else 'does not hold'}")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
