"""Measured points on disk: what is there and ok is not measured again.

    DIR/points/<key>.json    one point: format, key, spec (without secrets), point, server, measured_at
    DIR/raw/<key>.jsonl      its requests, one line each

The key is a digest of the spec and the repeat, so a changed workload is a new point.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import LoadError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runbook_lib.load.spec import PointSpec

FORMAT = "runbook-bench-point/1"
# What does not change what is measured: where raw requests go, and the limits by which the client judges itself.
_NOT_IDENTITY = frozenset({"raw_file", "max_lateness_ms", "min_delivered"})


@dataclass(frozen=True, slots=True)
class Stored:
    """One point as it lies on disk; `point` in its JSON form, `server` what was scraped beside it."""

    key: str
    spec: dict[str, Any]
    point: dict[str, Any]
    server: dict[str, Any] = field(default_factory=dict)
    measured_at: str = ""
    raw: str = ""


def point_key(spec: PointSpec, repeat: int = 1, context: str = "") -> str:
    """Return the identity of a point; `context` is what else it depends on, like the service's settings."""
    from hashlib import sha256  # noqa: PLC0415 - a single point without a folder needs no digest

    fields = {name: value for name, value in spec.public().items() if name not in _NOT_IDENTITY}
    text = json.dumps([fields, repeat, context], sort_keys=True, ensure_ascii=False)
    return sha256(text.encode()).hexdigest()[:16]


class Store:
    """A folder of points. `save` is atomic: a killed run leaves whole points only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._points, self._raw = folder / "points", folder / "raw"

    def prepare(self) -> None:
        """Make the folders. Raises LoadError."""
        try:
            self._points.mkdir(parents=True, exist_ok=True)
            self._raw.mkdir(exist_ok=True)
        except OSError as error:
            raise LoadError(f"{self.folder} cannot be written: {error}") from error

    def raw_file(self, key: str) -> Path:
        """Return where the requests of a point are written."""
        return self._raw / f"{key}.jsonl"

    def get(self, key: str) -> Stored | None:
        """Return a point that was measured before, None when there is none. Raises UsageError when it is broken."""
        path = self._points / f"{key}.json"
        return self._read(path) if path.is_file() else None

    def save(self, stored: Stored) -> None:
        """Write one point. Raises LoadError."""
        content = {
            "format": FORMAT,
            "key": stored.key,
            "measured_at": stored.measured_at or datetime.now(UTC).isoformat(timespec="seconds"),
            "spec": stored.spec,
            "point": stored.point,
            "server": stored.server,
            "raw": f"raw/{stored.key}.jsonl" if self.raw_file(stored.key).is_file() else "",
        }
        path = self._points / f"{stored.key}.json"
        scratch = path.with_suffix(".part")
        try:
            with scratch.open("w", encoding="utf-8") as file:
                file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        except OSError as error:
            raise LoadError(f"{path} cannot be written: {error}") from error

    def all(self) -> list[Stored]:
        """Return every point, by lengths, concurrency and repeat. Raises UsageError when there is none."""
        found = sorted(self._found(), key=_order)
        if not found:
            raise UsageError(
                f"{self.folder} holds no measured point; expected points/*.json",
                next_command=f"runbook bench --url URL --model MODEL --concurrency 1,16,64 --out {self.folder}",
            )
        return found

    def _found(self) -> Iterator[Stored]:
        for path in sorted(self._points.glob("*.json")):
            yield self._read(path)

    def _read(self, path: Path) -> Stored:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["format"] != FORMAT:
                raise UsageError(f"{path}: format {value['format']!r}; this version reads {FORMAT!r}")
            raw = str(self.folder / value["raw"]) if value["raw"] else ""
            return Stored(value["key"], value["spec"], value["point"], value["server"], value["measured_at"], raw)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path} is no point: {error!r}", next_command=f"rm {path}   # to measure it again"
            ) from error


def _order(stored: Stored) -> tuple[int, int, float, int, int]:
    spec, point = stored.spec, stored.point
    lengths = (int(spec["input_tokens"]), int(spec["output_tokens"]))
    return (*lengths, float(spec["rate_per_s"]), int(spec["concurrency"]), int(point.get("repeat", 1)))
