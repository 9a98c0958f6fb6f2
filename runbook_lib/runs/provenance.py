"""What a run was made with and on: versions, the state of the source, the hosts' keys and tools."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import runbook_lib
from runbook_lib.errors import RecordError, RunbookError
from runbook_lib.params import Params
from runbook_lib.remote import pinned
from runbook_lib.runs.cluster import targets
from runbook_lib.runs.results import read_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.runs.events import Event
    from runbook_lib.runs.folder import RunFolder

_GIT_TIMEOUT_S = 20.0
# Of the facts of preflight, those that name a version or a build and do not change by themselves.
_HOST_FACTS = ("driver", "firmware", "system", "architecture", "docker", "python")


def recorded_params(chain: Sequence[Event]) -> dict[str, Any] | None:
    """Return the resolved params that the run recorded at its start; secrets are references there."""
    start = next((event for event in chain if event.kind == "run_start"), None)
    try:
        read = YAML(typ="safe").load(str(start.data.get("params", ""))) if start is not None else None
    except YAMLError:
        return None
    return read if isinstance(read, dict) else None


def hosts_of(folder: RunFolder, params: dict[str, Any] | None) -> dict[str, Any]:
    """Return of each host the pinned host keys, and the versions of its tools where preflight saw them."""
    try:
        read = Params.model_validate(params)
    except ValidationError:
        return {}
    facts = _preflight_facts(folder)
    return {
        name: {**host, "versions": {fact: facts[name][fact] for fact in _HOST_FACTS if fact in facts.get(name, {})}}
        for name, host in host_keys(read, folder.path.parents[2]).items()
    }


def host_keys(params: Params, root: Path) -> dict[str, dict[str, Any]]:
    """Return address and pinned host keys of each host."""
    hosts = {}
    for target in targets(params, root):
        try:
            keys = [f"{key.type} {key.fingerprint}" for key in pinned(target.known_hosts, target)]
        except (OSError, ValueError):
            keys = []
        hosts[target.name] = {"address": target.address, "host_keys": keys}
    return hosts


def _preflight_facts(folder: RunFolder) -> dict[str, Any]:
    try:
        facts = (read_result(folder, "preflight") or {}).get("facts")
    except RecordError:
        return {}
    hosts = facts.get("hosts") if isinstance(facts, dict) else None
    return hosts if isinstance(hosts, dict) else {}


@functools.cache
def versions() -> dict[str, Any]:
    """Return the versions of what runs here: this program, Python, the system, every installed package."""
    return {
        "runbook": runbook_lib.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {each.name: each.version for each in metadata.distributions()},
    }


@functools.cache
def source_state() -> dict[str, Any] | None:
    """Return commit and cleanliness of the source that runs; None where it is no git checkout, or git is not there.

    Looked at once: what changes later is not what this process has loaded.
    """
    root = Path(runbook_lib.__file__).parents[1]
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=normal", "--", ".").splitlines()
    except RunbookError:
        return None
    return {"commit": commit, "dirty": bool(changed), "changed": sorted(line[3:] for line in changed)[:50]}


def _git(root: Path, *argv: str) -> str:
    # the caller's own GIT_DIR and the like would answer for another repository
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *argv],
            capture_output=True,
            env=env,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunbookError("git does not answer") from error
    if done.returncode != 0:
        raise RunbookError("no git checkout")
    return done.stdout.decode("utf-8", "replace")
