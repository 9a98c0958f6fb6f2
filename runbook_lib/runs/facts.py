"""Facts as they are recorded and compared: plain values, long texts by their digest, flat paths."""

from __future__ import annotations

import hashlib
from typing import Any

from runbook_lib.model import to_json

# A log of megabytes in the facts says nothing beside one of another day; that it is another one shows by its digest.
_LONGEST_TEXT = 2000
# What changes by itself, or by what a later stage of the same run does: clocks, counters, sizes, temperatures, logs,
# what is running. A difference there is no drift; the findings judge it.
_MOVING = frozenset(
    {
        "age_s",
        "ahead_s",
        "alive",
        "answer",
        "asked",
        "bus_errors",
        "busy_ports",
        "clock_s",
        "containers",
        "counters",
        "created",
        "disk_free_bytes",
        "free_bytes",
        "hbm_used_mb",
        "images",
        "load",
        "logs",
        "memory_bytes",
        "message",
        "mtime_ns",
        "ours",
        "our_pids",
        "ping",
        "pings",
        "points",
        "ports",
        "power_w",
        "processes",
        "ready",
        "ready_status",
        "recent_changes",
        "rtt_ms",
        "runs_ours",
        "started",
        "started_at",
        "started_with",
        "status",
        "temperature_c",
        "texts",
        "time_ms",
        "tool_present",
        "uptime_s",
        "weights_bytes",
        "work",
        "work_present",
    }
)


def recorded_facts(facts: object) -> Any:  # noqa: ANN401 - a JSON value
    """Return facts in their JSON form, long texts replaced by their length and sha256."""
    return _shortened(to_json(facts))


def _shortened(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, dict):
        return {str(key): _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()
        return f"[{len(value)} characters, sha256 {digest}]"
    return value


def flat(value: Any, *, moving: bool = False) -> dict[str, str]:  # noqa: ANN401 - a JSON value
    """Return every single value under its dotted path; `moving` ones, which change by themselves, only when asked.

    A list of single values counts as a set: parsers keep no order in devices, ports and the like.
    """
    found: dict[str, str] = {}
    _flatten(value, "", found, moving=moving)
    return found


def _flatten(value: Any, path: str, found: dict[str, str], *, moving: bool) -> None:  # noqa: ANN401 - a JSON value
    if isinstance(value, dict):
        for key, item in value.items():
            if moving or str(key) not in _MOVING:
                _flatten(item, f"{path}.{key}" if path else str(key), found, moving=moving)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            _flatten(item, f"{path}.{number}", found, moving=moving)
    elif isinstance(value, list):
        found[path] = ", ".join(sorted(map(str, value)))
    else:
        found[path] = "" if value is None else str(value)
