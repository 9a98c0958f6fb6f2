"""Get single files, from a hub, a peer or a folder: resume, verification, retries. Python 3.7."""

import errno
import http.client
import os

from hub_list import HttpError, Refused
from weights_store import Sum, say, sum_of

TRIES_REFUSED = 3  # 401, 403, 404, 410 do not go away by waiting, but a signed address may have expired
NO = (400, 401, 403, 404, 410, 418)
SPOILED_TRIES = 3
LONGEST_PAUSE_S = 30.0
PIECE = 1 << 18  # bytes at most in memory and not yet in the file: what a kill loses, for each connection
FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException, HttpError)


class WrongFile(ValueError):
    """The server offers something else than the listed file."""

    status = 404  # waiting does not help


class Spoiled(ValueError):
    """A file came whole, with another sum than the list's."""


class Fetcher:
    """Gets single files, from the source or a peer: resume, verification, retries."""

    def __init__(self, store, progress, timeout, stop):
        self.store = store
        self.progress = progress
        self.timeout = timeout
        self.stop = stop

    def get(self, opened, name, tries, bucket):
        """Fetch one file whole and verified; opened(headers) returns (connection, answer).

        Raises Refused when `tries` attempts in a row bring no byte, or when waiting cannot help.
        """
        wait = 0.5
        left, spoiled, refused = tries, 0, 0
        while not self.stop.is_set():
            before = self.store.part_size(name)
            try:
                self._attempt(opened, name, bucket)
                return
            except NETWORK_ERRORS as error:
                if isinstance(error, OSError) and error.errno in (
                    errno.ENOSPC,
                    errno.EDQUOT,
                    errno.EROFS,
                    errno.EACCES,
                ):
                    raise Refused("%s: %s; what came is kept" % (self.store.part(name), error.strerror))
                left = tries if self.store.part_size(name) > before else left - 1
                spoiled += isinstance(error, Spoiled)
                refused += getattr(error, "status", 0) in NO
                if left <= 0 or spoiled >= SPOILED_TRIES or refused >= TRIES_REFUSED:
                    raise Refused("%s: %s" % (name, error))  # a bad mirror may bring bytes for ever
                if self.stop.is_set():
                    break
                pause = getattr(error, "wait", None)
                say("RETRY %s: %s" % (name, error))
                self.stop.wait(wait if pause is None else pause)
                wait = min(wait * 2, LONGEST_PAUSE_S)
        raise Refused("%s: stopped, since another file failed" % name)

    def _attempt(self, opened, name, bucket):
        store, entry = self.store, self.store.listing[name]
        part = store.part(name)
        part.parent.mkdir(parents=True, exist_ok=True)
        if part.is_symlink():
            part.unlink()
        have = store.part_size(name)
        if have > entry["size"]:
            self._restart(name, have)
            have = 0
        total = sum_of(part, entry) if have else Sum(entry)
        if have < entry["size"]:
            total = self._receive(opened, name, have, total, bucket)
        elif not entry["size"]:
            part.touch()
        if not total.fits():
            self._restart(name, part.stat().st_size)
            raise Spoiled("the bytes received do not have the sum of the list; thrown away")
        path, kept = store.path(name), store.whole(name)
        if kept != path:
            kept.unlink()  # of another file than the one that came now
        if path.is_symlink() or path.exists():
            path.unlink()
        os.replace(str(part), str(path))
        store.accept(name, total.sha256)

    def _restart(self, name, have):
        self.progress.add(-have)
        self.store.part(name).unlink()
        self.store.note_etag(name, "")

    def _receive(self, opened, name, have, total, bucket):
        entry, known = self.store.listing[name], self.store.etag(name)
        headers = {"Range": "bytes=%d-" % have} if have else {}
        if have and known:
            headers["If-Range"] = known
        connection, answer = opened(headers)
        try:
            etag = answer.getheader("ETag") or ""
            if answer.status not in (200, 206):
                if answer.status == 416:  # the part is longer than the file on the server
                    self._restart(name, have)
                raise HttpError(answer.status, "HTTP %d" % answer.status)
            if have and (answer.status == 200 or (known and etag and etag != known)):
                # the server ignores ranges, or the file behind the name is another one: start again
                self.progress.add(-have)
                total = Sum(entry)
                if answer.status == 206:
                    self.store.part(name).unlink()
                    raise ValueError("the file has changed on the server since its first part came")
                have = 0
            span = answer.getheader("Content-Range") or ""
            if answer.status == 206 and not span.startswith("bytes %d-" % have):
                raise ValueError("another range came than was asked for")
            length = answer.getheader("Content-Length") or ""
            if length.isdigit() and int(length) != entry["size"] - have:
                # an error page, or another file: not one byte of it may stand at the head of the part
                raise WrongFile("%s bytes are offered, the list says %d" % (length, entry["size"] - have))
            self.store.note_etag(name, etag if not etag.startswith("W/") else "")
            self._write(answer, name, have, total, bucket)
        finally:
            answer.close()
            connection.close()
        return total

    def _write(self, answer, name, have, total, bucket):
        size = self.store.listing[name]["size"]
        piece = min(bucket.piece(), PIECE)
        with open(str(self.store.part(name)), "r+b" if have else "wb") as stream:
            stream.seek(have)
            stream.truncate()
            # until the size, not until the end: a server may keep the connection open
            while have < size and not self.stop.is_set():
                # what is there, not a whole piece: it reaches the file at once, and outlives a kill, a cut or a stall
                chunk = answer.read1(piece)
                if not chunk:
                    break
                if have + len(chunk) > size:
                    raise ValueError("more bytes came than the list says")
                bucket.take(len(chunk))
                stream.write(chunk)
                stream.flush()
                total.update(chunk)
                have += len(chunk)
                self.progress.add(len(chunk))
            stream.flush()
            os.fsync(stream.fileno())
        if have < size:
            raise ValueError("cut after %d of %d bytes" % (have, size))


class LocalAnswer:
    """A file on this host, read like an HTTP answer."""

    status = 206

    def __init__(self, path, headers):
        self._stream = open(str(path), "rb")  # noqa: SIM115 - closed by close()
        first = headers.get("Range", "bytes=0-")[len("bytes=") : -1]
        self._stream.seek(int(first))
        self._span = "bytes %s-" % first
        self.read1, self.close = self._stream.read, self._stream.close

    def getheader(self, name):
        """Return the range that is read; a file has no other headers."""
        return self._span if name == "Content-Range" else None
