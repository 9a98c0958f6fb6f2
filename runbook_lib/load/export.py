"""Raw requests as one table for pandas: CSV, or Parquet where pyarrow is installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import pandas as pd

COLUMNS = (
    "point", "concurrency", "rate_per_s", "asked_input_tokens", "asked_output_tokens", "repeat", "index",
    "intended_ms", "start_ms", "first_token_ms", "last_token_ms", "end_ms", "ttft_ms", "tpot_ms", "e2e_ms",
    "token_events", "prompt_tokens", "completion_tokens", "reasoning_tokens", "status", "finish_reason", "error",
)  # fmt: skip


def request_row(raw: dict[str, Any]) -> dict[str, Any]:
    """Return one raw request as a flat row; what did not happen is None. Times in ms, wall time."""
    events = raw["events_ms"]
    begin = raw.get("intended_ms", raw["start_ms"])
    whole = not raw["error"] and bool(events)
    tokens = raw["completion_tokens"] or len(events)
    return {
        "index": raw["index"],
        "intended_ms": begin,
        "start_ms": raw["start_ms"],
        "first_token_ms": events[0] if events else None,
        "last_token_ms": events[-1] if events else None,
        "end_ms": raw["end_ms"],
        "ttft_ms": events[0] - begin if whole else None,
        "tpot_ms": (events[-1] - events[0]) / (tokens - 1) if whole and tokens > 1 else None,
        "e2e_ms": raw["end_ms"] - begin if whole else None,
        "token_events": len(events),
        **{
            name: raw.get(name)
            for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens", "status", "finish_reason", "error")
        },
    }


def rows_of(file: Path, point: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Return the rows of one raw file, with its point's columns. Raises UsageError with file and line."""
    shared = {
        "point": key,
        **{
            name: point.get(name)
            for name in ("concurrency", "rate_per_s", "asked_input_tokens", "asked_output_tokens", "repeat")
        },
    }
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield shared | request_row(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"{file}:{number}: {error!r}; expected one request as `runbook bench` writes"
                ) from error


def table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows as a frame with a fixed order of columns."""
    import pandas as pd  # noqa: PLC0415 - half a second that only an export needs

    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def write(frame: pd.DataFrame, target: Path) -> None:
    """Write .csv or .parquet by the file's ending. Raises UsageError."""
    if target.suffix == ".csv":
        frame.to_csv(target, index=False)
        return
    if target.suffix != ".parquet":
        raise UsageError(f"{target}: right would be a name that ends with .csv or .parquet")
    try:
        frame.to_parquet(target, index=False)
    except ImportError as error:
        raise UsageError(
            f"{target}: Parquet needs the library pyarrow, which is not installed; nothing was written",
            next_command="pip install pyarrow   # or take a name that ends with .csv",
        ) from error
