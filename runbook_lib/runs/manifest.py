"""The manifest of a run: the sha256 of every file, the head of the chain, and the versions that made them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.errors import RecordError
from runbook_lib.runs import events

if TYPE_CHECKING:
    from runbook_lib.runs.folder import RunFolder

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
_FORMAT = 1


def write_manifest(folder: RunFolder) -> Path:
    """Write manifest.json over what the run holds now, and return its path.

    Raises RecordError when the chain does not hold, or a file cannot be read or is no regular file.
    """
    problem = events.verify(folder.events)
    if problem:
        raise RecordError(f"{folder.path}: no manifest is written over a chain that does not hold: {problem}")
    chain = events.read(folder.events)
    path = folder.path / MANIFEST
    folder.write_json(
        path,
        {
            "format": _FORMAT,
            "run_id": folder.run_id,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "chain": {"events": len(chain), "head": chain[-1].hash},
            "files": {name: _sha256(folder.path / name) for name in _files(folder)},
            "versions": {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": _packages(),
            },
        },
    )
    return path


def verify_manifest(folder: RunFolder) -> str:
    """Return "" when the run is as its manifest says, else the first thing that does not hold.

    Says nothing about who wrote the manifest; that is what its signature is for.
    """
    try:
        manifest = json.loads((folder.path / MANIFEST).read_bytes())
        listed = {str(name): str(digest) for name, digest in manifest["files"].items()}
        head, count = str(manifest["chain"]["head"]), int(manifest["chain"]["events"])
        run_id, form = manifest["run_id"], manifest["format"]
    except FileNotFoundError:
        return f"{MANIFEST}: is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: cannot be read: {type(error).__name__}: {error}"
    if form != _FORMAT:
        return f"{MANIFEST}: expected format {_FORMAT}, seen {form!r}"
    if run_id != folder.run_id:
        return f"{MANIFEST}: belongs to the run {run_id!r}"
    return _chain_problem(folder, head, count) or _files_problem(folder, listed)


def _chain_problem(folder: RunFolder, head: str, count: int) -> str:
    problem = events.verify(folder.events)
    if problem:
        return problem
    chain = events.read(folder.events)
    if (len(chain), chain[-1].hash) != (count, head):
        return (
            f"{folder.events.name}: expected {count} events ending in {head[:12]}, "
            f"seen {len(chain)} ending in {chain[-1].hash[:12]}"
        )
    return ""


def _files_problem(folder: RunFolder, listed: dict[str, str]) -> str:
    try:
        present = _files(folder)
        for name in sorted(listed.keys() | set(present)):
            if name not in listed:
                return f"{name}: was added after the manifest was written"
            if name not in present:
                return f"{name}: is missing"
            seen = _sha256(folder.path / name)
            if seen != listed[name]:
                return f"{name}: was changed: expected sha256 {listed[name][:12]}, seen {seen[:12]}"
    except RecordError as error:
        return error.message
    return ""


def _files(folder: RunFolder) -> list[str]:
    """Return the relative paths of all files but the manifest, its signature and the lock. Raises RecordError."""
    outside = {MANIFEST, SIGNATURE, events.lock_path(folder.events).name}
    names: list[str] = []
    for root, folders, files in os.walk(folder.path, onerror=_unreadable):
        for entry in (*folders, *files):
            path = Path(root, entry)
            name = path.relative_to(folder.path).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise RecordError(f"{name}: is no regular file, so a manifest cannot vouch for it")
            if entry in files and name not in outside:
                names.append(name)
    return sorted(names)


def _unreadable(error: OSError) -> None:
    raise RecordError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecordError(f"{path.name}: cannot be read: {error.strerror}") from error


def _packages() -> dict[str, str]:
    return {distribution.name: distribution.version for distribution in metadata.distributions()}
