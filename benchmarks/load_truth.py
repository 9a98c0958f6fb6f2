"""Lay `runbook bench` beside the truth of a server, and beside other load generators; exit 1 when a bound is missed.

    python benchmarks/load_truth.py --streams 200                   # small: do counts and errors hold?
    python benchmarks/load_truth.py --streams 1000 --timing         # quiet machine: times, CPU, memory as well
    python benchmarks/load_truth.py --timing --peer 'name=COMMAND with {url} {concurrency} {requests}'

The client is pinned to the first core, the server to the last. A peer is only measured for CPU per 1000 tokens of the
whole process; how far both are from the truth is the business of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent
_OUTPUT, _INPUT = 128, 512
_TTFT_P50_MS, _TTFT_P99_MS, _ITL_P99_MS = 0.1, 1.0, 0.1
_THROUGHPUT, _IN_FLIGHT, _RSS_MB, _START_S = 0.995, 0.995, 60.0, 1.0
_PEER_RATIO = 0.8


@dataclass
class Case:
    """One run: what the server does, and what the client is told."""

    name: str
    server: tuple[str, ...] = ()
    processes: int = 1
    hogs: int = 0
    error: str = ""
    timed: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass
class Ran:
    """What a client left: its last line, exit code, CPU seconds, resident MB."""

    said: dict[str, Any]
    code: int
    cpu_s: float
    rss_mb: float
    began_ns: int


CASES = (
    Case("plain", timed=True),
    Case("thinking", ("--reasoning", "0.5")),
    Case("four tokens a chunk", ("--burst", "4")),
    Case("every 7th is refused with 503", ("--bad", "error"), error="http_503"),
    Case("every 7th is cut", ("--bad", "cut"), error="cut"),
    Case("two processes", processes=2),
    Case("starved of CPU", hogs=6),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--waves", type=int, default=2)
    parser.add_argument("--timing", action="store_true", help="judge times, CPU and memory; needs a quiet machine")
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    parser.add_argument("--peer", action="append", default=[], help="NAME=COMMAND, measured beside the first case")
    options = parser.parse_args()
    failed = 0
    for case in CASES:
        if options.only in case.name:
            measure(case, options)
            failed += bool(case.problems)
            print(f"{'FAIL' if case.problems else 'ok':5} {case.name}" + "".join(f"\n      {p}" for p in case.problems))
    return 1 if failed else 0


def measure(case: Case, options: argparse.Namespace) -> None:
    requests = options.waves * options.streams
    truth, ours = run(case, requests, options.streams, ours_command(case))
    check_counts(case, truth, ours, requests)
    if case.timed and options.timing:
        check_times(case, truth, ours, options.streams)
        for peer in options.peer:
            name, _, command = peer.partition("=")
            peer_truth, theirs = run(case, requests, options.streams, command)
            mine, other = (1000 * each.cpu_s / t["tokens"] for each, t in ((ours, truth), (theirs, peer_truth)))
            print(f"      CPU s per 1000 tokens: ours {mine:.4f}, {name} {other:.4f}, ratio {mine / other:.2f}")
            if mine > _PEER_RATIO * other:
                case.problems.append(f"CPU is {mine / other:.2f} of {name}, at most {_PEER_RATIO} was wanted")


def ours_command(case: Case) -> str:
    return (
        f"{sys.executable} -P -m runbook_lib bench --url {{url}} --model mock --concurrency {{concurrency}} "
        f"--requests {{requests}} --input-tokens {_INPUT} --output-tokens {_OUTPUT} --processes {case.processes} --json"
    )


def run(case: Case, requests: int, streams: int, command: str) -> tuple[dict[str, Any], Ran]:
    """Run one client against a fresh server; nothing outlives this call."""
    cores = sorted(os.sched_getaffinity(0))
    argv = [sys.executable, str(_ROOT / "benchmarks" / "load_mock.py"), *case.server]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None  # noqa: S101 - a pipe was asked for
        assert server.stdout is not None  # noqa: S101 - as above
        hogs: list[subprocess.Popen[bytes]] = []
        try:
            os.sched_setaffinity(server.pid, {cores[-1]})
            port = int(server.stdout.readline())
            hogs = [_pinned([sys.executable, "-c", "while True: pass"], cores[0]) for _ in range(case.hogs)]
            text = command.format(url=f"http://127.0.0.1:{port}", concurrency=streams, requests=requests)
            ran = _client(shlex.split(text), cores if case.processes > 1 else cores[:1])
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
            server.stdin.close()
        return json.loads(server.stdout.readline()), ran


def _pinned(argv: list[str], core: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(argv)
    os.sched_setaffinity(process.pid, {core})
    return process


def _client(argv: list[str], cores: list[int]) -> Ran:
    began_ns = time.monotonic_ns()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
            os.sched_setaffinity(0, before)
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        os.sched_setaffinity(0, before)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    said = json.loads(lines[-1]) if lines else {}
    cpu_s = usage.ru_utime + usage.ru_stime
    return Ran(said, process.returncode, cpu_s, usage.ru_maxrss / 1000, began_ns)


def check_counts(case: Case, truth: dict[str, Any], ran: Ran, requests: int) -> None:
    point = ran.said["points"][0]
    failed = sum(point["errors"].values())
    expected = {case.error: truth["bad"]} if case.error else {}
    facts = [
        (
            truth["requests"] == requests == point["requests"],
            f"{point['requests']} requests, really {truth['requests']}",
        ),
        (point["errors"] == expected, f"errors {point['errors']}, really {expected}"),
        (round(point["output_tokens"] * (requests - failed)) == truth["tokens"], f"tokens, really {truth['tokens']}"),
        (ran.code == (0 if ran.said["ok"] else 1), f"exit code {ran.code}"),
        (point["ok"] or bool(point["reason"]), "not ok without a reason"),
    ]
    if case.error:
        facts.append((not point["ok"], "a point with errors is ok"))
    if case.hogs:
        facts.append((not point["ok"] and "load generator" in point["reason"], f"starved, and said: {point['reason']}"))
    case.problems += [words for holds, words in facts if not holds]
    if not point["ok"]:
        print(f"      it says: {point['reason'][:160]}")


def check_times(case: Case, truth: dict[str, Any], ran: Ran, streams: int) -> None:
    point = ran.said["points"][0]
    ideal = streams * _OUTPUT / (0.2 + (_OUTPUT - 1) * 0.05)
    rows = [
        ("TTFT error p50, ms", abs(point["ttft_ms"]["p50"] - _at(truth["ttft_ms"], 0.5)), _TTFT_P50_MS),
        ("TTFT error p99, ms", abs(point["ttft_ms"]["p99"] - _at(truth["ttft_ms"], 0.99)), _TTFT_P99_MS),
        ("ITL error p99, ms", abs(point["itl_ms"]["p99"] - _at(truth["itl_ms"], 0.99)), _ITL_P99_MS),
        ("missing throughput", 1 - truth["tokens"] / truth["seconds"] / ideal, 1 - _THROUGHPUT),
        ("missing in flight", 1 - truth["in_flight"] / streams, 1 - _IN_FLIGHT),
        ("RSS, MB", ran.rss_mb, _RSS_MB),
        ("first request after, s", (truth["first_ns"] - ran.began_ns) / 1e9, _START_S),
    ]
    for name, value, bound in rows:
        print(f"      {name}: {value:.4g} (at most {bound:.4g})")
        if value > bound:
            case.problems.append(f"{name} is {value:.4g}, at most {bound:.4g} was wanted")
    print(f"      CPU s per 1000 tokens, whole process: {1000 * ran.cpu_s / truth['tokens']:.4f}")


def _at(values: list[float], share: float) -> float:
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


if __name__ == "__main__":
    sys.exit(main())
