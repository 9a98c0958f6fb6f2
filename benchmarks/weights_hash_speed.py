"""Full verification against the fastest hash of this host, and the memory of the downloader.

The same files, in the page cache, are hashed by the tool's `verify` and by hashlib, openssl and sha256sum, each with
as many files at once as the host has processors, in turns; the best of the rounds counts, so that other load of the
machine strikes none of them alone. What is judged is the hashing as verify itself tells it; its whole process is
printed as well: start, finding out which way is quickest here, headers. These take some tenths of a second for 2 GB as
for 650 GB. Peak memory is the kernel's VmHWM (maximum resident set) of a
downloader that fetches the same files from a hub with its four connections. Exit 1 when verification is slower than
0.9 of the fastest, or the downloader needs more than 64 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from weights_bed import NETWORK, HostSide, RunningHub, make_model

if TYPE_CHECKING:
    from collections.abc import Callable

AT_LEAST = 0.9
MEMORY_MIB = 64.0
WORKERS = os.cpu_count() or 1
_PIECE = 1 << 20


def by_hashlib(path: Path) -> str:
    """Hash a file in this process."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as stream:
        while length := stream.readinto(buffer):
            digest.update(buffer[:length])
    return digest.hexdigest()


def by_program(*argv: str) -> Callable[[Path], str]:
    """Return how to hash a file with a program."""

    def run(path: Path) -> str:
        return subprocess.check_output((*argv, str(path))).split()[0].decode()

    return run


WAYS: dict[str, Callable[[Path], str]] = {
    "hashlib": by_hashlib,
    "openssl": by_program("openssl", "dgst", "-sha256", "-r"),
    "sha256sum": by_program("sha256sum"),
}


def alternative(way: str, files: list[Path], sums: dict[str, str]) -> float:
    """Return the seconds that a way takes for all files."""
    began = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(WAYS[way], files))
    seconds = time.monotonic() - began
    if found != [sums[path.name] for path in files]:
        raise SystemExit(f"{way} gives other sums")
    return seconds


def verified(side: HostSide) -> tuple[float, float, str]:
    """Return the seconds of hashing in the tool's full verification, those of its process, and the way it took."""
    argv = [sys.executable, str(side.tool), "verify", "--directory", str(side.weights)]
    began = time.monotonic()
    done = subprocess.run(
        [*argv, "--state", str(side.root / "state" / "state.json")], check=False, capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    said = json.loads(done.stdout.rpartition("RESULT ")[2])
    return float(said["seconds"]), seconds, str(said["with"])


def downloaded(root: Path, model: Path) -> tuple[HostSide, float]:
    """Download the model and return the host with it, and the downloader's peak memory in MiB."""
    hub = RunningHub(model, {})
    side = HostSide(root, 0, [f"{NETWORK}.1"], 0)
    side.start({"kind": "mirror", "url": hub.url})
    assert side.process is not None  # noqa: S101 - it was started
    memory = 0.0
    while side.process.poll() is None:  # not ru_maxrss: that counts this process, before its copy became the downloader
        memory = max(memory, peak_mib(side.process.pid))
        time.sleep(0.02)
    hub.close()
    if side.process.returncode:
        raise SystemExit(side.log)
    return side, memory


def peak_mib(pid: int) -> float:
    """Return the peak memory of a process in MiB, 0 when it is over."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def main() -> int:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the model")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sums = {
            name: digest.hex()
            for name, digest in make_model(root / "m", options.shards, options.megabytes * 10**6).items()
        }
        side, memory = downloaded(root, root / "m")
        files = sorted((side.weights / name for name in sums), key=lambda path: path.name)
        size = sum(path.stat().st_size for path in files) / 1e6
        ways = [way for way in WAYS if way == "hashlib" or shutil.which(way)]
        took: dict[str, list[float]] = {way: [] for way in ways}
        ours: list[float] = []
        whole: list[float] = []
        chosen = ""
        for _ in range(options.rounds):
            for way in ways:
                took[way].append(alternative(way, files, sums))
            seconds, process_s, chosen = verified(side)
            ours.append(seconds)
            whole.append(process_s)
    best = {way: min(each) for way, each in took.items()}
    ratio = min(best.values()) / min(ours)
    load = os.getloadavg()[0]
    print(f"{size:.0f} MB in {len(files)} files, {WORKERS} at once, best of {options.rounds}, load average {load:.1f}")
    for way, seconds in sorted(best.items(), key=lambda each: each[1]):
        print(f"{way:28s} {seconds:6.2f} s {size / seconds:7.0f} MB/s")
    print(f"{f'verify ({chosen})':28s} {min(ours):6.2f} s {size / min(ours):7.0f} MB/s")
    print(f"{'  its whole process':28s} {min(whole):6.2f} s")
    print(f"verification runs at {ratio:.2f} of the fastest, at least {AT_LEAST}")
    print(f"the downloader needed {memory:.1f} MiB at most, allowed {MEMORY_MIB:.0f}")
    return 0 if ratio >= AT_LEAST and memory <= MEMORY_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
