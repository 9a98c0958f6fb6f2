"""Heads on the hosts: the scripts that leave and read them, and what is made of the lines."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from runbook_lib.runs.heads import _LEAVE, _READ, Head, HostHeads, _parsed

if TYPE_CHECKING:
    from pathlib import Path

LINE = "20260102T030405.678Z-1a2b 17 " + "ab" * 32 + " alice@ops"


def sh(script: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script, "heads", *argv], capture_output=True, text=True, check=False)


def test_lines_are_only_added(tmp_path: Path) -> None:
    work = tmp_path / "it's a $(work) folder"
    assert sh(_LEAVE, str(work), "demo", LINE).returncode == 66  # nothing is made where there is nothing yet
    assert sh(_READ, str(work), "demo").returncode == 66
    work.mkdir()
    assert sh(_READ, str(work), "demo").stdout == ""
    other = LINE.replace("17", "18")
    for line in (LINE, other):
        assert sh(_LEAVE, str(work), "demo", line).returncode == 0
    read = sh(_READ, str(work), "demo")
    assert read.stdout == f"{LINE}\n{other}\n"
    assert (work / "heads").stat().st_mode & 0o777 == 0o700
    assert (work / "heads" / "demo").stat().st_mode & 0o777 == 0o600
    assert [head.events for head in _parsed(read.stdout).heads] == [17, 18]


def test_a_line_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "heads" / "demo").mkdir(parents=True)
    assert sh(_LEAVE, str(tmp_path), "demo", LINE).returncode == 74


def test_what_is_no_head_is_not_passed_over() -> None:
    assert _parsed(f"{LINE}\n").heads == (Head("20260102T030405.678Z-1a2b", 17, "ab" * 32, "alice@ops"),)
    assert _parsed("") == HostHeads()
    for bad in ("x\n", LINE.replace(" 17 ", " -1 "), f"{LINE} more"):
        assert "is no head" in _parsed(f"{LINE}\n{bad}\n").error
