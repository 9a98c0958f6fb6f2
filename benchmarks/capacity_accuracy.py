"""The simulation against published points: table S (MindIE, 4 x 8 910B) and C1-C4 (CloudMatrix384).

    python benchmarks/capacity_accuracy.py [--fit] [--params FILE]

Prints model, measured and error of every point, and exits 1 when a mean error is above its limit. `--fit` calibrates
the free constants to table S first, and prints what moves. Sources of the points: table S is read off the plots of
JunyangZhangUSTC.github.io (thinking-4, revised 2025-03); C is arXiv 2506.12708.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from runbook_lib.capacity.calibrate import FREE, Point, calibrate, errors, mean_errors
from runbook_lib.capacity.cloudmatrix import decode_point, prefill_point
from runbook_lib.capacity.level import Load, run_level
from runbook_lib.load.reference import published
from runbook_lib.params import load_params
from runbook_lib.runs.capacity import setup_of

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = tuple(
    Point(row["concurrency"], row["output_tokens_per_s"], row["ttft_s"], row["decode_ms"]) for row in published().rows
)
LIMITS = {"throughput": 0.02, "ttft": 0.06, "decode": 0.02}
# name, input tokens, batch per NPU (two dies), measured ms per token, limit
DECODE = (("C1", 2048, 112, 47.4, 0.15), ("C2", 4096, 96, 49.4, 0.15), ("C3", 4096, 8, 14.9, 0.25))
PREFILL = ("C4", 4096, 16384, 5655.0, 0.15)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default=str(ROOT / "params" / "example-4x8-switch.yaml"))
    parser.add_argument("--fit", action="store_true", help="calibrate to table S first")
    options = parser.parse_args()
    setup, load = setup_of(load_params(options.params)), Load()
    if options.fit:
        fit = calibrate(setup, load, PUBLISHED, progress=print)
        for name in FREE:
            print(f"{name}: {getattr(setup.constants, name):.4g} -> {getattr(fit.constants, name):.4g}")
        setup = replace(setup, constants=fit.constants)
    print(f"{setup.layout.name}, {setup.memory.blocks} blocks, 1000 requests of 512/512 a level")
    print("concurrency   tok/s published  error    TTFT s published  error   decode ms published  error")
    for point, row in zip(PUBLISHED, errors(setup, load, PUBLISHED), strict=True):
        level = run_level(setup, load, point.concurrency)
        print(
            f"{point.concurrency:11d} {level.output_tokens_per_s:7.0f} {point.output_tokens_per_s:9.0f} "
            f"{row['throughput']:+6.1%}   {level.ttft_mean_s:7.2f} {point.ttft_mean_s:9.2f} {row['ttft']:+6.1%} "
            f"    {level.decode_mean_ms:7.1f} {point.decode_mean_ms:9.1f} {row['decode']:+6.1%}"
        )
    good = True
    for name, mean in mean_errors(errors(setup, load, PUBLISHED)).items():
        good &= mean <= LIMITS[name]
        print(f"mean error {name}: {mean:.2%} (limit {LIMITS[name]:.0%})")
    for name, inputs, batch, measured, limit in DECODE:
        model = decode_point(inputs, 256, batch)
        error = model / measured - 1
        good &= abs(error) <= limit
        print(f"{name}: {model:.1f} ms per token, published {measured}: {error:+.1%} (limit {limit:.0%})")
    name, inputs, tokens, rate, limit = PREFILL
    model = prefill_point(inputs, tokens)
    error = model / rate - 1
    good &= abs(error) <= limit
    print(f"{name}: {model:.0f} prefill tokens/s per NPU, published {rate:.0f}: {error:+.1%} (limit {limit:.0%})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
