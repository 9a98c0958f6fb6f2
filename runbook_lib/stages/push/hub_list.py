"""Say which files a source of weights holds, and where the bytes of each are.

Usage: hub_list.py SPEC_JSON TIMEOUT_S prints one line of JSON: {"files": [{name, size, sha256 | git_sha1}], "commit",
"status", "error", "config"}. Given to `python3 -c` by the probe, and imported by weights_tool.py. SPEC_JSON holds
kind, url, repository, revision, proxy, path, only. What the hubs answer is told in docs/weights.md. Standard library
only, Python 3.7 or newer.
"""

import http.client
import json
import os
import pathlib
import re
import sys
import urllib.parse

HOPS = 5
CONFIG = "config.json"
LONGEST_CONFIG = 1 << 20
LONGEST_LIST = 64 << 20
PAGES = 1000
REDIRECTS = (301, 302, 303, 307, 308)
SKIPPED = (".gitattributes", ".gitignore")  # no part of the model; ModelScope's own client leaves them out too


class Refused(Exception):
    """The work cannot be done; the message says what, where, and what would be right."""


class HttpError(Exception):
    """A server said no. `wait` is how many seconds it asks us to stay away, None when it does not say."""

    def __init__(self, status, message, wait=None):
        super().__init__(message)
        self.status = status
        self.wait = wait


class Web:
    """GET requests: redirects, a proxy, an address to come from; the token never leaves the first host."""

    def __init__(self, timeout, proxy="", token="", bind=""):
        self.timeout = timeout
        self.proxy = urllib.parse.urlsplit(proxy) if proxy else None
        self.token = token
        self.bind = bind

    def get(self, url, headers=None):
        """Return (connection, answer) of the last hop, its status 200, 206 or 416. Close the connection.

        Raises HttpError for any other status, OSError and HTTPException as they come.
        """
        origin = urllib.parse.urlsplit(url).netloc
        for _ in range(HOPS):
            secret = self.token and urllib.parse.urlsplit(url).netloc == origin
            connection = self._open(url)
            try:
                sent = {"Accept-Encoding": "identity", "User-Agent": "ascend-runbook", "Connection": "close"}
                sent.update(headers or {})
                if secret:
                    sent["Authorization"] = "Bearer " + self.token
                    sent["Cookie"] = "m_session_id=" + self.token  # where ModelScope looks for it
                connection.request("GET", self._target(url), headers=sent)
                answer = connection.getresponse()
                if answer.status in (200, 206, 416):
                    return connection, answer
                where = answer.getheader("Location")
                if answer.status not in REDIRECTS or not where:
                    raise _error(answer, url)
            except BaseException:
                connection.close()
                raise
            connection.close()
            url = urllib.parse.urljoin(url, where)
            if not url.startswith(("http://", "https://")):
                raise HttpError(answer.status, "redirected to %s" % url[:80])
        raise HttpError(310, "more than %d redirects from %s" % (HOPS, origin))

    def json(self, url):
        """Return (value, headers) of a JSON answer. Raises as get, and Refused for an answer that is no JSON."""
        connection, answer = self.get(url)
        try:
            body = answer.read(LONGEST_LIST)
            return json.loads(body.decode("utf-8")), answer.headers
        except ValueError:
            raise Refused("%s answers %r..., which is no JSON" % (shown(url), body[:60]))
        finally:
            connection.close()

    def _open(self, url):
        parts = urllib.parse.urlsplit(url)
        source = (self.bind, 0) if self.bind else None
        secure = parts.scheme == "https"
        make = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        if self.proxy is None:
            return make(parts.hostname, parts.port, timeout=self.timeout, source_address=source)
        connection = make(self.proxy.hostname, self.proxy.port or 3128, timeout=self.timeout)
        if secure:
            connection.set_tunnel(parts.hostname, parts.port or 443)
        return connection

    def _target(self, url):
        parts = urllib.parse.urlsplit(url)
        if self.proxy is not None and parts.scheme == "http":
            return url
        return (parts.path or "/") + ("?" + parts.query if parts.query else "")


def shown(url):
    """Return an address without its query: signatures live there."""
    return url.partition("?")[0]


def _error(answer, url):
    said = answer.getheader("X-Error-Code") or answer.getheader("X-Error-Message") or ""
    body = answer.read(400).decode("utf-8", "replace").strip()
    try:
        value = json.loads(body)
        body = str(value.get("msg") or value.get("Message") or value.get("code") or value.get("error") or "")
    except (ValueError, AttributeError):
        body = "" if "<" in body else body
    text = " ".join(part for part in ("HTTP %d" % answer.status, said, body[:120]) if part)
    return HttpError(answer.status, "%s: %s" % (shown(url), text), _wait(answer))


def _wait(answer):
    """Return the pause that an answer asks for, in s: the RateLimit header of Hugging Face, else Retry-After."""
    limit = re.search(r"r=0\s*;\s*t=(\d+)", answer.getheader("RateLimit") or "")
    if limit and answer.status == 429:
        return int(limit.group(1)) + 1
    try:
        return max(0.0, float(answer.getheader("Retry-After") or ""))
    except ValueError:
        return None


class Mirror:
    """A plain HTTP(S) server: <url>/manifest.json lists what lies beside it."""

    def __init__(self, spec):
        self.url = spec["url"].rstrip("/")

    def listing(self, web):
        """Return (files, commit)."""
        manifest, _ = web.json(self.url + "/manifest.json")
        try:
            return list(manifest["files"]), str(manifest.get("revision", ""))
        except (KeyError, TypeError, AttributeError):
            raise Refused("%s/manifest.json holds no list of files" % self.url)

    def address(self, name, _commit):
        """Return the URL of a file."""
        return self.url + "/" + urllib.parse.quote(name)


class HuggingFace:
    """Hugging Face and servers of the same paths (hf-mirror.com)."""

    def __init__(self, spec):
        self.url = spec["url"].rstrip("/")
        self.repository, self.revision = spec["repository"], spec["revision"]

    def listing(self, web):
        """Return (files, commit): the revision is resolved once, the list is that of the commit."""
        quoted = urllib.parse.quote(self.revision, safe="")
        about, _ = web.json("%s/api/models/%s/revision/%s" % (self.url, self.repository, quoted))
        commit = str(about["sha"])
        url = "%s/api/models/%s/tree/%s?recursive=True&expand=False" % (self.url, self.repository, commit)
        files = []
        for _ in range(PAGES):
            page, headers = web.json(url)
            files += [self._entry(each) for each in page if each.get("type") == "file"]
            following = re.search(r'<([^>]+)>\s*;\s*rel="next"', headers.get("Link") or "")
            if not following:
                return files, commit
            url = urllib.parse.urljoin(url, following.group(1))
            if not url.startswith(self.url + "/"):
                raise Refused("the list of %s goes on at another host: %s" % (self.url, shown(url)))
        raise Refused("the list of %s does not end" % self.repository)

    @staticmethod
    def _entry(each):
        digest = {"sha256": each["lfs"]["oid"]} if each.get("lfs") else {"git_sha1": each["oid"]}
        return dict(digest, name=each["path"], size=each["size"])

    def address(self, name, commit):
        """Return the URL of a file; asked for anew at each try, since what it redirects to expires."""
        return "%s/%s/resolve/%s/%s" % (self.url, self.repository, commit, urllib.parse.quote(name))


class ModelScope:
    """ModelScope: one answer lists all files; it says HTTP 200 also when it means no."""

    def __init__(self, spec):
        self.url = spec["url"].rstrip("/")
        self.repository, self.revision = spec["repository"], spec["revision"]

    def listing(self, web):
        """Return (files, commit); the commit of a branch has no documented field, the revision stands for it."""
        query = urllib.parse.urlencode({"Revision": self.revision, "Recursive": "True"})
        answer, _ = web.json("%s/api/v1/models/%s/repo/files?%s" % (self.url, self.repository, query))
        if answer.get("Code") != 200 or "Files" not in (answer.get("Data") or {}):
            raise Refused("%s lists nothing: %s" % (self.url, answer.get("Message") or answer.get("Code")))
        files = [
            {"name": each["Path"], "size": each["Size"], "sha256": each["Sha256"]}
            for each in answer["Data"]["Files"]
            if each["Type"] == "blob"
        ]
        return files, self.revision

    def address(self, name, commit):
        """Return the URL of a file."""
        query = urllib.parse.urlencode({"Revision": commit, "FilePath": name})
        return "%s/api/v1/models/%s/repo?%s" % (self.url, self.repository, query)


class Modelers:
    """Modelers (openMind): one directory a call."""

    def __init__(self, spec):
        self.url = spec["url"].rstrip("/")
        self.repository, self.revision = spec["repository"], spec["revision"]

    def listing(self, web):
        """Return (files, commit)."""
        files, commit, todo = [], "", [""]
        while todo:
            query = urllib.parse.urlencode({"ref": commit or self.revision, "path": todo.pop()})
            answer, _ = web.json("%s/api/v1/file/%s?%s" % (self.url, self.repository, query))
            data = answer.get("data") or {}
            if "tree" not in data:
                raise Refused("%s lists nothing: %s" % (self.url, answer.get("msg") or answer.get("code")))
            commit = commit or str(data["last_commit"]["commit"]["commit_sha"])
            for each in data["tree"]:
                if each["type"] == "dir":
                    todo.append(each["path"])
                else:
                    kind = "sha256" if len(each["etag"]) == 64 else "git_sha1"
                    files.append({"name": each["path"], "size": each["size"], kind: each["etag"]})
        return files, commit

    def address(self, name, commit):
        """Return the URL of a file."""
        return "%s/api/v1/file/%s/%s/media/%s" % (self.url, self.repository, commit, urllib.parse.quote(name))


class Folder:
    """A directory on this host: a disk, a network file system, or what another tool left."""

    def __init__(self, spec):
        self.path = pathlib.Path(spec["path"])
        self.only = spec.get("only")  # {name, sha256 where it is known}: this one file, whatever else lies there

    def listing(self, _web):
        """Return (files, commit) without sums unless a manifest.json lies there; the sums come with the bytes."""
        if self.only:
            return [dict(self.only, size=(self.path / self.only["name"]).stat().st_size)], ""
        try:
            known = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
            return list(known["files"]), str(known.get("revision", ""))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refused("%s/manifest.json cannot be read: %s" % (self.path, error))
        if not self.path.is_dir():
            raise Refused("%s is not there" % self.path)
        files = []
        for root, folders, names in os.walk(str(self.path)):
            folders[:] = [each for each in folders if not each.startswith(".")]
            for name in names:
                path = pathlib.Path(root, name)
                if not name.startswith(".") and not name.endswith(".incomplete"):
                    files.append({"name": path.relative_to(self.path).as_posix(), "size": path.stat().st_size})
        return files, ""


KINDS = {
    "mirror": Mirror,
    "huggingface": HuggingFace,
    "modelscope": ModelScope,
    "modelers": Modelers,
    "path": Folder,
}


def open_source(spec):
    """Return the source that a spec describes."""
    return KINDS[spec["kind"]](spec)


def sound_name(name):
    """Say whether a name stays below the directory: relative, without `..`, printable."""
    path = pathlib.PurePosixPath(name)  # "//x" is absolute too
    return bool(path.parts) and ".." not in path.parts and not path.is_absolute() and name.isprintable()


def listed(spec, web):
    """Return {"files", "commit"}, every entry checked. Raises Refused, HttpError, OSError, HTTPException."""
    try:
        files, commit = open_source(spec).listing(web)
        files = [entry for entry in files if entry["name"].rpartition("/")[2] not in SKIPPED]
        for entry in files:
            _check(entry, sums=spec["kind"] != "path")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Refused("the list of files has an entry that does not hold: %s" % (error or type(error).__name__))
    if not files:
        raise Refused("the list of files is empty")
    if len({entry["name"] for entry in files}) != len(files):
        raise Refused("the list of files names a file twice")
    return {"files": sorted(files, key=lambda each: each["name"]), "commit": commit}


def _check(entry, sums):
    if not sound_name(entry["name"]) or type(entry["size"]) is not int or entry["size"] < 0:
        raise ValueError("bad entry %r" % (entry,))
    for kind, length in (("sha256", 64), ("git_sha1", 40)):
        if kind in entry and not re.match("^[0-9a-f]{%d}$" % length, entry[kind]):
            raise ValueError("bad %s of %s" % (kind, entry["name"]))
    if sums and "sha256" not in entry and "git_sha1" not in entry:
        raise ValueError("%s has no sum" % entry["name"])


def config_of(spec, found, web):
    """Return the text of config.json, "" when there is none: what must be changed in it is planned before it comes."""
    if not any(entry["name"] == CONFIG and entry["size"] < LONGEST_CONFIG for entry in found["files"]):
        return ""
    if spec["kind"] == "path":
        return (pathlib.Path(spec["path"]) / CONFIG).read_text(encoding="utf-8")
    connection, answer = web.get(open_source(spec).address(CONFIG, found["commit"]))
    try:
        return answer.read(LONGEST_CONFIG).decode("utf-8", "replace")
    finally:
        connection.close()


def main():
    """Print the list of the source, or why there is none."""
    spec, timeout = json.loads(sys.argv[1]), float(sys.argv[2])
    said = {"files": [], "commit": "", "status": 200, "error": "", "config": ""}
    web = Web(timeout, spec.get("proxy", ""))
    try:
        said.update(listed(spec, web))
        said["config"] = config_of(spec, said, web)
    except HttpError as error:
        said.update(status=error.status, error=str(error))
    except (Refused, OSError, http.client.HTTPException) as error:
        said.update(status=0, error=str(error) or type(error).__name__)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
