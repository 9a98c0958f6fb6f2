"""A project folder of its own with one twin, driven through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Home:
    """A project folder: params copied with other addresses, notebooks linked, outputs of its own."""

    path: Path
    params: str

    @property
    def env(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if key not in {"JPY_SESSION_NAME", "MPLBACKEND"}}
        return clean | {"RUNBOOK_HOME": str(self.path), "PYTHONPATH": str(PROJECT)}

    def runbook(self, *argv: str, timeout: float = 240) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "runbook_lib", *argv],
            cwd=self.path,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def ssh(self, host: int, command: str) -> str:
        twin = self.path / "outputs" / Path(self.params).stem / ".twin"
        address = f"{self.network}.{host}"
        argv = ["ssh", "-p", "2222", "-i", str(twin / "id_ed25519"), "-o", f"UserKnownHostsFile={twin / 'known_hosts'}"]
        argv += ["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", f"root@{address}", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    @property
    def network(self) -> str:
        text = (self.path / self.params).read_text(encoding="utf-8")
        return text.rpartition("network: ")[2].split()[0]


def make_home(path: Path, name: str, network: str, source: str = "twin-2x8-direct", level: str = "auto") -> Home:
    (path / "params").mkdir(parents=True)
    (path / "outputs").mkdir()
    (path / "notebooks").symlink_to(PROJECT / "notebooks")
    text = (PROJECT / "params" / f"{source}.yaml").read_text(encoding="utf-8")
    old = text.rpartition("network: ")[2].split()[0]
    text = text.replace(source, name).replace(old, network) + f"  level: {level}\n"
    (path / "params" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return Home(path, f"params/{name}.yaml")


def worker_number() -> int:
    """Return a number of its own for each pytest worker: addresses must not clash."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name.removeprefix("gw")) if name.removeprefix("gw").isdigit() else 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = make_home(tmp_path_factory.mktemp("home"), "e2e", f"127.92.{worker_number()}")
    try:
        yield made
    finally:
        made.runbook("twin", "down", made.params)
