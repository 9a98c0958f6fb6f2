"""Programs that are pushed to hosts: standard library only, valid for Python 3.7."""

from __future__ import annotations

from importlib.resources import files


def source(name: str) -> str:
    """Return the text of a program in this folder."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
