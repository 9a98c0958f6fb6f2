"""A bed for the notebook benchmarks: a project folder with twins of its own, and plain papermill beside ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import papermill

from runbook_lib.runs import events
from runbook_lib.runs.folder import RunFolder, new_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = "twin-2x8-direct"


class Home:
    """A project folder below the temporary folder, with one params file and twin for each cluster."""

    def __init__(self, path: Path, networks: Sequence[str]) -> None:
        self.path = path
        self.clusters = [f"bench{number}" for number in range(len(networks))]
        (path / "params").mkdir()
        (path / "outputs").mkdir()
        (path / "notebooks").symlink_to(PROJECT / "notebooks")
        text = (PROJECT / "params" / f"{SOURCE}.yaml").read_text(encoding="utf-8")
        old = text.rpartition("network: ")[2].split()[0]
        for name, network in zip(self.clusters, networks, strict=True):
            made = text.replace(SOURCE, name).replace(old, network)
            (path / self.params(name)).write_text(made, encoding="utf-8")

    def params(self, cluster: str) -> str:
        """Return the path of a cluster's params file, from this folder."""
        return f"params/{cluster}.yaml"

    def runbook(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours in this folder."""
        command = [sys.executable, "-m", "runbook_lib", *argv]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(command, cwd=self.path, env=env, capture_output=True, text=True, check=False)

    def folder(self, cluster: str) -> RunFolder:
        """Return the folder of a new run."""
        return new_run(self.path / "outputs", cluster)

    def parameters(self, cluster: str, folder: RunFolder, mode: str) -> dict[str, str]:
        """Return the parameters of a stage's notebook."""
        run_dir = str(folder.path.relative_to(self.path))
        return {"params": self.params(cluster), "overrides": "", "run_dir": run_dir, "mode": mode}


@contextlib.contextmanager
def home(networks: Sequence[str]) -> Iterator[Home]:
    """Have a folder with a running twin for each network, and be in it. Raises RuntimeError when one will not start."""
    before, home_before = Path.cwd(), os.environ.get("RUNBOOK_HOME")
    path = Path(tempfile.mkdtemp(prefix="runbook-bench-"))
    made = Home(path, networks)
    os.environ["RUNBOOK_HOME"] = str(path)
    os.chdir(path)
    try:
        for name in made.clusters:
            done = made.runbook("twin", "up", made.params(name))
            if done.returncode:
                raise RuntimeError(f"the twin of {name} did not start: {done.stderr}")
        yield made
    finally:
        for name in made.clusters:
            made.runbook("twin", "down", made.params(name))
        os.chdir(before)
        if home_before is None:
            del os.environ["RUNBOOK_HOME"]
        else:
            os.environ["RUNBOOK_HOME"] = home_before
        shutil.rmtree(path, ignore_errors=True)


def plain_papermill(source: Path, target: Path, parameters: dict[str, str]) -> None:
    """Run a notebook as papermill does by itself. Raises what papermill raises."""
    papermill.execute_notebook(
        str(source), str(target), parameters=parameters, kernel_name="python3", progress_bar=False, log_output=False
    )


def own_seconds(folder: RunFolder) -> float:
    """Return the stages' own time in seconds, from their start to their end by the events of a run."""
    total, began = 0.0, {}
    for event in events.read(folder.events):
        if event.kind == "stage_start":
            began[event.data["stage"]] = datetime.fromisoformat(event.time)
        elif event.kind == "stage_end":
            total += (datetime.fromisoformat(event.time) - began.pop(event.data["stage"])).total_seconds()
    if began:
        raise RuntimeError(f"{folder.path}: {', '.join(began)} did not end")
    return total


def span(folder: RunFolder) -> tuple[datetime, datetime]:
    """Return when the first and the last event of a run were written."""
    chain = events.read(folder.events)
    return datetime.fromisoformat(chain[0].time), datetime.fromisoformat(chain[-1].time)
