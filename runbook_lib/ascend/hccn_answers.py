"""Which answer of hccn_tool a line belongs to, by its own words; where one answer ends and the next begins."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runbook_lib.ascend.plain import BLANKS, DEVICE, Line, is_elision, is_noise
from runbook_lib.ascend.reading import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Sequence


ERROR = "error"  # a refusal that does not say what was asked


@dataclass(frozen=True, slots=True)
class _Kind:
    """start: first line of an answer. body: its further lines. end: its last line, where it has one."""

    start: re.Pattern[str]
    body: re.Pattern[str] | None = None
    end: re.Pattern[str] | None = None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def _kind(start: str, body: str = "", end: str = "") -> _Kind:
    return _Kind(
        _pattern(rf"{DEVICE}(?:{start})"),
        _pattern(rf"{DEVICE}(?:{body})") if body else None,
        _pattern(end) if end else None,
    )


_KINDS: dict[str, _Kind] = {
    "link": _kind(r"link[ \t]+status[ \t]*:"),
    "ip": _kind(r"ip[ \t]*addr(?:ess)?[ \t]*:", r"(?:net[ \t]*mask|prefix[ _a-z]*)[ \t]*:"),
    "gateway": _kind(r"(?:default[ \t]+)?gateway[ \t]*:"),
    "netdetect": _kind(r"netdetect[ \t]+addr(?:ess)?[ \t]*:"),
    "net_health": _kind(r"net[ \t_]+health[ \t]+status[ \t]*:"),
    "mac": _kind(r"mac[ \t]+addr(?:ess)?[ \t]*:"),
    "speed": _kind(r"speed[ \t]*:"),
    "duplex": _kind(r"duplex[ \t]*:"),
    "mtu": _kind(r"mtu[ \t]*:"),
    "fec": _kind(r"fec[ \t]+mode[ \t]*:"),
    "bandwidth": _kind(r"bandwidth[ \t]+tx[ \t]*:", r"bandwidth[ \t]+rx[ \t]*:"),
    "vnic": _kind(r"vnic link status[ \t]*:", r"vnic (?:ipaddr|netmask)[ \t]*:"),
    "udp": _kind(r"udp_port[ \t]*:", r"status[ \t]*:"),
    "version": _kind(r"network driver version[ \t]*:", r"network firmware version[ \t]*:"),
    "pci": _kind(r"pci[ \t]*:"),
    "shaping": _kind(r"bw_limit[ \t]*\["),
    "cfg": _kind(r"dev[ \t]*:[ \t]*[0-9]+ recovery\b"),
    "set": _kind(r"cmd executed successfully!"),
    "tls": _kind(
        r"(?:dev_id[ \t]*:[ \t]*[0-9]+[ \t]*,[ \t]*)?tls[ \t]+switch[ \t]*\[",
        r"dev_id[ \t]*:[ \t]*[0-9]+[ \t]*,[ \t]*\[[^\]]*\] info|[a-z][a-z _]*\[",
    ),
    "link_stat": _kind(
        r"current time[ \t]*:", r"link (?:up|down) count[ \t]*:|link change records[ \t]*:|[a-z]{3} .*LINK (?:UP|DOWN)"
    ),
    "stat": _kind(r"packet statistics[ \t]*:", r"[a-z][a-z0-9_]*[ \t]*:[ \t]*[0-9]+[ \t]*$"),
    "hw_stats": _kind(r"(?<=\])[ \t]*[a-z]\w*[ \t]*:[ \t]*[0-9]+[ \t]*$", r"(?<=\])[ \t]*[a-z]\w*[ \t]*:"),
    "route": _kind(r"routing table[ \t]*:", r"destination[ \t]+gateway|(?:\S+[ \t]+){5,}\S+[ \t]*$"),
    "arp": _kind(r"arp table[ \t]*:", r"\S* ?\([0-9a-f.:]+\) at "),
    "optical": _kind(r"optical info[ \t]*:", r"[a-z][\w /().-]*:"),
    "lldp": _kind(r"chassis id tlv", r".*", r"end of lldpdu tlv"),
    "ping": _kind(
        r"device[ \t]+[0-9]+[ \t]+(?:hccs[ \t]+)?ping\b",
        r"recv |(?:[0-9]+) packets? transmitted|message too long|destination host|(?:max|min|avg|average|tp95)\b",
    ),
    "status": _kind(r"netdev status[ \t]*:", r"[ \t].*|[a-z][\w -]*:.*"),
    "pfc": _kind(r"pfc configuration[ \t]*:", r".*"),
    "tc": _kind(r"tc configuration[ \t]*:", r".*"),
    "roce_test": _kind(r"roce_report[ \t]*:", r".*"),
}
_ALONE: dict[str, re.Pattern[str]] = {  # lines of a grep: an answer each, when no longer answer holds them
    "lldp": _pattern(r"[ \t]*ifname[ \t]*:"),
    "link_stat": _pattern(rf"{DEVICE}link up count[ \t]*:"),
    "ping": _pattern(r"[ \t]*(?:recv |[0-9]+ packets? transmitted)"),
    "ip": _pattern(rf"{DEVICE}net[ \t]*mask[ \t]*:"),
    "stat": _pattern(r"[ \t]*(?:roce|nic|mac)_[a-z0-9_]+[ \t]*:[ \t]*[0-9]+[ \t]*$"),
    "optical": _pattern(r"[ \t]*present[ \t]*:[ \t]*(?:not )?present"),
}
_SAYING: dict[str, re.Pattern[str]] = {
    "ip": _pattern(r"no ip was preset"),
    "gateway": _pattern(r"no gateway was preset"),
    "tls": _pattern(r"no certificate found"),
    "optical": _pattern(r"optical module is not present"),
    "net_health": _pattern(r"get device health status failed"),
    "ping": _pattern(r"destination host unreachable|message too long"),
}
_REFUSED = _pattern("|".join(pattern for pattern, _ in REFUSALS))
_CARD = _pattern(
    r"\[(?:devid|device|dev_id)[ \t]*([0-9]+)\]|\bdev_id[ \t]*:[ \t]*([0-9]+)"
    r"|^[ \t]*device ([0-9]+) (?:hccs )?ping|^[ \t]*dev[ \t]*:[ \t]*([0-9]+) recovery"
)
_REMARK = re.compile(r"[ \t]+#[ \t].*$")  # what somebody wrote behind an answer
_LOOSE = frozenset({"lldp", "status", "optical"})  # their bodies hold any `label: value`
_ONCE = frozenset({"ip", "bandwidth", "vnic", "version", "udp"})  # every label of theirs comes once
_STRONG = frozenset({"link", "ip", "gateway", "netdetect", "net_health", "lldp", "tls", "link_stat", "stat", "route"})


@dataclass(slots=True)
class Answer:
    """One answer: its kind (the subcommand), its lines, the card that it names itself.

    elided: lines are missing inside it.
    """

    kind: str
    lines: list[Line] = field(default_factory=list)
    card: int | None = None
    elided: bool = False


@dataclass(slots=True)
class Split:
    """The answers in order. `gap_after`: how many answers stood before each elision. `rest`: what is no answer."""

    answers: list[Answer] = field(default_factory=list)
    gap_after: list[int] = field(default_factory=list)
    elisions: list[Line] = field(default_factory=list)
    rest: list[Line] = field(default_factory=list)


def own_card(text: str) -> int | None:
    """Return the card that a line names itself."""
    match = _CARD.search(text)
    digits = next((group for group in match.groups() if group), "") if match else ""
    return int(digits) if 0 < len(digits) <= 4 else None  # noqa: PLR2004 - no host has 10000 cards


def begins(text: str) -> str:
    """Return the kind of answer that begins with this line, "" for none."""
    for kind, form in _KINDS.items():
        if form.start.match(text):
            return kind
    return next((kind for kind, form in _SAYING.items() if form.search(text)), "")


def refuses(text: str) -> bool:
    """Whether a line is a refusal."""
    return _REFUSED.search(text.strip()) is not None


class _Splitter:
    def __init__(self, *, single: bool) -> None:
        self.out = Split()
        self.single = single
        self.now: Answer | None = None
        self.ended = False
        self.gap = False

    def _begin(self, kind: str, line: Line, card: int | None) -> None:
        self.now = Answer(kind, [line], card)
        self.ended = self.gap = False
        self.out.answers.append(self.now)

    def _goes_on(self, text: str, card: int | None) -> bool:
        """Whether the line belongs to the answer at hand."""
        if self.now is None or self.ended or (self.gap and not self.single):
            return False
        if card is not None and self.now.card is not None and card != self.now.card:
            return False
        form = _KINDS.get(self.now.kind)
        if form is None or form.body is None or not form.body.match(text):
            return False
        # a second mask, a second count: the start of something that we do not see
        if self.now.kind in _ONCE:
            label = text.split(":", maxsplit=1)[0].strip().lower()
            return all(line.text.split(":", maxsplit=1)[0].strip().lower() != label for line in self.now.lines)
        return True

    def line(self, line: Line) -> None:
        """Place one line."""
        text = BLANKS.sub(" ", line.text)
        card = own_card(text)
        kind = begins(text)
        inside = self._goes_on(text, card)
        if inside and self.now is not None and self.now.kind in _LOOSE and kind not in _STRONG | {self.now.kind}:
            kind = ""  # `Speed:` inside ethtool's text is no answer of its own
        if kind == "hw_stats" and inside:
            kind = ""
        if kind:
            self._begin(kind, line, card)
        elif inside and self.now is not None:
            self.now.lines.append(line)
            form = _KINDS[self.now.kind]
            self.ended = form.end is not None and form.end.search(text) is not None
        else:
            self._other(line, card)

    def _other(self, line: Line, card: int | None) -> None:
        text = BLANKS.sub(" ", line.text)
        alone = next((kind for kind, form in _ALONE.items() if form.match(text)), "")
        again = self.now is not None and self.now.kind == alone and not self.gap and not self.ended
        if alone in {"ping", "stat"} and again and self.now is not None:
            self.now.lines.append(line)
        elif alone:
            self._begin(alone, line, card)
            self.ended = alone not in {"ping", "stat", "link_stat"}
        elif refuses(text):
            self._begin(ERROR, line, card)
        elif not is_noise(line.text):
            self.out.rest.append(line)

    def elision(self, line: Line) -> None:
        """Note that lines were left out."""
        if self.now is not None and not self.ended and _KINDS.get(self.now.kind, _Kind(_CARD)).body is not None:
            self.now.elided = True
        self.gap = True
        self.out.gap_after.append(len(self.out.answers))
        self.out.elisions.append(line)


def split(lines: Sequence[Line], *, single: bool) -> Split:
    """Cut lines into answers. `single`: one command was asked, so what follows an elision still belongs to it."""
    work = _Splitter(single=single)
    for line in lines:
        remark = _REMARK.search(line.text) if "#" in line.text else None
        if is_elision(line.text):
            work.elision(line)
        elif remark and line.text[: remark.start()].strip():
            work.line(Line(line.number, line.text[: remark.start()]))
        elif line.text.strip():
            work.line(line)
    return work.out
