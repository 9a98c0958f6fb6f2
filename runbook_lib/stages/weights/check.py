"""Judge source, files, links, modes, owner, content and disk of every host."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.stages.base import Findings
from runbook_lib.stages.weights.adapt import model_type, problems
from runbook_lib.stages.weights.facts import NAME, json_object
from runbook_lib.stages.weights.modes import wrong_modes
from runbook_lib.stages.weights.probe import CONFIG, ORIGINAL
from runbook_lib.stages.weights.room import missing_bytes, needed_bytes
from runbook_lib.stages.weights.state import expected_files, lacking, links, listed_by_token_only, owners, tree_digest

if TYPE_CHECKING:
    from runbook_lib.params import Host, Params
    from runbook_lib.stages.weights.facts import Files, HostFacts, WeightsFacts

_POINTER = "git-lfs pointer"


def check(facts: WeightsFacts, params: Params) -> list[Finding]:
    """Judge every host, and whether all hold the same."""
    findings = Findings(params, NAME)
    findings.unreachable(params, tuple(facts.hosts))
    files = expected_files(facts)
    complete = bool(files) and all(not lacking(seen, files, params) for seen in facts.hosts.values())
    _check_source(findings, params, facts, complete=complete)
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is None:
            continue
        _check_files(findings, params, host, seen, files)
        _check_disk(findings, params, host, seen, files)
        if seen.entries:
            _check_headers(findings, params, host, seen)
            _check_access(findings, params, host, seen)
            _check_content(findings, params, host, seen)
    _check_same(findings, params, facts, files)
    return findings.items


def _check_source(findings: Findings, params: Params, facts: WeightsFacts, *, complete: bool) -> None:
    """One host that reaches the source is enough: the others take the files from it."""
    source = params.model.weights.source
    where = source.path if source.kind == "path" else f"{source.endpoint} {source.repository}".strip()
    able = owners(facts, params)
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        if seen is None:
            continue
        subject = Subject(host.name)
        expected = f"a list of files at {where}"
        command = f"runbook explain WGT-SOURCE; then on {host.name}: ls {where}"
        if source.kind != "path":
            command = f"curl -sS -o /dev/null -w '%{{http_code}}\\n' {source.endpoint}   # on {host.name}"
        if seen.source.files:
            said = f"{len(seen.source.files)} files" + (f", commit {seen.source.commit}" if seen.source.commit else "")
            findings.add("WGT-SOURCE", subject, Verdict.OK, seen=said, expected=expected)
        elif complete:
            said = "not needed: the weights are complete"
            findings.add("WGT-SOURCE", subject, Verdict.SKIPPED, seen=said, expected=expected)
        elif listed_by_token_only(facts, params) and able:
            said = f"{seen.source.error}; the job asks again with the token of {source.token}"
            findings.add("WGT-SOURCE", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)
        elif able:
            said = f"this host does not reach it ({seen.source.error}); it takes the files from the others"
            findings.add("WGT-SOURCE", subject, Verdict.WARN, seen=said, expected=expected, next_command=command)
        else:
            findings.add(
                "WGT-SOURCE", subject, Verdict.FAIL, seen=seen.source.error, expected=expected, next_command=command
            )


def _check_files(findings: Findings, params: Params, host: Host, seen: HostFacts, files: Files) -> None:
    subject = Subject(host.name)
    directory = params.model.weights.directory
    if seen.entries is None or not files:
        said = f"{directory} could not be listed" if seen.entries is None else "no list of files from source or record"
        findings.add("WGT-MISSING", subject, Verdict.UNKNOWN, seen=said, expected="every file of the source's list")
        return
    missing = lacking(seen, files, params)
    size = sum(int(entry["size"]) for entry in files.values())
    expected = f"{len(files)} files, {size / 1e9:.2f} GB, every sum as the source lists it"
    said = (
        f"{len(missing)} of {len(files)} files missing, changed or not verified"
        if missing
        else f"{len(files)} files, sum right when fetched, size and time unchanged since"
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
    linked = links(seen)
    findings.judge(
        "WGT-SYMLINK",
        subject,
        ok=not linked,
        seen=", ".join(linked[:3]) or "no links",
        expected="real files: a container that mounts only this directory cannot follow links",
    )


def _check_disk(findings: Findings, params: Params, host: Host, seen: HostFacts, files: Files) -> None:
    """Say before the first byte whether what is missing fits where it goes; the home plays no part, and is named."""
    subject = Subject(host.name)
    needed = needed_bytes(seen, files, params)
    directory = params.model.weights.directory
    expected = f"{needed / 1e9:.2f} GB free for {directory}; the home is not used"
    if seen.free is None or (not files and seen.entries is not None):
        said = "free space could not be read" if seen.free is None else "how much is needed is not known yet"
        verdict = Verdict.UNKNOWN if seen.free is None else Verdict.SKIPPED
        findings.add("WGT-DISK", subject, verdict, seen=said, expected=expected)
        return
    home = f"; home has {seen.home_free / 1e9:.2f} GB free" if seen.home_free is not None else ""
    findings.add(
        "WGT-DISK",
        subject,
        Verdict.OK if needed <= seen.free else Verdict.FAIL,
        seen=f"{seen.free / 1e9:.2f} GB free on {seen.mount}, {missing_bytes(seen, files, params) / 1e9:.2f} GB to come"
        + home,
        expected=expected,
        next_command=f"df -h {seen.mount}   # on {host.name}; free space, or set model.weights.directory elsewhere",
    )


def _check_headers(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    """Judge what the headers of the files say; they are read at each look, the sums only on demand."""
    subject = Subject(host.name)
    command = f"runbook weights verify params/{params.cluster.name}.yaml --full"
    expected = "every shard whole by its header, every tensor of the index in its file"
    if seen.headers is None:
        said = "the headers could not be read"
        findings.add("WGT-INCOMPLETE", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)
        return
    pointers = [f"{file} {problem}" for file, problem in seen.headers if _POINTER in problem]
    others = [f"{file} {problem}" for file, problem in seen.headers if _POINTER not in problem]
    findings.judge(
        "WGT-POINTER", subject, ok=not pointers, seen="; ".join(pointers[:3]) or "none", expected="no git-lfs pointer"
    )
    findings.judge(
        "WGT-INCOMPLETE",
        subject,
        ok=not others,
        seen="; ".join(others[:3]) or "whole by their headers",
        expected=expected,
    )


def _check_access(findings: Findings, params: Params, host: Host, seen: HostFacts) -> None:
    subject = Subject(host.name)
    wrong = wrong_modes(seen)
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
    config = json_object(seen.config)
    if not config:
        command = f"head {params.model.weights.directory}/{CONFIG}   # on {host.name}"
        said = "config.json missing or not JSON"
        findings.add(
            "WGT-CONFIG",
            subject,
            Verdict.UNKNOWN,
            seen=said,
            expected="a readable config.json",
            next_command=command,
        )
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
    if seen.original is None:
        said = f"whether {ORIGINAL} is there could not be read"
        findings.add("WGT-CONFIG", subject, Verdict.UNKNOWN, seen=said, expected="the hub's config.json, or none kept")
        return
    found_problems = problems(config, params)
    findings.judge(
        "WGT-CONFIG",
        subject,
        ok=not found_problems,
        seen="; ".join(found_problems) or str(config.get("model_type")),
        expected=f"model_type {model_type(params) or 'of the model'} and a torch_dtype",
    )


def _check_same(findings: Findings, params: Params, facts: WeightsFacts, files: Files) -> None:
    """Compare the hosts. What a host with all listed files holds is right; else the odd one out is blamed."""
    digests = {name: tree_digest(seen) for name, seen in facts.hosts.items() if seen.verified}
    right = {
        digests[name]
        for name, seen in facts.hosts.items()
        if name in digests and files and not lacking(seen, files, params) and not _unfit(seen, params)
    }
    common, count = Counter(digests.values()).most_common(1)[0] if digests else ("", 0)
    majority = common if count * 2 > len(digests) else ""
    reference = right.pop() if len(right) == 1 else majority
    said = ", ".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    for name, digest in digests.items():
        verdict = Verdict.OK if len(digests) == len(params.cluster.hosts) else Verdict.UNKNOWN
        verdict = verdict if digest == reference else Verdict.FAIL
        findings.add("WGT-SAME", Subject(name), verdict, seen=said, expected="the same digest on all hosts")


def _unfit(seen: HostFacts, params: Params) -> bool:
    config = json_object(seen.config)
    return not config or bool(problems(config, params))
