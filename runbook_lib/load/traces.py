"""Recorded traffic to be played again: arrival times, lengths, shared beginnings.

mooncake: one JSON object a line with `timestamp` (ms), `input_length`, `output_length` and, optional, `hash_ids`:
    one id per 512 tokens of the prompt; equal ids mean equal text, so a prefix cache finds what it found in the trace
CSV: a header with a time (`timestamp_ms`; `timestamp_s`; `timestamp`, seconds or a date) and two lengths
    (`input_tokens` / `input_length` / `ContextTokens` / `Request tokens`, and the same for the answer)
"""

from __future__ import annotations

import csv
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_TOKENS = 512  # of one mooncake hash id
_INPUT = ("input_tokens", "input_length", "contexttokens", "request tokens", "prompt_tokens")
_OUTPUT = ("output_tokens", "output_length", "generatedtokens", "response tokens", "completion_tokens")
_TIME = ("timestamp_ms", "timestamp_s", "timestamp")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace; `blocks` are its hash ids, empty when the trace has none."""

    at_ms: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def read_trace(path: str, *, limit: int = 0) -> list[Arrival]:
    """Read a trace, times after its first request, in their order; `limit` requests, 0 for all.

    Raises UsageError with file and line.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            first = file.read(1)
            file.seek(0)
            rows = _mooncake(path, file) if first == "{" else _csv(path, file)
            arrivals = sorted(rows, key=lambda arrival: arrival.at_ms)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"trace {path} cannot be read: {error}") from error
    if not arrivals:
        raise UsageError(f"trace {path} has no request")
    arrivals = arrivals[: limit or None]
    zero = arrivals[0].at_ms
    return [
        Arrival(arrival.at_ms - zero, arrival.input_tokens, arrival.output_tokens, arrival.blocks)
        for arrival in arrivals
    ]


def _mooncake(path: str, lines: Iterator[str]) -> Iterator[Arrival]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            blocks = tuple(int(each) for each in value.get("hash_ids", ()))
            arrival = Arrival(
                float(value["timestamp"]), int(value["input_length"]), int(value["output_length"]), blocks
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path}:{number}: {error!r}; expected "
                '{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}'
            ) from error
        yield _checked(path, number, arrival)


def _csv(path: str, lines: Iterator[str]) -> Iterator[Arrival]:
    reader = csv.DictReader(lines)
    names = {name.strip().lower(): name for name in reader.fieldnames or ()}
    columns = [next((names[each] for each in known if each in names), "") for known in (_TIME, _INPUT, _OUTPUT)]
    if not all(columns):
        raise UsageError(
            f"{path}:1: columns {', '.join(names) or 'none'}; expected a time ({', '.join(_TIME)}), "
            f"a prompt length ({', '.join(_INPUT)}) and an answer length ({', '.join(_OUTPUT)})"
        )
    time, prompt, answer = columns
    scale = 1.0 if time.strip().lower() == "timestamp_ms" else 1000.0
    for row in reader:
        number = reader.line_num
        try:
            arrival = Arrival(_seconds(row[time]) * scale, int(float(row[prompt])), int(float(row[answer])))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        yield _checked(path, number, arrival)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        head, dot, fraction = text.strip().partition(".")  # some traces have seven digits behind the dot
        moment = dt.datetime.fromisoformat(head)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
        return moment.timestamp() + (float(f"0.{fraction.rstrip('Z')}") if dot else 0.0)


def _checked(path: str, number: int, arrival: Arrival) -> Arrival:
    if arrival.at_ms < 0 or arrival.input_tokens < 1 or arrival.output_tokens < 1:
        raise UsageError(f"{path}:{number}: a time below 0 or a length below 1")
    return arrival
