"""From a word of the command line to runs: a folder, a run id, a cluster, or a params file."""

from __future__ import annotations

from pathlib import Path

from runbook_lib.errors import UsageError
from runbook_lib.params import load_params, project_root
from runbook_lib.runs.folder import RunFolder, all_runs

_PARAMS = (".yaml", ".yml")


def find_cluster(word: str) -> Path | None:
    """Return outputs/<cluster> for a cluster's name, its folder or its params file; None for anything else."""
    outputs = project_root() / "outputs"
    if word.endswith(_PARAMS):
        return outputs / load_params(word).cluster.name
    given = Path(word)
    for path in (given.absolute(), outputs / word):
        is_cluster = path.is_dir() and not (path / "events.jsonl").exists() and not (path / "manifest.json").exists()
        if is_cluster and (path.parent.resolve() == outputs.resolve() or all_runs(path.parent, path.name)):
            return path
    return None


def find_run(word: str) -> RunFolder:
    """Return the run of a folder or of a run id; of a cluster or params file the newest. Raises UsageError."""
    given = Path(word).absolute()
    if (given / "events.jsonl").exists() or (given / "manifest.json").exists():
        return RunFolder(given)
    outputs = project_root() / "outputs"
    if "/" not in word and not word.endswith(_PARAMS):
        found = sorted(outputs.glob(f"*/{word}/"))
        if len(found) == 1:
            return RunFolder(found[0])
        if found:
            raise UsageError(f"there are several runs {word}: {', '.join(map(str, found))}")
    parent = find_cluster(word)
    if parent is None:
        raise UsageError(
            f"{word!r} is no run, no cluster and no params file; right would be a run's folder or id, "
            "a cluster's name, or params/NAME.yaml",
            next_command=f"ls {outputs}",
        )
    runs = all_runs(parent.parent, parent.name)
    if not runs:
        raise UsageError(f"{parent.name} has no run yet", next_command=f"runbook run params/{parent.name}.yaml")
    return runs[-1]
