"""The manifest of a run: the sha256 of every file, the head of the chain, the run before, and what made it all.

The manifest, its signature and the lock of the writers are the only files that it does not list. The runs of a
cluster form a chain: each manifest names the run before with the sha256 of its manifest, so a run that is removed,
added, moved or changed later shows in the one after it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError
from runbook_lib.runs import events
from runbook_lib.runs.folder import RunFolder, all_runs
from runbook_lib.runs.provenance import hosts_of, recorded_params, source_state, versions

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
_FORMAT = 2
_READ_ONLY, _WRITABLE = 0o444, 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """The run before. `manifest` is the sha256 of its manifest, "" when it had none yet; `head` of event `events`."""

    run_id: str
    manifest: str
    events: int
    head: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says of its run. `digest` is the sha256 of the manifest itself."""

    digest: str
    run_id: str
    cluster: str
    events: int
    head: str
    files: Mapping[str, str]
    folders: tuple[str, ...]
    previous: Link | None
    said: Mapping[str, Any]


def write_manifest(folder: RunFolder) -> Path:
    """Write manifest.json over what the run holds now, and return its path; a signature of an older one is removed.

    Raises RecordError when the chain does not hold, or a file cannot be read or is no regular file.
    """
    problem = events.verify(folder.events)
    if problem:
        raise RecordError(f"{folder.path}: no manifest is written over a chain that does not hold: {problem}")
    chain = events.read(folder.events)
    path = folder.path / MANIFEST
    (folder.path / SIGNATURE).unlink(missing_ok=True)
    params = recorded_params(chain)
    files, folders = _content(folder)
    link = _link(folder)
    folder.write_json(
        path,
        {
            "format": _FORMAT,
            "run_id": folder.run_id,
            "cluster": folder.path.parent.name,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "chain": {"events": len(chain), "head": chain[-1].hash},
            "files": {name: _sha256(folder.path / name) for name in files},
            "folders": folders,
            "previous": link,
            "params": params,
            "hosts": hosts_of(folder, params),
            "versions": versions(),
            "git": source_state(),
        },
    )
    return path


def seal(folder: RunFolder) -> None:
    """Make the files of a closed run read-only, against accidents: JupyterLab that saves, an editor, a script."""
    _set_modes(folder, _READ_ONLY)


def unseal(folder: RunFolder) -> None:
    """Make the files of a run writable again, for a run that goes on. Its manifest is written anew at its end."""
    _set_modes(folder, _WRITABLE)


def _set_modes(folder: RunFolder, mode: int) -> None:
    lock = events.lock_path(folder.events).name
    for root, _, files in os.walk(folder.path):
        for name in files:
            if name != lock:
                Path(root, name).chmod(mode, follow_symlinks=False) if not Path(root, name).is_symlink() else None


def read_manifest(folder: RunFolder) -> Manifest | str:
    """Return what the manifest says, or why it cannot be read."""
    try:
        content = (folder.path / MANIFEST).read_bytes()
        said = json.loads(content)
        form = said["format"]
        if form != _FORMAT:
            return f"{MANIFEST}: expected format {_FORMAT}, seen {form!r}"
        previous = said["previous"]
        return Manifest(
            digest=hashlib.sha256(content).hexdigest(),
            run_id=str(said["run_id"]),
            cluster=str(said["cluster"]),
            events=int(said["chain"]["events"]),
            head=str(said["chain"]["head"]),
            files={str(name): str(digest) for name, digest in said["files"].items()},
            folders=tuple(map(str, said["folders"])),
            previous=None if previous is None else Link(**previous),
            said=said,
        )
    except FileNotFoundError:
        return f"{MANIFEST}: is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: cannot be read: {type(error).__name__}: {error}"


def verify_manifest(folder: RunFolder) -> str:
    """Return "" when the run is as its manifest says, else the first thing that does not hold.

    Says nothing about who wrote the manifest; that is what its signature is for.
    """
    manifest = read_manifest(folder)
    if isinstance(manifest, str):
        return manifest
    if manifest.run_id != folder.run_id:
        return f"{MANIFEST}: belongs to the run {manifest.run_id!r}"
    return _chain_problem(folder, manifest) or _content_problem(folder, manifest)


def _chain_problem(folder: RunFolder, manifest: Manifest) -> str:
    problem = events.verify(folder.events)
    if problem:
        return problem
    chain = events.read(folder.events)
    if (len(chain), chain[-1].hash) != (manifest.events, manifest.head):
        return (
            f"{folder.events.name}: expected {manifest.events} events ending in {manifest.head[:12]}, "
            f"seen {len(chain)} ending in {chain[-1].hash[:12]}"
        )
    return ""


def _content_problem(folder: RunFolder, manifest: Manifest) -> str:
    try:
        files, folders = _content(folder)
        listed = manifest.files
        for name in sorted(listed.keys() | set(files)):
            if name not in listed:
                return f"{name}: was added after the manifest was written"
            if name not in files:
                return f"{name}: is missing"
            seen = _sha256(folder.path / name)
            if seen != listed[name]:
                return f"{name}: was changed: expected sha256 {listed[name][:12]}, seen {seen[:12]}"
    except RecordError as error:
        return error.message
    for name in sorted(set(folders) ^ set(manifest.folders)):
        return f"{name}/: {'was added after the manifest was written' if name in folders else 'is missing'}"
    return ""


def _content(folder: RunFolder) -> tuple[list[str], list[str]]:
    """Return the relative paths of all files but the manifest, its signature and the lock, and of all folders.

    Raises RecordError for what a manifest cannot vouch for.
    """
    lock = events.lock_path(folder.events).name
    names: list[str] = []
    inner: list[str] = []
    for root, folders, files in os.walk(folder.path, onerror=_unreadable):
        for entry in (*folders, *files):
            path = Path(root, entry)
            name = path.relative_to(folder.path).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise RecordError(f"{name}: is no regular file, so a manifest cannot vouch for it")
            if not name.isprintable():  # a name that is no UTF-8 has surrogates, which are not printable
                raise RecordError(f"{name!r}: no file of a run has such a name")
            if entry in folders and path.is_dir():
                inner.append(name)
            elif name == lock and path.stat().st_size:
                raise RecordError(f"{name}: the lock file is always empty, and now it is not")
            elif name not in {MANIFEST, SIGNATURE, lock}:
                names.append(name)
    return sorted(names), sorted(inner)


def _unreadable(error: OSError) -> None:
    raise RecordError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _link(folder: RunFolder) -> Link | None:
    """Return the newest run of the cluster that is older than this one; None for the first."""
    parent = folder.path.parent
    before = [run for run in all_runs(parent.parent, parent.name) if run.run_id < folder.run_id]
    if not before:
        return None
    last = before[-1]
    manifest = read_manifest(last)
    if isinstance(manifest, Manifest):
        return Link(last.run_id, manifest.digest, manifest.events, manifest.head)
    try:
        chain = events.read(last.events)
    except RecordError:
        chain = []  # whatever it is, it is not there to be linked; the audit of that run says what is wrong
    return Link(last.run_id, "", len(chain), chain[-1].hash if chain else "")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecordError(f"{path.name}: cannot be read: {error.strerror}") from error
