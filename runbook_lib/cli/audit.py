"""Commands of the record's integrity: audit sign, audit verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runbook_lib.cli.base import Json, RunWord, app, emit, say
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from runbook_lib.runs.audit import ClusterAudit, RunAudit
    from runbook_lib.runs.folder import RunFolder

audit_app = typer.Typer(no_args_is_help=True, help="Sign a run's record, and verify records.")
app.add_typer(audit_app, name="audit")


@audit_app.command("sign")
def audit_sign(
    run: RunWord,
    key: Annotated[str, typer.Option(help="An SSH private key, Ed25519 or RSA.")] = "",
    as_json: Json = False,
) -> None:
    """Sign a run with an SSH key; a run that was left open is closed first."""
    from runbook_lib.runs.close import close_by_hand, sign_run
    from runbook_lib.runs.find import find_run
    from runbook_lib.runs.manifest import MANIFEST, seal, unseal, verify_manifest
    from runbook_lib.runs.signers import KEY, config_folder, signing_key
    from runbook_lib.runs.who import operator

    folder = find_run(run)
    file = Path(key).expanduser() if key else signing_key(folder.path.parent.name)
    if file is None:
        raise UsageError(
            "there is no signing key", next_command=f"ssh-keygen -t ed25519 -f {config_folder() / KEY}; or --key FILE"
        )
    if not (folder.path / MANIFEST).is_file():
        unseal(folder)
        close_by_hand(folder, operator(), say)
    problem = verify_manifest(folder)
    if problem:
        raise UsageError(f"{folder.run_id}: {problem}; what does not hold is not signed")
    fingerprint = sign_run(folder, file)
    seal(folder)
    if as_json:
        emit({"ok": True, "failures": [], "run_dir": str(folder.path), "key": fingerprint})
    else:
        print(f"signed {folder.run_id} with {fingerprint}\nnext: runbook audit verify {folder.run_id}")


@audit_app.command("verify")
def audit_verify(
    what: Annotated[str, typer.Argument(help="A run's folder or id, or a cluster (name, folder, params file).")],
    allowed_signers: Annotated[str, typer.Option(help="A file of who may sign; see docs/audit.md.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the hosts for the newest run.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a record holds, and name the first thing that does not."""
    from runbook_lib.params import project_root
    from runbook_lib.runs.audit import audit_cluster, audit_run, recorded_heads
    from runbook_lib.runs.find import find_cluster, find_run
    from runbook_lib.runs.signers import trust

    given = Path(allowed_signers).expanduser() if allowed_signers else None
    root = project_root()
    parent = find_cluster(what)
    if parent is None:
        folder = find_run(what)
        found = audit_run(folder, trust(root / "outputs", folder.path.parent.name, given))
        ok = not found.problems
        result = {"ok": ok, "cluster": folder.path.parent.name, "anchor": None, "runs": [_run(found)]}
        result["failures"] = [_problem(each) for each in found.problems]
    else:
        heads = None if offline else recorded_heads(parent, root)
        whole = audit_cluster(parent, trust(root / "outputs", parent.name, given), heads, offline=offline)
        ok = whole.ok
        result = cluster_json(whole)
    if as_json:
        emit(result)
    else:
        _print(result)
    raise typer.Exit(0 if ok else 1)


def _problem(each: Any) -> dict[str, str]:  # noqa: ANN401 - Problem, imported late
    return {"verdict": each.holds, "seen": each.seen, "next_command": each.next_command}


def _run(found: RunAudit) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "run_id": found.run_id,
        "verdict": found.verdict,
        "seen": found.problems[0].seen if found.problems else "",
        "signer": found.signer,
        "events": len(found.chain),
        "head": found.chain[-1].hash if found.chain else "",
        "previous": manifest.previous.run_id if manifest is not None and manifest.previous is not None else "",
    }


def cluster_json(whole: ClusterAudit) -> dict[str, Any]:
    """Return the object that `runbook audit verify CLUSTER --json` prints; see docs/json.md."""
    anchor = whole.anchor
    return {
        "ok": whole.ok,
        "cluster": whole.cluster,
        "anchor": {"state": anchor.holds, "why": anchor.why, "hosts": dict(anchor.hosts)},
        "runs": [_run(run) for run in whole.runs],
        "failures": [_problem(each) for each in whole.problems],
    }


def _print(result: dict[str, Any]) -> None:
    for run in result["runs"]:
        signer = f", signed by {run['signer']}" if run["signer"] else ""
        print(f"{run['run_id']}: {run['verdict']}{signer}{': ' if run['seen'] else ''}{run['seen']}")
    if result["anchor"] is not None:
        print(f"anchor: {result['anchor']['state']}: {result['anchor']['why']}")
    if result["ok"]:
        print("ok")
        return
    first = result["failures"][0]
    print(f"not ok: {first['verdict']}: {first['seen']}")
    if first["next_command"]:
        say(f"next: {first['next_command']}")


def with_own_key(cluster: str) -> None:
    """Give a rehearsal a signing key of its own, trusted for it alone; without a place for one it stays unsigned."""
    from runbook_lib.runs.signers import make_key, signing_key
    from runbook_lib.runs.who import operator

    if signing_key(cluster) is None:
        try:
            say(f"made a signing key for {cluster} alone: {make_key(cluster, operator())}")
        except UsageError as error:
            say(f"the run will not be signed: {error}")


def say_whether_it_holds(folder: RunFolder) -> None:
    """Verify a run that has just ended, and say what came."""
    from runbook_lib.params import project_root
    from runbook_lib.runs.audit import audit_run
    from runbook_lib.runs.signers import trust

    found = audit_run(folder, trust(project_root() / "outputs", folder.path.parent.name))
    signer = f", signed by {found.signer}" if found.signer else ""
    say(f"audit of {found.run_id}: {found.verdict}{signer}{''.join(f'; {each.seen}' for each in found.problems)}")
    say(f"verify it yourself: runbook audit verify {found.run_id}")
