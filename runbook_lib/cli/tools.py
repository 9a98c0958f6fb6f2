"""Commands beside a run: lab, trust, explain."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from runbook_lib.cli.base import ParamsFile, app, say
from runbook_lib.errors import UsageError


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
