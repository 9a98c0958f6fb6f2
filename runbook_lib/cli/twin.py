"""Commands of the emulated cluster: up, down, status, faults, inject, clear, reboot."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runbook_lib.cli.base import Json, ParamsFile, app, emit, twin_of
from runbook_lib.model import to_json

twin_app = typer.Typer(
    no_args_is_help=True, help="The emulated cluster: up, down, status, faults, inject, clear, reboot."
)
app.add_typer(twin_app, name="twin")


def _twin_status(found: Any, *, as_json: bool) -> None:  # noqa: ANN401 - TwinStatus, imported late
    if as_json:
        emit({"ok": found.up, "failures": [] if found.up else [{"seen": "the twin is down"}], **to_json(found)})
        return
    print(f"{'up' if found.up else 'down'}{f', level {found.level}' if found.level else ''}")
    for host in found.hosts:
        print(f"  {host.name} {host.address}:{host.port} {'up' if host.up else 'down'}")
    for reason in found.reasons:
        print(f"  not shown: {reason}")
    for fault in found.faults:
        print(f"  fault: {fault}")


@twin_app.command("up")
def twin_up(
    params: ParamsFile,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start with bare servers.")] = False,
    as_json: Json = False,
) -> None:
    """Power the twin on; does nothing when it is on."""
    from runbook_lib.twin import lifecycle

    _twin_status(lifecycle.up(*twin_of(params), fresh=fresh), as_json=as_json)


@twin_app.command("down")
def twin_down(params: ParamsFile) -> None:
    """Power the twin off; its files stay."""
    from runbook_lib.twin import lifecycle

    lifecycle.down(*twin_of(params))
    print("down")


@twin_app.command("status")
def twin_status(params: ParamsFile, as_json: Json = False) -> None:
    """Say what the twin is doing."""
    from runbook_lib.twin import lifecycle

    found = lifecycle.status(*twin_of(params))
    _twin_status(found, as_json=as_json)
    raise typer.Exit(0 if found.up else 1)


@twin_app.command("faults")
def twin_faults(as_json: Json = False) -> None:
    """List the faults that can be injected."""
    from runbook_lib.twin import lifecycle

    known = lifecycle.faults()
    if as_json:
        emit({"ok": True, "failures": [], "faults": to_json(known)})
        return
    for fault in known:
        print(f"{fault.name}: {fault.what}")


HostName = Annotated[str, typer.Option("--host", help="Name of a host in the params.")]
CardId = Annotated[int | None, typer.Option("--card", help="Card number, for faults of a card.")]


@twin_app.command("inject")
def twin_inject(
    params: ParamsFile,
    fault: Annotated[str, typer.Argument(help="A name of `runbook twin faults`.")],
    host: HostName,
    card: CardId = None,
    as_json: Json = False,
) -> None:
    """Break something on the twin."""
    from runbook_lib.twin import lifecycle

    read, folder = twin_of(params)
    _twin_status(lifecycle.inject(read, folder, fault, host, card), as_json=as_json)


@twin_app.command("clear")
def twin_clear(params: ParamsFile, as_json: Json = False) -> None:
    """Mend all that was injected."""
    from runbook_lib.twin import lifecycle

    _twin_status(lifecycle.clear(*twin_of(params)), as_json=as_json)


@twin_app.command("reboot")
def twin_reboot(params: ParamsFile, host: HostName, as_json: Json = False) -> None:
    """Reboot a host: its processes die, its files stay."""
    from runbook_lib.twin import lifecycle

    read, folder = twin_of(params)
    _twin_status(lifecycle.reboot(read, folder, host), as_json=as_json)
