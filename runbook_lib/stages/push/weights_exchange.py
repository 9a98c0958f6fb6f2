"""The short-lived transfer between the hosts: verified files only, to the cluster's addresses with the run's token.

The token lies in a file that every apply writes anew on all hosts; it is read again when a peer shows another one, so
a job that was attached to goes on working with the hosts that were started later. Python 3.7 or newer.
"""

import errno
import hashlib
import hmac
import http.client
import json
import pathlib
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hub_list import Refused
from weights_store import CHUNK, say, write_record

HEADER = "X-Runbook-Token"
PORT_WAIT_S = 120.0  # a connection that was closed holds its port for 60 s (TIME_WAIT)
PORT_POLL_S = 1.0


class Bucket:
    """Lets so many bytes a second through, for all threads together; 0 is no limit."""

    def __init__(self, bytes_per_s):
        self.rate = bytes_per_s
        self._due = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count):
        """Wait until `count` bytes may pass."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - 0.1) + count / self.rate
            pause = self._due - now
        if pause > 0:
            time.sleep(pause)

    def piece(self):
        """Return how many bytes to move at once, so that a slow limit stays smooth."""
        return int(min(CHUNK, max(16384, self.rate / 20))) if self.rate else CHUNK


class Token:
    """The secret of the exchange, as it stands in its file now."""

    def __init__(self, path):
        self._path = path
        self._value = self._read()

    def _read(self):
        try:
            with open(self._path, encoding="utf-8") as stream:
                return stream.read().strip()
        except OSError:
            return ""

    @property
    def value(self):
        """The token that this host shows to others."""
        return self._value

    def renew(self):
        """Read the file again, once it is there."""
        self._value = self._read() or self._value

    def fits(self, shown):
        """Say whether a peer showed the token; an empty one never fits."""
        for _ in range(2):
            if self._value and hmac.compare_digest(self._value.encode(), shown.encode("utf-8", "replace")):
                return True
            self.renew()
        return False


class Handler(BaseHTTPRequestHandler):
    """Answers the hosts of the cluster only, with verified files of the list only."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *_args):
        """Keep the job's log for progress."""

    def _allowed(self):
        exchange = self.server.exchange
        if self.client_address[0] in exchange.peers and exchange.token.fits(self.headers.get(HEADER, "")):
            exchange.heard = time.monotonic()
            return True
        self._send(403, b"")
        return False

    def _send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        if not self._allowed():
            return
        exchange = self.server.exchange
        if self.path == "/done":
            exchange.note_done(self.client_address[0])
            self._send(200, json.dumps({"done": exchange.complete}).encode("utf-8"))
        elif self.path == "/steal":
            self._send(200, json.dumps({"name": exchange.work.give_away()}).encode("utf-8"))
        else:
            self._send(404, b"")

    def do_GET(self):
        if not self._allowed():
            return
        exchange = self.server.exchange
        name = urllib.parse.unquote(self.path[len("/file/") :])
        if self.path == "/have":
            self._send(200, json.dumps(exchange.said()).encode("utf-8"))
        elif self.path == "/list":
            listed = exchange.work.listing
            self._send(200 if listed else 404, json.dumps(listed).encode("utf-8"))
        elif self.path.startswith("/file/") and exchange.size_of(name) is not None:
            self._file(name)
        else:
            self._send(404, b"")

    def _file(self, name):
        exchange = self.server.exchange
        size = exchange.size_of(name)
        start = self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0]
        first = int(start) if start.isdigit() and int(start) < size else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, size - 1, size))
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        with open(exchange.path_of(name), "rb") as stream:
            stream.seek(first)
            piece = exchange.bucket.piece()
            for chunk in iter(lambda: stream.read(piece), b""):
                exchange.bucket.take(len(chunk))
                self.wfile.write(chunk)
                exchange.heard = time.monotonic()


class Exchange:
    """Serves this host's verified files to its peers. `work` is the tool's Work: it is asked anew at each request."""

    def __init__(self, work):
        arguments = work.arguments
        self.work, self.token, self.peers = work, work.token, set(arguments.hosts)
        self.bucket = Bucket(arguments.exchange_limit * 1e6)
        self.complete = False  # this host has everything
        self.heard = time.monotonic()
        self._record = pathlib.Path(arguments.state).with_suffix(".done")
        self.done = self._recorded()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._server = self._listening()
        threading.Thread(target=self._serve, daemon=True).start()

    def _listening(self):
        """Return the server, None while the port is in use."""
        arguments = self.work.arguments
        try:
            server = ThreadingHTTPServer((arguments.bind, arguments.port), Handler)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        server.exchange = self
        server.daemon_threads = True
        return server

    def _serve(self):
        """Serve; while another program or a closed connection has the port, the download goes on without."""
        arguments, since = self.work.arguments, time.monotonic()
        if self._server is None:
            say("RETRY exchange: port %d of %s is in use" % (arguments.port, arguments.bind))
        while self._server is None:
            if time.monotonic() - since > PORT_WAIT_S:
                problem = "port %d of %s is in use by another program; choose another model.weights.exchange_port"
                self.work.fail(Refused(problem % (arguments.port, arguments.bind)))
                return
            if self._closed.wait(PORT_POLL_S):
                return
            self._server = self._listening()
        self._server.serve_forever(poll_interval=0.1)

    def _transfer(self):
        """Return what tells this transfer from others: its token, not readable from it."""
        return hashlib.sha256(("done " + self.token.value).encode("utf-8")).hexdigest()

    def _recorded(self):
        """Return the hosts that said in this transfer that they have everything.

        The record is kept when the job ends: one that is cut before its end is known is started again, and would wait
        for peers that have left. Another transfer has another token, so it does not believe it.
        """
        try:
            said = json.loads(self._record.read_text(encoding="utf-8"))
            return set(said["done"]) if said["transfer"] == self._transfer() else set()
        except (OSError, ValueError, KeyError, TypeError):
            return set()

    def note_done(self, address):
        """Remember that a host has everything."""
        with self._lock:
            if address not in self.done:
                self.done.add(address)
                write_record(self._record, {"transfer": self._transfer(), "done": sorted(self.done)})

    def have(self):
        """Return the files that a peer can take here, with their sums."""
        store = self.work.store
        return {name: known["sha256"] for name, known in list(store.verified.items())} if store else {}

    def said(self):
        """Return what a peer asks again and again: the files here, those that will come, those that come now."""
        coming, busy = self.work.coming()
        return {"have": self.have(), "coming": coming, "busy": busy}

    def size_of(self, name):
        """Return the size of a verified file in bytes, None for any other name."""
        store = self.work.store
        return store.listing[name]["size"] if store and name in store.verified else None

    def path_of(self, name):
        """Return where a file of the list lies."""
        return str(self.work.store.whole(name))

    def close(self):
        """Stop serving."""
        self._closed.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class Peer:
    """Another host of the cluster, asked over HTTP. What cannot be had is None."""

    def __init__(self, address, port, bind, token):
        self.address, self._port, self._bind, self._token = address, port, bind, token

    def _ask(self, method, path, headers=None, timeout=10):
        connection = http.client.HTTPConnection(
            self.address, self._port, timeout=timeout, source_address=(self._bind, 0)
        )
        try:
            sent = {HEADER: self._token.value, "Connection": "close"}
            sent.update(headers or {})
            connection.request(method, path, headers=sent)
            answer = connection.getresponse()
            if answer.status == 403:
                self._token.renew()
            return connection, answer
        except BaseException:
            connection.close()
            raise

    def _json(self, method, path):
        try:
            connection, answer = self._ask(method, path)
        except (OSError, http.client.HTTPException):
            return None
        try:
            return json.loads(answer.read().decode("utf-8")) if answer.status == 200 else None
        except (OSError, ValueError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def have(self):
        """Return {"have": {name: sha256}, "coming": [name], "busy": [name]} of the peer, None when it is silent."""
        return self._json("GET", "/have")

    def listed(self):
        """Return the list of files that the peer works by."""
        return self._json("GET", "/list")

    def steal(self):
        """Return a name that the peer leaves to us, "" when it leaves none."""
        return (self._json("POST", "/steal") or {}).get("name") or ""

    def tell_done(self):
        """Say that this host needs nothing more.

        Returns "done" when the peer needs nothing more either, "heard" when it does, "gone" when nothing listens
        there, "" when it is not known whether it heard.
        """
        try:
            connection, answer = self._ask("POST", "/done")
        except ConnectionRefusedError:
            return "gone"
        except (OSError, http.client.HTTPException):
            return ""
        try:
            if answer.status != 200:
                return ""
            return "done" if json.loads(answer.read().decode("utf-8"))["done"] else "heard"
        except (OSError, ValueError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def open(self, name, headers, timeout):
        """Return (connection, answer) of a file."""
        return self._ask("GET", "/file/" + urllib.parse.quote(name), headers, timeout)
