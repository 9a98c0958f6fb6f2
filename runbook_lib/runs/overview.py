"""Where a cluster's run stands, from its record alone."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.model import Verdict
from runbook_lib.params import load_params, project_root
from runbook_lib.runs import events
from runbook_lib.runs.folder import INTERRUPTED, RunFolder, latest_run
from runbook_lib.runs.show import Shown
from runbook_lib.stages import STAGES
from runbook_lib.views.html import badge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Params
    from runbook_lib.stages import Stage

NOT_STARTED = "not started"
_GOOD = (Verdict.OK, Verdict.WARN, Verdict.SKIPPED)


class Overview:
    """The state of one run."""

    def __init__(self, params: Params, folder: RunFolder | None, params_file: str) -> None:
        self.params = params
        self._params_file = params_file
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

    def next_command(self) -> str:
        """Return the command that goes on from here."""
        file = self._params_file
        if self._interrupted():
            return f"runbook resume {file} --yes" if self._resumable() else f"runbook run {file} --mode apply --yes"
        if all(self.states.get(stage.name) in _GOOD for stage in STAGES):
            return f"runbook check {file}"
        return f"runbook run {file} --mode apply --yes"

    def next_step(self) -> Shown:
        """Name what was interrupted, else the first stage that is not done."""
        command = self.next_command()
        cut = self._interrupted()
        if cut is not None:
            return Shown.line(f"next: {cut.title} was interrupted; go on with: {command}")
        for stage in STAGES:
            if self.states.get(stage.name) not in _GOOD:
                return Shown.line(f"next: {stage.title}: open notebooks/{stage.notebook}.ipynb, or: {command}")
        return Shown.line(f"all stages are done; later look for drift with: {command}")

    def _interrupted(self) -> Stage[Any] | None:
        return next((stage for stage in STAGES if self.states.get(stage.name) == INTERRUPTED), None)

    def _resumable(self) -> bool:
        """Whether a runner began this run; one made by hand is gone on with by hand, or by a run of its own."""
        chain = events.read(self.folder.events) if self.folder is not None else []
        return any(event.kind == "run_start" and event.data.get("mode") == "apply" for event in chain)


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
        return Overview(read, RunFolder(path if path.is_absolute() else root / path), str(params))
    return Overview(read, latest_run(root / "outputs", read.cluster.name), str(params))
