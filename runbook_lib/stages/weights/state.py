"""Which files are expected, which of them are there and verified, and whether hosts hold the same."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from runbook_lib.stages.weights.adapt import adapted
from runbook_lib.stages.weights.probe import CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Params
    from runbook_lib.stages.weights.facts import Files, HostFacts, WeightsFacts

_WANTS_TOKEN = (401, 403)


def expected_files(facts: WeightsFacts) -> Files:
    """Return the list of files: from the source, else from a host's own record of it."""
    for seen in facts.hosts.values():
        if seen.source.files:
            return seen.source.files
    return next((seen.recorded_files for seen in facts.hosts.values() if seen.recorded_files), {})


def owners(facts: WeightsFacts, params: Params) -> list[int]:
    """Return the numbers of the hosts that reach the source.

    A source that wants a token was asked without it: the hosts that got that answer do reach it.
    """
    token = params.model.weights.source.token is not None
    return [
        number
        for number, host in enumerate(params.cluster.hosts)
        if host.name in facts.hosts and _reaches(facts.hosts[host.name], token=token)
    ]


def _reaches(seen: HostFacts, *, token: bool) -> bool:
    return bool(seen.source.files) or (token and seen.source.status in _WANTS_TOKEN)


def listed_by_token_only(facts: WeightsFacts, params: Params) -> bool:
    """Whether nobody could list the files yet because the source wants the token that only the job is given."""
    return not expected_files(facts) and bool(owners(facts, params))


def lacking(seen: HostFacts, files: Files, params: Params) -> list[str]:
    """Return the files that are absent, changed since they were hashed, or never hashed to the right sum."""
    return [name for name, wanted in files.items() if not _sound(seen, name, wanted, params)]


def _sound(seen: HostFacts, name: str, wanted: Mapping[str, Any], params: Params) -> bool:
    known = seen.verified.get(name)
    if name == CONFIG and seen.original:
        return _is_listed(seen.original, wanted, known) and seen.config == adapted(seen.original, params)
    if known is None or not unchanged(seen, name, known) or known.get("size") != wanted["size"]:
        return False
    if "sha256" in wanted:
        return bool(known.get("sha256") == wanted["sha256"])
    if "git_sha1" in wanted:
        return bool(known.get("git_sha1") == wanted["git_sha1"])
    return bool(known.get("sha256"))  # a folder lists no sums: the first host that read it said this one


def _is_listed(text: str, wanted: Mapping[str, Any], known: Mapping[str, Any] | None) -> bool:
    """Whether a text is the listed file; a folder lists no sums, then it is what was recorded when it came."""
    if "git_sha1" in wanted and "sha256" not in wanted:
        return bool(_git_sum(text) == wanted["git_sha1"])
    listed = wanted.get("sha256") or (known or {}).get("sha256")
    return hashlib.sha256(text.encode()).hexdigest() == listed


def _git_sum(text: str) -> str:
    data = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's name for a file


def unchanged(seen: HostFacts, name: str, known: Mapping[str, Any]) -> bool:
    """Whether a file is real and has the size and time that were recorded when it was hashed."""
    entry = (seen.entries or {}).get(name)
    return (
        entry is not None
        and entry.kind == "f"
        and entry.size == known.get("size")
        and entry.mtime_ns == known.get("mtime_ns")
    )


def tree_digest(seen: HostFacts) -> str:
    """Return one name for what lies there verified and unchanged; hosts with the same weights have the same."""
    sums = [
        (name, str(known.get("sha256")))
        for name, known in seen.verified.items()
        if name != CONFIG and unchanged(seen, name, known)
    ]
    sums.append((CONFIG, hashlib.sha256(seen.config.encode()).hexdigest()))
    return hashlib.sha256(json.dumps(sorted(sums)).encode()).hexdigest()[:16]


def links(seen: HostFacts) -> list[str]:
    """Return the files that are symbolic links."""
    return [path for path, entry in (seen.entries or {}).items() if entry.kind == "l"]


def waits_for(facts: WeightsFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return preflight while a host has no work folder."""
    return () if all(seen.work_present for seen in facts.hosts.values()) else ("preflight",)
