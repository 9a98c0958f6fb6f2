"""What is read on a host, and where the runbook keeps its own files about the weights."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from runbook_lib.model import Job, ProbeScript, Section
from runbook_lib.stages.push import bundle, source

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params

TOOL = "weights_tool.py"
CONFIG = "config.json"
ORIGINAL = "config.json.original"
_LIST_TIMEOUT_S = 20.0
VERIFY_DEADLINE_S = 4 * 3600.0  # 1.3 TB at 100 MB/s


def state_file(paths: HostPaths) -> str:
    """Return where a host records what it has verified."""
    return f"{paths.work}/weights/state.json"


def tool_file(paths: HostPaths) -> str:
    """Return where the downloader lies on a host."""
    return f"{paths.work}/{TOOL}"


def exchange_token_file(paths: HostPaths) -> str:
    """Return where the secret of a transfer between hosts lies while it runs."""
    return f"{paths.work}/weights-exchange.token"


def source_token_file(paths: HostPaths) -> str:
    """Return where the source's token lies until the downloader has read it."""
    return f"{paths.work}/weights-source.token"


def source_spec(params: Params) -> str:
    """Return what push/hub_list.py is told about the source; no secret is in it."""
    given = params.model.weights.source
    spec: dict[str, Any] = {"kind": given.kind}
    if given.kind == "path":
        spec["path"] = given.path
    else:
        spec |= {"url": given.endpoint, "repository": given.repository, "revision": given.revision}
        spec |= {"proxy": given.proxy}
    return json.dumps(spec, sort_keys=True)


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read the directory, its headers, the record of verified files, the disk, and what the source lists."""
    listing = r"%y\t%s\t%m\t%U:%G\t%T@\t%P\n"
    list_argv = ("python3", "-c", source("hub_list.py"), source_spec(params), str(_LIST_TIMEOUT_S))
    above = [str(each) for each in reversed(PurePosixPath(paths.weights).parents)]
    return ProbeScript(
        (
            Section("entries", ("find", paths.weights, "-printf", listing), 60.0),
            Section("state", ("cat", state_file(paths))),
            Section("source", list_argv, _LIST_TIMEOUT_S * 3),
            Section("config", ("cat", f"{paths.weights}/{CONFIG}")),
            Section("original", ("cat", f"{paths.weights}/{ORIGINAL}")),
            Section("headers", ("python3", "-c", source("weights_check.py"), paths.weights), 120.0),
            Section("disk", ("sh", "-c", 'df -P -B1 "$HOME" "$@"', "df", *above, paths.weights)),
            Section("tool", ("cat", tool_file(paths))),
            Section("work", ("ls", "-d", paths.work)),
        )
    )


def tool_text() -> str:
    """Return the downloader as the one file that is pushed."""
    return bundle(TOOL)


def verify_job(paths: HostPaths) -> Job:
    """Return the job that hashes every file of a host again."""
    argv = ("python3", tool_file(paths), "verify", "--directory", paths.weights, "--state", state_file(paths))
    return Job("weights-verify", argv, VERIFY_DEADLINE_S, progress=True)
