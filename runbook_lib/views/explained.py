"""What the findings catalogue says about a code, in one language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend.catalogue import explain

if TYPE_CHECKING:
    from runbook_lib.views.style import Language


@dataclass(frozen=True, slots=True)
class Explained:
    """Title, why it matters, remedy and source of one finding code; "" where the catalogue says nothing."""

    title: str
    why: str = ""
    remedy: str = ""
    source: str = ""


def explained(code: str, language: Language) -> Explained:
    """Look a code up. A code without an entry is shown by its name: a view must not fail on a new finding."""
    try:
        entry = explain(code)
    except KeyError:
        return Explained(title=code)
    texts = (entry.title, entry.why, entry.remedy, entry.source)
    return Explained(*(text.zh if language == "zh" else text.en for text in texts))
