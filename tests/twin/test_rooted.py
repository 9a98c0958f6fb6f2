"""No path of a node leads out of its root."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from runbook_lib.twin.rooted import resolve_in

if TYPE_CHECKING:
    from pathlib import Path


def test_links_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "absolute").symlink_to("/etc")
    (tmp_path / "climbing").symlink_to("../../../../etc/passwd")
    (tmp_path / "chain").symlink_to("absolute/./x/../y")
    assert resolve_in(tmp_path, "/absolute/passwd") == tmp_path / "etc/passwd"
    assert resolve_in(tmp_path, "/climbing") == tmp_path / "etc/passwd"
    assert resolve_in(tmp_path, "/chain") == tmp_path / "etc/y"
    assert resolve_in(tmp_path, "/../../etc") == tmp_path / "etc"
    assert resolve_in(tmp_path, "/absolute", follow_last=False) == tmp_path / "absolute"
    assert resolve_in(tmp_path, "/") == tmp_path


def test_a_circle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as caught:
        resolve_in(tmp_path, "/a")
    assert caught.value.errno == errno.ELOOP
