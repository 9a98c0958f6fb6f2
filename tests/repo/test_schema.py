"""The params files that we ship hold, and the schema for editors is the one of the models."""

import json
from pathlib import Path

import pytest

from runbook_lib.params import load_params, params_schema

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "params"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_schema_is_current() -> None:
    """params/schema.json is what the models say; next: runbook params schema > params/schema.json."""
    assert json.loads((FOLDER / "schema.json").read_text(encoding="utf-8")) == json.loads(json.dumps(params_schema()))


def test_files() -> None:
    """The files that README and the commands name are there."""
    names = {path.stem for path in FILES}

    assert {
        "demo",
        "twin-2x8-direct",
        "twin-4x8-switch",
        "example-2x8-direct",
        "example-2x8-switch",
        "example-4x8-switch",
    } <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_loads(path: Path) -> None:
    """Every file holds, is named after its cluster (commands say params/NAME.yaml), and names the schema."""
    params = load_params(str(path))

    assert params.cluster.name == path.stem
    assert (params.twin is None) == path.stem.startswith("example-")
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")


def test_twins_are_apart() -> None:
    """Each twin has addresses of its own: a demo disturbs no rehearsal."""
    networks = [params.twin.network for path in FILES if (params := load_params(str(path))).twin is not None]

    assert len(networks) == len(set(networks))
