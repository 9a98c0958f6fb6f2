"""`python -m runbook_lib.load`: measure one point, print one JSON object.

stdout is the object, stderr is talk. Exit 0 when the point is ok, 1 when not, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RunbookError, UsageError
from runbook_lib.load.prompts import endpoint
from runbook_lib.load.spec import PointSpec
from runbook_lib.load.worker import measure

if TYPE_CHECKING:
    from runbook_lib.load.client import Progress
    from runbook_lib.load.point import Point

_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--worker"]:
        return _worker()
    options = _parser().parse_args(arguments)
    try:
        point = measure(_spec(options), on_progress=None if options.json else _talk)
    except RunbookError as error:
        _print(_failed(error), compact=options.json)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    failures = [] if point.ok else [{"message": point.reason, "next": _next_command(options, point)}]
    _print({"ok": point.ok, "failures": failures, "points": [point.to_json()]}, compact=options.json)
    return 0 if point.ok else 1


def _next_command(options: argparse.Namespace, point: Point) -> str:
    if point.errors or point.warmup_errors:
        target = endpoint(options.url)
        return f"curl -sS -i {target.scheme}://{target.authority}{target.path.replace('/chat/completions', '/models')}"
    return (
        f"python -m runbook_lib.load --url {options.url} --model {options.model} "
        f"--concurrency {max(1, options.concurrency // 2)} --requests {options.requests} "
        f"--input-tokens {options.input_tokens} --output-tokens {options.output_tokens}"
    )


def _worker() -> int:
    """Take a spec from stdin, talk in JSON lines; stdin stays open as long as somebody waits for us."""
    spec = PointSpec(**json.loads(_line(0)))
    try:
        point = measure(spec, on_progress=_report, lifeline=0)
    except RunbookError as error:
        _print({"error": {"message": error.message, "next": error.next_command}}, compact=True)
        return error.exit_code
    _print({"point": point.to_json()}, compact=True)
    return 0


def _line(fd: int) -> bytes:
    """Read one line without buffering beyond it: the rest of the pipe is the lifeline."""
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(fd, 64 * 1024)
        if not more:
            break
        data += more
    return data


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runbook_lib.load", description="Measure one point, closed loop.")
    parser.add_argument("--url", required=True, help="service root, .../v1 or .../chat/completions")
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, required=True, help="requests in flight")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--input-tokens", type=int, required=True)
    parser.add_argument("--output-tokens", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=0, help="requests before the point, not measured")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds per request")
    parser.add_argument("--max-lateness-ms", type=float, default=5.0, help="own lateness (p99) that is still ok")
    parser.add_argument("--ca-file", default="", help="CA that signed an https service's certificate")
    parser.add_argument("--api-key-env", default="", metavar="NAME", help="environment variable with the key")
    parser.add_argument("--seed", type=int, help="same prompts every time; a prefix cache then spoils the result")
    parser.add_argument("--raw", default="", metavar="FILE", help="write one JSON line per request")
    parser.add_argument("--json", action="store_true", help="one line, and no progress on stderr")
    return parser


def _spec(options: argparse.Namespace) -> PointSpec:
    key = os.environ.get(options.api_key_env, "") if options.api_key_env else ""
    if options.api_key_env and not key:
        raise UsageError(f"--api-key-env {options.api_key_env}: that variable is not set")
    return PointSpec(
        url=options.url,
        model=options.model,
        concurrency=options.concurrency,
        requests=options.requests,
        input_tokens=options.input_tokens,
        output_tokens=options.output_tokens,
        warmup_requests=options.warmup,
        timeout_s=options.timeout,
        max_lateness_ms=options.max_lateness_ms,
        ca_file=options.ca_file,
        api_key=key,
        seed=options.seed,
        raw_file=options.raw,
    )


def _failed(error: RunbookError) -> dict[str, Any]:
    return {"ok": False, "failures": [{"message": error.message, "next": error.next_command}], "points": []}


def _report(progress: Progress) -> None:
    _print({"progress": {name: getattr(progress, name) for name in ("phase", "done", "failed", "total")}}, compact=True)


def _talk(progress: Progress) -> None:
    sys.stderr.write(f"{progress.phase}: {progress.done}/{progress.total}, {progress.failed} failed\n")


def _print(value: dict[str, Any], *, compact: bool) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=None if compact else 2) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
