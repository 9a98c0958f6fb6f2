"""Commands of the emulated cluster: up, down, status, list, faults, inject, clear, hands, reboot."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from runbook_lib.cli.base import Json, ParamsFile, app, emit, twin_of
from runbook_lib.model import to_json

twin_app = typer.Typer(
    no_args_is_help=True, help="The emulated cluster: up, down, status, list, faults, inject, clear, hands, reboot."
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
    if found.skipped:
        print(f"  skipped: {found.skipped}")
    for entry in found.mended:
        print(f"  mended: {_where(entry)}")
    for entry in found.faults:
        print(f"  fault: {_where(entry)}: {entry['what']}")


def _where(entry: dict[str, Any]) -> str:
    card = "" if entry["card"] is None else f" card {entry['card']}"
    return f"{entry['fault']} on {entry['host']}{card}"


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
def twin_down(params: ParamsFile, as_json: Json = False) -> None:
    """Power the twin off; its files stay."""
    from runbook_lib.twin import lifecycle

    read, folder = twin_of(params)
    lifecycle.down(read, folder)
    if as_json:
        emit({"ok": True, "failures": [], **to_json(lifecycle.status(read, folder))})
        return
    print("down")


@twin_app.command("list")
def twin_list(as_json: Json = False) -> None:
    """List the twins of this project, and which of them are up."""
    from runbook_lib.params import project_root
    from runbook_lib.twin import lifecycle

    found = lifecycle.twins(project_root() / "outputs")
    if as_json:
        emit({"ok": True, "failures": [], "twins": to_json(found)})
        return
    for twin in found:
        print(f"{twin.name}: {f'up, pid {twin.pid}, level {twin.level}' if twin.up else 'down'}, {twin.hosts} hosts")


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
        print(f"{fault.name} ({fault.scope}, mended by {fault.remedy}): {fault.what}")


HostName = Annotated[str, typer.Option("--host", help="Name of a host in the params.")]
AnyHost = Annotated[str | None, typer.Option("--host", help="Only on this host.")]
AnyCard = Annotated[int | None, typer.Option("--card", help="Only on this card.")]
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
def twin_clear(
    params: ParamsFile,
    fault: Annotated[str | None, typer.Argument(help="Only this fault.")] = None,
    host: AnyHost = None,
    card: AnyCard = None,
    as_json: Json = False,
) -> None:
    """Undo what was injected, as if it had never been: all, or what matches."""
    from runbook_lib.twin import lifecycle

    _twin_status(lifecycle.clear(*twin_of(params), fault, host, card), as_json=as_json)


@twin_app.command("hands")
def twin_hands(
    words: Annotated[list[str], typer.Argument(help="A params file, and a fault unless --all is given.")],
    everything: Annotated[bool, typer.Option("--all", help="All that needs hands.")] = False,
    host: AnyHost = None,
    card: AnyCard = None,
    as_json: Json = False,
) -> None:
    """Send the technician: mends only what needs hands, like a cable."""
    from runbook_lib.errors import UsageError
    from runbook_lib.twin import lifecycle

    known = {fault.name for fault in lifecycle.faults()}
    named = [word for word in words if word in known]
    files = [word for word in words if word not in known]
    if len(files) != 1 or len(named) != (0 if everything else 1):
        raise UsageError(
            f"twin hands {' '.join(words)}; right would be one fault and one params file, or --all and a params file",
            next_command="runbook twin faults",
        )
    read, folder = twin_of(files[0])
    _twin_status(lifecycle.hands(read, folder, named[0] if named else None, host, card), as_json=as_json)


@twin_app.command("reboot")
def twin_reboot(params: ParamsFile, host: HostName, as_json: Json = False) -> None:
    """Reboot a host: its processes die, its files stay."""
    from runbook_lib.twin import lifecycle

    read, folder = twin_of(params)
    _twin_status(lifecycle.reboot(read, folder, host), as_json=as_json)
