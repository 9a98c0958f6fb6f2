"""The table of known failures: what a log line means, how to check it and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from runbook_lib.ascend.catalogue import Words
from runbook_lib.ascend.yaml_data import load


@dataclass(frozen=True, slots=True)
class Signature:
    """One known failure.

    regex: searched in one line or in a whole text. followup: the line reports an end, not a cause; look
    further up. client: a request was wrong, not the service. sample: a line as the tool prints it. source: where we
    know it from.
    """

    id: str
    regex: re.Pattern[str]
    cause: Words
    check: Words
    remedy: Words
    source: str
    sample: str
    followup: bool = False
    client: bool = False


@cache
def load_signatures() -> tuple[Signature, ...]:
    """Return the table in its own order: special lines before general ones."""
    return tuple(
        Signature(
            id=row["id"],
            regex=re.compile(row["regex"], re.IGNORECASE),
            cause=Words(**row["cause"]),
            check=Words(**row["check"]),
            remedy=Words(**row["remedy"]),
            source=row["source"],
            sample=row["sample"],
            followup=row.get("followup", False),
            client=row.get("client", False),
        )
        for row in load("signatures.yaml")["signatures"]
    )


def match(text: str) -> list[Signature]:
    """Return every known failure whose signature occurs in a text, causes before follow-ups."""
    hits = [signature for signature in load_signatures() if signature.regex.search(text)]
    return sorted(hits, key=lambda signature: signature.followup)
