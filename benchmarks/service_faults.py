"""Every fault of the service on one twin: reported before the daemons are started, and found in what they then say.

    python benchmarks/service_faults.py [--fault NAME] [--count 10] [--before-only] [--seed 1] [--json]

The twin is brought up to the written service files. For each case: inject, look (the stages that own it), start the
daemons as they are, watch until the first error is told, stop, clear. The table says what was reported before, what
after, how long after the first log line of the failure (of a service that hangs in silence: after the first look), and
whether the host was right. Exits 1 when something of it does not hold, or when the healthy twin has a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend import logs as log_lines
from runbook_lib.errors import RunbookError
from runbook_lib.model import Change, Finding, Job, Subject, Verdict
from runbook_lib.params import HostPaths, load_params
from runbook_lib.remote import fan_out
from runbook_lib.runs.cluster import Cluster, Signs
from runbook_lib.stages import stage
from runbook_lib.twin import lifecycle, service_faults
from runbook_lib.twin.fault_list import FAULTS, Expectation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook_lib.params import Params
    from runbook_lib.remote import Target

BAD = (Verdict.FAIL, Verdict.WARN)
PREPARED = ("preflight", "network", "gateway", "weights", "container")
# faults of the network and the server that stop a service too, as the twin has them for the other stages
OTHERS: dict[str, dict[str, Any]] = {
    "gateway-missing": {"look": ["gateway"], "says": "wait socket establish timeout"},
    "tls-on": {"look": ["network"], "says": "wait socket establish timeout"},
    "ip-other-segment": {
        "look": ["network"], "reports": {"NET-IP": ["card"]}, "says": "inconsistent with the IP address",
    },
    "hbm-held": {"look": ["preflight"], "says": "Open TsdClient failed"},
    "port-taken": {
        "look": ["service"], "on": "master", "reports": {"SVC-PORT": ["host"]}, "says": "Socket bind failed",
    },
    "slave-not-started": {
        "look": ["service"], "on": "slave", "reports": {"SVC-DAEMON": ["host"]}, "start": "master",
        "says": "topo exchange server get socket timeout",
    },
}  # fmt: skip
FAST = 1000.0
WITHIN_S = 5.0
SILENT_S = 15.0  # where a service hangs without a log line: from the first look to the finding
_AFTER_S = 45.0
_LOAD, _LOAD_S, _SETTLE_S = 12, 90.0, 6.0  # requests of the longest kind; how long they are held; until it shows
_POLL_S = 0.3


@dataclass
class Result:
    """How one fault went. lag_s: from the first error line to the finding; None where nothing was started.

    silent: there was no line, and lag_s is that from the first look.
    """

    name: str
    host: str
    before: str = ""
    after: str = ""
    lag_s: float | None = None
    seconds: float = 0.0
    silent: bool = False
    problems: list[str] = field(default_factory=list)


class Bench:
    """One twin, prepared up to the service's files, and one set of connections to it."""

    def __init__(self, network: str, home: Path) -> None:
        source = Path(__file__).parents[1] / "params/twin-2x8-direct.yaml"
        name = "service-faults"
        (home / "params").mkdir()
        shutil.copy(source, home / "params" / f"{name}.yaml")
        overrides: dict[str, Any] = {
            "cluster.name": name,
            "cluster.ssh.key": f"outputs/{name}/.twin/id_ed25519",
            "cluster.ssh.known_hosts": f"outputs/{name}/.twin/known_hosts",
            "model.weights.source.url": f"http://{network}.250:8080/weights",
            "twin.network": network,
            "twin.time_factor": FAST,
            "twin.weights_bytes": 1_000_000,
        }
        for index in range(2):
            overrides[f"cluster.hosts.{index}.address"] = f"{network}.{index + 1}"
            overrides[f"cluster.hosts.{index}.service_ip"] = f"{network}.{index + 1}"
        self.params = load_params(source, overrides)
        self.root = home / "outputs" / name / ".twin"

    def up(self) -> str:
        """Power the twin on and prepare it. Returns its level."""
        level = lifecycle.up(self.params, self.root, fresh=True).level
        self.cluster = Cluster(self.params)
        for name in PREPARED:
            self._make(self._plan(name))
        self._make([change for change in self._plan("service") if not isinstance(change.action, Job)])
        return level

    def down(self) -> None:
        """Close the connections and power the twin off."""
        with contextlib.suppress(AttributeError):
            self.cluster.close()
        lifecycle.down(self.params, self.root)

    def _plan(self, name: str) -> list[Change]:
        module = stage(name).module
        return list(module.plan(self.cluster.observe(stage(name))[1], self.params))

    def _make(self, changes: list[Change]) -> None:
        for phase in sorted({change.phase for change in changes}):

            def on_host(target: Target, phase: int = phase) -> None:
                for change in changes:
                    if change.subject.host == target.name and change.phase == phase:
                        self.cluster.apply(change, lambda *_: None, Signs())

            for result in fan_out(self.cluster.targets, on_host, deadline_s=120.0).values():
                if result.error is not None:
                    raise result.error

    def look(self, *names: str) -> list[Finding]:
        """Probe and check stages."""
        found: list[Finding] = []
        for name in names:
            module = stage(name).module
            found += module.check(self.cluster.observe(stage(name))[1], self.params)
        return found

    def script(self, name: str, hosts: list[str]) -> None:
        """Run start.sh (which becomes the daemon and is left alone) or stop.sh in the containers of some hosts."""
        folder = HostPaths.of(self.params).service
        detach = ["-d"] if name == "start.sh" else []
        argv = ("docker", "exec", *detach, self.params.container.name, "bash", f"{folder}/{name}", folder)

        def on_host(target: Target) -> None:
            if target.name in hosts:
                self.cluster.connected(target).run(argv, 60.0)

        fan_out(self.cluster.targets, on_host, deadline_s=90.0)


def _where(params: Params, host: str, word: str) -> list[Subject]:
    master = params.master.name
    hosts = [each.name for each in params.cluster.hosts]
    return {
        "host": [Subject(host)],
        "master": [Subject(master)],
        "hosts": [Subject(name) for name in hosts],
        "cluster": [Subject()],
        "card": [Subject(host, 3)],
    }.get(word, [])


def missing(params: Params, host: str, parts: tuple[Expectation, ...], found: list[Finding]) -> list[str]:
    """Return what is not reported of what must be, on the subject where it must be."""
    problems = []
    for part in parts:
        for wanted in (subject for word in part.on for subject in _where(params, host, word)):
            hits = [
                each
                for each in found
                if any(fnmatch.fnmatch(each.code, code) for code in part.codes)
                and (each.subject.host, each.subject.card) == (wanted.host, wanted.card)
                and each.verdict in BAD
            ]
            if not hits:
                problems.append(f"{'/'.join(part.codes)} is not reported on {wanted}")
            elif not all(each.next_command for each in hits):
                problems.append(f"{hits[0].code} on {wanted} has no next command")
    return problems


def _expectations(given: dict[str, list[str]]) -> tuple[Expectation, ...]:
    return tuple(Expectation(tuple(codes.split("/")), tuple(on)) for codes, on in given.items())


def run_case(bench: Bench, name: str, rng: random.Random, *, before_only: bool) -> Result:
    """Inject one fault, look, start, watch; leave the twin healthy and stopped."""
    params = bench.params
    data = service_faults.DATA.get(name) or OTHERS[name]
    hosts = [each.name for each in params.cluster.hosts]
    on = data.get("on", "any")
    host = params.master.name if on == "master" else hosts[1] if on == "slave" else rng.choice(hosts)
    result, began = Result(name, host), time.monotonic()
    try:
        if data.get("start") == "running":
            bench.script("start.sh", hosts)
            _watch(bench, lambda found: _ok(found, "SVC-READY"))
        card = 3 if name in FAULTS and FAULTS[name].needs_card else None
        for each in hosts if on == "all" else [host]:
            if name in FAULTS and (skipped := lifecycle.inject(params, bench.root, name, each, card).skipped):
                result.before = f"skipped: {skipped}"
                return result
        parts = _expectations(data["reports"]) if "reports" in data else FAULTS[name].reports
        if data.get("known") != "after":
            found = bench.look(*data["look"])
            result.problems += missing(params, host, parts, found)
            result.before = ", ".join(sorted({code for part in parts for code in part.codes} & _bad(found)))
        if not before_only and data.get("start") != "none":
            _after(bench, data, result, parts)
    except RunbookError as error:
        result.problems.append(f"{type(error).__name__}: {error}"[:200])
    finally:
        lifecycle.clear(params, bench.root)
        if not before_only:
            bench.script("stop.sh", hosts)
        result.seconds = time.monotonic() - began
    return result


def _bad(found: list[Finding]) -> set[str]:
    return {each.code for each in found if each.verdict in BAD}


def _ok(found: list[Finding], code: str) -> bool:
    return any(each.code == code and each.verdict is Verdict.OK for each in found)


def _watch(bench: Bench, done: Any) -> list[Finding]:  # noqa: ANN401 - a function of findings
    """Look at the service until `done` says so or the time is over."""
    deadline = time.monotonic() + _AFTER_S
    while True:
        found = bench.look("service")
        if done(found) or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_S)


def _after(bench: Bench, data: dict[str, Any], result: Result, parts: tuple[Expectation, ...]) -> None:
    """Start what is to be started, and wait for the words of the failure and the code that tells them."""
    hosts = [each.name for each in bench.params.cluster.hosts]
    running = data.get("start") == "running"
    if not running:
        bench.script("start.sh", [bench.params.master.name] if data.get("start") == "master" else hosts)
    if data.get("load"):
        _watch(bench, lambda found: _ok(found, "SVC-ANSWER"))
        _put_load(bench.params)
    says = re.compile(data.get("says", "(?!)"))
    late = _expectations(data["after"]) if "after" in data else ()
    late += parts if running else ()

    def told(found: list[Finding]) -> bool:
        heard = not data.get("says") or any(says.search(each.seen) for each in _errors(found))
        return heard and not missing(bench.params, result.host, late, found)

    looked_at = time.time()
    found = _watch(bench, told)
    seen_at = time.time()
    heard = [each for each in _errors(found) if says.search(each.seen)]
    if data.get("says") and not heard:
        said = "; ".join(f"{each.subject}: {each.seen[:160]}" for each in _errors(found)) or "no error is told"
        result.problems.append(f"after the start /{data['says']}/ is not told: {said}")
    result.problems += [f"after the start: {each}" for each in missing(bench.params, result.host, late, found)]
    result.after = ", ".join(sorted({each.code for each in heard} | {code for each in late for code in each.codes}))
    first = _first_stamp(bench) if heard else None
    if not data.get("says") and (running or data.get("load")):
        result.lag_s, result.silent = seen_at - looked_at, True
        if result.lag_s > SILENT_S:
            result.problems.append(f"told {result.lag_s:.1f} s after the first look at a service that hangs")
    if first is not None:
        result.lag_s = max(0.0, seen_at - first)
        if result.lag_s > WITHIN_S:
            result.problems.append(f"told {result.lag_s:.1f} s after its first log line")


def _put_load(params: Params) -> None:
    """Send as many of the longest requests as overfill the KV cache, and wait for none of them."""
    url = f"http://{params.master.service_ip}:{params.service.port}/v1/completions"
    longest, answer = params.service.max_input_token_len - 64, params.service.max_iter_times
    body = json.dumps({"model": params.model.name, "prompt": "word " * longest, "max_tokens": answer}).encode()

    def ask() -> None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=_LOAD_S)

    for _ in range(_LOAD):
        threading.Thread(target=ask, daemon=True).start()
    time.sleep(_SETTLE_S)


def _errors(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.code == "SVC-DAEMON-ERROR"]


def _first_stamp(bench: Bench) -> float | None:
    """Return when the first error line of all hosts was written, in our own time."""
    _, facts = bench.cluster.observe(stage("service"))
    stamps = [
        error.at
        for seen in facts.hosts.values()
        if seen.alive != "none" and (error := log_lines.first_error(dict(seen.logs))) is not None and error.at
    ]
    return min((datetime.fromisoformat(each).timestamp() for each in stamps), default=None)


def healthy(bench: Bench) -> list[str]:
    """Start both daemons on the healthy twin; return every finding that is not ok, and what is still planned."""
    hosts = [each.name for each in bench.params.cluster.hosts]
    bench.script("start.sh", hosts)
    _watch(bench, lambda found: _ok(found, "SVC-ANSWER"))
    lines = []
    for name in ("weights", "container", "service"):
        lines += [
            f"{each.code} {each.verdict} on {each.subject}: {each.seen}"[:200]
            for each in bench.look(name)
            if each.verdict not in {Verdict.OK, Verdict.SKIPPED}
        ]
        lines += [f"planned: {each.subject}: {each.summary}" for each in bench._plan(name)]  # noqa: SLF001 - our own
    bench.script("stop.sh", hosts)
    return lines


def _line(result: Result) -> str:
    lag = "" if result.lag_s is None else f"{result.lag_s:4.1f} s"
    word = "FAILED" if result.problems else "ok"
    line = f"{result.name:<32} {result.host:<6} {result.before:<34} {result.after:<22} {lag:>7}"
    line += f" {result.seconds:5.1f} s  {word}"
    return "\n".join([line, *(f"      {problem}" for problem in result.problems[:4])])


def _chosen(asked: argparse.Namespace) -> Iterator[str]:
    known = [*service_faults.DATA, *OTHERS]
    names = asked.fault or known
    if asked.count and not asked.fault:
        names = random.Random(asked.seed).sample(known, asked.count)  # noqa: S311 - repeatable draws, no secret
    yield from names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", action="append", default=[], choices=[*service_faults.DATA, *OTHERS], metavar="NAME")
    parser.add_argument("--count", type=int, default=0, help="only so many, drawn by --seed; 0 is all")
    parser.add_argument("--before-only", action="store_true", help="start no daemon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--network", default="127.86.9")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)  # noqa: S311 - see above
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="service-faults-") as folder:
        os.environ["RUNBOOK_HOME"] = folder
        bench = Bench(asked.network, Path(folder))
        with contextlib.redirect_stdout(sys.stderr if asked.json else sys.stdout):
            try:
                level = bench.up()
                found = [] if asked.before_only else healthy(bench)
                print(f"level {level}; {len(found)} findings on the healthy twin", flush=True)
                for line in found:
                    print(f"      {line}", flush=True)
                print(
                    f"{'fault':<32} {'host':<6} {'before the start':<34} {'after':<22} {'late':>7} {'case':>7}",
                    flush=True,
                )
                for name in _chosen(asked):
                    results.append(run_case(bench, name, rng, before_only=asked.before_only))
                    print(_line(results[-1]), flush=True)
            finally:
                bench.down()
    failed = [each for each in results if each.problems]
    if asked.json:
        rows = [vars(each) for each in results]
        print(json.dumps({"ok": not failed and not found, "failures": [vars(each) for each in failed], "cases": rows}))
    else:
        lags = [each.lag_s for each in results if each.lag_s is not None and not each.silent]
        silent = [each.lag_s for each in results if each.lag_s is not None and each.silent]
        print(
            f"\n{len(results) - len(failed)} of {len(results)} faults hold; told at most {max(lags, default=0):.1f} s "
            f"after the first log line, a silent hang {max(silent, default=0):.1f} s after the first look; "
            f"{len(found)} findings on the healthy twin"
        )
    return 1 if failed or found or not results else 0


if __name__ == "__main__":
    sys.exit(main())
