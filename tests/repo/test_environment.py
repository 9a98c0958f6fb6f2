"""environment.yml is the conda view of pyproject.toml: the same names with the same bounds."""

import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, Any]:
    """Return environment.yml."""
    read: dict[str, Any] = YAML(typ="safe").load(ROOT / "environment.yml")
    return read


def project() -> dict[str, Any]:
    """Return the project table of pyproject.toml."""
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return read


def parsed(lines: list[str]) -> dict[str, set[str]]:
    """Return name and bounds of each requirement."""
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): {str(bound) for bound in each.specifier} for each in requirements}


def test_names_and_bounds() -> None:
    """Every dependency of the project is named with the same bounds, and nothing else is."""
    entries = environment()["dependencies"]
    by_pip = next(each["pip"] for each in entries if isinstance(each, dict))
    conda = [each for each in entries if isinstance(each, str) and each != "pip" and not each.startswith("python ")]
    wanted = parsed([*project()["dependencies"], *project()["optional-dependencies"]["dev"]])

    assert parsed([*conda, *(line for line in by_pip if line != "-e .")]) == wanted


def test_python() -> None:
    """The bounds of Python are those of the project."""
    python = next(each for each in environment()["dependencies"] if str(each).startswith("python "))

    assert Requirement(python).specifier == Requirement(f"python{project()['requires-python']}").specifier


def test_project_itself() -> None:
    """The project itself is installed from this folder, under its own name."""
    by_pip = next(each["pip"] for each in environment()["dependencies"] if isinstance(each, dict))

    assert "-e ." in by_pip
    assert environment()["name"] == project()["name"]
