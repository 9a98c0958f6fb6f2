"""Bring a model's files to this host, or hash what lies there: resumable, verified, each byte over the WAN once.

Pushed to the hosts by the weights stage and run there as a detached job. The owners (hosts that reach the source)
download disjoint shares and serve what they have verified; every host takes the rest from them, and a host that is
ready early takes over files that others have not begun. A file counts only when its sum is that of the list; it is
written as NAME.incomplete and renamed. `verify` hashes every file again. Standard library only, Python 3.7 or newer.
"""

import argparse
import http.client
import json
import os
import pathlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from hub_list import HttpError, Refused, Web, listed, open_source
from weights_check import check
from weights_exchange import Bucket, Exchange, Peer, Token
from weights_fetch import LONGEST_PAUSE_S, NO, TRIES_REFUSED, Fetcher, LocalAnswer
from weights_store import Progress, Store, say, shares
from weights_verify import verify

TRIES_WITHOUT_PROGRESS = 8
POLL_S = 0.2
POLL_S_PER_PEER = 0.05  # the more hosts, the seldomer each is asked
GONE_S = 5.0  # a peer that is done and not listening for so long has left
STREAMS = 4  # connections to the source at once


class Work:
    """One host's part of the distribution."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.spec = json.loads(arguments.spec)
        self.token = Token(arguments.exchange_token)
        self.stop = threading.Event()
        self.store = None
        self.listing = None
        self.queue = []
        self.busy = set()
        self.lock = threading.Lock()
        self.failures = []
        self.hope = {}  # when a missing file was last seen on its way, by time.monotonic()
        self.views = {}  # what each peer said last, and when
        self.asking = threading.Lock()
        others = [host for host in arguments.hosts if host != arguments.bind]
        self.peers = [Peer(host, arguments.port, arguments.bind, self.token) for host in others]
        mine = arguments.hosts.index(arguments.bind)
        self.is_owner = mine in arguments.owners
        self.mine = mine
        self.web = Web(arguments.timeout, self.spec.get("proxy", ""), read_once(arguments.token), arguments.come_from)
        self.source = open_source(self.spec)
        self.wan = Bucket(arguments.limit * 1e6)
        self.lan = Bucket(arguments.exchange_limit * 1e6)
        self.exchange = None

    def find_listing(self):
        """Return the list of files: from the source on an owner, else from a peer that has one."""
        if self.is_owner and (self.spec["kind"] != "path" or self.mine == min(self.arguments.owners)):
            return listed_with_patience(self.spec, self.web)
        since = time.monotonic()
        while time.monotonic() - since < self.arguments.patience:
            for peer in self.peers:
                found = peer.listed()
                if found:
                    return found
            time.sleep(POLL_S)
        raise Refused("no other host gave the list of files within %.0f s" % self.arguments.patience)

    def give_away(self):
        """Return a file of our share that was not begun, "" when there is none; we take it from the thief later."""
        with self.lock:
            return self.queue.pop() if len(self.queue) > 1 else ""

    def next_own(self):
        """Return the next file for the source: of our share, else one that a peer leaves to us.

        What a peer has or is downloading (it took it over while this host was away) is left to the exchange.
        """
        with self.lock:
            elsewhere = {name for _, said in self.views.values() for name in (*said["have"], *said["busy"])}
            while self.queue:
                name = self.queue.pop(0)
                if name not in self.store.verified and name not in self.busy and name not in elsewhere:
                    self.busy.add(name)
                    return name
        for peer in self.peers:
            name = peer.steal()
            if name:
                with self.lock:
                    if name in self.store.listing and name not in self.store.verified and name not in self.busy:
                        self.busy.add(name)
                        return name
        return ""

    def from_source(self, fetcher):
        """Download own files until there are none left."""
        while not self.stop.is_set():
            name = self.next_own()
            if not name:
                return
            self.fetch_from_source(fetcher, name)

    def fetch_from_source(self, fetcher, name):
        """Download one file."""
        address = self.source.address(name, self.listing["commit"]) if self.spec["kind"] != "path" else ""
        if not address and pathlib.Path(self.spec["path"]) / name == self.store.path(name):
            raise Refused("%s has not the sum of the list" % self.store.path(name))  # it lies there already, hashed

        def opened(headers):
            if not address:
                answer = LocalAnswer(pathlib.Path(self.spec["path"]) / name, headers)
                return answer, answer
            return self.web.get(address, headers)

        fetcher.get(opened, name, TRIES_WITHOUT_PROGRESS, self.wan)
        say("FROM-SOURCE %s" % name)

    def coming(self):
        """Return the names that this host will bring, and those that it is bringing from the source now."""
        with self.lock:
            return sorted(self.queue), sorted(self.busy)

    def from_peers(self, fetcher):
        """Take what peers have verified; a file that nobody brings comes from the source."""
        while self.store.missing() and not self.stop.is_set():
            name, peer = self.offered()
            if name:
                self.take(fetcher, peer, name)
                continue
            self.without_peers(fetcher)
            self.stop.wait(POLL_S)

    def offered(self):
        """Return a missing file and a peer that has it, ("", None) when there is none now."""
        missing = self.store.missing()
        start = int(time.monotonic() * 10) % len(self.peers)
        for peer in self.peers[start:] + self.peers[:start]:
            said = self.view(peer)
            with self.lock:
                here = self.busy | set(self.store.verified)  # looked at again: another thread may have been quicker
                free = [name for name in missing if name in said["have"] and name not in here]
                if free:
                    # hosts begin at different places, so that they soon have something for each other
                    name = free[self.mine * len(free) // len(self.arguments.hosts)]
                    self.busy.add(name)
                    # a folder without a manifest has no sums; then the first host that read it says them
                    self.store.listing[name].setdefault("sha256", said["have"][name])
                    return name, peer
        return "", None

    def view(self, peer):
        """Return what a peer has and brings, asked anew when the last answer is old."""
        nothing = {"have": {}, "coming": [], "busy": []}
        pause = max(POLL_S, POLL_S_PER_PEER * len(self.peers))
        with self.asking:  # one question, however many threads want to know
            when, said = self.views.get(peer.address, (-pause, nothing))
            if time.monotonic() - when >= pause:
                said = dict(nothing, **(peer.have() or {}))  # an older job on a peer may say less
                now = time.monotonic()
                self.hope.update((name, now) for name in (*said["have"], *said["coming"], *said["busy"]))
                with self.lock:
                    self.views[peer.address] = (now, said)
        return said

    def take(self, fetcher, peer, name):
        """Fetch one file from a peer; when that fails it is free for another try."""
        try:
            fetcher.get(lambda headers: peer.open(name, headers, self.arguments.timeout), name, TRIES_REFUSED, self.lan)
            say("FROM-PEER %s %s" % (peer.address, name))
        except Refused as error:
            say("PEER-FAILED %s %s" % (peer.address, error))
        finally:
            with self.lock:
                self.busy.discard(name)

    def without_peers(self, fetcher):
        """Bring one missing file from the source, when for long no host has it or is bringing it."""
        now = time.monotonic()
        patience = self.arguments.peer_patience if self.is_owner else self.arguments.patience
        with self.lock:
            left = [name for name in self.store.missing() if name not in self.busy and name not in self.queue]
            lost = [name for name in left if now - self.hope.setdefault(name, now) > patience]
            if lost and self.is_owner:
                self.busy.add(lost[0])
        if lost and not self.is_owner:
            raise Refused("%s: no other host brings it, and this host does not reach the source" % lost[0])
        if lost:
            say("FALLBACK no other host brings %s: it comes from the source" % lost[0])
            self.fetch_from_source(fetcher, lost[0])

    def run(self):
        """Do everything."""
        arguments = self.arguments
        # from the start, so that the others learn what is here already
        self.exchange = Exchange(self) if self.peers else None
        listing = self.find_listing()
        pathlib.Path(arguments.directory).mkdir(parents=True, exist_ok=True)
        store = Store(arguments.directory, arguments.state, listing)
        store.scan()
        store.make_room()
        progress = Progress(sum(entry["size"] for entry in listing["files"]))
        progress.add(sum(each["size"] for each in store.verified.values()))
        progress.add(sum(store.part_size(name) for name in store.missing()))
        fetcher = Fetcher(store, progress, arguments.timeout, self.stop)
        owner = shares(listing, arguments.owners)
        self.queue = [name for name in store.missing() if owner[name] == self.mine]
        self.listing, self.store = listing, store
        for peer in self.peers:
            self.view(peer)
        tasks = [self.from_source] * STREAMS if self.is_owner else []
        tasks += [self.from_peers] * (2 if self.peers else 0)
        with ThreadPoolExecutor(len(tasks)) as pool:
            for task in tasks:
                pool.submit(self.guarded, task, fetcher)
        if self.failures:
            raise self.failures[0]
        if store.missing():
            raise Refused("%d files are still missing" % len(store.missing()))
        problems = check(arguments.directory)["problems"]
        if problems:
            raise Refused("every sum is right, but %s %s" % tuple(problems[0]))
        say("COMPLETE %d files, every sum is that of the list" % len(store.verified))
        if self.exchange:
            self.say_done()
            self.exchange.close()
        say("DONE %d files" % len(store.verified))

    def guarded(self, task, fetcher):
        """Run one thread's task; the first failure stops the others."""
        try:
            task(fetcher)
        except Exception as error:  # noqa: BLE001 - whatever ends a thread ends the job, and is said
            self.fail(error)

    def fail(self, error):
        """End the job."""
        self.failures.append(error)
        self.stop.set()

    def say_done(self):
        """Tell every peer that this host is done, and serve until all of them are, or nobody asks any more.

        A peer that is done and listens no more has left: it was told before this job was started again.
        """
        exchange, told, since = self.exchange, set(), time.monotonic()
        others = {peer.address for peer in self.peers}
        exchange.complete = True
        exchange.heard = time.monotonic()
        while others - exchange.done or others - told:
            for peer in self.peers:
                if peer.address not in told:
                    answer = peer.tell_done()
                    left = answer == "gone" and peer.address in exchange.done and time.monotonic() - since > GONE_S
                    if left or answer in ("heard", "done"):
                        told.add(peer.address)
                    if answer == "done":
                        exchange.note_done(peer.address)
            if self.failures:
                raise self.failures[0]
            if time.monotonic() - self.exchange.heard > self.arguments.patience:
                say("LEFT-ALONE nobody asks any more: %s" % sorted(others - self.exchange.done))
                return
            time.sleep(POLL_S)


def listed_with_patience(spec, web):
    """Return the list of the source, trying again while it is busy or away."""
    wait = 0.5
    for left in range(TRIES_WITHOUT_PROGRESS, 0, -1):
        try:
            return listed(spec, web)
        except (OSError, http.client.HTTPException, HttpError) as error:
            status = getattr(error, "status", 0)
            if left == 1 or status in NO:
                raise Refused("the source gives no list of files: %s" % error)
            say("RETRY list: %s" % error)
            pause = getattr(error, "wait", None)
            time.sleep(wait if pause is None else pause)
            wait = min(wait * 2, LONGEST_PAUSE_S)
    raise Refused("the source gives no list of files")


def remove(path):
    """Remove the exchange's token; it was good for this transfer only."""
    if path and pathlib.Path(path).is_file():
        pathlib.Path(path).unlink()


def read_once(path):
    """Return the secret in a file, and remove the file: nothing of it stays on the host."""
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as stream:
            secret = stream.read().strip()
        pathlib.Path(path).unlink()
        return secret
    except FileNotFoundError:
        return ""


def indexes(text):
    """Return the numbers of a comma list."""
    return [int(each) for each in text.split(",")]


def main():
    """Read the command line and work; exit 1 with one line when it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("fetch", "verify"))
    parser.add_argument("--directory", required=True, help="where the weights shall lie")
    parser.add_argument("--state", required=True, help="record of what is verified")
    parser.add_argument("--spec", default="{}", help="the source as JSON, see hub_list.py")
    parser.add_argument("--token", default="", help="file with the source's token; it is removed when read")
    parser.add_argument("--exchange-token", default="", help="file with the token of the exchange")
    parser.add_argument("--bind", default="", help="this host's address in --hosts")
    parser.add_argument("--from", dest="come_from", default="", help="own address for the source, where one has many")
    parser.add_argument("--port", type=int, default=0, help="port of the exchange between hosts")
    parser.add_argument("--hosts", type=lambda text: text.split(","), default=[""], help="all hosts, in one order")
    parser.add_argument("--owners", type=indexes, default=[0], help="numbers of the hosts that reach the source")
    parser.add_argument("--limit", type=float, default=0.0, help="MB/s from the source, 0: no limit")
    parser.add_argument("--exchange-limit", type=float, default=0.0, help="MB/s between hosts each way, 0: no limit")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds without a byte before a retry")
    parser.add_argument("--peer-patience", type=float, default=60.0, help="seconds to wait for a file nobody brings")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds without a word of any peer")
    arguments = parser.parse_args()
    os.umask(0o027)
    try:
        if arguments.what == "verify":
            return verify(arguments)
        try:
            Work(arguments).run()
        finally:
            remove(arguments.exchange_token)
    except (Refused, OSError, ValueError) as error:
        say("ERROR %s" % error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
