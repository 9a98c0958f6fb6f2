"""How long a model takes to reach all hosts, against the bound and two simpler ways, in the same run.

Each host has a way out of W MB/s and a network of 10 W between the hosts. The bound is that of disjoint shares that
are exchanged afterwards: S/(n W) + S (n-1)/(n 10 W). Prints a table; exit 1 when ours takes more than 1.15 of it.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from weights_bed import NETWORK, HostSide, RunningHub, make_model

ALLOWED = 1.15
LAN = 10


def free_port(address: str) -> int:
    """Return a port where nobody listens."""
    with socket.create_server((address, 0)) as sock:
        return int(sock.getsockname()[1])


def ours(root: Path, url: str, count: int, lan_mb_s: float) -> float:
    """Return the seconds that the product takes for n hosts."""
    hosts = [f"{NETWORK}.{number + 1}" for number in range(count)]
    port = free_port(hosts[0])
    sides = [HostSide(root / "ours", number, hosts, port) for number in range(count)]
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
    parser.add_argument("--wan", type=float, default=4.0, help="MB/s out of each host")
    parser.add_argument("--hosts", default="2,4,8")
    parser.add_argument("--shards", type=int, default=96)
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_model(root / "hub" / "model", options.shards, int(options.megabytes * 1e6))
        print("WAN limit   hosts   bound s    ours s   ours/bound   every host all s   one, then copies s")
        for shared in (False, True):
            name = "total_bytes_per_s" if shared else "client_bytes_per_s"
            knobs: dict[str, Any] = {name: options.wan * 1e6}
            hub = RunningHub(root / "hub" / "model", knobs)
            single = everybody(root / f"single{shared}", hub.url, 1)
            for count in (int(each) for each in options.hosts.split(",")):
                size, wan, lan = options.megabytes, options.wan, options.wan * LAN
                out = size / wan if shared else size / (count * wan)
                bound = out + size * (count - 1) / (count * lan)
                before = hub.sent
                seconds = ours(root / f"{shared}{count}", hub.url, count, lan)
                over = (hub.sent - before) / (size * 1e6)
                every = everybody(root / f"every{shared}{count}", hub.url, count)
                copies = one_by_one(single, count, size, lan)
                worst = max(worst, seconds / bound)
                print(
                    f"{'shared' if shared else 'per host':9s} {count:7d} {bound:9.1f} {seconds:9.1f} "
                    f"{seconds / bound:12.2f} {every:18.1f} {copies:20.1f}   WAN bytes {over:.3f} of the model",
                    flush=True,
                )
            hub.close()
    print(f"worst {worst:.2f} of the bound, allowed {ALLOWED}")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
