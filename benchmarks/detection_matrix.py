"""Every fault of the twin alone, and random pairs: detected, blamed on the right subject, mended by its remedy.

    python benchmarks/detection_matrix.py [--shape 2x8-direct|4x8-switch|all] [--pairs 100] [--seed 1]
        [--fault NAME[@HOST[/CARD]] ... [--together]]

For each case on one twin that stays up: inject, check preflight, network and gateway, compare with what faults.yaml
says, compare the plan, carry out the remedy (apply, the finding's own next command, or the technician), check again.
What a fault of a pair masks may not be ok meanwhile, and must be found once the other is mended; none mends it before.
Prints a table and exits 1 when anything does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RunbookError
from runbook_lib.model import Change, Command, Finding, Subject, Verdict
from runbook_lib.params import Params, load_params
from runbook_lib.remote import Host, fan_out
from runbook_lib.runs.cluster import Cluster, Signs, run_unless_busy, targets
from runbook_lib.stages import stage
from runbook_lib.twin import lifecycle
from runbook_lib.twin.fault_list import FAULTS, Expectation, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGES = ("preflight", "network", "gateway")
MOMENTS = ("at once", "at its next call of hccn_tool")  # what strikes in other stages is for their own tests
SHAPES = ("2x8-direct", "4x8-switch")
BAD = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
TIME_FACTOR = 200.0
_ROUNDS = 2
_APPLY_S = 120.0
_COMMAND_S = 30.0


@dataclass(frozen=True)
class Injected:
    """A fault and where it is. leads_to: the number of the card at the other end of its cable, on a direct pair."""

    fault: Fault
    host: str
    card: int | None
    leads_to: int | None = None

    def __str__(self) -> str:
        return f"{self.fault.name} {self.host}" + ("" if self.card is None else f"/{self.card}")


@dataclass
class Seen:
    """What one look at the cluster says."""

    findings: list[Finding] = field(default_factory=list)
    plans: dict[str, list[Change]] = field(default_factory=dict)

    @property
    def changes(self) -> list[Change]:
        """What all plans hold."""
        return [change for plan in self.plans.values() for change in plan]

    def bad(self) -> list[Finding]:
        """Return the findings that say more than ok."""
        return [each for each in self.findings if each.verdict in BAD]


class Bench:
    """One twin, brought to the state that its params want."""

    def __init__(self, shape: str, network: str, level: str, home: Path) -> None:
        self.params = _params(shape, network, level, home)
        self.root = home / "outputs" / self.params.cluster.name / ".twin"
        self.targets = targets(self.params, home)

    def look(self) -> Seen:
        """Probe the three stages at once, as `runbook check` does; check and plan them."""
        seen = Seen()
        with contextlib.closing(Cluster(self.params)) as cluster:
            probes = cluster.probe([stage(name) for name in STAGES])
            for name in STAGES:
                module = stage(name).module
                _, facts = cluster.follow_up(stage(name), probes[name])
                seen.findings += module.check(facts, self.params)
                if not module.waits_for(facts, self.params):
                    seen.plans[name] = module.plan(facts, self.params)
        return seen

    def apply(self, seen: Seen | None = None) -> None:
        """Make the changes of each stage's plan, as a run does; a stage that waited or that follows is read anew."""
        with contextlib.closing(Cluster(self.params)) as cluster:
            stale = seen is None
            for name in STAGES:
                if seen is not None and not stale and name in seen.plans:
                    changes = seen.plans[name]
                else:
                    module = stage(name).module
                    _, facts = cluster.observe(stage(name))
                    changes = [] if module.waits_for(facts, self.params) else module.plan(facts, self.params)
                _make(cluster, changes)
                stale = stale or bool(changes)

    def shell(self, host: str, command: str) -> str:
        """Run what a finding shows, as a person would; returns what went wrong."""
        target = next(each for each in self.targets if each.name == host)
        try:
            with Host(target) as connection:
                ran = run_unless_busy(connection, Command(("sh", "-c", command), _COMMAND_S))
        except RunbookError as error:
            return "" if command.split(maxsplit=1)[0] in {"reboot", "shutdown"} else str(error)
        return "" if ran.ok else f"`{command}` ended with {ran.exit_code}: {(ran.stderr or ran.stdout).strip()[:200]}"

    def inject(self, case: Injected) -> str:
        """Return why the fault cannot be had here, "" when it is there."""
        return lifecycle.inject(self.params, self.root, case.fault.name, case.host, case.card).skipped

    def there(self, cases: list[Injected]) -> list[Injected]:
        """Return the faults without those of a host that another fault made reboot, which have ended with that."""
        rebooted = {case.host for case in cases if case.fault.machine.get("reboot_at_call")}
        left = self.left(cases)
        return [case for case in cases if case.host not in rebooted or case in left]

    def left(self, cases: list[Injected]) -> list[Injected]:
        """Return the faults that the twin still has."""
        left = [(each["fault"], each["host"], each["card"]) for each in lifecycle.status(self.params, self.root).faults]
        return [case for case in cases if (case.fault.name, case.host, case.card) in left]

    def wait_up(self) -> None:
        """Wait for hosts that reboot."""
        for _ in range(100):
            if all(host.up for host in lifecycle.status(self.params, self.root).hosts):
                return
            time.sleep(0.1)


def _make(cluster: Cluster, changes: list[Change]) -> None:
    signs = Signs()

    def on_host(target: Any) -> None:  # noqa: ANN401 - a Target of remote
        for change in changes:
            if change.subject.host == target.name:
                cluster.apply(change, lambda *_: None, signs)

    for result in fan_out(cluster.targets, on_host, deadline_s=_APPLY_S).values():
        if result.error is not None:
            raise result.error


def _params(shape: str, network: str, level: str, home: Path) -> Params:
    """Write params of that shape on another network below `home`, and read them."""
    source = Path(__file__).parents[1] / "params" / f"twin-{shape}.yaml"
    plain = load_params(source)
    name = f"matrix-{shape}"
    overrides: dict[str, Any] = {
        "cluster.name": name,
        "cluster.ssh.key": f"outputs/{name}/.twin/id_ed25519",
        "cluster.ssh.known_hosts": f"outputs/{name}/.twin/known_hosts",
        "model.weights.source.url": f"http://{network}.250:8080/weights",
        "container.image_tar": None,
        "twin.network": network,
        "twin.level": level,
        "twin.time_factor": TIME_FACTOR,
        "twin.weights_bytes": 1_000_000,
    }
    for index in range(len(plain.cluster.hosts)):
        overrides[f"cluster.hosts.{index}.address"] = f"{network}.{index + 1}"
        overrides[f"cluster.hosts.{index}.service_ip"] = f"{network}.{index + 1}"
    (home / "params").mkdir(exist_ok=True)
    shutil.copy(source, home / "params" / f"{name}.yaml")
    return load_params(source, overrides)


# -- judging --------------------------------------------------------------------------------------------------------


def subjects(params: Params, case: Injected, word: str) -> list[Subject]:
    """Return what a word of faults.yaml means for this fault; `a/b` is not for here."""
    hosts, own = params.cluster.hosts, next(each for each in params.cluster.hosts if each.name == case.host)
    ids = [card.id for card in own.cards]
    others = [host.name for host in hosts if host.name != case.host]
    card = -1 if case.card is None else case.card
    following = hosts[(hosts.index(own) + 1) % len(hosts)].name
    place = ids.index(card) if card in ids else 0
    partner = ids[place + 1] if place + 1 < len(ids) else ids[place - 1]
    direct = params.cluster.topology == "direct"
    return {
        "card": [Subject(case.host, card)],
        "host": [Subject(case.host)],
        "partner": [Subject(case.host, partner)],
        "end": [Subject(others[0], card if case.leads_to is None else case.leads_to)] if direct else [],
        "partner-end": [Subject(others[0], partner)] if direct else [],
        "ends": [Subject(others[0], each) for each in ids] if direct else [],
        "cards": [Subject(case.host, each) for each in ids],
        "holder": [Subject(following, card)],
        "cluster": [Subject()],
        "hosts": [Subject(host.name) for host in hosts],
        "peers": [Subject(each, card) for each in others],
        "others": [Subject(each, number) for each in others for number in ids],
    }[word]


def _covers(params: Params, case: Injected, parts: tuple[Expectation, ...], finding: Finding) -> bool:
    bare = Subject(finding.subject.host, finding.subject.card)
    for part in parts:
        if not any(fnmatch.fnmatch(finding.code, code) for code in part.codes):
            continue
        for word in (each for on in part.on for each in on.split("/")):
            if word in {"peers", "others"} and finding.verdict is not Verdict.UNKNOWN:
                continue
            if bare in subjects(params, case, word):
                return True
    return False


def _explained(params: Params, cases: list[Injected], finding: Finding) -> bool:
    """Whether one of the faults is a reason for this finding."""
    return any(
        _covers(params, case, case.fault.reports + case.fault.masks + case.fault.follows, finding) for case in cases
    )


def _missing(params: Params, case: Injected, rest: list[Injected], seen: Seen) -> list[str]:
    """Return what the fault calls for and was not found; what another fault masks may be unknown."""
    problems = []
    strict = [Verdict.FAIL, Verdict.WARN, *([Verdict.UNKNOWN] if case.fault.unknown else [])]
    parts = [(each, strict) for each in case.fault.reports]
    parts += [(each, [*BAD, Verdict.SKIPPED]) for each in case.fault.masks]
    for part, verdicts in parts:
        for word in part.on:
            wanted = [subject for each in word.split("/") for subject in subjects(params, case, each)]
            groups = [wanted] if "/" in word else [[subject] for subject in wanted]
            problems += [problem for group in groups if (problem := _lacks(params, part, group, verdicts, rest, seen))]
    return problems


def _lacks(  # noqa: PLR0913, PLR0917 - one expectation, and all that may excuse it
    params: Params, part: Expectation, group: list[Subject], verdicts: list[Verdict], rest: list[Injected], seen: Seen
) -> str:
    about = [
        finding
        for finding in seen.findings
        if any(fnmatch.fnmatch(finding.code, code) for code in part.codes)
        and Subject(finding.subject.host, finding.subject.card) in group
    ]
    if any(finding.verdict in verdicts for finding in about):
        return ""
    doubt = [*about] or [Finding(part.codes[0], "", group[0], Verdict.UNKNOWN)]
    masked = any(_explained(params, rest, Finding(each.code, "", each.subject, Verdict.UNKNOWN)) for each in doubt)
    skipped = bool(rest) and any(finding.verdict is Verdict.SKIPPED for finding in about)
    if (masked or skipped) and not any(finding.verdict is Verdict.OK for finding in about):
        return ""
    said = ", ".join(sorted({finding.verdict.value for finding in about})) or "nothing"
    return f"{'/'.join(part.codes)} on {group[0]} says {said}"


def judge(params: Params, cases: list[Injected], seen: Seen, there: list[Injected]) -> list[str]:
    """Return everything that is not as it must be. there: the faults that must be found."""
    problems = []
    for case in there:
        problems += _missing(params, case, [each for each in cases if each is not case], seen)
    for finding in seen.bad():
        if not _explained(params, cases, finding):
            problems.append(f"uncalled: {finding.code} {finding.verdict} on {finding.subject}: {finding.seen}"[:160])
        elif not finding.next_command:
            problems.append(f"no next command: {finding.code} on {finding.subject}")
    mended_by_run = [case for case in cases if case.fault.remedy == "run"]
    for change in seen.changes:
        where = Subject(change.subject.host, change.subject.card)
        if not any(
            where in subjects(params, case, "card" if case.fault.needs_card else "host") for case in mended_by_run
        ):
            problems.append(f"uncalled change on {change.subject}: {change.summary}")
    return problems


# -- cases ----------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """How one case went."""

    cases: list[Injected]
    seconds: float = 0.0
    skipped: str = ""
    problems: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)


def draw(rng: random.Random, params: Params, fault: Fault) -> Injected:
    """Choose a host and a card."""
    host = rng.choice(params.cluster.hosts)
    return Injected(fault, host.name, rng.choice(host.cards).id if fault.needs_card else None)


def placed(rng: random.Random, params: Params, word: str) -> Injected:
    """Read NAME[@HOST[/CARD]]; what is not said is chosen."""
    name, _, where = word.partition("@")
    host, _, card = where.partition("/")
    case = draw(rng, params, FAULTS[name])
    return replace(case, host=host or case.host, card=int(card) if card else case.card)


def cabled(params: Params, cases: list[Injected]) -> list[Injected]:
    """Tell every fault where its card's cable leads, if another fault swaps it."""
    crossed: dict[int, int] = {}
    for case in cases:
        if case.fault.hardware.get("swapped") and case.card is not None:
            (partner,) = subjects(params, case, "partner")
            crossed |= {case.card: partner.card, partner.card: case.card}
    return [
        case
        if case.fault.hardware.get("swapped") or case.card is None
        else replace(case, leads_to=crossed.get(case.card))
        for case in cases
    ]


def run_case(bench: Bench, cases: list[Injected]) -> Result:
    """Inject, judge, mend, look again; leave the twin healthy."""
    result, began = Result(cases), time.monotonic()
    try:
        result.skipped = "; ".join(reason for case in cases if (reason := bench.inject(case)))
        if not result.skipped:
            seen = bench.look()
            result.problems += judge(bench.params, cases, seen, bench.there(cases))
            result.problems += _mend(bench, cases, seen, result.remedies)
    except RunbookError as error:
        result.problems.append(f"{type(error).__name__}: {error}"[:300])
    lifecycle.clear(bench.params, bench.root)
    bench.wait_up()
    if result.problems:
        _restore(bench)
    result.seconds = time.monotonic() - began
    return result


def _restore(bench: Bench) -> None:
    """Make the twin healthy for the next case."""
    with contextlib.suppress(RunbookError):
        bench.apply()


def _mend(bench: Bench, cases: list[Injected], seen: Seen, done: list[str]) -> list[str]:
    """Carry out the remedies until nothing is left; what is masked comes to light on the way.

    Nobody mends what no finding shows: a fault that is still there when all is ok was never found.
    """
    for _ in range(_ROUNDS * len(cases)):
        problems = _remedy(bench, cases, seen, done)
        bench.wait_up()
        seen = bench.look()
        if not seen.bad() and not seen.changes:
            hidden = [case for case in bench.left(cases) if case.fault.remedy != "none"]
            return [*problems, *(f"nothing shows what is still there: {case}" for case in hidden)]
    left = [f"{each.code} {each.verdict} on {each.subject}: {each.seen}"[:160] for each in seen.bad()]
    return [*problems, *(f"left after the remedy: {each}" for each in left[:4]), *_plans(seen)]


def _plans(seen: Seen) -> list[str]:
    return [f"still planned: {change.subject}: {change.summary}" for change in seen.changes[:4]]


def _remedy(bench: Bench, cases: list[Injected], seen: Seen, done: list[str]) -> list[str]:
    problems = []
    there = bench.left(cases)
    for case in cases:
        shown = case.fault.reports + case.fault.masks
        if (
            case.fault.remedy == "hands"
            and case in there
            and any(_covers(bench.params, case, shown, each) for each in seen.bad())
        ):
            lifecycle.hands(bench.params, bench.root, case.fault.name, case.host, case.card)
            done.append("hands")
        elif case.fault.remedy == "command":
            problems += _shown_commands(bench, case, seen, done)
    if any(case.fault.remedy == "run" for case in cases):
        bench.wait_up()  # a command shown above may have been a reboot
        bench.apply(seen)
        done.append("run")
    return problems


def _shown_commands(bench: Bench, case: Injected, seen: Seen, done: list[str]) -> list[str]:
    ran: set[tuple[str, str]] = set()
    problems = []
    for finding in seen.bad():
        if not _covers(bench.params, case, case.fault.reports, finding):
            continue
        command, _, comment = finding.next_command.partition("   # ")
        host = (
            comment.removeprefix("on ").split()[0].rstrip(";,") if comment.startswith("on ") else finding.subject.host
        )
        if host not in {each.name for each in bench.params.cluster.hosts}:
            host = finding.subject.host or case.host
        if command and (host, command) not in ran:
            ran.add((host, command))
            done.append(f"`{command}`")
            if command.startswith("runbook run "):
                bench.apply(seen)
            elif command.startswith("runbook check "):
                continue  # another look comes after each remedy
            elif problem := bench.shell(host, command):
                problems.append(problem)
    return problems


def healthy(bench: Bench) -> list[str]:
    """Return the findings and changes of a cluster without faults: there must be none."""
    seen = bench.look()
    found = [f"{each.code} {each.verdict} on {each.subject}: {each.seen}"[:160] for each in seen.bad()]
    return [*found, *_plans(seen)]


def _shown(result: Result) -> str:
    name = " + ".join(map(str, result.cases))
    word = "skipped" if result.skipped else "FAILED" if result.problems else "ok"
    line = f"{name:<58} {word:<8} {result.seconds:5.1f} s  {', '.join(dict.fromkeys(result.remedies))}{result.skipped}"
    return "\n".join([line, *(f"      {problem}" for problem in result.problems[:8])])


def _cases(asked: argparse.Namespace, params: Params) -> Iterator[list[Injected]]:
    rng = random.Random(f"{asked.seed} {params.cluster.name}")  # noqa: S311 - repeatable draws, no secret
    visible = [fault for fault in FAULTS.values() if fault.moment in MOMENTS]
    chosen = [placed(rng, params, word) for word in asked.fault or (fault.name for fault in visible)]
    alone = [[case] for case in chosen] if not asked.together else [chosen]
    for cases in alone if not asked.only_pairs else ():
        yield cabled(params, cases)
    fitting = [fault for fault in visible if params.cluster.topology not in fault.skip]
    for _ in range(asked.pairs):
        yield cabled(params, [draw(rng, params, fault) for fault in rng.sample(fitting, 2)])


def run_shape(asked: argparse.Namespace, shape: str, number: int, home: Path) -> tuple[list[Result], list[str]]:
    """Run all cases on one twin. Returns their results, and what a healthy cluster shows."""
    prefix, _, last = asked.network.rpartition(".")
    bench = Bench(shape, f"{prefix}.{int(last) + number}", asked.level, home)
    try:
        up = lifecycle.up(bench.params, bench.root, fresh=True)
        bench.apply()
        found = healthy(bench)
        print(f"\n{shape}, level {up.level}: {len(found)} findings on the healthy cluster", flush=True)
        for line in found:
            print(f"      {line}", flush=True)
        results = []
        for cases in _cases(asked, bench.params):
            results.append(run_case(bench, cases))
            if not asked.json:
                print(_shown(results[-1]), flush=True)
        return results, found
    finally:
        lifecycle.down(bench.params, bench.root)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--only-pairs", action="store_true")
    parser.add_argument("--together", action="store_true", help="all faults at once, as one case")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[@HOST[/CARD]]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--network", default="127.86.1", help="of the first shape's twin; the next one follows")
    parser.add_argument("--level", choices=["auto", "L1b", "L0"], default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    asked = parser.parse_args()
    if unheard := [word for word in asked.fault if word.partition("@")[0] not in FAULTS]:
        parser.error(f"no fault {', '.join(unheard)}: see `runbook twin faults`")
    results: list[Result] = []
    unhealthy: list[str] = []
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        os.environ["RUNBOOK_HOME"] = folder
        with contextlib.redirect_stdout(sys.stderr if asked.json else sys.stdout):
            for number, shape in enumerate(SHAPES):
                if asked.shape in {shape, "all"}:
                    some, found = run_shape(asked, shape, number, Path(folder))
                    results += some
                    unhealthy += found
    failed = [result for result in results if result.problems]
    ran = [result for result in results if not result.skipped]
    if asked.json:
        lines = [{"case": " + ".join(map(str, each.cases)), "problems": each.problems} for each in failed]
        print(
            json.dumps({"ok": not failed and not unhealthy, "cases": len(ran), "failures": lines, "healthy": unhealthy})
        )
    else:
        mean = sum(result.seconds for result in ran) / len(ran) if ran else 0.0
        print(
            f"\n{len(ran) - len(failed)} of {len(ran)} cases hold, {mean:.1f} s a case; {len(unhealthy)} false findings"
        )
    return 1 if failed or unhealthy or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
