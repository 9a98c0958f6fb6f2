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


def unsupported(product: str, system: str, release: str) -> str | None:
    """Return what is known not to work on a server model with a system release, "" when nothing is.

    None: it cannot be told, since a product or release of "" was not read.
    """
    untold = False
    for row in UNSUPPORTED:
        pairs = ((row.product, product), (row.release, release))
        if row.system.lower() == system.lower() and all(
            not text or re.search(pattern, text, re.IGNORECASE) for pattern, text in pairs
        ):
            if product and release:
                return row.words
            untold = True
    return None if untold else ""


def download_pitfalls(python: tuple[int, ...] | None, *, lfs: bool) -> tuple[str, ...]:
    """Return what would go wrong with the hubs' own download tools on a host; the runbook's needs neither."""
    found = []
    if python is not None and python > MODELERS_PYTHON:
        found.append(f"Python {'.'.join(map(str, python))} is too new for the Modelers tool")
    if not lfs:
        found.append("git-lfs is missing, a git clone would bring pointer files")
    return tuple(found)
