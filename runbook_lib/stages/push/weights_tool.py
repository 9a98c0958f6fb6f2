"""Fetch a model's files to this host: resumable, verified, each byte over the WAN once per cluster.

Pushed to the hosts by the weights stage and run there as a detached job. Every host downloads its own share
from the source, serves what it has verified to the other hosts of the cluster, and takes the rest from them.
A file counts only when its sha256 is that of the manifest; it is written as NAME.incomplete and renamed.

Standard library only, Python 3.7 or newer: the host's Python is what it is.
"""

import argparse
import hashlib
import http.client
import json
import os
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 1 << 20
MARGIN = 1.02  # room for the file system's own needs
TRIES_WITHOUT_PROGRESS = 8
SPOILED_TRIES = 3
PEER_PATIENCE_S = 60.0
INCOMPLETE = ".incomplete"


class Refused(Exception):
    """The work cannot be done; the message says what, where, and what would be right."""


class Spoiled(ValueError):
    """A file came whole, with another sha256 than the manifest's."""


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


def say(line):
    """Print one line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Store:
    """The target directory and the record of what in it is verified."""

    def __init__(self, directory, state, manifest):
        self.directory = pathlib.Path(directory)
        self.state = pathlib.Path(state)
        self.manifest = {entry["name"]: entry for entry in manifest["files"]}
        self.verified = {}
        self._lock = threading.Lock()

    def path(self, name):
        """Return where a file of the manifest lies."""
        return self.directory / name

    def scan(self):
        """Believe recorded files whose size and mtime are unchanged; hash the others once."""
        recorded = {}
        try:
            recorded = dict(json.loads(self.state.read_text(encoding="utf-8"))["verified"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no record yet, or a torn one: everything is hashed
        for name, entry in sorted(self.manifest.items()):
            path = self.path(name)
            if path.is_symlink() or not path.is_file():
                continue
            stat = path.stat()
            known = recorded.get(name)
            now = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": entry["sha256"]}
            if known == now and stat.st_size == entry["size"]:
                self.verified[name] = known
            elif stat.st_size == entry["size"] and digest_of(path) == entry["sha256"]:
                self.accept(name)

    def accept(self, name):
        """Record a file as verified, durably."""
        stat = self.path(name).stat()
        with self._lock:
            self.verified[name] = {
                "size": stat.st_size,
                "mtime_ns": stat.st_mtime_ns,
                "sha256": self.manifest[name]["sha256"],
            }
            self.state.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.state.with_suffix(".new")
            record = {"files": list(self.manifest.values()), "verified": self.verified}
            with open(str(temporary), "w", encoding="utf-8") as stream:
                json.dump(record, stream, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(str(temporary), str(self.state))

    def missing(self):
        """Return the names that are not verified yet."""
        return [name for name in sorted(self.manifest) if name not in self.verified]

    def make_room(self):
        """Refuse before the first byte when the file system cannot hold what is missing."""
        self.directory.mkdir(parents=True, exist_ok=True)
        needed = 0
        for name in self.missing():
            part = part_of(self.path(name))
            needed += self.manifest[name]["size"] - (part.stat().st_size if part.is_file() else 0)
        stats = os.statvfs(str(self.directory))
        free = stats.f_bavail * stats.f_frsize
        if needed * MARGIN > free:
            raise Refused(
                "%s has %.1f GB free, %.1f GB are needed; free space there, or choose another directory"
                % (self.directory, free / 1e9, needed * MARGIN / 1e9)
            )


def part_of(path):
    """Return the name under which a file is written until it is whole."""
    return path.with_name(path.name + INCOMPLETE)


def digest_of(path):
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def sound_name(name):
    """Say whether a name of a manifest stays below the directory: relative, without `..`, printable."""
    path = pathlib.PurePosixPath(name)  # "//x" is absolute too
    return bool(path.parts) and ".." not in path.parts and not path.is_absolute() and name.isprintable()


def read_manifest(source, timeout):
    """Return the manifest of a mirror, checked: plain relative names, sizes and sha256."""
    url = source.rstrip("/") + "/manifest.json"
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as the files: no proxy in between
        with opener.open(url, timeout=timeout) as answer:
            manifest = json.loads(answer.read().decode("utf-8"))
        for entry in manifest["files"]:
            if not sound_name(entry["name"]) or not isinstance(entry["size"], int) or entry["size"] < 0:
                raise ValueError("bad entry %r" % (entry,))
            if len(entry["sha256"]) != 64:
                raise ValueError("bad sha256 of %s" % entry["name"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
        raise Refused("%s gives no manifest: %s" % (url, error))
    return manifest


def shares(manifest, count):
    """Split the files into `count` shares of like size, the same on every host."""
    loads = [0] * count
    owner = {}
    for entry in sorted(manifest["files"], key=lambda each: (-each["size"], each["name"])):
        lightest = loads.index(min(loads))
        loads[lightest] += entry["size"]
        owner[entry["name"]] = lightest
    return owner


class Fetcher:
    """Gets single files over HTTP: resume, verification, retries."""

    def __init__(self, store, progress, bind, timeout):
        self.store = store
        self.progress = progress
        self.bind = bind
        self.timeout = timeout

    def get(self, base, name, tries):
        """Fetch one file whole and verified. Raises Refused when `tries` attempts in a row bring no byte."""
        wait = 0.5
        left = tries
        spoiled = 0
        while True:
            before = self._part_size(name)
            try:
                self._attempt(base, name)
                return
            except (OSError, ValueError, http.client.HTTPException) as error:
                left = tries if self._part_size(name) > before else left - 1
                spoiled += isinstance(error, Spoiled)
                if left <= 0 or spoiled >= SPOILED_TRIES:  # a bad mirror may bring bytes for ever
                    raise Refused("%s from %s: %s" % (name, base, error))
                pause = getattr(error, "retry_after", None)
                say("RETRY %s: %s" % (name, error))
                time.sleep(wait if pause is None else pause)
                wait = min(wait * 2, 30.0)

    def _part_size(self, name):
        part = part_of(self.store.path(name))
        return part.stat().st_size if part.is_file() else 0

    def _attempt(self, base, name):
        entry = self.store.manifest[name]
        path = self.store.path(name)
        part = part_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        have = self._part_size(name)
        if have > entry["size"]:
            self.progress.add(-have)
            part.unlink()
            have = 0
        if have < entry["size"] or not have:
            self._receive(base, name, part, have, entry["size"])
        if digest_of(part) != entry["sha256"]:
            self.progress.add(-part.stat().st_size)
            part.unlink()
            raise Spoiled("the bytes received do not have the sha256 of the manifest; thrown away")
        if path.is_symlink() or path.exists():
            path.unlink()
        os.replace(str(part), str(path))
        self.store.accept(name)

    def _receive(self, base, name, part, have, size):
        url = urllib.parse.urlsplit(base.rstrip("/") + "/" + urllib.parse.quote(name))
        make = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = make(
            url.hostname, url.port, timeout=self.timeout, source_address=(self.bind, 0) if self.bind else None
        )
        answer = None
        try:
            headers = {"Accept-Encoding": "identity"}
            if have:
                headers["Range"] = "bytes=%d-" % have
            connection.request("GET", url.path, headers=headers)
            answer = connection.getresponse()
            if answer.status == 200 and have:  # the server ignores ranges: start again
                self.progress.add(-have)
                have = 0
            elif answer.status == 206 and not (answer.getheader("Content-Range") or "").startswith("bytes %d-" % have):
                raise ValueError("another range came than was asked for")
            elif answer.status not in (200, 206):
                error = ValueError("HTTP %d" % answer.status)
                after = answer.getheader("Retry-After") or ""
                if after.isdigit():
                    error.retry_after = int(after)
                raise error
            self._write(answer, part, have, size)
        finally:
            if answer is not None:
                answer.close()
            connection.close()

    def _write(self, answer, part, have, size):
        with open(str(part), "r+b" if have else "wb") as stream:
            stream.seek(have)
            stream.truncate()
            while True:
                chunk = answer.read(CHUNK)
                if not chunk:
                    break
                if have + len(chunk) > size:
                    raise ValueError("more bytes came than the manifest lists")
                stream.write(chunk)
                have += len(chunk)
                self.progress.add(len(chunk))
            stream.flush()
            os.fsync(stream.fileno())
        if have < size:
            raise ValueError("cut after %d of %d bytes" % (have, size))


class PeerHandler(BaseHTTPRequestHandler):
    """Answers the hosts of the cluster only, with verified files of the manifest only."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        """Keep the job's log for progress."""

    def _refused(self):
        refused = self.client_address[0] not in self.server.peers
        if refused:
            self._empty(403)
        return refused

    def _name(self):
        return urllib.parse.unquote(self.path.lstrip("/"))

    def _empty(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self):
        if not self._refused():
            self._empty(200 if self._name() in self.server.store.verified else 404)

    def do_POST(self):
        if not self._refused():
            self.server.done.add(self.client_address[0])
            self._empty(204)

    def do_GET(self):
        if self._refused():
            return
        store, name = self.server.store, self._name()
        if name in store.verified:
            self._file(store.path(name), store.manifest[name]["size"])
        else:
            self._empty(404)

    def _file(self, path, size):
        start = self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0]
        first = int(start) if start.isdigit() and int(start) < size else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, size - 1, size))
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        with open(str(path), "rb") as stream:
            stream.seek(first)
            for chunk in iter(lambda: stream.read(CHUNK), b""):
                self.wfile.write(chunk)


class Exchange:
    """Serves verified files to the other hosts of the cluster, and learns when they are done."""

    def __init__(self, store, bind, port, peers):
        self.done = set()
        self._server = ThreadingHTTPServer((bind, port), PeerHandler)
        self._server.store, self._server.peers, self._server.done = store, peers, self.done
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def peer_answers(peer, port, bind, method, name=""):
    """Ask a peer for a file (HEAD) or tell it that we are done (POST): True, False (not yet), None (not there)."""
    connection = http.client.HTTPConnection(peer, port, timeout=5, source_address=(bind, 0))
    try:
        connection.request(method, "/" + urllib.parse.quote(name), headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.close()
        return answer.status in (200, 204)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def from_peers(fetcher, store, arguments, owner):
    """Take the other shares from the hosts that own them; fall back to the source when a peer stays silent."""
    silent_since = {}
    while store.missing():
        moved = False
        for name in store.missing():
            peer = arguments.hosts[owner[name]]
            ready = peer_answers(peer, arguments.port, arguments.bind, "HEAD", name)
            if ready:
                fetcher.get("http://%s:%d" % (peer, arguments.port), name, TRIES_WITHOUT_PROGRESS)
                say("FROM-PEER %s %s" % (peer, name))
                silent_since.pop(peer, None)
                moved = True
            elif ready is None and time.monotonic() - silent_since.setdefault(peer, time.monotonic()) > PEER_PATIENCE_S:
                say("FALLBACK %s does not answer, %s comes from the source" % (peer, name))
                fetcher.get(arguments.source, name, TRIES_WITHOUT_PROGRESS)
                moved = True
            elif ready is not None:
                silent_since.pop(peer, None)
        if not moved:
            time.sleep(0.3)


def say_done(arguments, exchange):
    """Tell every peer that this host is done, and serve until all of them are."""
    others = [host for host in arguments.hosts if host != arguments.bind]
    told = set()
    silent = time.monotonic()
    while set(others) - exchange.done or set(others) - told:
        for peer in sorted(set(others) - told):
            if peer_answers(peer, arguments.port, arguments.bind, "POST"):
                told.add(peer)
                silent = time.monotonic()
        if time.monotonic() - silent > arguments.patience:
            say("LEFT-ALONE peers did not report in time: %s" % sorted(set(others) - exchange.done))
            return
        time.sleep(0.2)


def fetch(arguments):
    """Bring every file of the manifest here."""
    manifest = read_manifest(arguments.source, arguments.timeout)
    store = Store(arguments.directory, arguments.state, manifest)
    store.scan()
    store.make_room()
    progress = Progress(sum(entry["size"] for entry in manifest["files"]))
    progress.add(sum(store.verified[name]["size"] for name in store.verified))
    progress.add(sum(fetch_part(store, name) for name in store.missing()))
    fetcher = Fetcher(store, progress, arguments.bind, arguments.timeout)
    exchange = (
        Exchange(store, arguments.bind, arguments.port, set(arguments.hosts)) if len(arguments.hosts) > 1 else None
    )
    owner = shares(manifest, len(arguments.hosts))
    mine = arguments.hosts.index(arguments.bind)
    for name in [name for name in store.missing() if owner[name] == mine]:
        fetcher.get(arguments.source, name, TRIES_WITHOUT_PROGRESS)
        say("FROM-SOURCE %s" % name)
    if exchange is not None:
        from_peers(fetcher, store, arguments, owner)
        say_done(arguments, exchange)
        exchange.close()
    say("DONE %d files, every sha256 is that of the manifest" % len(store.verified))


def fetch_part(store, name):
    """Return the bytes that an earlier, cut download left of a file."""
    part = part_of(store.path(name))
    return part.stat().st_size if part.is_file() else 0


def main():
    """Read the command line and fetch; exit 1 with one line when that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="URL of the mirror")
    parser.add_argument("--directory", required=True, help="where the weights shall lie")
    parser.add_argument("--state", required=True, help="record of what is verified")
    parser.add_argument("--bind", required=True, help="this host's address in --hosts")
    parser.add_argument("--port", type=int, required=True, help="port of the exchange between hosts")
    parser.add_argument(
        "--hosts", required=True, type=lambda text: text.split(","), help="all hosts, same order everywhere"
    )
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds without a byte before a retry")
    parser.add_argument(
        "--patience", type=float, default=24 * 3600.0, help="seconds to serve peers that report nothing"
    )
    arguments = parser.parse_args()
    os.umask(0o027)
    try:
        fetch(arguments)
    except (Refused, OSError) as error:
        say("ERROR %s" % error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
