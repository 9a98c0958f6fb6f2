"""Push the downloader, run it on all hosts together while any lacks a file, then set owner, modes and config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Job, Risk, Subject, Upload
from runbook_lib.stages.weights.adapt import adapted, problems
from runbook_lib.stages.weights.facts import json_object
from runbook_lib.stages.weights.modes import wrong_modes
from runbook_lib.stages.weights.probe import (
    CONFIG,
    ORIGINAL,
    exchange_token_file,
    source_spec,
    source_token_file,
    state_file,
    tool_file,
    tool_text,
)
from runbook_lib.stages.weights.room import fits, missing_bytes
from runbook_lib.stages.weights.state import expected_files, lacking, links, listed_by_token_only, owners

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.weights.facts import HostFacts, WeightsFacts

_DEADLINE_S = 48 * 3600.0  # 1.3 TB at 10 MB/s
SERVES = "this host has everything; it serves the other hosts and waits until they have it too"
EXCHANGE_TOKEN = "the one-time token of the exchange between the hosts"  # noqa: S105 - its name for people
EXCHANGE_SECRET = "generated:weights-exchange"  # noqa: S105 - a reference; the value is made anew at each apply


def plan(facts: WeightsFacts, params: Params) -> list[Change]:
    """Return the changes; none of them downloads while a disk is too small for what is to come."""
    files = expected_files(facts)
    incomplete = bool(files) and any(lacking(seen, files, params) for seen in facts.hosts.values())
    room = all(fits(seen, files, params) for seen in facts.hosts.values())
    fetch = room and bool(owners(facts, params)) and (incomplete or listed_by_token_only(facts, params))
    changes: list[Change] = []
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is not None and seen.entries is not None:
            paths = facts.paths[host.name]
            if fetch:
                changes += _fetch_changes(params, host, paths, facts)
            changes += _access_changes(params, host, paths, seen, fetch=fetch)
            changes += _config_changes(params, host, paths, seen, _config_to_come(facts, seen) if fetch else "")
    return changes


def _config_to_come(facts: WeightsFacts, seen: HostFacts) -> str:
    """Return the config.json that the download brings, or the one that is there."""
    listed = next((each.source.config for each in facts.hosts.values() if each.source.config), "")
    return listed or seen.original or seen.config


def _fetch_changes(params: Params, host: Host, paths: HostPaths, facts: WeightsFacts) -> list[Change]:
    seen, subject = facts.hosts[host.name], Subject(host.name)
    changes = []
    if not seen.tool_present:
        changes.append(bring_tool(subject, paths))
    changes += _secrets(params, subject, paths)
    if not seen.entries:
        changes.append(
            Change(
                subject=subject,
                summary=f"make {paths.weights}",
                before="missing",
                after="750 directory",
                action=Command(("install", "-d", "-m", "0750", paths.weights)),
                irreversible="kept with the weights; `runbook teardown PARAMS --weights` removes both",
            )
        )
    files = expected_files(facts)
    missing, left = len(lacking(seen, files, params)), missing_bytes(seen, files, params) / 1e9
    linked = len(links(seen))
    summary = "download this host's share, exchange the rest with the other hosts, verify every sum"
    if linked:
        summary += f"; put the real files in the place of {linked} links, without a download"
    changes.append(
        Change(
            subject=subject,
            summary=summary,
            before=f"{missing} files missing or not verified, {left:.2f} GB to come" if files else "not listed yet",
            after="every file verified",
            action=Job(
                "weights",
                _job_argv(params, host, paths, facts),
                _DEADLINE_S,
                progress=True,
                afterwards=SERVES if len(params.cluster.hosts) > 1 else "",
            ),
            irreversible="downloaded weights are kept",
            phase=1,
            fixes=("WGT-MISSING", "WGT-SYMLINK", "WGT-INCOMPLETE", "WGT-POINTER", "WGT-SAME", "WGT-SOURCE", "WGT-DISK"),
        )
    )
    return changes


def bring_tool(subject: Subject, paths: HostPaths, phase: int = 0) -> Change:
    """Return the change that puts the downloader on a host."""
    return Change(
        subject=subject,
        summary="put the downloader in place",
        before="missing or of another version",
        after=tool_file(paths),
        action=Upload(tool_file(paths), tool_text(), mode=0o640),
        undo=Command(("rm", "-f", tool_file(paths))),
        phase=phase,
    )


def bring_secret(subject: Subject, what: str, place: str, reference: str, phase: int = 0) -> Change:
    """Return the change that brings a secret to a host, as a file that the downloader removes once it has read it."""
    return Change(
        subject=subject,
        summary=f"bring {what}, until the downloader has read it",
        before="none",
        after=place,
        action=Upload(place, "", mode=0o600, secret=reference),
        undo=Command(("rm", "-f", place)),
        phase=phase,
    )


def _secrets(params: Params, subject: Subject, paths: HostPaths) -> list[Change]:
    """Bring the secrets of the transfer to the host: files that only root reads, removed by the downloader."""
    wanted = []
    if len(params.cluster.hosts) > 1:
        wanted.append((EXCHANGE_TOKEN, EXCHANGE_SECRET, exchange_token_file))
    if params.model.weights.source.token:
        wanted.append(("the source's token", params.model.weights.source.token, source_token_file))
    return [bring_secret(subject, what, place(paths), reference) for what, reference, place in wanted]


def _job_argv(params: Params, host: Host, paths: HostPaths, facts: WeightsFacts) -> tuple[str, ...]:
    weights = params.model.weights
    argv: tuple[str, ...] = ("python3", tool_file(paths), "fetch", "--spec", source_spec(params))
    argv += ("--directory", paths.weights, "--state", state_file(paths))
    argv += ("--bind", host.service_ip, "--port", str(weights.exchange_port))
    argv += ("--hosts", ",".join(each.service_ip for each in params.cluster.hosts))
    argv += ("--owners", ",".join(map(str, owners(facts, params))))
    argv += ("--exchange-token", exchange_token_file(paths))
    if weights.source.token:
        argv += ("--token", source_token_file(paths))
    if params.twin is not None:  # emulated hosts share one kernel: their addresses tell them apart
        argv += ("--from", host.service_ip)
    if weights.source.limit_mb_s:
        argv += ("--limit", f"{weights.source.limit_mb_s:g}")
    return argv


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
    wrong = wrong_modes(seen)
    if wrong or fetch:
        before = ", ".join(wrong[:3]) or "what the download makes"
        others = fetch or any(not each.startswith(f"{CONFIG} ") for each in wrong)  # -R alone opens config.json too
        whole, config = (("-R", "750"), paths.weights), (("640",), f"{paths.weights}/{CONFIG}")
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
            for options, path in ((whole, config) if others else (config,))
        ]
    return changes


def _config_changes(params: Params, host: Host, paths: HostPaths, seen: HostFacts, to_come: str) -> list[Change]:
    """Edit config.json where the image wants it otherwise; the hub's own stays beside it, and is the undo."""
    original = to_come or seen.original or seen.config
    wanted = adapted(original, params)
    if wanted == original or (seen.config == wanted and not to_come):
        return []
    subject, owner = Subject(host.name), params.model.weights.owner
    config, kept = f"{paths.weights}/{CONFIG}", f"{paths.weights}/{ORIGINAL}"
    before = "; ".join(problems(json_object(original), params))
    changes = []
    if seen.original != original:
        changes.append(
            Change(
                subject=subject,
                summary=f"keep the hub's {CONFIG} as {ORIGINAL}",
                before="not kept",
                after=kept,
                action=Upload(kept, original, mode=0o640, owner=owner),
                undo=Command(("rm", "-f", kept)),
                phase=3,
            )
        )
    changes.append(
        Change(
            subject=subject,
            summary=f"fit {CONFIG} to the image",
            before=before,
            after="as the image wants it",
            action=Upload(config, wanted, mode=0o640, owner=owner),
            undo=Upload(config, original, mode=0o640, owner=owner),
            risk=Risk.DISRUPTIVE,
            phase=3,
            fixes=("WGT-CONFIG", "WGT-SAME"),
        )
    )
    return changes
