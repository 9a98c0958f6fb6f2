"""Where a cluster's run stands, from its record alone."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.model import Verdict
from runbook_lib.params import load_params, project_root
from runbook_lib.runs.folder import RunFolder, latest_run
from runbook_lib.runs.show import Shown
from runbook_lib.stages import STAGES
from runbook_lib.views.html import badge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Params

NOT_STARTED = "not started"
_GOOD = (Verdict.OK, Verdict.WARN, Verdict.SKIPPED)


class Overview:
    """The state of one run."""

    def __init__(self, params: Params, folder: RunFolder | None) -> None:
        self.params = params
        self.folder = folder
        self.states = folder.status() if folder is not None else {}

    def context(self) -> Shown:
        """Show the cluster and its run."""
        cluster = self.params.cluster
        return Shown.table(
            cluster.name,
            {
                "topology": f"{cluster.topology.value}, {len(cluster.hosts)} hosts, {self.params.world_size} cards",
                "hosts": ", ".join(f"{host.name} {host.address}" for host in cluster.hosts),
                "model": f"{self.params.model.name}, {self.params.model.format}",
                "kind": "rehearsal on the twin" if self.params.twin else "real hosts",
                "run": self.folder.run_id if self.folder else "no run yet",
            },
        )

    def stages(self) -> Shown:
        """Show every stage with its state."""
        rows = [(stage, self.states.get(stage.name, NOT_STARTED)) for stage in STAGES]
        cells = "".join(
            f"<tr><td>{escape(stage.title)}</td><td>{_shown(state)}</td><td><code>{stage.notebook}.ipynb</code></td></tr>"
            for stage, state in rows
        )
        text = "\n".join(f"  {stage.title}: {state}" for stage, state in rows)
        return Shown(f"<table>{cells}</table>", text, {stage.name: state for stage, state in rows})

    def next_step(self) -> Shown:
        """Name the first stage that is not done."""
        file = f"params/{self.params.cluster.name}.yaml"
        for stage in STAGES:
            if self.states.get(stage.name) not in _GOOD:
                notebook = f"notebooks/{stage.notebook}.ipynb"
                return Shown.line(f"next: {stage.title}: open {notebook}, or: runbook run {file} --mode apply")
        return Shown.line(f"all stages are done; later look for drift with: runbook check {file}")


def _shown(state: str) -> str:
    return str(badge(state)) if state in set(Verdict) else escape(state)


def open_overview(
    params: str | Path, overrides: Mapping[str, Any] | str | None = None, run_dir: str | Path = ""
) -> Overview:
    """Read the params and the run: that of `run_dir`, else the cluster's newest."""
    root = project_root()
    read = load_params(params, overrides)
    if run_dir:
        path = Path(run_dir)
        return Overview(read, RunFolder(path if path.is_absolute() else root / path))
    return Overview(read, latest_run(root / "outputs", read.cluster.name))
