"""Many downloads, each with faults at random moments; every one must end with the right bytes on every host.

Faults: cut connections, stalls, wrong bytes, 429, error pages, expired signatures, a killed downloader (a kill of the
job, a reboot of the host), a full disk that gets room later. The kind of source, the number of hosts and the faults
come from the seed. A download that was killed is started again, as an operator's re-run does. Exit 1 unless all end
right, no wrong byte was ever under its final name, and the bytes over the WAN are at most 1.02 of the models (bytes
that were thrown away because they were wrong are counted apart: they were never verified).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights_bed import NETWORK, PORT, HostSide, RunningHub, make_model

ALLOWED = 1.02
KINDS = ("mirror", "huggingface", "modelscope", "modelers")
SIZE, SHARDS = 24_000_000, 60
DEADLINE_S = 60.0
_INSIDE = "RUNBOOK_BENCH_INSIDE"


@dataclass
class Case:
    """One download: the hub's faults and what happened."""

    kind: str
    count: int
    chance: random.Random
    happened: Counter[str]

    def disturb(self, hub: RunningHub, sides: list[HostSide]) -> None:
        """Do one thing that goes wrong."""
        what = self.chance.choice(["cut", "cut", "stall", "wrong", "busy", "html", "kill", "kill", "reboot"])
        self.happened[what] += 1
        if what == "cut":
            hub.knobs["cut_after_bytes"] = self.chance.randrange(1, SIZE // SHARDS)
        elif what == "stall":
            hub.knobs["stall_s"] = 2.5  # longer than the downloader waits
        elif what == "wrong":
            hub.knobs["wrong_byte_at"] = self.chance.randrange(1, SIZE // SHARDS)
        elif what == "busy":
            hub.knobs["retry_after_s"] = 1
        elif what == "html":
            hub.knobs["html"] = True
        else:
            for side in sides if what == "reboot" else [self.chance.choice(sides)]:
                side.kill()


def spec_of(kind: str, hub: RunningHub) -> dict[str, Any]:
    """Return what the downloader is told."""
    if kind == "mirror":
        return {"kind": kind, "url": hub.url}
    return {"kind": kind, "url": hub.url.rpartition("/")[0], "repository": "owner/model", "revision": "main"}


def run_case(root: Path, case: Case, hub: RunningHub, sums: dict[str, bytes]) -> list[str]:
    """Run one download to its end and return what is wrong with it."""
    hosts = [f"{NETWORK}.{number + 1}" for number in range(case.count)]
    sides = [HostSide(root, number, hosts, PORT) for number in range(case.count)]
    full = case.chance.random() < 0.2 and os.environ.get(_INSIDE) == "1"  # noqa: PLR2004 - one case in five
    if full:
        case.happened["full disk"] += 1
        fill(sides[0])
    hub.knobs.clear()
    hub.knobs["client_bytes_per_s"] = 12e6
    options = ("--timeout", "2", "--peer-patience", "3", "--patience", "30")
    spec = spec_of(case.kind, hub)
    for side in sides:
        side.start(spec, *options)
    problems, faults = [], case.chance.randrange(1, 5)
    end = time.monotonic() + DEADLINE_S
    disturb_at = time.monotonic() + case.chance.uniform(0.3, 1.0)
    while time.monotonic() < end:
        time.sleep(0.05)
        if faults and time.monotonic() > disturb_at:
            case.disturb(hub, sides)
            faults, disturb_at = faults - 1, time.monotonic() + case.chance.uniform(0.1, 0.8)
        codes = [side.process.poll() if side.process else None for side in sides]
        if codes == [0] * len(sides):
            break
        for side, code in zip(sides, codes, strict=True):
            if code not in {None, 0}:
                empty(side)  # the operator makes room, and runs it again
                side.start(spec, *options)
    else:
        problems.append("did not end")
    for side in sides:
        side.kill()
        problems += [f"host {side.number}: {bad}" for bad in side.wrong(sums)]
        problems += [f"host {side.number}: traceback"] if "Traceback" in side.log else []
        problems += [f"host {side.number}: token left"] if (side.root / "exchange.token").exists() else []
    return problems


def fill(side: HostSide) -> None:
    """Make the host's disk so small that the model does not fit (a tmpfs of the benchmark's own namespace)."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE * 3}", "none", str(side.root)], check=True)
    side.tool.write_bytes(__import__("runbook_lib.stages.push").stages.push.bundle("weights_tool.py").encode())
    (side.root / "ballast").write_bytes(bytes(SIZE * 2 + SIZE // 2))


def empty(side: HostSide) -> None:
    """Give the disk room again."""
    (side.root / "ballast").unlink(missing_ok=True)


def thrown_away(sides_log: str, sizes: dict[str, int]) -> int:
    """Return the bytes that came over the WAN and were not those of the list."""
    lost = re.findall(r"RETRY (\S+): the bytes received do not have the sum", sides_log)
    return sum(sizes.get(name, 0) for name in lost)


def sent_again(served: list[tuple[str, str, int, int]]) -> tuple[int, int]:
    """Return the bytes that went to the same host again (they were lost on the way, or wrong), and to a second one."""
    ends: dict[str, dict[str, int]] = {}
    again = second = 0
    for client, name, start, count in served:
        known = ends.setdefault(name, {})
        end = known.get(client, 0)
        again += max(0, min(end, start + count) - start)
        known[client] = max(end, start + count)
    for known in ends.values():
        second += sum(sorted(known.values())[:-1])
    return again, second


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if os.environ.get(_INSIDE) is None:
        inside = ["unshare", "--user", "--map-root-user", "--mount"]
        able = subprocess.run([*inside, "true"], check=False, capture_output=True).returncode == 0
        if not able:
            print("no user namespaces here: the full disk is skipped")
        argv = [*(inside if able else ()), sys.executable, *sys.argv]
        return subprocess.run(argv, env=os.environ | {_INSIDE: str(int(able))}, check=False).returncode
    failed, happened, wrong_bytes, again, second = [], Counter[str](), 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sums = make_model(root / "hub" / "model", SHARDS, SIZE)
        total = {name: (root / "hub" / "model" / name).stat().st_size for name in sums}
        hub = RunningHub(root / "hub" / "model", {})
        for number in range(options.cases):
            chance = random.Random(f"{options.seed}-{number}")  # noqa: S311 - a campaign that can be repeated
            case = Case(chance.choice(KINDS), chance.choice([1, 2, 2, 3]), chance, happened)
            hub.hub.served.clear()
            problems = run_case(root / str(number), case, hub, sums)
            logs = "".join((root / str(number) / f"host{each}" / "log").read_text() for each in range(case.count))
            wrong_bytes += thrown_away(logs, total)
            repeats = sent_again(hub.hub.served)
            again, second = again + repeats[0], second + repeats[1]
            if problems:
                failed.append(number)
                print(f"case {number} ({case.kind}, {case.count} hosts): {'; '.join(problems[:4])}", flush=True)
            for each in range(case.count):
                subprocess.run(["umount", "-q", str(root / str(number) / f"host{each}")], check=False)
            subprocess.run(["rm", "-rf", str(root / str(number))], check=True)
            if (number + 1) % 25 == 0:
                done = sum(total.values()) * (number + 1)
                share = (hub.sent - wrong_bytes) / done
                print(f"{number + 1 - len(failed)} of {number + 1} right, WAN {share:.4f}", file=sys.stderr, flush=True)
        hub.close()  # what still goes to a killed downloader ends, and is counted
    model = sum(total.values()) * options.cases
    share = (hub.sent - wrong_bytes) / model
    print(f"{options.cases - len(failed)} of {options.cases} downloads ended right; faults: {dict(happened)}")
    print(
        f"bytes over the WAN: {share:.4f} of the models, allowed {ALLOWED}"
        f"; thrown away as wrong: {wrong_bytes / model:.4f}\n"
        f"of the rest, sent to the same host again: {(again - wrong_bytes) / model:.4f}"
        f", to a second host: {second / model:.4f}"
    )
    return 0 if not failed and share <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
