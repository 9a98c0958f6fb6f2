"""Kill campaign: runs on a twin are cut at random moments, resumed, cut again, and must end verified.

    python benchmarks/kill_campaign.py --kills 200 --seed 1

Kinds: SIGKILL, SIGTERM, SIGINT of the runner, SIGKILL of the kernel, a dropped SSH connection, a host that reboots,
a host that is without power for a while. Prints a table by kind and stage. Exits with 1 when anything does not hold:

- every run ends verified after `resume`, and an independent probe agrees
- no stage is called good, and no notebook complete, that was cut
- no event that was once on the disk is lost, and the chain verifies
- no change is made twice with effect
- nothing is left: processes, locks, jobs, temp files, on the hosts and here

Needs Linux. The SSH drop needs root and `ss -K`; without them that kind is skipped, and that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.params import load_params
from runbook_lib.remote import Host
from runbook_lib.runs import events
from runbook_lib.runs.check import check_cluster, is_ok
from runbook_lib.runs.cluster import Cluster, targets
from runbook_lib.runs.folder import RunFolder, all_runs
from runbook_lib.runs.history import read_history
from runbook_lib.runs.locks import find_locks
from runbook_lib.runs.manifest import MANIFEST
from runbook_lib.runs.who import process_start
from runbook_lib.stages import STAGES
from runbook_lib.twin import lifecycle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook_lib.params import Params

PROJECT = Path(__file__).resolve().parents[1]
NAME = "kill-campaign"
KINDS = ("SIGKILL", "SIGTERM", "SIGINT", "kernel", "ssh-drop", "reboot", "power-off")
GOOD = {"ok", "warn", "skipped"}
HOSTS = ("node1", "node2")
_WAIT_S = 240.0
_POLL_S = 0.05
_OFF_S = 0.5
_TRIES = 3
# a file that its reader removes: whoever starts the reader again has to bring it again
_USED_UP = "bring the one-time token"
# done twice is right only when something else undid it in between: a reboot, or the stop of all daemons
_RESTARTS = ("start the daemon", "stop the daemon", "start mindie")


@dataclass
class Tally:
    """What happened so far."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    runs: int = 0
    resumes: int = 0
    spent_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Campaign:
    """One twin, in a project folder of its own."""

    def __init__(self, home: Path, network: str, seed: int, kinds: tuple[str, ...]) -> None:
        self.home = home
        self.temp = home / "tmp"  # of the runs: another campaign beside this one has dead runners of its own
        self.random = random.Random(seed)  # noqa: S311 - moments of kills are no secret
        self.kinds = kinds
        self.tally = Tally()
        self.file = f"params/{NAME}.yaml"
        self._make_home(network)
        os.environ["RUNBOOK_HOME"] = str(home)
        self.params: Params = load_params(home / self.file)
        self.twin = home / "outputs" / NAME / ".twin"
        self.disturbed = 0
        self.struck = 0.0  # when a host was lost last, by time.time()
        self.process: subprocess.Popen[str] | None = None

    def _make_home(self, network: str) -> None:
        (self.home / "params").mkdir(parents=True)
        (self.home / "outputs").mkdir()
        self.temp.mkdir()
        (self.home / "notebooks").symlink_to(PROJECT / "notebooks")
        text = (PROJECT / "params" / "twin-2x8-direct.yaml").read_text(encoding="utf-8")
        own = text.rpartition("network: ")[2].split()[0]
        text = text.replace("twin-2x8-direct", NAME).replace(own, network)
        path = self.home / self.file
        path.write_text(text, encoding="utf-8")
        tiny = {
            "benchmark.concurrency": [1, 2],
            "benchmark.requests_per_level": 8,
            "benchmark.output_tokens": 128,  # requests long enough that a busy machine still keeps them in flight
            "cluster.ssh.connect_timeout_s": 3,
            "twin.weights_bytes": 2_000_000,
            "twin.time_factor": 60,
        }
        lines = json.dumps(json.loads(load_params(path, tiny).model_dump_json()), indent=1)
        path.write_text(lines, encoding="utf-8")  # JSON is YAML

    # --- one run ------------------------------------------------------------------------------------------------

    def episode(self, kills: int) -> int:
        """Run on bare hosts, cut `kills` times, resume to the end, check all; return how many kills hit."""
        lifecycle.up(self.params, self.twin, fresh=True)
        self.disturbed = 0
        moments = sorted(self.random.randrange(len(STAGES)) for _ in range(kills))
        hits = 0
        process = self._start("run", self.file, "--mode", "apply", "--yes")
        self.tally.runs += 1
        seen: dict[Path, bytes] = {}
        for moment in moments:
            stage = STAGES[moment].name
            process = self._get_to(stage, process)
            if process.poll() is not None:
                break
            time.sleep(self.random.random() * self._usual_s(stage))
            kind = self.random.choice(self.kinds)
            if process.poll() is not None:
                break
            where = self._cut(kind, process)
            self._ended(process)
            hits += 1
            self.tally.kills[kind, where] += 1
            self._check_cut(kind, where, seen)
            if self._is_over():
                break
            process = self._resume()
        self._ended(process)
        for _ in range(_TRIES + 1):  # a host that was just lost may still be on its way up
            if self._is_over():
                break
            process = self._resume()
            self._ended(process)
        if process.returncode < 0 and self._is_over():  # killed when all was done: there is nothing to resume
            process = self._start("resume", self.file)
            self._ended(process)
            if process.returncode != 2:  # noqa: PLR2004 - bad usage
                self._problem(f"a run that had ended well could be resumed: exit code {process.returncode}")
            process.returncode = 0
        self._check_end(process, seen)
        return hits

    def _resume(self) -> subprocess.Popen[str]:
        if self._run() is None or not any(event.kind == "run_start" for event in events.read(self._run_events())):
            return self._start("run", self.file, "--mode", "apply", "--yes")  # cut before its first event
        self.tally.resumes += 1
        return self._start("resume", self.file, "--yes")

    def _start(self, *words: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if key not in {"JPY_SESSION_NAME", "MPLBACKEND"}}
        environment |= {"RUNBOOK_HOME": str(self.home), "PYTHONPATH": str(PROJECT), "TMPDIR": str(self.temp)}
        self.log = (self.home / "last.log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runbook_lib", *words],
            cwd=self.home,
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self.process

    def stop(self) -> None:
        """Leave nothing behind, also when this script is stopped."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        lifecycle.down(self.params, self.twin)

    def _ended(self, process: subprocess.Popen[str]) -> None:
        try:
            process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            self._problem(f"a run did not end within {_WAIT_S:.0f} s; {self._last_words()}")
            process.kill()
            process.wait()
        self.log.close()

    def _run(self) -> RunFolder | None:
        runs = all_runs(self.home / "outputs", NAME)
        return runs[-1] if runs else None

    def _run_events(self) -> Path:
        run = self._run()
        assert run is not None  # noqa: S101 - the callers looked
        return run.events

    def _reach(self, process: subprocess.Popen[str], stage: str) -> bool:
        """Wait until the stage began in the run that is under way; False when the process ended before."""
        before = self._run()
        known = len(events.read(before.events)) if before is not None else 0
        size = -1
        order = [each.name for each in STAGES]
        while process.poll() is None:
            run = self._run()
            if run is not None and run != before:
                before, known = run, 0
            grown = before.events.stat().st_size if before is not None and before.events.exists() else -1
            if before is not None and grown != size:
                size = grown
                begun = [
                    event.data["stage"] for event in events.read(before.events)[known:] if event.kind == "stage_start"
                ]
                if any(order.index(each) >= order.index(stage) for each in begun):
                    return True
            time.sleep(_POLL_S)
        return False

    def _get_to(self, stage: str, process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """Return the process in which the stage began; one that ended when the run did not get there."""
        for _ in range(_TRIES):
            if self._reach(process, stage) or self._is_over():
                break
            self._ended(process)  # a host that was lost is not up yet, or what was cut could not go on
            process = self._resume()
        return process

    def _usual_s(self, stage: str) -> float:
        """Return how long the stage took in this campaign so far, in s; a guess at first."""
        run = self._run()
        chain = events.read(run.events) if run is not None else []
        begun: dict[str, float] = {}
        for event in chain:
            name = str(event.data.get("stage"))
            stamp = _stamp(event.time)
            if event.kind == "stage_start":
                begun[name] = stamp
            elif event.kind == "stage_end" and name in begun:
                self.tally.spent_s[name].append(stamp - begun.pop(name))
        known = self.tally.spent_s[stage][-20:]
        return 1.2 * sum(known) / len(known) if known else 2.0

    # --- cutting ------------------------------------------------------------------------------------------------

    def _cut(self, kind: str, process: subprocess.Popen[str]) -> str:
        """Do the damage; return the stage that was under way."""
        run = self._run()
        states = run.status() if run is not None else {}
        where = next((stage for stage, state in states.items() if state == "running"), "between")
        host = self.random.choice(HOSTS)
        if kind.startswith("SIG"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, getattr(signal, kind))
        elif kind == "kernel":
            self._kill_kernel()
        elif kind == "ssh-drop":
            address = self.params.host(host).address
            subprocess.run(
                ["ss", "-K", "dst", address, "dport", "=", str(self.params.cluster.ssh.port)],
                capture_output=True,
                check=False,
            )
        elif kind == "reboot":
            self.disturbed, self.struck = self.disturbed + 1, time.time()
            lifecycle.reboot(self.params, self.twin, host)
        else:
            self.disturbed, self.struck = self.disturbed + 1, time.time()
            lifecycle.inject(self.params, self.twin, "host-down", host)
            time.sleep(_OFF_S)
            lifecycle.clear(self.params, self.twin)
        return where

    def _kill_kernel(self) -> None:
        chain = events.read(self._run_events()) if self._run() is not None else []
        start = next((event for event in reversed(chain) if event.kind == "stage_start"), None)
        if start is not None and process_start(start.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(start.pid, signal.SIGKILL)

    # --- checks -------------------------------------------------------------------------------------------------

    def _problem(self, text: str) -> None:
        self.tally.problems.append(f"run {self.tally.runs}: {text}")
        print(f"  PROBLEM run {self.tally.runs}: {text}", flush=True)

    def _last_words(self) -> str:
        text = (self.home / "last.log").read_text(encoding="utf-8", errors="replace")
        return f"it said last:\n{text[-1500:]}"

    def _is_over(self) -> bool:
        """Whether the newest run has ended well, by its own record."""
        run = self._run()
        if run is None:
            return False
        chain = events.read(run.events)
        ends = [event for event in chain if event.kind in {"run_end", "resume"}]
        ended = bool(ends) and ends[-1].kind == "run_end" and ends[-1].data.get("ok") is True
        return ended and (run.path / MANIFEST).exists()

    def _check_cut(self, kind: str, where: str, seen: dict[Path, bytes]) -> None:
        """Right after a cut: nothing is called good that has no end; every event that was written is there."""
        run = self._run()
        if run is None:
            return
        self._check_events(run, seen)
        chain = events.read(run.events)
        last: dict[str, str] = {}
        for event in chain:
            stage = event.data.get("stage")
            if event.kind in {"stage_start", "stage_end"} and isinstance(stage, str):
                last[stage] = event.kind
        for stage, state in run.status().items():
            if last.get(stage) == "stage_start" and state in GOOD | {"running"}:
                self._problem(f"{kind} in {where}: {stage} was cut and is called {state}")
        for path in run.path.glob("*.ipynb"):
            self._check_notebook(path, last, f"{kind} in {where}")

    def _check_notebook(self, path: Path, last: dict[str, str], after: str) -> None:
        try:
            book = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            self._problem(f"{after}: {path.name} cannot be read")
            return
        cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
        claims = all(cell["metadata"].get("papermill", {}).get("status") == "completed" for cell in cells)
        if claims and last.get(path.name.split(".", maxsplit=1)[0]) == "stage_start":
            self._problem(f"{after}: {path.name} claims to be complete, but its stage was cut")

    def _check_events(self, run: RunFolder, seen: dict[Path, bytes]) -> None:
        content = run.events.read_bytes()
        before = seen.get(run.events, b"")
        if not content.startswith(before):
            self._problem("events that were on the disk are not there any more")
        problem = events.verify(run.events, torn_ok=True)
        if problem:
            self._problem(f"the chain does not hold: {problem}")
        seen[run.events] = content[: content.rfind(b"\n") + 1]

    def _check_end(self, process: subprocess.Popen[str], seen: dict[Path, bytes]) -> None:
        run = self._run()
        if run is None or not self._is_over() or process.returncode != 0:
            self._problem(f"did not end verified, exit code {process.returncode}; {self._last_words()}")
            return
        self._check_events(run, seen)
        if problem := events.verify(run.events):
            self._problem(f"the chain does not hold at the end: {problem}")
        bad = {stage: state for stage, state in run.status().items() if state not in GOOD}
        if bad or set(run.status()) != {stage.name for stage in STAGES}:
            self._problem(f"ended well, but its stages are {run.status()}")
        checks = check_cluster(self.params)
        if not is_ok(checks):
            wrong = [
                (each.code, str(each.subject)) for one in checks for each in one.findings if each.verdict == "fail"
            ]
            if not self._is_too_late(run):
                self._problem(f"ended well, but a probe of now says {wrong}")
            else:  # what struck after the run's last look is the next run's to find and to mend
                process = self._start("run", self.file, "--mode", "apply", "--yes")
                self._ended(process)
                if process.returncode or not is_ok(check_cluster(self.params)):
                    self._problem(f"a host was lost after the last look, and the next run does not mend it: {wrong}")
        self._check_twice(run)
        self._check_leftovers(run)

    def _is_too_late(self, run: RunFolder) -> bool:
        """Whether a host was lost when the run had looked at its service for the last time."""
        looks = [
            _stamp(event.time)
            for event in events.read(run.events)
            if event.kind in {"stage_end", "stage_recheck"} and event.data.get("stage") in {"container", "service"}
        ]
        return bool(looks) and self.struck > max(looks)

    def _check_twice(self, run: RunFolder) -> None:
        history = read_history(run)
        done: dict[tuple[str, str, str], int] = {}
        for index, made in enumerate(history.made if history else ()):
            if made.state != "done":
                continue
            key = made.key
            if key in done and not self._may_repeat(
                key, [each.change.summary for each in history.made[done[key] : index]] if history else []
            ):
                self._problem(f"made twice: {key}")
            done[key] = index

    def _may_repeat(self, key: tuple[str, str, str], between: list[str]) -> bool:
        if key[2].startswith(_USED_UP):
            return True
        if not key[2].startswith(_RESTARTS):
            return False
        return self.disturbed > 0 or any(summary.startswith("stop the daemon") for summary in between)

    def _check_leftovers(self, run: RunFolder) -> None:
        deadline = time.monotonic() + 5
        while (left := self._processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for line in left:
            self._problem(f"left here: process {line}")
        for path in [*run.path.glob(".*.tmp"), *(self.home / "outputs" / NAME).glob("apply.json")]:
            self._problem(f"left here: {path.name}")
        for path in self.temp.glob("runbook-kernel-*-*-*"):
            pid, start = path.name.removeprefix("runbook-kernel-").split("-")[:2]
            if process_start(int(pid)) != int(start):
                self._problem(f"left here: {path}")
        cluster = Cluster(self.params, self.home)
        with contextlib.closing(cluster):
            locks, errors = find_locks(cluster)
            for text in [*(str(lock) for lock in locks), *errors.values()]:
                self._problem(f"left on a host: {text}")
        for target in targets(self.params, self.home):
            with Host(target) as host:
                for line in host.run(("sh", "-c", _LEFT_ON_HOST), 30.0).stdout.splitlines():
                    self._problem(f"left on {target.name}: {line}")

    def _processes(self) -> list[str]:
        """Return the processes of this home, but the twin's own (nsenter enters its nodes) and this script."""
        found = []
        mine = {os.getpid(), lifecycle.status(self.params, self.twin).pid}
        mark = f"RUNBOOK_HOME={self.home}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in mine:
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = mark in (entry / "environ").read_bytes().split(b"\0") and not words.startswith("nsenter")
                if ours and "runbook_lib.twin" not in words and ("runbook_lib" in words or "ipykernel" in words):
                    found.append(f"{entry.name}: {words[:120]}")
        return found


_LEFT_ON_HOST = r"""
work=/var/lib/ascend-runbook
for job in "$work"/jobs/*/; do
  case $job in */mindie-daemon-*) continue;; esac
  [ -f "$job/exit" ] || { read -r pid x <"$job/pid" 2>/dev/null && [ -d "/proc/$pid" ] && echo "job $job runs"; }
done
find "$work" /dev/shm /tmp /data -name '.runbook.*' -o -name '*.incomplete' 2>/dev/null
"""


def _stamp(text: str) -> float:
    from datetime import datetime  # noqa: PLC0415 - used here alone

    return datetime.fromisoformat(text).timestamp()


def _can_drop() -> bool:
    return shutil.which("ss") is not None and os.geteuid() == 0


def _table(tally: Tally) -> Iterator[str]:
    stages = [*(stage.name for stage in STAGES), "between"]
    yield " ".join([f"{'kills':<10}", *(f"{stage[:9]:>9}" for stage in stages), f"{'all':>6}"])
    for kind in KINDS:
        counts = [tally.kills[kind, stage] for stage in stages]
        yield " ".join([f"{kind:<10}", *(f"{count:>9}" for count in counts), f"{sum(counts):>6}"])
    sums = [sum(tally.kills[kind, stage] for kind in KINDS) for stage in stages]
    yield " ".join([f"{'all':<10}", *(f"{count:>9}" for count in sums), f"{sum(sums):>6}"])


def main() -> int:
    """Run the campaign; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=200, help="how many kills in all")
    parser.add_argument("--per-run", type=int, default=5, help="at most so many kills of one run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--network", default="127.82.3", help="A.B.C of the twin's addresses")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated kinds of kills")
    parser.add_argument("--keep", action="store_true", help="keep the folder, to look at what went wrong")
    options = parser.parse_args()
    kinds = tuple(kind for kind in options.kinds.split(",") if kind != "ssh-drop" or _can_drop())
    if "ssh-drop" in options.kinds and "ssh-drop" not in kinds:
        print("skipped: ssh-drop, which needs root and `ss -K`")
    home = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    campaign = Campaign(home, options.network, options.seed, kinds)
    began = time.monotonic()
    hits = 0
    try:
        while hits < options.kills:
            hits += campaign.episode(min(options.per_run, options.kills - hits))
            seconds = time.monotonic() - began
            print(f"{hits} of {options.kills} kills, {campaign.tally.runs} runs, {seconds:.0f} s", flush=True)
    finally:
        campaign.stop()
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    tally = campaign.tally
    print("\n".join(_table(tally)))
    seconds = time.monotonic() - began
    print(
        f"{hits} kills in {tally.runs} runs, {tally.resumes} resumes, seed {options.seed}: "
        f"{seconds / max(hits, 1):.1f} s per kill, {len(tally.problems)} problems"
    )
    for line in tally.problems:
        print(f"  {line}")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
