"""The floors of design section 4 hold, and every room stands on one of them."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_contracts_are_kept() -> None:
    """import-linter finds no import that goes up."""
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kept, 0 broken" in done.stdout


def test_every_room_stands_on_a_floor() -> None:
    """A new room without a floor would be bound by no contract; the twin has a contract of its own."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(each["layers"] for each in settings["contracts"] if each["type"] == "layers")
    floors = {room.strip() for layer in layers for room in layer.split("|")}
    library = ROOT / "runbook_lib"
    rooms = {
        f"runbook_lib.{path.stem}"
        for path in library.iterdir()
        if (path.is_dir() and any(path.glob("*.py")))
        or (path.suffix == ".py" and path.stem not in {"__init__", "__main__"})
    }

    assert rooms - floors == {"runbook_lib.twin"}
    assert floors - rooms == set()
