"""How often a link changed lately, by the card's own clock, which may be years off but runs on."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runbook_lib.ascend.hccn_detail import LinkStat
    from runbook_lib.model import Capture

_FORM = "%a %b %d %H:%M:%S %Y"


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(" ".join(text.split()), _FORM)  # noqa: DTZ007 - the card names no time zone
    except ValueError:
        return None


def recent_changes(capture: Capture, stat: LinkStat, window_s: float) -> tuple[float, ...] | None:
    """Return the ages in s of the records of `-link_stat -g`, by the card's `current time`, that are in the window.

    None if a time cannot be read.
    """
    found = re.search(r"current time[ \t]*:[ \t]*(\S[^\r\n]*)", capture.stdout)
    now = _moment(found.group(1)) if found else None
    moments = [_moment(record.at) for record in stat.records]
    if now is None or None in moments:
        return None
    ages = [(now - each).total_seconds() for each in moments if each is not None]
    return tuple(age for age in ages if age <= window_s)
