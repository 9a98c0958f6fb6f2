"""Pairs of machine, system and tool that were found not to work, and which Python the download tools take."""

from __future__ import annotations

import re
from dataclasses import dataclass

MODELERS_PYTHON = (3, 10)  # field report: the Modelers tool refused Python 3.11 of the MindIE image


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A server model on a system release that a tool does not support. Patterns are searched, case ignored."""

    product: str
    system: str
    release: str
    words: str


UNSUPPORTED = (
    Unsupported(
        r"A900\s?T|Atlas 900",
        "openEuler",
        r"22\.03.*SP4",
        "ascend-deployer and MindCluster do not support this server on openEuler 22.03 LTS SP4 (field report): "
        "install driver, firmware and docker by hand",
    ),
)


def unsupported(product: str, system: str, release: str) -> str:
    """Return what is known not to work on a server model with a system release, "" when nothing is."""
    for row in UNSUPPORTED:
        if (
            re.search(row.product, product, re.IGNORECASE)
            and row.system.lower() == system.lower()
            and re.search(row.release, release, re.IGNORECASE)
        ):
            return row.words
    return ""


def download_pitfalls(python: tuple[int, ...] | None, *, lfs: bool) -> tuple[str, ...]:
    """Return what would go wrong with the hubs' own download tools on a host; the runbook's needs neither."""
    found = []
    if python is not None and python > MODELERS_PYTHON:
        found.append(f"Python {'.'.join(map(str, python))} is too new for the Modelers tool")
    if not lfs:
        found.append("git-lfs is missing, a git clone would bring pointer files")
    return tuple(found)
