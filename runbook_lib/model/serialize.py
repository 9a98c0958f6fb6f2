"""The JSON form of our data."""

from __future__ import annotations

import json
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:  # noqa: ANN401 - anything made of dataclasses, models, mappings and sequences
    """Turn dataclasses, models, enums and paths into plain JSON values."""
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - 10 MB that a load generator must not carry

    return to_jsonable_python(value)


def canonical_json(value: Any) -> str:  # noqa: ANN401 - see to_json
    """Return one fixed spelling of a value: sorted keys, no blanks, non-ASCII kept. Digests are taken of it."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(kind: type[T], value: Any) -> T:  # noqa: ANN401 - a JSON value
    """Read one of our dataclasses back from its JSON form. Raises pydantic.ValidationError when it does not fit."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - see to_json

    return TypeAdapter(kind).validate_python(value)
