"""What all commands share: the app, the usual arguments, and the two ways to speak (stdout data, stderr talk)."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runbook_lib.errors import UsageError
from runbook_lib.model import to_json

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="stdout is data, stderr is talk; exit 0 ok, 1 not ok, 2 bad usage or config.",
)
SIGINT_EXIT, SIGTERM_EXIT = 130, 143

ParamsFile = Annotated[str, typer.Argument(help="A params file, like params/twin-2x8-direct.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; see docs/json.md.")]
Override = Annotated[list[str], typer.Option("--set", help="Override a value: --set service.port=1035 (JSON or text).")]
RunWord = Annotated[str, typer.Argument(help="A run's folder or id; of a cluster or params file the newest run.")]
Yes = Annotated[bool, typer.Option("--yes", help="Approve what the params' policy allows; never destructive.")]
Approve = Annotated[
    list[str], typer.Option(help="Approve the plan with this digest, or all plans in a file of `plan --save`.")
]
Stages = Annotated[list[str], typer.Option("--stage", help="Only this stage; may be given more than once.")]


def say(line: str) -> None:
    """Talk to the user on stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


def emit(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(to_json(value), ensure_ascii=False, indent=1) + "\n")


def overrides_of(given: list[str]) -> str:
    """Return the `--set` options as JSON text. Raises UsageError."""
    values: dict[str, Any] = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {item!r}; right would be --set KEY=VALUE, like --set service.port=1035")
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return json.dumps(values) if values else ""


def twin_of(params: str) -> tuple[Any, Path]:
    """Return the params and the folder of their twin. Raises UsageError when they describe real hosts."""
    from runbook_lib.params import load_params, project_root

    read = load_params(params)
    if read.twin is None:
        raise UsageError(f"{params} describes real hosts: it has no twin block", next_command="ls params/twin-*.yaml")
    return read, project_root() / "outputs" / read.cluster.name / ".twin"
