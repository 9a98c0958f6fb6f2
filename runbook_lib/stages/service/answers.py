"""Judge what the running service says: readiness, a real answer, the kinds of requests, metrics, who can reach it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.hccn import NetHealth
from runbook_lib.model import Subject, Verdict
from runbook_lib.stages import logs
from runbook_lib.stages.base import params_file
from runbook_lib.stages.service.probe import ready_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params import Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.service.facts import HostFacts, ServiceFacts

_OK = 200


def check_answers(findings: Findings, facts: ServiceFacts, params: Params) -> None:
    """Judge the service on the master."""
    verdict = _check_ready(findings, facts, params)
    seen = facts.hosts[params.master.name]
    waiting = _waiting(facts)
    subject = Subject(params.master.name)
    said, fine = _completion(seen.answer)
    asked = seen.answer.get("status") is not None or bool(seen.answer.get("error"))
    findings.add(
        "SVC-ANSWER",
        subject,
        (Verdict.OK if fine else Verdict.FAIL) if asked else Verdict.UNKNOWN,
        seen=said,
        expected="a completion with text and a token count",
        transient=waiting and verdict is not Verdict.OK,
    )
    if verdict is Verdict.OK:
        _check_serving(findings, subject, seen)
        _check_metrics(findings, subject, seen, params)
    _check_exposed(findings, facts, params, ready=verdict is Verdict.OK)


def _waiting(facts: ServiceFacts) -> bool:
    return all(each.alive in {"alive", "none"} for each in facts.hosts.values())


def _check_ready(findings: Findings, facts: ServiceFacts, params: Params) -> Verdict:
    seen = facts.hosts[params.master.name]
    status = seen.ready.get("status")
    verdict = Verdict.UNKNOWN if status is None else Verdict.OK if status == _OK else Verdict.FAIL
    said = f"HTTP {status}" if status else str(seen.ready.get("error") or "no answer")
    stuck = ""
    if verdict is not Verdict.OK and any(each.alive == "alive" for each in facts.hosts.values()):
        stuck = _waits_for_cards(facts)
        said += f"; {stuck or _progress(facts)}"
    findings.add(
        "SVC-READY",
        Subject(params.master.name),
        verdict,
        seen=said,
        expected="HTTP 200",
        next_command=f"curl -s -m 3 -o /dev/null -w '%{{http_code}}' {ready_url(params)}   # on {params.master.name}",
        transient=_waiting(facts) and not stuck,
    )
    return verdict


def _progress(facts: ServiceFacts) -> str:
    """Return how far every host is, from its log."""
    rows = []
    for name, each in facts.hosts.items():
        percent = logs.loaded_percent(each.logs)
        rows.append(f"{name} {each.alive}" + (f", weights {percent} %" if percent is not None else ", no weights yet"))
    return "; ".join(rows)


def _waits_for_cards(facts: ServiceFacts) -> str:
    """Name the card that daemons wait for without a log line, as long as HCCL_CONNECT_TIMEOUT says."""
    if any(logs.loaded_percent(each.logs) is not None for each in facts.hosts.values()):
        return ""
    for name, each in facts.hosts.items():
        for card, health in each.health.items():
            if health.value is not None and health.value is not NetHealth.SUCCESS:
                return (
                    f"no weights are loaded: the daemons wait for {name} card {card}, whose net_health is "
                    f"{health.value.value}, and say nothing until HCCL_CONNECT_TIMEOUT is over"
                )
    return ""


def _completion(answer: Mapping[str, Any]) -> tuple[str, bool]:
    if answer.get("status") != _OK:
        return str(answer.get("error") or answer.get("body") or "no answer")[:200], False
    try:
        body = json.loads(str(answer["body"]))
        message = body["choices"][0]["message"]
        text = f"{message.get('reasoning_content') or ''}{message.get('content') or ''}".strip()
        tokens = int(body["usage"]["completion_tokens"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return f"not a completion: {str(answer.get('body'))[:160]}", False
    return f"{tokens} tokens: {text[:80]}", bool(text) and tokens > 0


def _check_serving(findings: Findings, subject: Subject, seen: HostFacts) -> None:
    """Judge the kinds of requests that push/serving_check.py made."""
    asked = seen.serving.get("checks")
    if not isinstance(asked, list) or not asked:
        said = str(seen.serving.get("error") or "the check did not end")
        findings.add("SVC-SERVING", subject, Verdict.UNKNOWN, seen=said, expected="every kind of request answered")
        return
    wrong = [each for each in asked if not (isinstance(each, dict) and each.get("ok") is True)]
    for each in wrong:
        item = each if isinstance(each, dict) else {}
        findings.add(
            "SVC-SERVING",
            Subject(subject.host, item=str(item.get("name", "?"))),
            Verdict.FAIL,
            seen=str(item.get("said", each))[:200],
            expected=str(item.get("expected", "a right answer")),
        )
    if not wrong:
        names = ", ".join(str(each.get("name")) for each in asked)
        findings.add("SVC-SERVING", subject, Verdict.OK, seen=names, expected="every kind of request answered")


def _check_metrics(findings: Findings, subject: Subject, seen: HostFacts, params: Params) -> None:
    status, body = seen.metrics.get("status"), str(seen.metrics.get("body", ""))
    good = status == _OK and "num_requests_running" in body
    said = "answers" if good else f"HTTP {status}: {body[:120]}" if status else str(seen.metrics.get("error") or "none")
    findings.add(
        "SVC-METRICS",
        subject,
        Verdict.UNKNOWN if status is None else Verdict.OK if good else Verdict.WARN,
        seen=said,
        expected="Prometheus text with num_requests_running",
    )
    if not good:
        return
    running, waiting = _gauge(body, "num_requests_running"), _gauge(body, "num_requests_waiting")
    stuck = running == 0 and waiting > 0
    findings.add(
        "SVC-STUCK",
        subject,
        Verdict.FAIL if stuck else Verdict.OK,
        seen=f"{waiting:g} requests wait, {running:g} run",
        expected="something runs while requests wait",
        next_command=f"set service.max_prefill_tokens to max_seq_len in {params_file(params)}, then: "
        f"runbook run {params_file(params)} --mode apply --stage service --yes",
    )


def _gauge(text: str, name: str) -> float:
    """Return the sum of a gauge over its labels; NaN, which compares with nothing, when it is not there."""
    found = re.findall(rf"^{name}(?:{{[^}}]*}})?\s+([0-9.eE+-]+)\s*$", text, re.MULTILINE)
    return sum(map(float, found)) if found else float("nan")


def _check_exposed(findings: Findings, facts: ServiceFacts, params: Params, *, ready: bool) -> None:
    """Say who can reach the service: what it listens on, what the params acknowledge, and what another host sees."""
    seen = facts.hosts[params.master.name]
    subject = Subject(params.master.name)
    if seen.listening is None:
        findings.add("SVC-EXPOSED", subject, Verdict.UNKNOWN, seen="ports not readable", expected="own address only")
        return
    service = params.service
    ports = {service.port, service.management_port, service.metrics_port}
    ours = [each for each in seen.listening if each.port in ports] if ready or seen.alive == "alive" else []
    everywhere = [each for each in ours if each.everywhere]
    business = any(each.port == service.port for each in ours)
    said = ", ".join(each.place for each in ours) or "not listening"
    if business:
        inside = [name for name, each in facts.hosts.items() if each.outside.get("status")]
        said += f"; answers {', '.join(inside) or 'no other host of the cluster'}"
        said += "; " + ("everybody" if everywhere else f"everybody who has a route to {params.master.service_ip}")
        said += " can use it, " + ("over TLS" if service.https else "without TLS or password")
    if service.listen_on_all_reason:
        said += f"; params allow all addresses: {service.listen_on_all_reason}"
    nobody = Verdict.UNKNOWN if ready else Verdict.SKIPPED  # ready, but not in the list: not seen
    unasked = [name for name, each in facts.hosts.items() if name != params.master.name and not each.outside]
    if ready and unasked:
        said += f"; {', '.join(unasked)} could not be asked"
        business = False
    warned = bool(everywhere or service.listen_on_all_reason)
    findings.add(
        "SVC-EXPOSED",
        subject,
        Verdict.WARN if warned else Verdict.OK if business else nobody,
        seen=said,
        expected=f"{params.master.service_ip} only",
        next_command="remove service.listen_on_all_reason; 0.0.0.0 is for tests on isolated networks"
        if warned
        else None,
    )
