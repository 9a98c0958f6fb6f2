"""Equal findings over many cards of one host as one group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from runbook_lib.model import Verdict
from runbook_lib.views.explained import Explained, explained
from runbook_lib.views.words import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runbook_lib.model import Finding
    from runbook_lib.views.style import Language

# Problems are read from the top: what is broken, what nobody knows, what may wait.
PROBLEMS = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)


def ranges(numbers: Iterable[int]) -> str:
    """Spell a set of numbers shortly: 0-3, 5."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


@dataclass(frozen=True)
class Group:
    """Findings with one code and verdict on one host: either on cards, or one on the host as a whole."""

    findings: tuple[Finding, ...]
    language: Language

    @property
    def code(self) -> str:
        """The code that all findings share."""
        return self.findings[0].code

    @property
    def verdict(self) -> Verdict:
        """The verdict that all findings share."""
        return self.findings[0].verdict

    @cached_property
    def explained(self) -> Explained:
        """What the catalogue says about the code."""
        return explained(self.code, self.language)

    @property
    def headline(self) -> str:
        """The catalogue's title, which names a problem; only where there is one, and as a question where unknown."""
        title = self.explained.title
        if self.verdict is Verdict.UNKNOWN and title != self.code:
            return words(self.language)["undecided"].format(title=title)
        return title if self.verdict in PROBLEMS else self.code

    @property
    def uniform(self) -> bool:
        """Whether all cards show and expect the same."""
        return len({(finding.seen, finding.expected) for finding in self.findings}) == 1

    @property
    def seen(self) -> str:
        """What a uniform group saw."""
        return self.findings[0].seen

    @property
    def expected(self) -> str:
        """What a uniform group expected."""
        return self.findings[0].expected

    @property
    def transient(self) -> bool:
        """Whether any of it may still turn out otherwise."""
        return any(finding.transient for finding in self.findings)

    @property
    def next_commands(self) -> tuple[str, ...]:
        """The distinct next commands, in the order of the cards."""
        return tuple(dict.fromkeys(finding.next_command for finding in self.findings if finding.next_command))

    def place(self, words: Mapping[str, str]) -> str:
        """Name host, cards and part."""
        subject = self.findings[0].subject
        parts = [subject.host or words["cluster"]]
        cards = {finding.subject.card for finding in self.findings if finding.subject.card >= 0}
        if cards:
            parts.append(f"{words['card' if len(cards) == 1 else 'cards']} {ranges(cards)}")
        if subject.item:
            parts.append(subject.item)
        return " ".join(parts)

    def seen_by_card(self) -> str:
        """Say what was seen, with the card's number in front where cards differ."""
        if self.uniform:
            return self.seen
        return "\n".join(f"{cards}: {seen}" for cards, _, seen in self.variants())

    def variants(self) -> list[tuple[str, str, str]]:
        """Return (cards, expected, seen) for each distinct evidence."""
        distinct: dict[tuple[str, str], list[int]] = {}
        for finding in self.findings:
            distinct.setdefault((finding.expected, finding.seen), []).append(finding.subject.card)
        return [(ranges(cards), expected, seen) for (expected, seen), cards in distinct.items()]


def group(findings: Iterable[Finding], language: Language) -> list[Group]:
    """Group findings; order: worst verdict first, then as the findings came."""
    buckets: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        subject = finding.subject
        where: tuple[object, ...] = (subject.host, subject.item, subject.card >= 0)
        key = (finding.verdict, finding.stage, finding.code, *where)
        if subject.card < 0:  # two findings on a whole host have no card to tell them apart: keep both blocks
            key = (*key, finding.seen, finding.expected, finding.next_command)
        buckets.setdefault(key, []).append(finding)
    groups = [
        Group(tuple(sorted(bucket, key=lambda finding: finding.subject.card)), language) for bucket in buckets.values()
    ]
    order = (*PROBLEMS, Verdict.OK, Verdict.SKIPPED)
    return sorted(groups, key=lambda item: order.index(item.verdict))


def count(findings: Sequence[Finding]) -> list[tuple[Verdict, int]]:
    """Count findings per verdict, worst first, zeros included."""
    order = (*PROBLEMS, Verdict.OK, Verdict.SKIPPED)
    return [(verdict, sum(finding.verdict is verdict for finding in findings)) for verdict in order]
