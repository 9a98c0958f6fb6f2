"""Service: config.json, rank table and environment on every host; the daemons; one real answer."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import (
    docker,
    environment,
    hccn,
    images,
    mindie_config,
    mindie_defaults,
    mindie_rules,
    rank_table,
)
from runbook_lib.ascend.environment import EnvVar
from runbook_lib.ascend.hccn import NetHealth
from runbook_lib.model import Change, Command, Finding, Job, ProbeScript, Risk, Section, Subject, Upload, Verdict
from runbook_lib.stages import logs
from runbook_lib.stages.base import Findings, apply_command, params_file
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.docker import Container
    from runbook_lib.ascend.hccn import IpConfig
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import HostProbe, Probes

NAME = "service"
DEFAULT_CONFIG = "/usr/local/Ascend/mindie/latest/mindie-service/conf/config.json"  # in every image so far
_STARTED_WITH = ("config.json", "rank_table.json", "service.env", "start.sh")
_SCRIPT_MODE = 0o750
_DATA_MODE = 0o640  # the service refuses config.json and rank table that others can read
_ANSWER_TIMEOUT_S = 60.0
_START_DEADLINE_S = 30.0
_OCTAL = re.compile(r"[0-7]{3,4}")
_QUESTION = "Which planet is the third from the sun? Answer in one word."


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What one host has of the service. `master` only: ready, answer, listening."""

    container: Reading[Container]
    default_config: Reading[dict[str, Any]]
    files: Mapping[str, tuple[str, int]]
    started_with: Mapping[str, str]
    alive: str
    ips: Mapping[int, Reading[IpConfig]]
    health: Mapping[int, Reading[NetHealth]]
    logs: Mapping[str, str]
    ready: Mapping[str, Any]
    answer: Mapping[str, Any]
    listening: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Facts of every host that was reached, and their paths."""

    hosts: Mapping[str, HostFacts]
    paths: Mapping[str, HostPaths]


def _file_names(paths: HostPaths) -> tuple[str, ...]:
    return (paths.config_json, paths.rank_table, paths.env_file, paths.start_script, f"{paths.service}/stop.sh")


def _in_container(params: Params, *argv: str) -> tuple[str, ...]:
    return ("docker", "exec", params.container.name, *argv)


def http_section(key: str, method: str, url: str, timeout_s: float, *body_and_gate: str) -> Section:
    """Return a probe section that makes one HTTP request from the host and prints JSON; see push/http_call.py."""
    argv = ("python3", "-c", source("http_call.py"), method, url, str(timeout_s), *body_and_gate)
    return Section(key, argv, timeout_s + 10)


def ready_section(params: Params) -> Section:
    """Return the readiness read of the master's management port."""
    return http_section("ready", "GET", _ready_url(params), 5.0)


def _ready_url(params: Params) -> str:
    return f"http://{params.master.service_ip}:{params.service.management_port}/v2/health/ready"


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:
    """Read files, container, live card state, daemon, logs; on the master also readiness and one completion."""
    names = _file_names(paths)
    pid_file = f"{paths.inside(paths.service)}/daemon.pid"
    sections = [
        Section("container", ("docker", "inspect", params.container.name)),
        Section("default", _in_container(params, "cat", DEFAULT_CONFIG)),
        *(Section(f"file.{name}", ("cat", name)) for name in names),
        Section("modes", ("stat", "-c", "%a %n", *names)),
        Section("started", ("cat", f"{paths.service}/started.sha256")),
        Section("alive", _in_container(params, "sh", "-c", source("alive.sh"), "sh", pid_file)),
        logs.section(paths, lines=200),
    ]
    for card in host.cards:
        on_card = (paths.hccn_tool, "-i", str(card.id))
        sections += [
            Section(f"ip.{card.id}", (*on_card, "-ip", "-g")),
            Section(f"net_health.{card.id}", (*on_card, "-net_health", "-g")),
        ]
    if host == params.master:
        question = {
            "model": params.model.name,
            "messages": [{"role": "user", "content": _QUESTION}],
            "max_tokens": 32,
            "stream": False,
        }
        business = f"http://{host.service_ip}:{params.service.port}/v1/chat/completions"
        sections += [
            ready_section(params),
            http_section("answer", "POST", business, _ANSWER_TIMEOUT_S, json.dumps(question), _ready_url(params)),
            Section("listening", ("ss", "-Hlnt")),
        ]
    return ProbeScript(tuple(sections))


def facts(params: Params, probes: Probes) -> ServiceFacts:
    """Parse what every host said."""
    return ServiceFacts(
        {name: _host_facts(params.host(name), seen) for name, seen in probes.items() if not seen.error},
        {name: seen.paths for name, seen in probes.items()},
    )


def _host_facts(host: Host, seen: HostProbe) -> HostFacts:
    modes = {}
    stat = seen.get("modes")  # ends with 1 while a file is missing, and still says the others
    ended = stat.ok or (stat.exit_code == 1 and "No such file" in stat.stderr)
    for line in stat.stdout.splitlines() if ended else ():
        mode, _, name = line.partition(" ")
        if _OCTAL.fullmatch(mode):
            modes[name] = int(mode, 8)
    files = {
        name: (seen.get(f"file.{name}").stdout, modes[name])
        for name in _file_names(seen.paths)
        if seen.get(f"file.{name}").ok and name in modes
    }
    started = [line.split() for line in _text(seen.get("started")).splitlines()]
    return HostFacts(
        container=docker.parse_inspect(seen.get("container")),
        default_config=mindie_config.parse(_text(seen.get("default"))),
        files=files,
        started_with={words[1]: words[0] for words in started if len(words) == 2},  # noqa: PLR2004 - sum and name
        alive=_text(seen.get("alive")).strip(),
        ips={card.id: hccn.parse_ip(seen.get(f"ip.{card.id}")) for card in host.cards},
        health={card.id: hccn.parse_net_health(seen.get(f"net_health.{card.id}")) for card in host.cards},
        logs=logs.by_file(seen.get("logs")),
        ready=_answer(seen.get("ready")),
        answer=_answer(seen.get("answer")),
        listening=_listening(seen.get("listening")),
    )


def _text(capture: Capture) -> str:
    return capture.stdout if capture.ok else ""


def _answer(capture: Capture) -> dict[str, Any]:
    try:
        value = json.loads(capture.stdout) if capture.ok else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _listening(capture: Capture) -> tuple[str, ...] | None:
    if not capture.ok:
        return None
    rows = [line.split() for line in capture.stdout.splitlines()]
    local = tuple(words[3] if len(words) > 3 else "" for words in rows)  # noqa: PLR2004 - State Recv-Q Send-Q Local
    readable = all(place.rpartition(":")[2].isdigit() for place in local)
    return local if local and readable else None  # a host that answers over SSH listens on something


def wanted_files(facts: ServiceFacts, params: Params, host: Host) -> dict[str, tuple[str, int]] | None:
    """Return path -> (text, mode) for one host; None while live IPs or the image's default are not known."""
    paths, seen = facts.paths[host.name], facts.hosts[host.name]
    table = _wanted_rank_table(facts, params)
    default = _default(params, seen)
    if table is None or default is None:
        return None
    try:
        config = mindie_config.render(default, _settings(params, host, paths))
    except TypeError:  # the image's own file has another form than any that is known
        return None
    variables = environment.service_environment(
        image_tag=params.container.image,
        world_size=params.world_size,
        container_ip=host.service_ip,
        master_ip=params.master.service_ip,
        rank_table_path=paths.inside(paths.rank_table),
        config_path=paths.inside(paths.config_json),
        work_path=paths.inside(paths.plog),
        memory_fraction=params.service.npu_memory_fraction,
    )
    variables.append(
        EnvVar(
            "MINDIE_LOG_PATH",
            paths.inside(paths.mindie_log),
            "logs outlive the container",
            "MindIE-LLM environment_variable",
        )
    )
    return {
        paths.config_json: (mindie_config.to_text(config), _DATA_MODE),
        paths.rank_table: (table, _DATA_MODE),
        paths.env_file: (environment.render_env_file(variables), _DATA_MODE),
        paths.start_script: (source("start.sh"), _SCRIPT_MODE),
        f"{paths.service}/stop.sh": (source("stop.sh"), _SCRIPT_MODE),
    }


def _default(params: Params, seen: HostFacts) -> Mapping[str, Any] | None:
    if seen.default_config.value is not None:
        return seen.default_config.value
    schema = images.image_facts(params.container.image).schema
    # a container that is there but does not answer has a default that we do not know; without one, ours is a preview
    return None if seen.container.value is not None or schema is None else mindie_defaults.default_config(schema)


def _settings(params: Params, host: Host, paths: HostPaths) -> mindie_config.ServiceSettings:
    service = params.service
    return mindie_config.ServiceSettings(
        ip_address=host.service_ip,
        model_name=params.model.name,
        weights_path=paths.inside(paths.weights),
        card_ids=tuple(card.id for card in host.cards),
        world_size=len(host.cards),
        max_seq_len=service.max_seq_len,
        max_input_token_len=service.max_input_token_len,
        max_prefill_tokens=service.max_prefill_tokens,
        max_prefill_batch_size=service.max_prefill_batch_size,
        max_batch_size=service.max_batch_size,
        max_iter_times=service.max_iter_times,
        max_queue_delay_us=service.max_queue_delay_us,
        prefill_time_ms=service.prefill_time_ms,
        decode_time_ms=service.decode_time_ms,
        max_link_num=service.max_link_num,
        port=service.port,
        management_port=service.management_port,
        metrics_port=service.metrics_port,
        multi_node=len(params.cluster.hosts) > 1,
    )


def _live_ips(facts: ServiceFacts, host: Host) -> tuple[str, ...]:
    seen = facts.hosts.get(host.name)
    if seen is None:
        return ()
    readings = [seen.ips[card.id].value for card in host.cards]
    return tuple(reading.address if reading is not None else "" for reading in readings)


def _wanted_rank_table(facts: ServiceFacts, params: Params) -> str | None:
    rows = []
    for host in params.cluster.hosts:
        ips = _live_ips(facts, host)
        if not ips or "" in ips:
            return None
        ids = tuple(card.id for card in host.cards)
        rows.append(rank_table.RankHost(host.service_ip, ips, host.service_ip, ids))
    return rank_table.build(rows)


def _stale(seen: HostFacts, paths: HostPaths) -> bool:
    """Whether the daemon was started with other files than those that lie there now."""
    for name in _STARTED_WITH:
        text, _mode = seen.files.get(f"{paths.service}/{name}", ("", 0))
        if seen.started_with.get(name) != hashlib.sha256(text.encode()).hexdigest():
            return True
    return False


def check(facts: ServiceFacts, params: Params) -> list[Finding]:
    """Judge files against params and live cards, then daemons, readiness and one real answer."""
    findings = Findings(NAME, apply_command(params))
    findings.unreachable(params, tuple(facts.hosts))
    for host in params.cluster.hosts:
        if host.name in facts.hosts:
            _check_files(findings, facts, params, host)
            _check_daemon(findings, facts, params, host)
    tables = {seen.files.get(facts.paths[name].rank_table, ("", 0))[0] for name, seen in facts.hosts.items()}
    if len(facts.hosts) == len(params.cluster.hosts) and "" not in tables:
        said = "one rank table" if len(tables) == 1 else f"{len(tables)} different rank tables"
        findings.judge(
            "SVC-FILES-SAME", Subject(), ok=len(tables) == 1, seen=said, expected="one rank table on all hosts"
        )
    if params.master.name in facts.hosts:
        _check_answer(findings, facts.hosts, params)
    return findings.items


_CODES = {"config.json": "SVC-CONFIG", "rank_table.json": "SVC-RANK-TABLE"}
_FIXES = {"rank_table.json": ("SVC-RANK-TABLE", "SVC-RANK-TABLE-LIVE")}


def _check_files(findings: Findings, facts: ServiceFacts, params: Params, host: Host) -> None:
    seen, paths = facts.hosts[host.name], facts.paths[host.name]
    subject = Subject(host.name)
    want = wanted_files(facts, params, host)
    for path, (text, mode) in seen.files.items() if want is None else want.items():
        name = path.rpartition("/")[2]
        has = seen.files.get(path)
        expected = f"{path} as params want it, mode {mode:o}"
        if want is None:
            findings.add(
                _CODES.get(name, "SVC-ENV"),
                subject,
                Verdict.UNKNOWN,
                seen="live IPs or the image's default unknown",
                expected=expected,
            )
        elif has is None:
            findings.add(_CODES.get(name, "SVC-ENV"), subject, Verdict.FAIL, seen=f"{name} missing", expected=expected)
        else:
            same = has == (text, mode)
            said = f"{name} as wanted" if same else f"{name} differs, mode {has[1]:o}"
            findings.judge(_CODES.get(name, "SVC-ENV"), subject, ok=same, seen=said, expected=expected)
    if want is None:
        said = "live IPs or the image's default are not known"
        findings.add(
            "SVC-RANK-TABLE-LIVE", subject, Verdict.UNKNOWN, seen=said, expected="a rank table of the live IPs"
        )
        return
    live = {each.service_ip: _live_ips(facts, each) for each in params.cluster.hosts}
    table = seen.files.get(paths.rank_table)
    problems = rank_table.validate(table[0], live) if table is not None else ["no rank table"]
    findings.judge(
        "SVC-RANK-TABLE-LIVE",
        subject,
        ok=not problems,
        seen="; ".join(problems[:3]) or "equal",
        expected="the live IPs of all cards",
    )
    config = json.loads(want[paths.config_json][0])
    schema = images.image_facts(params.container.image).schema
    rules = mindie_rules.problems(config, schema, params.world_size)
    for rule in rules:
        findings.add(
            "SVC-CONFIG-RULE",
            Subject(host.name, item=rule.key),
            Verdict.FAIL,
            seen=f"{rule.seen}: {rule.why} ({rule.source})",
            expected=rule.expected,
            next_command=f"edit service in {params_file(params)}",
        )
    if not rules:
        findings.add("SVC-CONFIG-RULE", subject, Verdict.OK, seen="no rule is broken", expected="no rule is broken")


def _daemon_known(seen: HostFacts) -> bool:
    return seen.alive in {"alive", "dead", "none"} or seen.container.state == "unset"


def _check_daemon(findings: Findings, facts: ServiceFacts, params: Params, host: Host) -> None:
    seen, paths = facts.hosts[host.name], facts.paths[host.name]
    subject = Subject(host.name)
    log = f"{paths.service}/daemon.log"
    alive = seen.alive == "alive"
    known = _daemon_known(seen)
    stale = alive and _stale(seen, paths)
    said = "runs with older files" if stale else seen.alive or seen.container.message or "unreadable"
    findings.add(
        "SVC-DAEMON",
        subject,
        (Verdict.OK if alive and not stale else Verdict.FAIL) if known else Verdict.UNKNOWN,
        seen=said,
        expected="alive, started with the files that lie there",
        next_command=apply_command(params) if seen.alive != "dead" else f"runbook diagnose {params_file(params)}",
        transient=seen.alive == "none",
    )
    error = logs.first_error(dict(seen.logs))
    if error:
        causes = "; ".join(logs.causes(dict(seen.logs))[:2])
        findings.add(
            "SVC-DAEMON-ERROR",
            subject,
            Verdict.WARN if alive else Verdict.FAIL,
            seen=f"{error}{' | ' if causes else ''}{causes}",
            expected="no error in the logs of this start",
            next_command=f"tail -n 100 {log}   # on {host.name}",
        )


def _check_answer(findings: Findings, hosts: Mapping[str, HostFacts], params: Params) -> None:
    seen = hosts[params.master.name]
    subject = Subject(params.master.name)
    waiting = all(each.alive in {"alive", "none"} for each in hosts.values())
    status = seen.ready.get("status")
    url = f"http://{params.master.service_ip}:{params.service.management_port}/v2/health/ready"
    verdict = Verdict.UNKNOWN if status is None else Verdict.OK if status == 200 else Verdict.FAIL  # noqa: PLR2004
    findings.add(
        "SVC-READY",
        subject,
        verdict,
        seen=f"HTTP {status}" if status else str(seen.ready.get("error") or "no answer"),
        expected="HTTP 200",
        next_command=f"curl -s -m 3 -o /dev/null -w '%{{http_code}}' {url}   # on {params.master.name}",
        transient=waiting,
    )
    said, fine = _completion(seen.answer)
    findings.add(
        "SVC-ANSWER",
        subject,
        Verdict.OK if fine else Verdict.FAIL,
        seen=said,
        expected="a completion with text and a token count",
        transient=waiting and verdict is not Verdict.OK,
    )
    if seen.listening is None:
        findings.add("SVC-EXPOSED", subject, Verdict.UNKNOWN, seen="ports not readable", expected="own address only")
        return
    ours = [place for place in seen.listening if place.endswith(f":{params.service.port}")]
    open_to_all = [place for place in ours if place.startswith(("0.0.0.0:", "*:", "[::]:"))]
    nobody = Verdict.UNKNOWN if verdict is Verdict.OK else Verdict.SKIPPED  # ready, but not in the list: not seen
    findings.add(
        "SVC-EXPOSED",
        subject,
        Verdict.WARN if open_to_all else Verdict.OK if ours else nobody,
        seen=", ".join(ours) or "not listening",
        expected=f"{params.master.service_ip} only",
        next_command="use the service's own address; 0.0.0.0 is for isolated networks",
    )


def _completion(answer: Mapping[str, Any]) -> tuple[str, bool]:
    if answer.get("status") != 200:  # noqa: PLR2004 - HTTP OK
        return str(answer.get("error") or answer.get("body") or "no answer")[:200], False
    try:
        body = json.loads(str(answer["body"]))
        message = body["choices"][0]["message"]
        text = f"{message.get('reasoning_content') or ''}{message.get('content') or ''}".strip()
        tokens = int(body["usage"]["completion_tokens"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return f"not a completion: {str(answer.get('body'))[:160]}", False
    return f"{tokens} tokens: {text[:80]}", bool(text) and tokens > 0


def plan(facts: ServiceFacts, params: Params) -> list[Change]:
    """Write files that differ; when any did, or a daemon is not alive, restart all daemons together."""
    uploads: list[Change] = []
    for host in params.cluster.hosts:
        seen = facts.hosts.get(host.name)
        want = wanted_files(facts, params, host) if seen is not None else None
        if seen is None or want is None:
            return []
        uploads += _uploads(host, seen, want)
    for seen in facts.hosts.values():
        stopped = seen.container.value is not None and seen.container.value.state not in {"running", None}
        if not stopped and not _daemon_known(seen):
            return []  # a daemon that could not be seen may run, and is neither stopped nor started over
    alive = [name for name, seen in facts.hosts.items() if seen.alive == "alive"]
    stale = [name for name in alive if _stale(facts.hosts[name], facts.paths[name])]
    if not uploads and not stale and len(alive) == len(params.cluster.hosts):
        return []
    stops = [
        _stop(params, host, facts) for host in params.cluster.hosts if facts.hosts[host.name].alive in {"alive", "dead"}
    ]
    return [*uploads, *stops, *(_start(params, host, facts) for host in params.cluster.hosts)]


def _uploads(host: Host, seen: HostFacts, want: Mapping[str, tuple[str, int]]) -> list[Change]:
    changes = []
    for path, (text, mode) in want.items():
        has = seen.files.get(path)
        if has == (text, mode):
            continue
        undo = Upload(path, has[0], has[1]) if has is not None else Command(("rm", "-f", path))
        name = path.rpartition("/")[2]
        changes.append(
            Change(
                subject=Subject(host.name),
                summary=f"write {path}",
                before=has[0] if has is not None else "missing",
                after=text,
                action=Upload(path, text, mode),
                undo=undo,
                risk=Risk.REVERSIBLE,
                fixes=_FIXES.get(name, (_CODES.get(name, "SVC-ENV"),)),
            )
        )
    return changes


def _script(params: Params, host: Host, facts: ServiceFacts, name: str) -> tuple[str, ...]:
    paths = facts.paths[host.name]
    folder = paths.inside(paths.service)
    return _in_container(params, "bash", f"{folder}/{name}", folder)


def _stop(params: Params, host: Host, facts: ServiceFacts) -> Change:
    return Change(
        subject=Subject(host.name),
        summary="stop the daemon by its recorded pid",
        before=facts.hosts[host.name].alive,
        after="stopped",
        action=Command(_script(params, host, facts, "stop.sh"), timeout_s=90.0),
        irreversible="requests in flight are cut; the next change starts it again",
        risk=Risk.DISRUPTIVE,
        phase=1,
    )


def _start(params: Params, host: Host, facts: ServiceFacts) -> Change:
    master = host == params.master
    return Change(
        subject=Subject(host.name),
        summary="start the daemon, together with those of the other hosts",
        before=facts.hosts[host.name].alive or "not started",
        after="alive and ready" if master else "alive",
        action=Job("mindie-daemon", _script(params, host, facts, "start.sh"), _START_DEADLINE_S, wait=False),
        undo=Command(_script(params, host, facts, "stop.sh"), timeout_s=90.0),
        risk=Risk.DISRUPTIVE,
        phase=2,
        fixes=("SVC-DAEMON", "SVC-READY", "SVC-ANSWER") if master else ("SVC-DAEMON",),
    )


def waits_for(facts: ServiceFacts, params: Params) -> tuple[str, ...]:
    """Return the stages whose work the daemons need: live IPs, healthy cards, a running container."""
    waits = []
    seen = facts.hosts.values()
    if _wanted_rank_table(facts, params) is None:
        waits.append("network")
    if any(health.value is not NetHealth.SUCCESS for each in seen for health in each.health.values()):
        waits.append("gateway")
    if any(each.container.value is None or each.container.value.state != "running" for each in seen):
        waits.append("container")
    return tuple(waits)
