"""Docker's --format: `json`, `{{json .A.B}}` and `{{.A.B}}`, for one object or a list of rows."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from runbook_lib.twin.container_options import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FIELD = re.compile(r"\{\{\s*(json\s+)?\.([\w.]*)\s*\}\}")


def template(form: str, facts: Mapping[str, Any]) -> str:
    """Return `facts` as the format says. Raises UsageError for what this emulation does not know."""
    if form == "json":
        return json.dumps(facts)
    if "{{" in _FIELD.sub("", form):
        raise UsageError(f"template parsing error: template: :1: not known to the emulated docker: {form}")

    def value(match: re.Match[str]) -> str:
        found: Any = facts
        for key in filter(None, match[2].split(".")):
            if not isinstance(found, dict) or key not in found:
                raise UsageError(
                    f'template parsing error: template: :1:2: executing "" at <.{match[2]}>: no entry {key}'
                )
            found = found[key]
        if match[1]:
            return json.dumps(found)
        return str(found).lower() if isinstance(found, bool) else "<no value>" if found is None else str(found)

    return _FIELD.sub(value, form.replace("\\t", "\t").replace("\\n", "\n"))


def rows_text(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], form: str) -> str:
    """Return a table with these columns (heading -> key), or one line for each row by `form`."""
    if form.startswith("table "):
        keys = re.findall(r"\.(\w+)", form)
        columns = {heading: key for key in keys for heading in [next((h for h, k in columns.items() if k == key), key)]}
    elif form:
        return "".join(template(form, row) + "\n" for row in rows)
    table = [list(columns), *([row[key] for key in columns.values()] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    return "".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in table
    )
