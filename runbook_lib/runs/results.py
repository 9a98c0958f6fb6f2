"""What a stage left in the run's folder, read back; light enough for every command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import RecordError
from runbook_lib.model import to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runbook_lib.model import Change
    from runbook_lib.runs.folder import RunFolder

NOT_REACHED = "not reached"


def is_closed(folder: RunFolder) -> bool:
    """Whether the run has a manifest: from then on nothing in its folder changes."""
    return (folder.path / "manifest.json").is_file()


def read_result(folder: RunFolder, stage: str) -> dict[str, Any] | None:
    """Return a stage's recorded result, None when there is none. Raises RecordError when it cannot be read."""
    path = folder.stage_json(stage)
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    return result


def change_rows(changes: Sequence[Change], states: Sequence[str]) -> list[dict[str, Any]]:
    """Return the `changes[]` of docs/json.md: what was to be changed, and what became of it."""
    return [
        {
            "subject": to_json(change.subject),
            "summary": change.summary,
            "before": change.before,
            "after": change.after,
            "state": state,
        }
        for change, state in zip(changes, states, strict=True)
    ]
