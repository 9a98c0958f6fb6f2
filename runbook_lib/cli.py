"""The command line: stdout is data, stderr is talk; exit 0 ok, 1 not ok, 2 bad usage or config."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from runbook_lib.errors import RunbookError, UsageError
from runbook_lib.model import Verdict, to_json

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
params_app = typer.Typer(no_args_is_help=True, help="Params files: new, validate, schema.")
twin_app = typer.Typer(
    no_args_is_help=True, help="The emulated cluster: up, down, status, faults, inject, clear, reboot."
)
app.add_typer(params_app, name="params")
app.add_typer(twin_app, name="twin")

talk = Console(stderr=True, highlight=False, soft_wrap=True)
DEMO_PARAMS = "params/demo.yaml"
SIGINT_EXIT, SIGTERM_EXIT = 130, 143

ParamsFile = Annotated[str, typer.Argument(help="A params file, like params/twin-2x8-direct.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; see docs/json.md.")]
Override = Annotated[list[str], typer.Option("--set", help="Override a value: --set service.port=1035 (JSON or text).")]
Stages = Annotated[list[str], typer.Option("--stage", help="Only this stage; may be given more than once.")]


def say(line: str) -> None:
    """Talk to the user on stderr."""
    talk.print(line, markup=False)


def emit(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(to_json(value), ensure_ascii=False, indent=1) + "\n")


def _overrides(given: list[str]) -> str:
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


# --- runs ---------------------------------------------------------------------------------------------------------


@app.command()
def run(  # noqa: PLR0913, PLR0917 - the options of one command
    params: ParamsFile,
    mode: Annotated[str, typer.Option(help="observe, plan or apply.")] = "plan",
    yes: Annotated[
        bool, typer.Option("--yes", help="Approve what the params' policy allows; never destructive.")
    ] = False,
    approve: Annotated[list[str], typer.Option(help="Approve the plan with this digest.")] = [],
    stage: Stages = [],
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Run the stages' notebooks headless, and write a record and a report."""
    from runbook_lib.runs.runner import RunOptions

    options = RunOptions(params, mode, _overrides(override), tuple(stage), yes, tuple(approve))
    _finish(_execute(options), as_json=as_json)


@app.command()
def plan(params: ParamsFile, stage: Stages = [], override: Override = [], as_json: Json = False) -> None:
    """Show what a run would change; the same as run --mode plan."""
    from runbook_lib.runs.runner import RunOptions

    _finish(_execute(RunOptions(params, "plan", _overrides(override), tuple(stage))), as_json=as_json)


def _execute(options: Any) -> Any:  # noqa: ANN401 - RunOptions and RunOutcome, imported late
    from runbook_lib.runs.runner import run as execute

    return execute(options, say)


def _finish(outcome: Any, *, as_json: bool) -> NoReturn:  # noqa: ANN401 - RunOutcome, imported late
    if as_json:
        emit(outcome.to_json())
    else:
        _print_outcome(outcome)
    if outcome.stopped_by:
        raise typer.Exit(SIGINT_EXIT if outcome.stopped_by == "SIGINT" else SIGTERM_EXIT)
    raise typer.Exit(0 if outcome.ok else 1)


def _print_outcome(outcome: Any) -> None:  # noqa: ANN401 - see _finish
    from runbook_lib.model import Finding, Plan, from_json
    from runbook_lib.views.findings import findings_text
    from runbook_lib.views.plans import plan_text

    for stage in outcome.stages:
        waits = f", waits for {', '.join(stage['waits_for'])}" if stage["waits_for"] else ""
        print(f"{stage['name']}: {stage['verdict']}{waits}")
        bad = [
            each
            for each in from_json(list[Finding], stage["findings"])
            if each.verdict in {Verdict.FAIL, Verdict.UNKNOWN}
        ]
        if stage["error"]:
            print(f"  {stage['error']}")
        elif bad:
            print(findings_text(bad))
        if outcome.mode == "plan" and stage["plan"]:
            print(plan_text(from_json(Plan, stage["plan"])))
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by}; the record says where")
    print(f"{'ok' if outcome.ok else 'not ok'}")
    print(outcome.report)


@app.command()
def check(params: ParamsFile, stage: Stages = [], override: Override = [], as_json: Json = False) -> None:
    """Look for drift: what is on the hosts against what the params want. Changes nothing."""
    from runbook_lib.params import load_params
    from runbook_lib.runs.check import check_cluster, is_ok
    from runbook_lib.runs.runner import chosen_stages, failures
    from runbook_lib.views.findings import findings_text

    names = [each.name for each in chosen_stages(stage)]
    checks = check_cluster(load_params(params, _overrides(override)), names, say)
    ok = is_ok(checks)
    stages = [
        {"name": each.name, "verdict": each.verdict, "findings": to_json(each.findings), "error": ""} for each in checks
    ]
    if as_json:
        emit({"ok": ok, "stages": stages, "failures": failures(stages)})
    else:
        for each in checks:
            print(f"{each.name}: {each.verdict}")
            bad = [finding for finding in each.findings if finding.verdict not in {Verdict.OK, Verdict.SKIPPED}]
            if bad:
                print(findings_text(bad))
        print("ok" if ok else "not ok")
    raise typer.Exit(0 if ok else 1)


@app.command()
def status(params: ParamsFile, as_json: Json = False) -> None:
    """Say where the cluster's newest run stands, from its record."""
    from runbook_lib.runs.overview import open_overview

    view = open_overview(params)
    if view.folder is None:
        raise RunbookError(f"no run of {view.params.cluster.name} yet", next_command=f"runbook run {params}")
    shown = view.stages()
    good = {"ok", "warn", "skipped"}
    ok = all(state in good for state in shown.data.values())
    if as_json:
        states = [{"name": name, "state": state} for name, state in shown.data.items()]
        emit(
            {
                "ok": ok,
                "run_dir": str(view.folder.path),
                "stages": states,
                "failures": [each for each in states if each["state"] not in good],
            }
        )
    else:
        print(f"run {view.folder.run_id}\n{shown.text}\n{view.next_step().text}")
    raise typer.Exit(0 if ok else 1)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the twin up afterwards.")] = False,
    as_json: Json = False,
) -> None:
    """Take an emulated two-server cluster from bare to benchmarked, on a fresh twin of its own."""
    from runbook_lib.runs.runner import RunOptions
    from runbook_lib.twin import lifecycle

    params, folder = _twin_of(DEMO_PARAMS)
    say("starting two emulated servers, bare and joined back to back")
    try:
        level = lifecycle.up(params, folder, fresh=True)
        say(f"the twin is up, isolation level {level.level}")
        outcome = _execute(RunOptions(DEMO_PARAMS, "apply", yes=True))
    finally:
        if not keep:
            lifecycle.down(params, folder)
    _finish(outcome, as_json=as_json)


@app.command()
def diagnose(params: ParamsFile, override: Override = [], as_json: Json = False) -> None:
    """Collect the logs of all hosts and name the first error of each; changes nothing."""
    from runbook_lib.runs.runner import RunOptions

    _finish(_execute(RunOptions(params, "observe", _overrides(override), ("diagnose",))), as_json=as_json)


@app.command()
def lab(notebook: Annotated[str, typer.Argument(help="Notebook to open.")] = "notebooks/00_overview.ipynb") -> None:
    """Open JupyterLab on the notebooks."""
    from runbook_lib.params import project_root

    root = project_root()
    os.chdir(root)
    argv = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={root}"]
    os.execv(sys.executable, [*argv, str(root / notebook)])  # noqa: S606 - JupyterLab takes this process's place


@app.command()
def trust(
    params: ParamsFile,
    yes: Annotated[bool, typer.Option("--yes", help="Pin without asking; compare the fingerprints yourself.")] = False,
) -> None:
    """Show the host keys of a cluster, and pin them after you compared the fingerprints."""
    from runbook_lib.params import load_params, project_root
    from runbook_lib.remote import fetch_host_key, pin
    from runbook_lib.runs.cluster import known_hosts_file, targets

    read, root = load_params(params), project_root()
    known = known_hosts_file(read, root)
    for target in targets(read, root):
        key = fetch_host_key(target)
        print(f"{target.name} {target.address}:{target.port} {key.type} {key.fingerprint}")
        if yes or typer.confirm("is this the host's fingerprint?", err=True):
            known.parent.mkdir(parents=True, exist_ok=True)
            pin(known, target, key)
            say(f"pinned in {known}")


@app.command()
def explain(code: Annotated[str, typer.Argument(help="A finding code, like NET-GATEWAY-MISSING.")]) -> None:
    """Say what a finding means: cause, remedy, source; in English and Chinese."""
    from runbook_lib.ascend.catalogue import codes
    from runbook_lib.ascend.catalogue import explain as look_up

    if code not in codes():
        raise UsageError(f"no finding {code!r}", next_command="runbook explain NET-GATEWAY-MISSING")
    entry = look_up(code)
    for words in (entry.title, entry.why, entry.remedy, entry.source):
        print(f"{words.en}\n{words.zh}\n")


# --- params -------------------------------------------------------------------------------------------------------


@params_app.command("validate")
def params_validate(params: ParamsFile, override: Override = [], as_json: Json = False) -> None:
    """Read a params file and say every mistake with file:line."""
    from runbook_lib.params import load_params

    read = load_params(params, _overrides(override))
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


# --- twin ---------------------------------------------------------------------------------------------------------


def _twin_of(params: str) -> tuple[Any, Path]:
    from runbook_lib.params import load_params, project_root

    read = load_params(params)
    if read.twin is None:
        raise UsageError(f"{params} describes real hosts: it has no twin block", next_command="ls params/twin-*.yaml")
    return read, project_root() / "outputs" / read.cluster.name / ".twin"


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

    _twin_status(lifecycle.up(*_twin_of(params), fresh=fresh), as_json=as_json)


@twin_app.command("down")
def twin_down(params: ParamsFile) -> None:
    """Power the twin off; its files stay."""
    from runbook_lib.twin import lifecycle

    lifecycle.down(*_twin_of(params))
    print("down")


@twin_app.command("status")
def twin_status(params: ParamsFile, as_json: Json = False) -> None:
    """Say what the twin is doing."""
    from runbook_lib.twin import lifecycle

    found = lifecycle.status(*_twin_of(params))
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

    read, folder = _twin_of(params)
    _twin_status(lifecycle.inject(read, folder, fault, host, card), as_json=as_json)


@twin_app.command("clear")
def twin_clear(params: ParamsFile, as_json: Json = False) -> None:
    """Mend all that was injected."""
    from runbook_lib.twin import lifecycle

    _twin_status(lifecycle.clear(*_twin_of(params)), as_json=as_json)


@twin_app.command("reboot")
def twin_reboot(params: ParamsFile, host: HostName, as_json: Json = False) -> None:
    """Reboot a host: its processes die, its files stay."""
    from runbook_lib.twin import lifecycle

    read, folder = _twin_of(params)
    _twin_status(lifecycle.reboot(read, folder, host), as_json=as_json)


# --- entry --------------------------------------------------------------------------------------------------------


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
