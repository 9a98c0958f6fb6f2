"""Commands of params files: new, validate, schema."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated

import typer

from runbook_lib.cli.base import Json, Override, ParamsFile, app, emit, overrides_of
from runbook_lib.errors import UsageError
from runbook_lib.model import to_json

params_app = typer.Typer(no_args_is_help=True, help="Params files: new, validate, schema.")
app.add_typer(params_app, name="params")


@params_app.command("validate")
def params_validate(params: ParamsFile, override: Override = [], as_json: Json = False) -> None:
    """Read a params file and say every mistake with file:line."""
    from runbook_lib.params import load_params

    read = load_params(params, overrides_of(override))
    summary = (
        f"{read.cluster.name}: {read.cluster.topology.value}, {len(read.cluster.hosts)} hosts, {read.world_size} cards"
    )
    if as_json:
        emit({"ok": True, "failures": [], "summary": summary, "params": to_json(read)})
    else:
        print(f"ok: {summary}")


@params_app.command("schema")
def params_schema_command() -> None:
    """Print the JSON schema of a params file."""
    from runbook_lib.params import params_schema

    sys.stdout.write(json.dumps(params_schema(), indent=1, sort_keys=True) + "\n")


@params_app.command("new")
def params_new(
    name: Annotated[str, typer.Argument(help="Name of the cluster; the file is params/NAME.yaml.")],
    like: Annotated[str, typer.Option(help="The example to begin with.")] = "example-2x8-direct",
) -> None:
    """Begin a params file from an example."""
    from runbook_lib.params import load_params, project_root

    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", name):
        raise UsageError(f"{name!r} is no cluster name; right would be letters, digits, dot and dash, like lab-2x8")
    folder = project_root() / "params"
    source, target = folder / f"{like}.yaml", folder / f"{name}.yaml"
    if target.exists():
        raise UsageError(f"{target} is there already; nothing was changed")
    if not source.is_file():
        raise UsageError(f"{source} is not there", next_command="ls params/")
    target.write_text(
        source.read_text(encoding="utf-8").replace(f"name: {like}\n", f"name: {name}\n"), encoding="utf-8"
    )
    try:
        load_params(target)
    except UsageError:
        target.unlink()
        raise
    print(f"{target}\nnext: edit every address in it, then: runbook params validate params/{name}.yaml")
