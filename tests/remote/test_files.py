"""Uploads: all or nothing, with owner and mode."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import CommandFailed, UsageError
from runbook_lib.model import Upload
from runbook_lib.remote.run import run_script

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.remote import Host

TEXT = "first\n中文 'quoted' $HOME\nlast without newline"


def test_content_and_mode(host: Host, tmp_path: Path) -> None:
    """Byte for byte, and nothing is left beside it."""
    path = tmp_path / "it's a file"
    host.upload(Upload(str(path), TEXT, mode=0o640))
    assert path.read_text() == TEXT
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208 - hidden files count too
    host.upload(Upload(str(path), "", mode=0o600))
    assert path.read_text() == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replacing_is_atomic(host: Host, tmp_path: Path) -> None:
    """Who has the old file open keeps it whole: the name moves to a new file."""
    path = tmp_path / "conf"
    path.write_text("old")
    with path.open() as old:
        host.upload(Upload(str(path), "new"))
        assert old.read() == "old"
    assert path.read_text() == "new"


def test_link_stays_a_link(host: Host, tmp_path: Path) -> None:
    """What it points to is written."""
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    host.upload(Upload(str(tmp_path / "link"), "new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_owner(host: Host, tmp_path: Path) -> None:
    """Given to another user when we may; an unknown one changes nothing."""
    path = tmp_path / "owned"
    path.write_text("old")
    with pytest.raises(CommandFailed, match="no-such-user"):
        host.upload(Upload(str(path), "new", owner="no-such-user:root"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["owned"]  # noqa: PTH208 - hidden files count too
    if os.geteuid() == 0:
        host.upload(Upload(str(path), "new", owner="1:2"))
        assert (path.stat().st_uid, path.stat().st_gid) == (1, 2)


def test_missing_directory(host: Host, tmp_path: Path) -> None:
    """It is a planned change of its own, so it is not made in passing."""
    with pytest.raises(CommandFailed, match=r"hostA: .*missing does not exist"):
        host.upload(Upload(str(tmp_path / "missing" / "file"), "x"))
    with pytest.raises(CommandFailed, match="is a directory"):
        host.upload(Upload(str(tmp_path), "x"))
    assert list(tmp_path.iterdir()) == []


def test_damaged_content_is_not_put_in_place(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is compared on the host."""
    path = tmp_path / "file"
    path.write_text("old")

    def damaged(*arguments: Any, stdin: bytes) -> Any:
        return run_script(*arguments, stdin=stdin[:-1])

    monkeypatch.setattr("runbook_lib.remote.files.run_script", damaged)
    with pytest.raises(CommandFailed, match="another sha256"):
        host.upload(Upload(str(path), "new"))
    assert path.read_text() == "old"


def test_malformed_uploads(host: Host) -> None:
    """Refused before the host is touched."""
    good = Upload("/tmp/x", "x")
    for bad in (replace(good, path="tmp/x"), replace(good, path="/tmp/"), replace(good, owner="-R root")):
        with pytest.raises(UsageError):
            host.upload(bad)


def test_read_file(host: Host, tmp_path: Path) -> None:
    """Bytes come back; too large and missing are errors, not short answers."""
    data = os.urandom(5000)
    (tmp_path / "-data").write_bytes(data)
    assert host.read_file(str(tmp_path / "-data"), max_bytes=5000) == data
    with pytest.raises(CommandFailed, match="larger than the 4999 bytes"):
        host.read_file(str(tmp_path / "-data"), max_bytes=4999)
    with pytest.raises(CommandFailed, match="No such file"):
        host.read_file(str(tmp_path / "missing"))
