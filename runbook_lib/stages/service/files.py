"""Judge the service's files on one host: as wanted, and if not, what is otherwise and what it leads to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import environment, mindie_config, rank_table
from runbook_lib.model import Subject, Verdict
from runbook_lib.stages.base import params_file
from runbook_lib.stages.service.probe import LIBRARY, file_names
from runbook_lib.stages.service.rules import config_problems
from runbook_lib.stages.service.wanted import due_in_network, live_ips, mode_of, wanted_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runbook_lib.params import Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.service.facts import ServiceFacts

CODES = {"config.json": "SVC-CONFIG", "rank_table.json": "SVC-RANK-TABLE"}
ENV_CODE = "SVC-ENV"
_LIBRARY_MODE = 0o440
_OWNER = "0:0"
_SHOWN = 3


def check_files(findings: Findings, facts: ServiceFacts, params: Params, host: Host) -> None:
    """Judge every file of one host, the library of the image, and the rules of what params ask for."""
    seen = facts.hosts[host.name]
    subject = Subject(host.name)
    want = wanted_files(facts, params, host)
    for path in file_names(facts.paths[host.name]):
        name = path.rpartition("/")[2]
        code = CODES.get(name, ENV_CODE)
        has = seen.files.get(path)
        expected = f"{path} as params want it, mode {mode_of(path):o}"
        if path in seen.missing:
            command = findings.look_again if want is None else None  # nothing is planned before that is known
            said = f"{name} missing"
            findings.add(code, subject, Verdict.FAIL, seen=said, expected=expected, next_command=command)
        elif has is None or want is None:
            said = f"{name} not read" if has is None else "live IPs or the image's default unknown"
            findings.add(code, subject, Verdict.UNKNOWN, seen=said, expected=expected)
        else:
            text, _ = want[path]
            said = f"{name} as wanted" if has == text else "; ".join(_unlike(facts, params, host, name, has, text))
            findings.judge(code, subject, ok=has == text, seen=said, expected=expected)
    _check_modes(findings, facts, host)
    _check_live(findings, facts, params, host, known=want is not None)
    _check_library(findings, params, host, seen.library_mode, running=seen.default_config.value is not None)
    if want is not None:
        config = json.loads(want[facts.paths[host.name].config_json][0])
        certificates = None if seen.tls_missing is None and params.service.https else seen.tls_missing == ()
        _check_rules(findings, params, host, config, certificates=certificates)


def _check_modes(findings: Findings, facts: ServiceFacts, host: Host) -> None:
    seen, paths = facts.hosts[host.name], facts.paths[host.name]
    wrong, unknown = [], []
    there = [path for path in file_names(paths) if path not in seen.missing]
    for path in there:
        name, mode, owner, right = path.rpartition("/")[2], seen.modes.get(path), seen.owners.get(path), mode_of(path)
        wrong += [f"{name} mode {mode:o}, right {right:o}"] if mode not in {None, right} else []
        wrong += [f"{name} owner {owner}"] if owner not in {None, _OWNER} else []
        unknown += [name] if mode is None or owner is None else []
    doubt = Verdict.UNKNOWN if unknown else Verdict.OK if there else Verdict.SKIPPED
    findings.add(
        "SVC-FILE-MODE",
        Subject(host.name),
        Verdict.FAIL if wrong else doubt,
        seen="; ".join(wrong)
        or (f"mode or owner of {', '.join(unknown)} not read" if unknown else "as it must be" if there else "no files"),
        expected=f"640 for what the daemon reads, 750 for scripts, owner {_OWNER}, who runs the daemon",
        next_command=f"chown {_OWNER} {paths.service}/*; chmod 640 {paths.service}/*.json {paths.env_file}; "
        f"chmod 750 {paths.service}/*.sh   # on {host.name}"
        if wrong
        else None,
    )


def _unlike(  # noqa: PLR0913, PLR0917 - one file of one host, as it is and as it shall be
    facts: ServiceFacts, params: Params, host: Host, name: str, has: str, text: str
) -> Iterator[str]:
    """Say how a file differs, and what the daemon makes of it."""
    if name == "config.json":
        yield from _unlike_config(params, has, text, _fraction(facts, params, host))
    elif name == "rank_table.json":
        live = {each.service_ip: live_ips(facts, each) for each in params.cluster.hosts}
        problems = rank_table.validate(has, {} if due_in_network(facts, params) else live)
        yield from problems[:_SHOWN] or ["rank_table.json names other servers or cards than params"]
    elif name == "service.env":
        right, wrong = environment.parse_env_file(text), environment.parse_env_file(has)
        unlike = [key for key in {**right, **wrong} if right.get(key) != wrong.get(key)]
        yield "service.env: " + (
            ", ".join(f"{key} {wrong.get(key, 'missing')} -> {right.get(key, 'none')}" for key in unlike[:_SHOWN])
            or "other comments"
        )
        yield from environment.environment_problems(params.container.image, wrong, params.world_size)[:_SHOWN]
        config = mindie_config.parse(facts.hosts[host.name].files.get(facts.paths[host.name].config_json, ""))
        for rule in config_problems(config.value, params, _as_fraction(wrong)) if config.value is not None else ():
            if rule.key == "NPU_MEMORY_FRACTION":
                yield f"{rule.key} {rule.seen}: {rule.why}"
    elif name == "start.sh":
        lost = [line for line in text.splitlines() if line.strip() and line not in has.splitlines()]
        yield f"start.sh was changed: {'; '.join(line.strip() for line in lost[:2]) or 'lines were added'}"
        if any("set_env.sh" in line for line in lost) or "service.env" not in has:
            yield "the daemon starts without the environment of its libraries: `No module named 'mindie_llm'`"
    else:
        yield f"{name} differs"


def _unlike_config(params: Params, has: str, text: str, fraction: float) -> Iterator[str]:
    read = mindie_config.parse(has)
    if read.value is None:
        yield f"config.json: {read.message}"
        return
    flat, right = dict(_flat(read.value)), dict(_flat(json.loads(text)))
    unlike = [key for key in {**right, **flat} if right.get(key) != flat.get(key)]
    pairs = [f"{key.rpartition('.')[2]} {flat.get(key, 'missing')} -> {right.get(key, 'none')}" for key in unlike]
    yield "config.json: " + (", ".join(pairs[:_SHOWN]) or "the same values in another form")
    for rule in config_problems(read.value, params, fraction)[:_SHOWN]:
        yield f"{rule.key.rpartition('.')[2]} {rule.seen}: {rule.why}"


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted path and value of every leaf."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{index}")
    else:
        yield path, value


def _as_fraction(variables: Mapping[str, str]) -> float:
    try:
        return float(variables.get("NPU_MEMORY_FRACTION", "0.8"))  # MindIE's default
    except ValueError:
        return 0.0


def _fraction(facts: ServiceFacts, params: Params, host: Host) -> float:
    """Return the fraction that the daemon would be started with now."""
    text = facts.hosts[host.name].files.get(facts.paths[host.name].env_file)
    return _as_fraction(environment.parse_env_file(text)) if text else params.service.npu_memory_fraction


def _check_live(findings: Findings, facts: ServiceFacts, params: Params, host: Host, *, known: bool) -> None:
    subject = Subject(host.name)
    expected = "the live IPs of all cards"
    if not known:
        said = "live IPs or the image's default are not known"
        findings.add("SVC-RANK-TABLE-LIVE", subject, Verdict.UNKNOWN, seen=said, expected=expected)
        return
    live = {each.service_ip: live_ips(facts, each) for each in params.cluster.hosts}
    seen, path = facts.hosts[host.name], facts.paths[host.name].rank_table
    table, missing = seen.files.get(path), path in seen.missing
    problems = rank_table.validate(table, live) if table is not None else ["no rank table" if missing else "not read"]
    due = due_in_network(facts, params)
    known_bad = Verdict.FAIL if table is not None or missing else Verdict.UNKNOWN
    verdict = Verdict.SKIPPED if due else known_bad if problems else Verdict.OK
    said = due or "; ".join(problems[:_SHOWN]) or "equal"
    findings.add("SVC-RANK-TABLE-LIVE", subject, verdict, seen=said, expected=expected)


def _check_library(findings: Findings, params: Params, host: Host, mode: int | None, *, running: bool) -> None:
    if mode is None and not running:
        return  # no container answers: that is the container stage's affair
    findings.add(
        "SVC-LIBRARY",
        Subject(host.name),
        Verdict.UNKNOWN if mode is None else Verdict.OK if mode == _LIBRARY_MODE else Verdict.FAIL,
        seen="mode not readable" if mode is None else f"mode {mode:o}",
        expected=f"mode {_LIBRARY_MODE:o}, else MIE04E060102",
        next_command=f"docker exec {params.container.name} chmod 440 {LIBRARY}   # on {host.name}"
        if mode is not None
        else None,
    )


def _check_rules(
    findings: Findings, params: Params, host: Host, config: Mapping[str, Any], *, certificates: bool | None
) -> None:
    """Judge what params ask for; what is edited into the file by hand shows as a difference.

    certificates: None when they are needed and could not be looked for.
    """
    known = certificates is not None
    rules = config_problems(config, params, params.service.npu_memory_fraction, certificates=certificates or not known)
    for rule in rules:
        findings.add(
            "SVC-CONFIG-RULE",
            Subject(host.name, item=rule.key),
            Verdict.FAIL,
            seen=f"{rule.seen}: {rule.why} ({rule.source})",
            expected=rule.expected,
            next_command=f"edit service in {params_file(params)}",
        )
    if not known:
        said, expected = "the certificates in the image could not be looked for", "those of config.json's keys"
        item = "ServerConfig.httpsEnabled"
        subject = Subject(host.name, item=item)
        findings.add("SVC-CONFIG-RULE", subject, Verdict.UNKNOWN, seen=said, expected=expected)
    elif not rules:
        said = "no rule is broken"
        findings.add("SVC-CONFIG-RULE", Subject(host.name), Verdict.OK, seen=said, expected=said)
