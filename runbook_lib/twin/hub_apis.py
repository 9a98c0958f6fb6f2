"""The HTTP APIs of the model hubs over one folder of files: lists, redirects to a second host, refusals.

Paths and answers as in the clients' sources: Hugging Face `/api/models/..`, `/ID/resolve/..`; ModelScope
`/api/v1/models/ID/repo..`; Modelers `/api/v1/file/ID..`. A large file is redirected to the CDN with a signature that
expires; a small one comes at once. Every other path is a plain file of the mirror.

Knobs: token (str: asked for, never accepted at the CDN), page (int: entries a page of Hugging Face), sign_s (float:
how long a signature holds), gone (true: the revision is not there any more), html (true, once: an error page with
status 200 in place of a file).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LFS_BYTES = 16384  # what is larger is stored by git-lfs; the hubs' own limit is larger, and so are their files
CDN = "/cdn/"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Answer:
    """What a request leads to: a file of the folder, or a status with headers and a body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: str = ""
    resumable: bool = True


def _refusal(status: int, code: str, message: str) -> Answer:
    body = json.dumps({"error": message, "code": code, "msg": message, "Code": status, "Message": message}).encode()
    return Answer(status, body, {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"})


class Apis:
    """Answers for one repository. `commit` is the revision that any branch name stands for."""

    def __init__(self, folder: Path, knobs: dict[str, Any], cdn: str = "") -> None:
        self.folder = folder
        self.knobs = knobs
        self.cdn = cdn
        self.tokens_at_cdn = 0
        self._signed: dict[str, float] = {}
        self._sums: dict[str, tuple[int, str, str]] = {}

    @property
    def commit(self) -> str:
        """40 hex digits that name the files."""
        known = json.dumps([(name, self._facts(name)) for name in self._names()])
        return hashlib.sha1(known.encode(), usedforsecurity=False).hexdigest()

    def answer(self, target: str, headers: Mapping[str, str]) -> Answer | None:
        """Return what a hub says, None for a path that is none of a hub's."""
        parts = urlsplit(target)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        if path.startswith(CDN):
            return self._from_cdn(path.removeprefix(CDN), query, headers)
        words = [word for word in parts.path.split("/") if word]
        if parts.path.startswith("/api/models/"):
            return self._guarded(headers, lambda: self._hugging_face(words[2:], query, target))
        if parts.path.startswith("/api/v1/models/"):
            return self._guarded(headers, lambda: self._modelscope(words[3:], query))
        if parts.path.startswith("/api/v1/file/"):
            return self._guarded(headers, lambda: self._modelers([unquote(word) for word in words[3:]], query))
        if len(words) > 4 and words[2] == "resolve":  # noqa: PLR2004 - OWNER/NAME/resolve/REVISION/PATH
            return self._guarded(headers, lambda: self._resolve("/".join(words[4:]), words[3]))
        return None

    def _guarded(self, headers: Mapping[str, str], make: Any) -> Answer:  # noqa: ANN401 - a function without arguments
        token = self.knobs.get("token")
        if token and headers.get("authorization") != f"Bearer {token}":
            return _refusal(401, "GatedRepo", "Invalid credentials in Authorization header")
        if self.knobs.get("gone"):
            return _refusal(404, "RevisionNotFound", "ref_not_exist")
        result = make()
        assert isinstance(result, Answer)  # noqa: S101 - what the four methods return
        return result

    def _names(self, below: str = "") -> list[str]:
        names = [path.relative_to(self.folder).as_posix() for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [name for name in names if name != _MANIFEST and not name.startswith(".") and name.startswith(below)]

    def _facts(self, name: str) -> tuple[int, str, str]:
        """Return size, sha256 and git blob sum of a file."""
        known = self._sums.get(name)
        if known is None:
            data = (self.folder / name).read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
            known = self._sums[name] = (len(data), hashlib.sha256(data).hexdigest(), git)
        return known

    def _hugging_face(self, words: list[str], query: Mapping[str, str], target: str) -> Answer:
        if words[2:3] == ["revision"]:
            return _json({"sha": self.commit, "id": "/".join(words[:2])})
        if words[2:3] != ["tree"]:
            return _refusal(404, "RepoNotFound", "Repository not found")
        rows = []
        for name in self._names():
            size, sha256, git = self._facts(name)
            row: dict[str, Any] = {"type": "file", "oid": git, "size": size, "path": name}
            if size > LFS_BYTES:
                row["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
            rows.append(row)
        start, step = int(query.get("cursor", 0)), int(self.knobs.get("page", 1000))
        following = {}
        if start + step < len(rows):
            base = urlsplit(target).path
            pairs = {**query, "cursor": str(start + step)}
            following = {"Link": f'<{base}?{urlencode(pairs)}>; rel="next"'}
        return _json(rows[start : start + step], following)

    def _modelscope(self, words: list[str], query: Mapping[str, str]) -> Answer:
        if words[2:] == ["repo", "files"]:
            files = []
            for name in self._names():
                size, sha256, _ = self._facts(name)
                row = {"Name": name.rpartition("/")[2], "Path": name, "Size": size, "Sha256": sha256, "Type": "blob"}
                files.append(row | {"IsLFS": size > LFS_BYTES, "Mode": "33188", "Revision": self.commit})
            return _json({"Code": 200, "Data": {"Files": files}, "Message": "success", "Success": True})
        if words[2:] == ["repo"]:
            name = query.get("FilePath", "")
            if name not in self._names():  # it says no with status 200
                return _json({"Code": 10010205001, "Message": "file is not exist", "Success": False})
            return self._bytes(name, resumable_small=False)
        return _refusal(404, "not_found", "record not found")

    def _modelers(self, words: list[str], query: Mapping[str, str]) -> Answer:
        if len(words) == 2:  # noqa: PLR2004 - OWNER/NAME
            below = query.get("path", "")
            prefix = f"{below}/" if below else ""
            tree: dict[str, dict[str, Any]] = {}
            for name in self._names(prefix):
                head, slash, _ = name.removeprefix(prefix).partition("/")
                size, sha256, git = self._facts(name)
                row = {"name": head, "path": prefix + head, "type": "dir" if slash else "file", "size": 0}
                lfs = size > LFS_BYTES
                tree[head] = row if slash else row | {"size": size, "is_lfs": lfs, "etag": sha256 if lfs else git}
            commit = {"commit": {"commit_sha": self.commit}}
            return _json({"code": "", "msg": "", "data": {"tree": list(tree.values()), "last_commit": commit}})
        if len(words) > 4 and words[3] == "media":  # noqa: PLR2004 - OWNER/NAME/REVISION/media/PATH
            name = "/".join(words[4:])
            if name not in self._names():
                return _refusal(404, "branch_or_path_not_found", "branch or path not found")
            return self._bytes(name)
        return _refusal(404, "not_file", "not a file")

    def _resolve(self, name: str, revision: str) -> Answer:
        name = unquote(name)
        if revision not in {self.commit, "main"}:
            return _refusal(404, "RevisionNotFound", "Invalid rev id")
        if name not in self._names():
            return _refusal(404, "EntryNotFound", "Entry not found")
        return self._bytes(name)

    def _bytes(self, name: str, *, resumable_small: bool = True) -> Answer:
        size, sha256, _ = self._facts(name)
        if self.knobs.pop("html", False):
            return Answer(200, b"<html><body>please log in</body></html>", {"Content-Type": "text/html"})
        if size <= LFS_BYTES:
            return Answer(file=name, resumable=resumable_small)
        signature = secrets.token_hex(8)
        self._signed[signature] = time.monotonic() + float(self.knobs.get("sign_s", 3600.0))
        where = f"{self.cdn}{CDN}{quote(name)}?auth_key={signature}"
        return Answer(302, b"", {"Location": where, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(size)})

    def _from_cdn(self, name: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        self.tokens_at_cdn += "authorization" in headers or "cookie" in headers
        if time.monotonic() > self._signed.get(query.get("auth_key", ""), 0.0):
            return Answer(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
        return Answer(file=name)


def _json(value: Any, headers: Mapping[str, str] | None = None) -> Answer:  # noqa: ANN401 - any JSON value
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})
