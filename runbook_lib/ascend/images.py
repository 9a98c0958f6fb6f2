"""What is known about MindIE images, and which combinations are known not to work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.yaml_data import load
from runbook_lib.model import Verdict

if TYPE_CHECKING:
    from runbook_lib.ascend.mindie_defaults import Schema

BOTH_VARIABLES = ("RANKTABLEFILE", "RANK_TABLE_FILE")


@dataclass(frozen=True, slots=True)
class ImageNote:
    """Something to know about an image, with its source."""

    what: str
    source: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image version. None means that no source says it; `known` is False for a version not in our list."""

    tag: str
    version: str | None
    known: bool
    schema: Schema | None = None
    rank_table_variable: str | None = None
    expansion_aiv: bool | None = None
    model_type: str | None = None
    cann: str | None = None
    driver: str | None = None
    notes: tuple[ImageNote, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A key of ModelConfig that an image needs in words when several hosts carry one instance."""

    key: str
    why: str
    source: str


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """A combination that is known to fail, or not known at all."""

    verdict: Verdict
    what: str
    remedy: str
    source: str


@cache
def _row(version: str) -> dict[str, Any] | None:
    return next((row for row in load("images.yaml")["images"] if row["version"] == version), None)


def known_versions() -> tuple[str, ...]:
    """Return the image versions of our list."""
    return tuple(row["version"] for row in load("images.yaml")["images"])


def image_version(tag: str) -> str | None:
    """Return the version at the start of a tag, with or without a repository in front."""
    match = re.match(r"([0-9]+\.[0-9A-Za-z]+(?:\.[0-9A-Za-z]+)*)(?:-|$)", tag.rpartition(":")[2])
    return match.group(1) if match else None


def needed_model_keys(version: str | None) -> tuple[ModelKey, ...]:
    """Return the keys of ModelConfig without which several hosts do not start."""
    row = _row(version) if version else None
    return tuple(ModelKey(**each) for each in (row or {}).get("model_keys", ()))


def image_facts(tag: str) -> ImageFacts:
    """Return what is known about an image tag; never guesses from a similar version."""
    version = image_version(tag)
    row = _row(version) if version else None
    if row is None:
        return ImageFacts(tag=tag, version=version, known=False)
    return ImageFacts(
        tag=tag,
        version=version,
        known=True,
        schema=row["schema"],
        rank_table_variable=row["rank_table_variable"],
        expansion_aiv=row["expansion_aiv"],
        model_type=row["model_type"],
        cann=row["cann"],
        driver=row["driver"],
        notes=tuple(ImageNote(note["what"], note["source"]) for note in row["notes"]),
    )


def image_problems(tag: str, hosts: int, weights_format: str) -> list[ImageProblem]:
    """Return what is known to go wrong with an image on so many hosts with this weight format (w8a8, bf16, fp8).

    An image that we do not know is a problem of verdict unknown.
    """
    rows = list(load("images.yaml")["any_image"])
    version = image_version(tag)
    row = _row(version) if version else None
    found: list[ImageProblem] = []
    if row is None:
        found.append(
            ImageProblem(
                Verdict.UNKNOWN,
                f"nothing is known about image {tag}",
                f"Use one of {', '.join(known_versions())}, or rehearse this one before you rely on it.",
                "this project's list of images",
            )
        )
    else:
        rows += row["bad"]
    found.extend(
        ImageProblem(Verdict(bad["verdict"]), bad["what"], bad["remedy"], bad["source"])
        for bad in rows
        if hosts >= bad["min_hosts"] and (not bad["formats"] or weights_format.lower() in bad["formats"])
    )
    return found
