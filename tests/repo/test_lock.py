"""requirements.lock: every package with hashes, and no word about where somebody got it from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
PLACE = re.compile(r"://|/|\\[^\n]|\s@\s|^\s*-[^-]|--(?!hash=)", re.MULTILINE)


def entries(text: str) -> list[tuple[str, int]]:
    """Return each requirement and the number of its hashes."""
    joined = re.sub(r"\\\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(line.partition("--hash")[0].strip(), len(HASH.findall(line))) for line in lines]


def places(text: str) -> list[str]:
    """Return the lines that name an index, a host, a path, or an option of the installer."""
    return [line for line in text.splitlines() if PLACE.search(line)]


def test_pins_and_hashes() -> None:
    """Every requirement is pinned and has a hash."""
    found = entries(LOCK.read_text(encoding="utf-8"))

    assert len(found) > 100
    assert [line for line, hashes in found if hashes == 0 or "==" not in line] == []


def test_no_place() -> None:
    """No index, no host and no path is named."""
    assert places(LOCK.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.example/simple",
        "-i index.example",
        "--find-links wheels",
        "a @ file:///wheels/a.whl",
        "    # from /wheels/a.whl",
        "a==1.0 ; extra == 'b' --trusted-host index.example",
    ],
)
def test_place_is_noticed(line: str) -> None:
    """A line that names a place would be noticed."""
    assert places(f"b==2.0 \\\n    --hash=sha256:{'0' * 64}\n{line}\n") == [line]


def test_missing_hash_is_noticed() -> None:
    """A missing hash would be noticed."""
    assert entries(f"a==1.0 \\\n    --hash=sha256:{'0' * 64}\n    # via b\nb==2.0\n") == [("a==1.0", 1), ("b==2.0", 0)]


def test_fits_pyproject() -> None:
    """The lock holds a fitting version of every dependency, and of what builds the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
        *project["build-system"]["requires"],
    ]
    locked: dict[str, list[str]] = {}
    for line, _ in entries(LOCK.read_text(encoding="utf-8")):
        pinned = Requirement(line)
        locked.setdefault(canonicalize_name(pinned.name), []).append(str(pinned.specifier).removeprefix("=="))

    for requirement in map(Requirement, wanted):
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in requirements.lock; next: make lock"
        misfits = [version for version in versions if not requirement.specifier.contains(version)]
        assert misfits == [], f"{requirement} does not allow {misfits}; next: make lock"
