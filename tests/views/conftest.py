"""A catalogue of our own, so that these tests do not depend on its wording."""

from __future__ import annotations

import pytest

from runbook_lib.ascend.catalogue import Entry, Words
from runbook_lib.views import explained

_ENTRY = Entry(
    code="NET-MTU",
    title=Words("The MTU is wrong", "MTU 不正确"),
    why=Words("Frames are dropped.", "丢帧。"),
    remedy=Words("Set it to 4096.", "设置为 4096。"),
    source=Words("manual 4.2", "手册 4.2"),
)


@pytest.fixture(autouse=True)
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know one code."""
    monkeypatch.setattr(explained, "explain", {"NET-MTU": _ENTRY}.__getitem__)
