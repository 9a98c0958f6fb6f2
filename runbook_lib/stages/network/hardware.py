"""Links: up, fast, with error correction, quiet, and with light."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from runbook_lib.model import Subject, Verdict
from runbook_lib.params import Topology
from runbook_lib.stages.hccn_conf import recovery_command
from runbook_lib.stages.network.facts import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runbook_lib.ascend.hccn import Optical
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.params import Card, Host, Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.network.facts import CardNetwork, NetworkFacts

ValueT = TypeVar("ValueT")
GOOD_FEC = "rs"
TOGETHER_S = 20.0  # a switch or a peer that restarts takes all links down at once, and brings them up one by one
FLAPPING = 4  # changes within an hour: power on, and one cable pulled and plugged in, are three
MANY_UPS = 5  # a history since power on that is worth a look
# what tells of a lossy link or retransmission (hccn_tool reference, `-stat -g`)
_ERRORS = re.compile(
    r"roce_.*err.*|roce_new_pkt_rty_num|roce_unexpected_ack_num|roce_out_of_order_num|mac_.*(bad|fcs_err).*pkt.*"
)
_POWERS = {end: re.compile(rf"{end} Power[0-9]?") for end in ("Tx", "Rx")}
_MILLIWATTS = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(?: *mW)?")


def judge(  # noqa: PLR0913, PLR0917 - a reading, its rule, and the words around it
    findings: Findings,
    code: str,
    subject: Subject,
    reading: Reading[ValueT],
    rule: Callable[[ValueT], bool],
    expected: str,
    next_command: str | None = None,
) -> None:
    """Judge one value; what could not be read is unknown."""
    verdict = Verdict.UNKNOWN
    if reading.value is not None:
        verdict = Verdict.OK if rule(reading.value) else Verdict.FAIL
    findings.add(code, subject, verdict, seen=words(reading), expected=expected, next_command=next_command)


def check_hardware(findings: Findings, facts: NetworkFacts, params: Params, host: Host, card: Card) -> None:
    """Judge everything of one card that a cable, a module or the other end can spoil."""
    subject, seen = Subject(host.name, card.id), facts.cards[host.name][card.id]
    tool, on = f"hccn_tool -i {card.id}", f"   # on {host.name}"
    cable = recovery_command(facts.conf.get(host.name), params, host, card, "if it stays down, the cable at both ends")
    judge(findings, "NET-LINK", subject, seen.link, lambda up: up, "UP", cable if seen.link.value is False else None)
    judge(
        findings,
        "NET-SPEED",
        subject,
        seen.speed_mbps,
        lambda speed: speed >= params.network.speed_mbps,
        f"{params.network.speed_mbps} Mb/s",
        f"{tool} -speed -g{on}; then check cable and switch port",
    )
    judge(findings, "NET-FEC", subject, seen.fec, lambda mode: mode == GOOD_FEC, f"{GOOD_FEC} FEC mode")
    others = [each for number, each in facts.cards[host.name].items() if number != card.id]
    _check_flaps(findings, subject, seen, others, f"{tool} -link_stat -g{on}; reseat or replace cable and module")
    _check_errors(findings, subject, seen, f"{tool} -stat -g{on}, twice; then check cable, module and switch port")
    _check_optics(findings, facts, params, subject, seen)


def _check_flaps(
    findings: Findings, subject: Subject, seen: CardNetwork, others: Sequence[CardNetwork], command: str
) -> None:
    expected = f"fewer than {FLAPPING} changes of its own in the last hour"
    stat = seen.link_stat.value
    if stat is None:
        findings.add(
            "NET-FLAP", subject, Verdict.UNKNOWN, seen=words(seen.link_stat), expected=expected, next_command=command
        )
        return
    ups, recent = max(stat.up_count, stat.down_count or 0), seen.recent_changes
    said = f"up {ups} times since power on, "
    if recent is None:
        verdict = Verdict.WARN if ups > MANY_UPS else Verdict.UNKNOWN
        said += "times of changes unreadable"
    else:
        shared = [age for age in recent if _is_shared(age, others)]
        own = len(recent) - len(shared)
        many = ups > MANY_UPS or len(shared) >= FLAPPING
        verdict = Verdict.FAIL if own >= FLAPPING else Verdict.WARN if many else Verdict.OK
        said += f"{len(recent)} changes in the last hour"
        if shared:
            said += f", {len(shared)} of them together with most cards of this host (the other end restarted)"
    findings.add("NET-FLAP", subject, verdict, seen=said, expected=expected, next_command=command)


def _is_shared(age_s: float, others: Sequence[CardNetwork]) -> bool:
    """Whether most other cards of the host changed then, too: not this cable's doing. Unknown histories say nothing."""
    known = [each.recent_changes for each in others if each.recent_changes is not None]
    together = [changes for changes in known if any(abs(each - age_s) <= TOGETHER_S for each in changes)]
    return 2 * len(together) > len(known)


def _check_errors(findings: Findings, subject: Subject, seen: CardNetwork, command: str) -> None:
    """Judge what grew between two reads of this probe: old counts are history, growth is a lossy link."""
    expected = "no error or retry counter grows between two reads"
    before, after = seen.counters
    if before.value is None or after.value is None:
        bad = before if before.value is None else after
        findings.add("NET-ERRORS", subject, Verdict.UNKNOWN, seen=words(bad), expected=expected, next_command=command)
        return
    known, again = ({name for name in each if _ERRORS.fullmatch(name)} for each in (before.value, after.value))
    grown = {name: after.value[name] - before.value[name] for name in sorted(known & again)}
    if not known or known != again or any(delta < 0 for delta in grown.values()):
        said = "the counters were reset meanwhile" if known == again else "the two reads hold other counters"
        said = said if known | again else "the tool prints no error counter"
        findings.add("NET-ERRORS", subject, Verdict.UNKNOWN, seen=said, expected=expected, next_command=command)
        return
    bad_ones = [f"{name} +{delta}" for name, delta in grown.items() if delta]
    findings.add(
        "NET-ERRORS",
        subject,
        Verdict.FAIL if bad_ones else Verdict.OK,
        seen=", ".join(bad_ones) or f"{len(known)} counters, none grew",
        expected=expected,
        next_command=command,
    )


def _check_optics(findings: Findings, facts: NetworkFacts, params: Params, subject: Subject, seen: CardNetwork) -> None:
    command = f"hccn_tool -i {subject.card} -optical -g   # on {subject.host}; clean or replace the module"
    optical = seen.optical.value
    switch = params.cluster.topology is Topology.SWITCH
    expected = "a module with light within its limits, or a copper cable"
    if optical is None:
        findings.add(
            "NET-OPTICS", subject, Verdict.UNKNOWN, seen=words(seen.optical), expected=expected, next_command=command
        )
        return
    if not optical.present:
        # copper has no module: normal with a link; where the other cards have modules it is worth a look
        modules = any(
            each.optical.value is not None and each.optical.value.present
            for cards in facts.cards.values()
            for each in cards.values()
        )
        verdict = Verdict.OK
        if switch:
            verdict = Verdict.WARN if modules else Verdict.OK
            if seen.link.value is not True:
                verdict = Verdict.UNKNOWN if seen.link.value is None else Verdict.FAIL
        said = "no module" + (", other cards have one" if switch and modules else ": a copper cable")
        findings.add("NET-OPTICS", subject, verdict, seen=said, expected=expected, next_command=command)
        return
    verdict, said = light(optical)
    findings.add("NET-OPTICS", subject, verdict, seen=said, expected=expected, next_command=command)


def light(optical: Optical) -> tuple[Verdict, str]:
    """Judge a module by its loss-of-light and loss-of-lock flags, and by its powers against its own limits."""
    values = optical.values
    names = [f"{end} {kind} Flag" for kind in ("Los", "LoL") for end in ("Tx", "Rx")]
    lost = [f"{name} {flag}" for name in names if (flag := _flag(values, name))]
    if lost:
        return Verdict.FAIL, ", ".join(lost)
    outside, judged = [], []
    for end, pattern in _POWERS.items():
        low, high = _number(values, f"{end}Power Low Thres"), _number(values, f"{end}Power High Thres")
        powers = {name: _number(values, name) for name in values if pattern.fullmatch(name)}
        if low is None or high is None or not powers or None in powers.values():
            return Verdict.UNKNOWN, f"{end} power or its limits cannot be read"
        judged += [f"{name} {power:g} mW" for name, power in powers.items()]
        outside += [
            f"{name} {power:g} mW outside {low:g}-{high:g}"
            for name, power in powers.items()
            if power is not None and not low <= power <= high
        ]
    return (Verdict.FAIL, ", ".join(outside)) if outside else (Verdict.OK, ", ".join(judged))


def _flag(values: Mapping[str, str], name: str) -> str:
    text = values.get(name, "")
    return "" if re.fullmatch(r"(0x)?0+", text, re.IGNORECASE) or not text else text


def _number(values: Mapping[str, str], name: str) -> float | None:
    found = _MILLIWATTS.fullmatch(values.get(name, ""))
    return float(found.group(1)) if found else None
