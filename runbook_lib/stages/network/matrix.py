"""Who answers whom, and which card is to blame when somebody does not."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from runbook_lib.model import Subject, Verdict
from runbook_lib.params import Topology
from runbook_lib.stages.base import check_command
from runbook_lib.stages.network.facts import words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runbook_lib.ascend.hccn import PingResult
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.params import Params
    from runbook_lib.stages.base import Findings
    from runbook_lib.stages.network.facts import NetworkFacts

Cell = tuple[Subject, Subject]
_SHOWN = 4


def cell_verdict(reading: Reading[PingResult]) -> Verdict:
    """Judge one ping by itself."""
    if reading.value is not None:
        return Verdict.OK if reading.value.received and reading.value.received == reading.value.sent else Verdict.FAIL
    return Verdict.FAIL if reading.state == "error" and reading.reason in {"failed", "link-down"} else Verdict.UNKNOWN


def not_judged(facts: NetworkFacts, params: Params, subject: Subject) -> str:
    """Return why pings from or to a card say nothing about the path: another finding comes first. "" when they do."""
    seen = facts.card(subject)
    if seen is None:
        return f"{subject.host} gave no facts"
    if subject.host in facts.lost:
        return f"{subject.host} was lost while it was read"
    if seen.ip.known and (seen.ip.value is None or seen.ip.value.address != address_of(params, subject)):
        return f"NET-IP of {subject} comes first"
    if seen.link.value is False:
        return f"NET-LINK of {subject} comes first"
    return ""


def is_blind(facts: NetworkFacts, subject: Subject) -> bool:
    """Whether nobody knows in which state a card was while the others pinged it."""
    return facts.card(subject) is None or subject.host in facts.lost


def judged(facts: NetworkFacts, params: Params) -> dict[Cell, Verdict]:
    """Return the verdict of every tested pair whose two cards are up and have their addresses.

    A host that gave no facts may have any address, and one that was lost meanwhile may have been down: that it answers
    counts, that it does not says nothing. Nor does it say anything that a cable does not lead to other cards than its
    end's.
    """
    cards = {end for cell in facts.pings for end in cell}
    doubtful = {card for card in cards if not_judged(facts, params, card)}
    blind = {card for card in cards if is_blind(facts, card)}
    found = {}
    for cell, reading in facts.pings.items():
        verdict = cell_verdict(reading)
        if not has_way(params, cell) and verdict is not Verdict.OK:
            continue
        if not set(cell) & doubtful or (cell[1] in blind and verdict is Verdict.OK):
            found[cell] = verdict
    return found


def has_way(params: Params, cell: Cell) -> bool:
    """Whether two cards shall reach each other: all behind a switch, the ends of one cable on a direct pair."""
    return params.cluster.topology is not Topology.DIRECT or cell[0].card == cell[1].card


def blame(cells: dict[Cell, Verdict]) -> dict[Subject, list[Cell]]:
    """Return the cards to blame, each with its failing pairs.

    A card of whose pairs, as sender and as receiver, more than half fail explains them all; what is left afterwards
    (a loss in one direction) is laid to the sender. With one pair only, both ends of it fail alike and both are named.
    """
    failing = {cell for cell, verdict in cells.items() if verdict is Verdict.FAIL}
    tested: defaultdict[Subject, int] = defaultdict(int)
    for cell, verdict in cells.items():
        for end in cell if verdict is not Verdict.UNKNOWN else ():  # a lost card's own pings say nothing about it
            tested[end] += 1
    blamed: dict[Subject, list[Cell]] = {}
    while failing:
        count: defaultdict[Subject, int] = defaultdict(int)
        for cell in failing:
            for end in cell:
                count[end] += 1
        most = max(count.values())
        worst = [card for card in count if count[card] == most and count[card] * 2 > tested[card]]
        if not worst:
            break
        for card in worst:
            blamed[card] = sorted(cell for cell in failing if card in cell)
        failing -= {cell for cell in failing if set(cell) & set(worst)}
    for cell in sorted(failing):
        blamed.setdefault(cell[0], []).append(cell)
    return blamed


def suspects(facts: NetworkFacts, params: Params) -> set[Subject]:
    """Return the cards that want a closer look: every end of a failing pair."""
    return {end for cell, verdict in judged(facts, params).items() if verdict is Verdict.FAIL for end in cell}


def check_matrix(findings: Findings, facts: NetworkFacts, params: Params) -> None:
    """Give every card its verdict: not reached by or not reaching others, untested, or fine."""
    if len(params.cluster.hosts) < 2:  # noqa: PLR2004 - nobody to ping
        return
    cells = judged(facts, params)
    blamed = blame(cells)
    pinged: defaultdict[Subject, list[Cell]] = defaultdict(list)
    for cell in facts.pings:
        if has_way(params, cell):
            pinged[cell[0]].append(cell)
    for host, cards in facts.cards.items():
        for card in [Subject(host, number) for number in cards]:
            _check_card(findings, facts, params, card, pinged[card], cells, blamed.get(card, []))


def _check_card(  # noqa: PLR0913, PLR0917 - a card, and what the whole matrix says
    findings: Findings,
    facts: NetworkFacts,
    params: Params,
    subject: Subject,
    mine: list[Cell],
    cells: dict[Cell, Verdict],
    failing: list[Cell],
) -> None:
    expected = "every card that was pinged answers, 0 % loss"
    own = not_judged(facts, params, subject)
    if own:
        verdict = Verdict.UNKNOWN if is_blind(facts, subject) else Verdict.SKIPPED
        findings.add(
            "NET-PING", subject, verdict, seen=f"not judged: {own}", expected=expected, next_command=_again(params)
        )
        return
    if failing:
        verdict, seen, target = Verdict.FAIL, _failing_words(facts, subject, failing), failing[0]
        findings.add("NET-PING", subject, verdict, seen=seen, expected=expected, next_command=_command(params, *target))
        return
    unknown = [cell for cell in mine if cell_verdict(facts.pings[cell]) is Verdict.UNKNOWN]
    if unknown:
        seen = f"{unknown[0][1]}: {words(facts.pings[unknown[0]])}" + _more(unknown)
        findings.add(
            "NET-PING",
            subject,
            Verdict.UNKNOWN,
            seen=seen,
            expected=expected,
            next_command=_command(params, *unknown[0]),
        )
        return
    tested = [cell for cell in mine if cell in cells]
    left = facts.untested.get(subject, 0)
    if not tested:
        waits = sorted({not_judged(facts, params, cell[1]) for cell in mine} - {""})
        # nothing to compare with because another finding comes first, or because nobody knows
        blind = not waits or any(is_blind(facts, cell[1]) for cell in mine)
        said = f"not judged: {waits[0]}" if waits else "no ping was made within the deadline"
        verdict = Verdict.UNKNOWN if blind else Verdict.SKIPPED
        findings.add("NET-PING", subject, verdict, seen=said, expected=expected, next_command=_again(params))
        return
    innocent = [cell for cell in tested if cells[cell] is Verdict.FAIL]
    seen = f"{len(tested) - len(innocent)} of {len(tested)} cards answer"
    if innocent:
        seen += f"; {innocent[0][1]} does not{_more(innocent)}, which is laid to it"
    silent = [cell for cell in mine if cell not in cells]
    if silent:
        seen += f"; {len(silent)} not judged: {not_judged(facts, params, silent[0][1])}"
    if left:
        seen += f"; {left} untested within {params.network.ping_deadline_s:g} s"
    findings.add(
        "NET-PING",
        subject,
        Verdict.WARN if left else Verdict.OK,
        seen=seen,
        expected=expected,
        next_command=f"{_again(params)} --set network.ping_deadline_s={2 * params.network.ping_deadline_s:g}"
        if left
        else None,
    )


def _failing_words(facts: NetworkFacts, subject: Subject, failing: Iterable[Cell]) -> str:
    parts = []
    cells = list(failing)
    for source, target in cells[:_SHOWN]:
        reading = facts.pings[source, target]
        result = reading.value
        said = words(reading) if result is None else f"{result.received} of {result.sent} answered"
        parts.append(f"{'to ' + str(target) if source == subject else 'from ' + str(source)}: {said}")
    return "; ".join(parts) + _more(cells[_SHOWN - 1 :])


def _again(params: Params) -> str:
    return check_command(params, "network")


def _more(cells: list[Cell]) -> str:
    return f" and {len(cells) - 1} more" if len(cells) > 1 else ""


def address_of(params: Params, subject: Subject) -> str:
    """Return the address that a card shall have."""
    return next(card.ip for card in params.host(subject.host).cards if card.id == subject.card)


def _command(params: Params, source: Subject, target: Subject) -> str:
    return f"hccn_tool -i {source.card} -ping -g address {address_of(params, target)}   # on {source.host}"
