"""Hash every recorded file again at the speed of the disk, in the quickest way that this host has. Python 3.7."""

import hashlib
import json
import os
import pathlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from weights_check import check
from weights_store import CHUNK, ORIGINAL, Progress, say

OPENSSL = ("openssl", "dgst", "-sha256", "-r")
SHA256SUM = ("sha256sum",)


def verify(arguments):
    """Hash every recorded file again, at the speed of the disk, and say which are no longer what they were."""
    record = json.loads(pathlib.Path(arguments.state).read_text(encoding="utf-8"))
    directory = pathlib.Path(arguments.directory)
    tool = fastest_hash(pathlib.Path(arguments.state).parent)
    files = sorted(record["verified"].items())
    progress = Progress(sum(known["size"] for _, known in files))
    began = time.monotonic()
    wrong = []

    def one(item):
        name, known = item
        path = directory / name
        kept = directory / (name + ORIGINAL)
        try:
            if path.is_symlink():
                wrong.append([name, "is a link"])
            elif not kept.is_file() and path.stat().st_size != known["size"]:
                wrong.append([name, "expected %d bytes, seen %d" % (known["size"], path.stat().st_size)])
            elif tool(kept if kept.is_file() else path, progress.add) != known["sha256"]:
                wrong.append([name, "the sha256 is another one"])
        except OSError as error:
            wrong.append([name, error.strerror or str(error)])

    with ThreadPoolExecutor(max(1, os.cpu_count() or 1)) as pool:
        list(pool.map(one, files))
    seconds = time.monotonic() - began
    wrong += [[name, "was never verified"] for name in sorted(_unrecorded(record))]
    wrong += check(str(directory))["problems"]
    size = progress.total
    said = {"files": len(files), "bytes": size, "seconds": round(seconds, 3), "with": tool.__name__, "wrong": wrong}
    say("RESULT " + json.dumps(said))
    return 1 if wrong else 0


def _unrecorded(record):
    return {entry["name"] for entry in record["files"]} - set(record["verified"])


def with_hashlib(path, count):
    """Hash a file in this process; the lock of the interpreter is free meanwhile."""
    digest = hashlib.sha256()
    with open(str(path), "rb", buffering=0) as stream:
        buffer = memoryview(bytearray(CHUNK))
        for length in iter(lambda: stream.readinto(buffer), 0):
            digest.update(buffer[:length])
            count(length)
    return digest.hexdigest()


def with_openssl(path, count):
    """Hash a file by the openssl program."""
    return _by_program(OPENSSL, path, count)


def with_sha256sum(path, count):
    """Hash a file by the sha256sum program."""
    return _by_program(SHA256SUM, path, count)


def _by_program(argv, path, count):
    out = subprocess.check_output((*argv, str(path)), stderr=subprocess.DEVNULL)
    count(path.stat().st_size)
    return out.split()[0].decode().lstrip("\\")


def fastest_hash(folder):
    """Return the quickest of three ways on this host, measured on 32 MiB that are in memory.

    A program that is slower than what was found before is not waited for: sha256sum may take ten times as long.
    """
    sample = folder / "hash-sample"
    sample.write_bytes(os.urandom(CHUNK) * 32)
    try:
        began = time.monotonic()
        with_hashlib(sample, int)
        best, best_s = with_hashlib, time.monotonic() - began
        for way, argv in ((with_openssl, OPENSSL), (with_sha256sum, SHA256SUM)):
            try:
                began = time.monotonic()
                subprocess.check_output((*argv, str(sample)), stderr=subprocess.DEVNULL, timeout=best_s)
                best, best_s = way, time.monotonic() - began
            except (OSError, subprocess.SubprocessError):
                continue  # not there, or slower
    finally:
        sample.unlink()
    return best
