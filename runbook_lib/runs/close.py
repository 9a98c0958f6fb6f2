"""Closing a run: head to the hosts, report, manifest, signature; from then on nothing in its folder changes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from runbook_lib.errors import RecordError, RunbookError, UsageError
from runbook_lib.model import Verdict
from runbook_lib.params import Params, load_params, project_root
from runbook_lib.runs import events
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RUNNING, atomic_write
from runbook_lib.runs.heads import leave_heads
from runbook_lib.runs.manifest import MANIFEST, SIGNATURE, seal, write_manifest
from runbook_lib.runs.provenance import recorded_params
from runbook_lib.runs.redaction import Redactor, redactor_of
from runbook_lib.runs.report import write_report
from runbook_lib.runs.signatures import check, sign
from runbook_lib.runs.signers import signing_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runbook_lib.runs.folder import RunFolder

_GOOD = {str(verdict) for verdict in (Verdict.OK, Verdict.WARN, Verdict.SKIPPED)}


def close_run(  # noqa: PLR0913 - what a run consists of
    folder: RunFolder, log: EventLog, *, params: Params, root: Path, by: str, say: Callable[[str], None]
) -> Path:
    """Close a run whose `run_end` was written, and return its report. It is signed where a key is configured.

    Raises RecordError when the record does not hold or cannot be written.
    """
    _anchor(folder, log, params, root, by, say)
    report = write_report(folder)
    _mask_files(folder, log, redactor_of(params, strict=False))
    write_manifest(folder)
    say(f"head of the run's chain: {events.read(folder.events)[-1].hash}")
    key = signing_key(params.cluster.name)
    if key is not None:
        try:
            say(f"signed with {key}: {sign_run(folder, key)}")
        except UsageError as error:  # the work is done and recorded; the audit calls the run unsigned
            say(f"not signed: {error}")
    seal(folder)
    return report


def _mask_files(folder: RunFolder, log: EventLog, redactor: Redactor) -> None:
    """Mask what got into the folder past the redactor: plain papermill's notebooks, raw answers to the load."""
    for path in sorted(folder.path.rglob("*")):
        if path == folder.events or path.is_symlink() or not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        masked = redactor.text(text)
        if masked != text:
            log.append("masked_late", file=path.relative_to(folder.path).as_posix())
            atomic_write(path, masked.encode("utf-8", "surrogateescape"))


def _anchor(  # noqa: PLR0913, PLR0917 - see close_run
    folder: RunFolder, log: EventLog, params: Params, root: Path, by: str, say: Callable[[str], None]
) -> None:
    """Leave the head of a run in which something was approved on the hosts; other runs change nothing there."""
    if not any(event.kind == "approval" for event in events.read(folder.events)):
        return
    try:
        cluster = Cluster(params, root)
    except RunbookError as error:
        say(f"the head of this run was not left on the hosts: {error.message}")
        return
    with contextlib.closing(cluster):
        for host, why in leave_heads(folder, cluster, log, by).items():
            if why:
                say(f"{host}: the head of this run was not left there: {why}")


def sign_run(folder: RunFolder, key: Path) -> str:
    """Sign the manifest and return the key's fingerprint. Raises UsageError for a key that cannot be used."""
    content = (folder.path / MANIFEST).read_bytes()
    signature = sign(content, key)
    atomic_write(folder.path / SIGNATURE, signature)
    return check(content, signature).fingerprint


def close_by_hand(folder: RunFolder, by: str, say: Callable[[str], None]) -> None:
    """Close a run that no runner closes: one made in JupyterLab, or one whose runner was killed.

    What was interrupted stays so. The params that it recorded say which secrets to mask. Raises RecordError when the
    chain does not hold, UsageError while a stage runs, or for a secret that is not there.
    """
    problem = events.verify(folder.events, torn_ok=True)
    if problem:
        raise RecordError(f"{folder.path}: {problem}; what does not hold is not signed")
    running = [stage for stage, state in folder.status().items() if state == RUNNING]
    if running:
        raise UsageError(f"{folder.run_id}: stage {running[0]} is running; a run is closed when it has ended")
    params = _params_of(folder)
    redactor = redactor_of(params) if params is not None else Redactor()
    log = EventLog(folder.events, redactor)
    if not folder.closed():
        states = set(folder.status().values())
        log.append("run_end", ok=bool(states) and states <= _GOOD, stopped_by="", closed_by=by)
    if params is not None:
        _anchor(folder, log, params, project_root(), by, say)
    write_report(folder)
    _mask_files(folder, log, redactor)
    write_manifest(folder)


def _params_of(folder: RunFolder) -> Params | None:
    """Return the params of a run: those recorded at its start, or those that its stages named."""
    chain = events.read(folder.events)
    params = recorded_params(chain)
    if params is not None:
        return Params.model_validate(params)
    stage = next((event.data for event in chain if event.kind == "stage_start" and "params_file" in event.data), None)
    return load_params(stage["params_file"], stage.get("overrides")) if stage else None
