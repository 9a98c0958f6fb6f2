"""What of a model lies on this host: the target directory, and the record of what in it is verified. Python 3.7."""

import hashlib
import json
import os
import pathlib
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from hub_list import Refused

CHUNK = 1 << 20
MARGIN = 1.02  # room for the file system's own needs
INCOMPLETE = ".incomplete"
ORIGINAL = ".original"


def say(line):
    """Print one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_record(path, record):
    """Write a JSON file that is whole after a power loss: the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with open(str(temporary), "w", encoding="utf-8") as stream:
        stream.write(json.dumps(record, sort_keys=True))  # dump() is ten times slower
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(str(temporary), str(path))


class Progress:
    """Prints `PROGRESS done total bytes` at most once a second."""

    def __init__(self, total):
        self.total = total
        self.done = 0
        self._printed = 0.0
        self._lock = threading.Lock()

    def add(self, count):
        """Count bytes; negative when bytes were thrown away."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now - self._printed >= 1.0 or self.done == self.total:
                self._printed = now
                say("PROGRESS %d %d bytes" % (self.done, self.total))


class Sum:
    """The sha256 of bytes, and the git blob sum where a hub lists only that one."""

    def __init__(self, entry):
        self._entry = entry
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % entry["size"]) if "git_sha1" in entry else None  # noqa: S324 - git's name

    def update(self, data):
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self):
        """The sha256 so far."""
        return self._sha256.hexdigest()

    def fits(self):
        """Say whether these are the listed bytes; without any listed sum there is nothing to contradict."""
        git = self._git is None or self._git.hexdigest() == self._entry["git_sha1"]
        return git and self._entry.get("sha256", self.sha256) == self.sha256


def sum_of(path, entry):
    """Return the sum of a file."""
    total = Sum(entry)
    with open(str(path), "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            total.update(chunk)
    return total


class Store:
    """The target directory and the record of what in it is verified."""

    def __init__(self, directory, state, listing):
        self.directory = pathlib.Path(directory)
        self.state = pathlib.Path(state)
        self.commit = listing["commit"]
        self.listing = {entry["name"]: entry for entry in listing["files"]}
        self.verified = {}
        self._lock = threading.Lock()
        self._etags = {}

    def path(self, name):
        """Return where a file of the list lies."""
        return self.directory / name

    def whole(self, name):
        """Return where the listed bytes of a file lie: beside it, when it was fitted to the image."""
        kept = self.directory / (name + ORIGINAL)
        return kept if kept.is_file() and not kept.is_symlink() else self.path(name)

    def part(self, name):
        """Return the name under which a file is written until it is whole."""
        return self.directory / (name + INCOMPLETE)

    def part_size(self, name):
        """Return how many bytes of a file an earlier try left."""
        part = self.part(name)
        return part.stat().st_size if part.is_file() and not part.is_symlink() else 0

    def scan(self):
        """Believe recorded files whose size and mtime are unchanged; hash the others once; make links real files."""
        recorded = {}
        try:
            old = json.loads(self.state.read_text(encoding="utf-8"))
            recorded, self._etags = dict(old["verified"]), dict(old.get("etags", {}))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no record yet, or a torn one: everything is hashed
        todo = [name for name in sorted(self.listing) if not self._believed(name, recorded.get(name))]
        with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
            list(pool.map(self._adopt, todo))

    def _believed(self, name, known):
        entry, path = self.listing[name], self.path(name)
        if path.is_symlink() or not path.is_file() or not isinstance(known, dict):
            return False
        stat = path.stat()
        listed_sum = entry.get("sha256", known.get("sha256"))
        now = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": listed_sum}
        if {key: known.get(key) for key in now} != now or self.whole(name).stat().st_size != entry["size"]:
            return False
        if known.get("git_sha1") != entry.get("git_sha1"):
            return False
        self.verified[name] = known
        entry.setdefault("sha256", known["sha256"])
        return True

    def _adopt(self, name):
        path, entry = self.path(name), self.listing[name]
        try:
            if not path.is_file() or not self.whole(name).is_file():
                return
            if self.whole(name).stat().st_size != entry["size"]:
                return
            total = sum_of(self.whole(name), entry)
            if not total.fits():
                return
            if path.is_symlink():
                self._materialize(name)
            self.accept(name, total.sha256)
        except OSError as error:
            say("UNREADABLE %s: %s" % (name, error))

    def _materialize(self, name):
        """Put the file that a link points to in the link's place: a second name on one disk, else a copy."""
        path, part = self.path(name), self.part(name)
        target = path.resolve()
        if part.exists():
            part.unlink()
        try:
            os.link(str(target), str(part))
            how = "linked on the same disk"
        except OSError:
            shutil.copyfile(str(target), str(part))
            how = "copied"
        os.replace(str(part), str(path))
        say("MATERIALIZED %s from %s, %s" % (name, target, how))

    def accept(self, name, sha256):
        """Record a file as verified, durably."""
        stat, entry = self.path(name).stat(), self.listing[name]
        with self._lock:
            self.verified[name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
            entry.setdefault("sha256", sha256)  # a list without sums: peers compare with what came here
            if "git_sha1" in entry:
                self.verified[name]["git_sha1"] = entry["git_sha1"]
            self._etags.pop(name, None)
            self._write()

    def etag(self, name):
        """Return what the server called the file when its part was begun."""
        return self._etags.get(name, "")

    def note_etag(self, name, etag):
        """Remember what the server calls the file whose part is being written."""
        with self._lock:
            if etag != self._etags.get(name, ""):
                self._etags[name] = etag
                self._write()

    def _write(self):
        record = {
            "files": list(self.listing.values()),
            "commit": self.commit,
            "verified": self.verified,
            "etags": self._etags,
        }
        write_record(self.state, record)

    def missing(self):
        """Return the names that are not verified yet."""
        return [name for name in sorted(self.listing) if name not in self.verified]

    def make_room(self):
        """Refuse before the first byte when the file system cannot hold what is missing."""
        missing = self.missing()
        needed = MARGIN * sum(self.listing[name]["size"] - self.part_size(name) for name in missing)
        stats = os.statvfs(str(self.directory))
        free = stats.f_bavail * stats.f_frsize
        if needed > free:
            home = pathlib.Path.home()
            raise Refused(
                "the file system of %s has %.2f GB free, %.2f GB are needed; free space there or choose another "
                "directory (%s has %.2f GB free, and nothing is put there)"
                % (self.directory, free / 1e9, needed / 1e9, home, _free(home) / 1e9)
            )
        if stats.f_files and stats.f_favail < len(missing):
            raise Refused(
                "the file system of %s has %d inodes free, %d are needed"
                % (self.directory, stats.f_favail, len(missing))
            )


def _free(path):
    try:
        stats = os.statvfs(str(path))
    except OSError:
        return 0
    return stats.f_bavail * stats.f_frsize


def shares(listing, owners):
    """Split the files into shares of like size, the same on every host: {name: number of the owner}."""
    loads = dict.fromkeys(owners, 0)
    owner = {}
    for entry in sorted(listing["files"], key=lambda each: (-each["size"], each["name"])):
        lightest = min(owners, key=lambda each: (loads[each], owners.index(each)))
        loads[lightest] += entry["size"]
        owner[entry["name"]] = lightest
    return owner
