"""The twin's service over real HTTP against the simulation, at equal settings.

    python benchmarks/twin_vs_simulation.py [--params FILE] [--levels 1,64,400] [--requests-per-client N]
        [--factor N] [--output-tokens N]

The service runs in a process of its own on a loopback address, the project's load generator in another; the same
numbers of requests and the lengths that the service counted go into the simulation. Exits 1 when first-token or
decode time differ by more than 3 %. Lateness: how much later than planned a step's tokens left (twin), and how much
later than its arrival the client saw a token; both in real ms, so they weigh `time factor` times as much.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.capacity.level import Load, run_level
from runbook_lib.capacity.workload import Lengths
from runbook_lib.load.process import run_point
from runbook_lib.load.spec import PointSpec
from runbook_lib.params import load_params
from runbook_lib.runs.capacity import setup_of
from runbook_lib.twin.service_engine import EngineConfig
from runbook_lib.twin.service_http import BUSINESS, MANAGEMENT, METRICS, Service, ServiceConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "127.86.0.1"
MODEL = "deepseek-r1"
LIMIT = 0.03
ALONE = 1.0  # time factor at concurrency 1: with nothing to wait for, a real ms more would show
FAST = 5.0


@dataclass(frozen=True, slots=True)
class Case:
    """One level."""

    concurrency: int
    factor: float
    input_tokens: int
    output_tokens: int
    requests: int


def case_of(concurrency: int, options: argparse.Namespace) -> Case:
    """Return a case; with the defaults each finishes within about 20 s of real time."""
    per_client, factor = options.requests_per_client, options.factor
    if concurrency == 1:
        return Case(1, factor or ALONE, 2048, 64, 2 * per_client)
    return Case(concurrency, factor or FAST, 512, options.output_tokens, per_client * concurrency)


async def serve(params: str, factor: float) -> None:
    """Serve until SIGTERM; the first line of stdout is the port, the last one the lateness."""
    setup = setup_of(load_params(params))
    planes = {BUSINESS: (ADDRESS, 0), MANAGEMENT: (ADDRESS, 0), METRICS: (ADDRESS, 0)}
    service = Service(
        ServiceConfig(MODEL, EngineConfig(setup, setup.memory.blocks, factor), monitor=True, planes=planes)
    )
    await service.start()
    print(service.ports[0], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    late = service.engine.lateness
    await service.close()
    print(json.dumps({"mean_ms": late.total_ms / max(1, late.steps), "worst_ms": late.worst_ms}), flush=True)


@contextlib.contextmanager
def service(params: str, factor: float) -> Iterator[tuple[int, dict[str, float]]]:
    """Run the service in a process; its lateness is in the dict afterwards."""
    argv = [sys.executable, __file__, "--serve", str(factor), "--params", params]
    lateness: dict[str, float] = {}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout or io.StringIO()  # a pipe, as asked for
            yield int(said.readline()), lateness
            process.terminate()
            lateness |= json.loads(said.readline())
        finally:
            process.terminate()


def compare(params: str, case: Case) -> bool:
    """Measure and simulate one level; print both."""
    with service(params, case.factor) as (port, lateness):
        point = run_point(
            PointSpec(
                url=f"http://{ADDRESS}:{port}",
                model=MODEL,
                concurrency=case.concurrency,
                requests=case.requests,
                input_tokens=case.input_tokens,
                output_tokens=case.output_tokens,
                warmup_requests=case.concurrency,
                warmup_output_tokens=1,
                max_lateness_ms=1000.0,
                seed=7,
            )
        )
    if point.ttft_ms is None or point.tpot_ms is None or point.client_lateness_ms is None or point.errors:
        print(f"concurrency {case.concurrency}: {point.reason} {point.errors} {point.error_samples}")
        return False
    load = Load(Lengths(point.input_tokens), Lengths(case.output_tokens), case.requests)
    level = run_level(setup_of(load_params(params)), load, case.concurrency)
    ttft_s, decode_ms = point.ttft_ms.mean * case.factor / 1e3, point.tpot_ms.mean * case.factor
    ttft, decode = ttft_s / level.ttft_mean_s - 1, decode_ms / level.decode_mean_ms - 1
    good = abs(ttft) <= LIMIT and abs(decode) <= LIMIT
    print(
        f"{case.concurrency:11d} {case.factor:6g} {ttft_s:9.3f} {level.ttft_mean_s:9.3f} {ttft:+6.1%} "
        f"{decode_ms:9.2f} {level.decode_mean_ms:9.2f} {decode:+6.1%} "
        f"{lateness['mean_ms']:8.2f} {lateness['worst_ms']:7.1f} {point.client_lateness_ms.mean:8.2f} "
        f"{point.client_lateness_ms.p99:7.2f}  {'' if good else 'OFF'}",
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default=str(ROOT / "params" / "example-4x8-switch.yaml"))
    parser.add_argument("--levels", default="1,64,400")
    parser.add_argument("--requests-per-client", type=int, default=3)
    parser.add_argument("--factor", type=float, default=0.0, help="time factor of all levels")
    parser.add_argument("--output-tokens", type=int, default=128, help="of all levels but 1")
    parser.add_argument("--serve", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.params, options.serve))
        return 0
    print(
        "               time    TTFT s    TTFT s           decode ms decode ms          twin late ms   client late ms"
    )
    print("concurrency  factor      HTTP simulated  error      HTTP simulated  error     mean   worst     mean     p99")
    cases = [case_of(int(word), options) for word in options.levels.split(",")]
    good = [compare(options.params, case) for case in cases]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
