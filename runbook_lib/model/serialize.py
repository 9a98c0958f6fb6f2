"""The JSON form of our data."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import to_jsonable_python


def to_json(value: Any) -> Any:  # noqa: ANN401 - anything made of dataclasses, models, mappings and sequences
    """Turn dataclasses, models, enums and paths into plain JSON values."""
    return to_jsonable_python(value)


def canonical_json(value: Any) -> str:  # noqa: ANN401 - see to_json
    """Return one fixed spelling of a value: sorted keys, no blanks, non-ASCII kept. Digests are taken of it."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
