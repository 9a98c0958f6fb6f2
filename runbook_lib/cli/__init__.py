"""The command line: stdout is data, stderr is talk; exit 0 ok, 1 not ok, 2 bad usage or config."""

from __future__ import annotations

import signal
import sys

import typer

# importing a module registers its commands, in the order in which `runbook --help` lists them
from runbook_lib.cli import (
    audit,
    batch,
    bench,
    bench_read,
    bench_tune,
    capacity,
    params,
    parse,
    record,
    runs,
    tools,
    twin,
    undo,
    weights,
)
from runbook_lib.cli.base import SIGINT_EXIT, app, emit, say
from runbook_lib.errors import RunbookError

__all__ = [
    "app",
    "audit",
    "batch",
    "bench",
    "bench_read",
    "bench_tune",
    "capacity",
    "main",
    "params",
    "parse",
    "record",
    "runs",
    "tools",
    "twin",
    "undo",
    "weights",
]


def main() -> None:
    """Run a command; every failure ends with one message and the next command, never with a traceback."""
    as_json = "--json" in sys.argv
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = SIGINT_EXIT
    except KeyboardInterrupt:
        say("stopped")
        code = SIGINT_EXIT
    except OSError as error:
        say(f"{error.filename or 'the operating system'}: {error.strerror}")
        code = 1
    except RunbookError as error:
        _report(error, as_json=as_json)
        code = error.exit_code
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        say(f"{error.format_message()}\n  next: runbook --help")  # a mistake on the command line
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: RunbookError, *, as_json: bool) -> None:
    if as_json:
        problems = getattr(error, "problems", [error.message])
        emit({"ok": False, "failures": [{"seen": problem, "next_command": error.next_command} for problem in problems]})
    say(str(error))
