"""The weights directory of every host, as its probe showed it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.stages.weights.probe import tool_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.model import Capture
    from runbook_lib.params import HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

    Files = Mapping[str, Mapping[str, Any]]

NAME = "weights"
_NO_SUCH = "No such file"
_DF_FIELDS = 6
_DF_ROWS = 2  # the home, and at least /


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or link below the weights directory; `path` is "" for the directory itself."""

    kind: str
    size: int
    mode: int
    owner: str
    mtime_ns: int
    path: str


@dataclass(frozen=True, slots=True)
class Source:
    """What the source said to a host. `status` is the HTTP status of a refusal, 0 when nothing answered."""

    files: Files = field(default_factory=dict)
    commit: str = ""
    config: str = ""
    status: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The weights directory of one host.

    entries: None when it could not be read whole. headers: None when they could not be read; else (file, problem).
    original: the hub's config.json, kept when it was fitted; "" when there is none, None when that is not known.
    free: free bytes of the file system that the directory is, or will be, on; home_free: of the login user's home.
    """

    entries: Mapping[str, Entry] | None
    verified: Files
    recorded_files: Files
    source: Source
    config: str
    original: str | None
    headers: tuple[tuple[str, str], ...] | None
    free: int | None
    mount: str
    home_free: int | None
    tool_present: bool
    work_present: bool


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """Facts of every host that was reached, and their paths."""

    hosts: Mapping[str, HostFacts]
    paths: Mapping[str, HostPaths] = field(default_factory=dict)


def facts(params: Params, probes: Probes) -> WeightsFacts:  # noqa: ARG001 - the same form for every stage
    """Parse what every host said."""
    tool = tool_text()
    return WeightsFacts(
        {name: _host_facts(seen, tool) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _host_facts(seen: HostProbe, tool: str) -> HostFacts:
    state = _json(seen.get("state"))
    verified = state.get("verified")
    records = verified.items() if isinstance(verified, dict) else ()
    config, original = seen.get("config"), seen.get("original")
    home_free, free, mount = _free(seen.get("disk"))
    return HostFacts(
        entries=_entries(seen.get("entries")),
        verified={name: known for name, known in records if isinstance(known, dict)},
        recorded_files=files_of(state),
        source=_source(seen.get("source")),
        config=config.stdout if config.ok else "",
        original=original.stdout if original.ok else "" if _NO_SUCH in original.stderr else None,
        headers=_headers(seen.get("headers")),
        free=free,
        mount=mount,
        home_free=home_free,
        tool_present=seen.get("tool").ok and seen.get("tool").stdout == tool,
        work_present=seen.get("work").ok,
    )


def _json(capture: Capture) -> dict[str, Any]:
    """Return the JSON object that a command printed, {} when it failed or printed anything else."""
    return json_object(capture.stdout) if capture.ok else {}


def json_object(text: str) -> dict[str, Any]:
    """Return a JSON object, {} for any other text."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def files_of(listing: Mapping[str, Any]) -> Files:
    """Return the files by name; a list with one entry that does not hold is no list, since a file would be missed."""
    listed = listing.get("files")
    entries = listed if isinstance(listed, list) else []
    sound = all(
        isinstance(each, dict) and isinstance(each.get("name"), str) and type(each.get("size")) is int
        for each in entries
    )
    return {each["name"]: each for each in entries} if sound else {}


def _source(capture: Capture) -> Source:
    said = _json(capture)
    files = files_of(said)
    if files and not said.get("error"):
        return Source(files, str(said.get("commit", "")), str(said.get("config", "")))
    status = said.get("status")
    error = str(said.get("error") or "") or capture.stderr.strip() or "no answer"
    return Source(status=status if isinstance(status, int) else 0, error=error)


def _headers(capture: Capture) -> tuple[tuple[str, str], ...] | None:
    said = _json(capture)
    problems = said.get("problems")
    if said.get("error") or not isinstance(problems, list):
        return None
    return tuple((str(file), str(problem)) for file, problem in problems)


def _free(capture: Capture) -> tuple[int | None, int | None, str]:
    """Return the free bytes of the home and of the last file system that df named, and where that is mounted.

    df was asked for the home, all folders above the directory, and itself; what does not exist it leaves out.
    """
    rows = [line.split() for line in capture.stdout.splitlines()[1:]]
    sound = not capture.timed_out and (capture.ok or _NO_SUCH in capture.stderr)
    if not sound or len(rows) < _DF_ROWS or any(len(row) < _DF_FIELDS or not row[3].isdigit() for row in rows):
        return None, None, ""
    return int(rows[0][3]), int(rows[-1][3]), rows[-1][5]


def _entries(capture: Capture) -> dict[str, Entry] | None:
    """Return what `find` listed; empty when there is no directory, None when it could not be read whole."""
    if capture.exit_code == 1 and not capture.stdout and _NO_SUCH in capture.stderr:
        return {}
    if not capture.ok:
        return None
    entries = {}
    for line in capture.stdout.splitlines():
        words = line.split("\t")
        try:
            kind, size, mode, owner, mtime, path = words
            seconds, _, fraction = mtime.partition(".")
            stamp = int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
            entries[path] = Entry(kind, int(size), int(mode, 8), owner, stamp, path)
        except ValueError:
            return None
    return entries
