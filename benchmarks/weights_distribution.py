"""How long a model takes to reach all hosts, against the bound and two simpler ways, in the same run.

Each host has a way out of W MB/s and a network of 10 W between the hosts. The bound is that of disjoint shares that
are exchanged afterwards: S/(n W) + S (n-1)/(n 10 W), and with one W shared by all hosts S/W + S (n-1)/(n 10 W). What
comes is exchanged while the rest is still coming, so less than the bound is possible. Prints a table; exit 1 when ours
takes more than 1.15 of it.

All hosts are processes of this one machine. W is low enough that 8 of them and the hub need less than half of two
processors at the bound's pace; the last column says what they took of those that the machine has. The files lie in
memory where there is room: n hosts have n disks, this machine has one.

"every host all" is measured for the first number of hosts and follows for the others: the same time where each has its
own W, n times that of one where they share it. The whole takes about 8 minutes.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from weights_bed import NETWORK, PORT, HostSide, RunningHub, make_model

ALLOWED = 1.15
LAN = 10


def ours(root: Path, url: str, count: int, lan_mb_s: float) -> float:
    """Return the seconds that the product takes for n hosts."""
    hosts = [f"{NETWORK}.{number + 1}" for number in range(count)]
    sides = [HostSide(root / "ours", number, hosts, PORT) for number in range(count)]
    spec = {"kind": "mirror", "url": url}
    began = time.monotonic()
    for side in sides:
        side.start(spec, "--exchange-limit", str(lan_mb_s))
    codes = [side.wait(600) for side in sides]
    seconds = time.monotonic() - began
    if any(codes):
        raise SystemExit("\n".join(side.log for side in sides))
    for side in sides:
        side.clear()
    return seconds


def cpu_s() -> float:
    """Return the processor seconds that this process and its children have taken so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def folder_with_room(needed: float) -> str | None:
    """Return the folder in memory when it has room for so many bytes, else None: where temporary files lie."""
    memory = Path("/dev/shm")  # noqa: S108 - a new folder of a random name is made there
    if not memory.is_dir():
        return None
    stats = os.statvfs(memory)
    return str(memory) if stats.f_bavail * stats.f_frsize > 2 * needed else None


def everybody(root: Path, url: str, count: int) -> float:
    """Return the seconds when every host downloads everything."""
    hosts = [f"{NETWORK}.{number + 1}" for number in range(count)]
    sides = [HostSide(root / "all", 0, [host], 0) for host in hosts]
    for number, side in enumerate(sides):
        side.root = root / "all" / str(number)
        side.root.mkdir(parents=True)
    began = time.monotonic()
    for side in sides:
        side.start({"kind": "mirror", "url": url})
    if any(side.wait(900) for side in sides):
        raise SystemExit("\n".join(side.log for side in sides))
    return time.monotonic() - began


def one_by_one(single_s: float, count: int, size_mb: float, lan_mb_s: float) -> float:
    """Return the seconds of one download (measured) and copies to the others, one after the other, at LAN speed."""
    return single_s + (count - 1) * size_mb / lan_mb_s


def main() -> int:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=120.0, help="size of the model")
    parser.add_argument("--wan", type=float, default=2.0, help="MB/s out of each host")
    parser.add_argument("--hosts", default="2,4,8")
    parser.add_argument("--shards", type=int, default=96)
    options = parser.parse_args()
    counts = [int(each) for each in options.hosts.split(",")]
    size, wan, lan = options.megabytes, options.wan, options.wan * LAN
    cores, worst = os.cpu_count() or 1, 0.0
    with tempfile.TemporaryDirectory(dir=folder_with_room(size * 1e6 * (max(counts) + 1))) as folder:
        root = Path(folder)
        print(f"{size:.0f} MB, W {wan} MB/s, in {root.parent}, load average at the start {os.getloadavg()[0]:.1f}")
        make_model(root / "hub" / "model", options.shards, int(options.megabytes * 1e6))
        print("WAN limit   hosts   bound s    ours s   ours/bound   every host all s   one, then copies s")
        for shared in (False, True):
            name = "total_bytes_per_s" if shared else "client_bytes_per_s"
            knobs: dict[str, Any] = {name: wan * 1e6}
            hub = RunningHub(root / "hub" / "model", knobs)
            every_first = everybody(root / f"every{shared}", hub.url, counts[0])
            single = every_first / counts[0] if shared else every_first
            for count in counts:
                out = size / wan if shared else size / (count * wan)
                bound = out + size * (count - 1) / (count * lan)
                before, cpu_before = hub.sent, cpu_s()
                seconds = ours(root / f"{shared}{count}", hub.url, count, lan)
                over = (hub.sent - before) / (size * 1e6)
                cpu = (cpu_s() - cpu_before) / seconds / cores
                every = single * count if shared else single
                copies = one_by_one(single, count, size, lan)
                worst = max(worst, seconds / bound)
                print(
                    f"{'shared' if shared else 'per host':9s} {count:7d} {bound:9.1f} {seconds:9.1f} "
                    f"{seconds / bound:12.2f} {every:18.1f} {copies:20.1f}   "
                    f"WAN bytes {over:.3f} of the model, processors {cpu:.0%} busy",
                    flush=True,
                )
            hub.close()
    print(f"worst {worst:.2f} of the bound, allowed {ALLOWED}")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
