"""Commands of the weights beside a run: verify, transfers."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from runbook_lib.cli.base import Json, Override, ParamsFile, app, emit, overrides_of, say
from runbook_lib.model import to_json

weights_app = typer.Typer(no_args_is_help=True, help="Weights beside a run: verify, transfers.")
app.add_typer(weights_app, name="weights")


@weights_app.command("verify")
def weights_verify(
    params: ParamsFile,
    full: Annotated[
        bool, typer.Option("--full/--quick", help="Hash every byte; quick looks at sizes, times and headers.")
    ] = True,
    override: Override = [],
    as_json: Json = False,
) -> None:
    """Look whether the weights on all hosts are still what they were when they came; changes nothing."""
    from runbook_lib.params import load_params
    from runbook_lib.runs.check import check_cluster, is_ok
    from runbook_lib.runs.cluster import Cluster
    from runbook_lib.runs.weights import verify
    from runbook_lib.views.findings import findings_text

    read = load_params(params, overrides_of(override))
    if not full:
        checks = check_cluster(read, ["weights"], say)
        ok = is_ok(checks)
        if as_json:
            found = [to_json(finding) for each in checks for finding in each.findings]
            bad = [each for each in found if each["verdict"] in {"fail", "unknown"}]
            emit({"ok": ok, "failures": bad, "findings": found})
        else:
            print(findings_text([finding for each in checks for finding in each.findings]))
        raise typer.Exit(0 if ok else 1)
    with contextlib.closing(Cluster(read)) as cluster:
        hosts = verify(cluster, say)
    ok = all(each.ok for each in hosts)
    if as_json:
        failures = [
            {"host": each.host, "seen": each.line, "next_command": f"runbook run {params} --mode apply --stage weights"}
            for each in hosts
            if not each.ok
        ]
        emit({"ok": ok, "failures": failures, "hosts": [{**to_json(each), "ok": each.ok} for each in hosts]})
    else:
        for each in hosts:
            print(each.line)
        print("ok" if ok else f"not ok\n  next: runbook run {params} --mode apply --stage weights")
    raise typer.Exit(0 if ok else 1)


@weights_app.command("transfers")
def weights_transfers(params: ParamsFile, override: Override = [], as_json: Json = False) -> None:
    """Say how far the newest download of every host is; the job goes on whether anybody looks or not."""
    from runbook_lib.params import load_params
    from runbook_lib.runs.cluster import Cluster
    from runbook_lib.runs.pace import size
    from runbook_lib.runs.weights import transfers

    with contextlib.closing(Cluster(load_params(params, overrides_of(override)))) as cluster:
        found = transfers(cluster)
    bad = [each for each in found if each.state in {"failed", "lost", "unknown"}]
    if as_json:
        total = {"done": sum(each.done for each in found), "total": sum(each.total for each in found)}
        failures = [
            {
                "host": each.host,
                "seen": f"{each.state}: {each.last}",
                "next_command": f"runbook run {params} --mode apply --stage weights",
            }
            for each in bad
        ]
        emit({"ok": not bad, "failures": failures, "cluster": total, "hosts": to_json(found)})
    else:
        for each in found:
            share = f" {size(each.done)} of {size(each.total)}" if each.total else ""
            print(f"{each.host}: {each.state}{share}  {each.last}")
    raise typer.Exit(1 if bad else 0)
