"""Weights: real, verified files on every host, readable by the service, the same everywhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import images
from runbook_lib.model import Change, Command, Finding, Job, ProbeScript, Risk, Section, Subject, Upload, Verdict
from runbook_lib.stages.base import Findings, apply_command
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

NAME = "weights"
TOOL = "weights_tool.py"
_DEADLINE_S = 48 * 3600.0  # 1.3 TB at 10 MB/s
_SOURCE_TIMEOUT_S = 20.0
_DIRECTORY_MODE = 0o750  # the service refuses anything more open (field report; MindIE DeepSeek-R1 README)
_CONFIG_MODE = 0o640
_WATCHED_BITS = 0o427  # the owner reads, the group does not write, others nothing
_OWNER_READS = 0o400
_MANIFEST = "manifest.json"
_CONFIG = "config.json"


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
class HostFacts:
    """The weights directory of one host."""

    entries: Mapping[str, Entry] | None
    verified: Mapping[str, Mapping[str, Any]]
    recorded_files: Mapping[str, Mapping[str, Any]]
    source_files: Mapping[str, Mapping[str, Any]]
    source_error: str
    config: Mapping[str, Any]
    tool_present: bool
    work_present: bool


@dataclass(frozen=True, slots=True)
class WeightsFacts:
    """Facts of every host that was reached, and their paths."""

    hosts: Mapping[str, HostFacts]
    paths: Mapping[str, HostPaths] = field(default_factory=dict)


def state_file(paths: HostPaths) -> str:
    """Return where a host records what it has verified."""
    return f"{paths.work}/weights/state.json"


def tool_file(paths: HostPaths) -> str:
    """Return where the downloader lies on a host."""
    return f"{paths.work}/{TOOL}"


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form for every stage
    """Read the directory, the record of verified files, and what the source lists."""
    manifest = f"{params.model.weights.source.url.rstrip('/')}/{_MANIFEST}"
    listing = r"%y\t%s\t%m\t%U:%G\t%T@\t%P\n"
    return ProbeScript(
        (
            Section("entries", ("find", paths.weights, "-printf", listing), 60.0),
            Section("state", ("cat", state_file(paths))),
            Section(
                "source",
                ("python3", "-c", source("http_call.py"), "GET", manifest, str(_SOURCE_TIMEOUT_S)),
                _SOURCE_TIMEOUT_S + 5,
            ),
            Section("config", ("cat", f"{paths.weights}/{_CONFIG}")),
            Section("tool", ("cat", tool_file(paths))),
            Section("work", ("ls", "-d", paths.work)),
        )
    )


def facts(params: Params, probes: Probes) -> WeightsFacts:  # noqa: ARG001 - the same form for every stage
    """Parse what every host said."""
    return WeightsFacts(
        {name: _host_facts(seen) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _json(capture: Capture) -> dict[str, Any]:
    """Return the JSON object that a command printed, {} when it failed or printed anything else."""
    return _object(capture.stdout) if capture.ok else {}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _files(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the files by name; a list with one entry that does not hold is no list, since a file would be missed."""
    listed = manifest.get("files")
    entries = listed if isinstance(listed, list) else []
    sound = all(
        isinstance(each, dict)
        and isinstance(each.get("name"), str)
        and type(each.get("size")) is int
        and isinstance(each.get("sha256"), str)
        for each in entries
    )
    return {each["name"]: each for each in entries} if sound else {}


def _host_facts(seen: HostProbe) -> HostFacts:
    state = _json(seen.get("state"))
    answer = _json(seen.get("source"))
    body = _object(str(answer.get("body", ""))) if answer.get("status") == 200 else {}  # noqa: PLR2004 - HTTP OK
    said = answer.get("error") or f"HTTP {answer.get('status')}" if answer else seen.get("source").stderr
    config = _json(seen.get("config"))
    verified = state.get("verified")
    records = verified.items() if isinstance(verified, dict) else ()
    listed = _files(body)
    return HostFacts(
        entries=_entries(seen.get("entries")),
        verified={name: known for name, known in records if isinstance(known, dict)},
        recorded_files=_files(state),
        source_files=listed,
        source_error="" if listed else f"{said}, which holds no list of files" if answer else str(said),
        config=config,
        tool_present=seen.get("tool").ok and seen.get("tool").stdout == source(TOOL),
        work_present=seen.get("work").ok,
    )


def _entries(capture: Capture) -> dict[str, Entry] | None:
    """Return what `find` listed; empty when there is no directory, None when it could not be read whole."""
    if capture.exit_code == 1 and not capture.stdout and "No such file" in capture.stderr:
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


def expected_files(facts: WeightsFacts) -> Mapping[str, Mapping[str, Any]]:
    """Return the manifest: from the source, else from a host's own record of it."""
    for seen in facts.hosts.values():
        if seen.source_files:
            return seen.source_files
    return next((seen.recorded_files for seen in facts.hosts.values() if seen.recorded_files), {})


def lacking(seen: HostFacts, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the files that are absent, changed since they were hashed, or never hashed to the right sum."""
    missing = []
    for name, wanted in files.items():
        known = seen.verified.get(name)
        sound = (
            known is not None
            and _unchanged(seen, name, known)
            and known.get("size") == wanted["size"]
            and known.get("sha256") == wanted["sha256"]
        )
        if not sound:
            missing.append(name)
    return missing


def _unchanged(seen: HostFacts, name: str, known: Mapping[str, Any]) -> bool:
    entry = (seen.entries or {}).get(name)
    return (
        entry is not None
        and entry.kind == "f"
        and entry.size == known.get("size")
        and entry.mtime_ns == known.get("mtime_ns")
    )


def tree_digest(seen: HostFacts) -> str:
    """Return one name for what lies there verified and unchanged; hosts with the same weights have the same."""
    sums = sorted(
        (name, str(known.get("sha256"))) for name, known in seen.verified.items() if _unchanged(seen, name, known)
    )
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()[:16]


def _wrong_modes(seen: HostFacts) -> list[str]:
    wrong = []
    for path, entry in (seen.entries or {}).items():
        if entry.kind == "l":
            continue  # a link has no mode of its own; WGT-SYMLINK is about it
        if entry.kind == "d":
            fine = entry.mode == _DIRECTORY_MODE
        elif path == _CONFIG:
            fine = entry.mode == _CONFIG_MODE
        else:
            fine = entry.mode & _WATCHED_BITS == _OWNER_READS
        if not fine:
            wrong.append(f"{path or '.'} {entry.mode:o}")
    return wrong


def check(facts: WeightsFacts, params: Params) -> list[Finding]:
    """Judge source, files, links, modes, owner and content of every host."""
    findings = Findings(NAME, apply_command(params))
    findings.unreachable(params, tuple(facts.hosts))
    files = expected_files(facts)
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is None:
            continue
        _check_source(findings, params, host, seen, bool(files) and not lacking(seen, files))
        _check_files(findings, params, host, seen, files)
        if seen.entries:
            _check_access(findings, params, host, seen)
            _check_content(findings, params, host, seen)
    digests = {name: tree_digest(seen) for name, seen in facts.hosts.items() if seen.verified}
    if digests:
        said = ", ".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
        verdict = Verdict.OK if len(digests) == len(params.cluster.hosts) else Verdict.UNKNOWN
        verdict = verdict if len(set(digests.values())) == 1 else Verdict.FAIL
        findings.add("WGT-SAME", Subject(), verdict, seen=said, expected="the same digest on all hosts")
    return findings.items


def _check_source(findings: Findings, params: Params, host: Host, seen: HostFacts, complete: bool) -> None:  # noqa: FBT001
    url = params.model.weights.source.url
    subject = Subject(host.name)
    if seen.source_files:
        findings.add("WGT-SOURCE", subject, Verdict.OK, seen=f"{len(seen.source_files)} files", expected=url)
    elif complete:
        findings.add("WGT-SOURCE", subject, Verdict.SKIPPED, seen="not needed: the weights are complete", expected=url)
    else:
        command = f"curl -sSf {url}/{_MANIFEST}   # on {host.name}"
        findings.add(
            "WGT-SOURCE",
            subject,
            Verdict.FAIL,
            seen=seen.source_error,
            expected=f"a manifest at {url}",
            next_command=command,
        )


def _check_files(
    findings: Findings, params: Params, host: Host, seen: HostFacts, files: Mapping[str, Mapping[str, Any]]
) -> None:
    subject = Subject(host.name)
    directory = params.model.weights.directory
    if seen.entries is None or not files:
        said = f"{directory} could not be listed" if seen.entries is None else "no list of files from source or record"
        findings.add("WGT-MISSING", subject, Verdict.UNKNOWN, seen=said, expected="every file of the source's list")
        return
    missing = lacking(seen, files)
    size = sum(int(entry["size"]) for entry in files.values())
    expected = f"{len(files)} files, {size / 1e9:.2f} GB, every sha256 as the source lists it"
    said = (
        f"{len(missing)} of {len(files)} files missing, changed or not verified"
        if missing
        else f"{len(files)} files, sha256 right when fetched, size and time unchanged since"
    )
    findings.judge("WGT-MISSING", subject, ok=not missing, seen=said, expected=expected)
    # the loader reads every *.safetensors of the directory, listed or not (MindIE-LLM hub.py)
    strays = sorted(path for path in seen.entries if path.endswith(".safetensors") and path not in files)
    findings.add(
        "WGT-STRAY",
        subject,
        Verdict.FAIL if strays else Verdict.OK,
        seen=", ".join(strays[:3]) or "none",
        expected="no weights file beside those of the source's list",
        next_command=f"ls -l {directory}   # on {host.name}; move away what does not belong there",
    )
    links = [path for path, entry in seen.entries.items() if entry.kind == "l"]
    findings.judge(
        "WGT-SYMLINK",
        subject,
        ok=not links,
        seen=", ".join(links[:3]) or "no links",
        expected="real files: a container that mounts only this directory cannot follow links",
    )


def _check_access(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    wrong = _wrong_modes(seen)
    findings.judge(
        "WGT-MODE",
        subject,
        ok=not wrong,
        seen=", ".join(wrong[:3]) or "750, config.json 640",
        expected="directories 750, config.json 640, nothing for others",
    )
    owner = params.model.weights.owner
    strangers = sorted({entry.owner for entry in (seen.entries or {}).values()} - {owner})
    findings.judge("WGT-OWNER", subject, ok=not strangers, seen=", ".join(strangers) or owner, expected=owner)


def _check_content(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    command = f"head {params.model.weights.directory}/{_CONFIG}   # on {host.name}"
    config = seen.config
    if not config:
        said = "config.json missing or not JSON"
        findings.add("WGT-CONFIG", subject, Verdict.UNKNOWN, seen=said, expected="a readable config.json")
        return
    quantized = str(config.get("quantize", "")).startswith("w8a8")
    found = "w8a8" if quantized else "bf16"
    findings.add(
        "WGT-FORMAT",
        subject,
        Verdict.OK if found == params.model.format else Verdict.FAIL,
        seen=found,
        expected=params.model.format,
        next_command=f"set model.format in params/{params.cluster.name}.yaml, or take other weights",
    )
    wanted = images.image_facts(params.container.image.rpartition(":")[2]).model_type
    problems = []
    if wanted is not None and config.get("model_type") != wanted:
        problems.append(f"model_type {config.get('model_type')!r}, this image wants {wanted!r}")
    if not config.get("torch_dtype"):
        problems.append("no torch_dtype")
    findings.add(
        "WGT-CONFIG",
        subject,
        Verdict.FAIL if problems else Verdict.OK,
        seen="; ".join(problems) or str(config.get("model_type")),
        expected=f"model_type {wanted or 'of the model'} and a torch_dtype",
        next_command=command,
    )


def plan(facts: WeightsFacts, params: Params) -> list[Change]:
    """Push the downloader, run it on all hosts together while any lacks a file, then set owner and modes."""
    files = expected_files(facts)
    fetch = bool(files) and any(lacking(seen, files) for seen in facts.hosts.values())
    changes: list[Change] = []
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is not None and seen.entries is not None:
            paths = facts.paths[host.name]
            if fetch:
                changes += _fetch_changes(params, host, paths, seen, len(lacking(seen, files)))
            changes += _access_changes(params, host, paths, seen, fetch=fetch)
    return changes


def _fetch_changes(params: Params, host: Host, paths: HostPaths, seen: HostFacts, missing: int) -> list[Change]:
    subject = Subject(host.name)
    changes = []
    if not seen.tool_present:
        changes.append(
            Change(
                subject=subject,
                summary="put the downloader in place",
                before="missing or of another version",
                after=tool_file(paths),
                action=Upload(tool_file(paths), source(TOOL), mode=0o640),
                undo=Command(("rm", "-f", tool_file(paths))),
            )
        )
    if not seen.entries:
        changes.append(
            Change(
                subject=subject,
                summary=f"make {paths.weights}",
                before="missing",
                after="750 directory",
                action=Command(("install", "-d", "-m", "0750", paths.weights)),
                undo=Command(("rmdir", "--ignore-fail-on-non-empty", paths.weights)),
            )
        )
    weights = params.model.weights
    argv: tuple[str, ...] = ("python3", tool_file(paths), "--source", weights.source.url, "--directory", paths.weights)
    argv += ("--state", state_file(paths), "--bind", host.service_ip, "--port", str(weights.exchange_port))
    argv += ("--hosts", ",".join(each.service_ip for each in params.cluster.hosts))
    changes.append(
        Change(
            subject=subject,
            summary="download this host's share, exchange the rest with the other hosts, verify every sha256",
            before=f"{missing} files missing or not verified",
            after="every file verified",
            action=Job("weights", argv, _DEADLINE_S, progress=True),
            irreversible="downloaded weights are kept",
            phase=1,
            fixes=("WGT-MISSING", "WGT-SYMLINK"),
        )
    )
    return changes


def _access_changes(params: Params, host: Host, paths: HostPaths, seen: HostFacts, *, fetch: bool) -> list[Change]:
    owner = params.model.weights.owner
    subject = Subject(host.name)
    changes = []
    strangers = sorted({entry.owner for entry in (seen.entries or {}).values()} - {owner})
    if strangers or fetch:
        changes.append(
            Change(
                subject=subject,
                summary=f"chown -R {owner} {paths.weights}",
                before=", ".join(strangers) or "what the download makes",
                after=owner,
                action=Command(("chown", "-R", owner, paths.weights), 600.0),
                irreversible="the owners before are not kept file by file",
                risk=Risk.DISRUPTIVE,
                phase=2,
                fixes=("WGT-OWNER",),
            )
        )
    wrong = _wrong_modes(seen)
    if wrong or fetch:
        before = ", ".join(wrong[:3]) or "what the download makes"
        changes += [
            Change(
                subject=subject,
                summary=f"chmod {options[-1]} {path}",
                before=before,
                after=options[-1],
                action=Command(("chmod", *options, path), 600.0),
                irreversible="the modes before are not kept file by file",
                risk=Risk.DISRUPTIVE,
                phase=2,
                fixes=("WGT-MODE",),
            )
            for options, path in ((("-R", "750"), paths.weights), (("640",), f"{paths.weights}/{_CONFIG}"))
        ]
    return changes


def waits_for(facts: WeightsFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return preflight while a host has no work folder."""
    return () if all(seen.work_present for seen in facts.hosts.values()) else ("preflight",)
