"""The downloader against the APIs of the hubs: lists, redirects to a CDN, tokens, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.stages import push
from runbook_lib.stages.push import bundle, source
from runbook_lib.twin.hub import Hub
from runbook_lib.twin.weights_repo import build_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORK = f"127.92.{os.getpid() % 250 + 1}"
TOKEN = "hf_PlantedTokenOfTheTest"
HUBS = ("huggingface", "modelscope", "modelers")
PUSH = Path(push.__file__).parent


class Running:
    """A hub in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.knobs: dict[str, Any] = {}
        self.loop = asyncio.new_event_loop()
        self.hub = Hub(folder, self.knobs, folder)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.hub.start(f"{NETWORK}.250", 0), self.loop).result(10)

    @property
    def url(self) -> str:
        """Where the hub is."""
        return f"http://{NETWORK}.250:{self.hub.port}"

    def spec(self, kind: str) -> str:
        """Return what hub_list.py is told."""
        return json.dumps({"kind": kind, "url": self.url, "repository": "owner/r1", "revision": "main", "proxy": ""})

    def close(self) -> None:
        """End the hub and its thread."""
        asyncio.run_coroutine_threadsafe(self.hub.close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a W8A8 repository of about 2 MB with a folder in it."""
    made = build_repository(tmp_path_factory.mktemp("hub") / "r1", weights_format="w8a8", weights_bytes=2_000_000)
    (made / "figures").mkdir()
    (made / "figures" / "note.txt").write_text("a small file in a folder\n", encoding="utf-8")
    return made


@pytest.fixture
def hub(repository: Path) -> Iterator[Running]:
    """Return a hub of the repository."""
    with contextlib.closing(Running(repository)) as running:
        yield running


def fetch(spec: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the downloader as the host does: one file."""
    tool = folder / "weights_tool.py"
    tool.parent.mkdir(parents=True, exist_ok=True)
    tool.write_text(bundle("weights_tool.py"), encoding="utf-8")
    argv = [sys.executable, str(tool), "fetch", "--spec", spec, "--directory", str(folder / "weights")]
    argv += ["--state", str(folder / "state.json"), "--bind", f"{NETWORK}.1", "--hosts", f"{NETWORK}.1", *more]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def ask(spec: str) -> dict[str, Any]:
    """Run hub_list.py as the probe does."""
    argv = [sys.executable, "-c", source("hub_list.py"), spec, "10"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def same(repository: Path, folder: Path) -> None:
    """Every file of the repository is there, with its bytes, and nothing else."""
    wanted = {path.relative_to(repository): path for path in repository.rglob("*") if path.is_file()}
    del wanted[Path("manifest.json")]
    found = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    assert set(found) == set(wanted)
    for name, path in found.items():
        assert path.read_bytes() == wanted[name].read_bytes()


@pytest.mark.parametrize("kind", HUBS)
def test_a_hub_is_listed_and_fetched_with_a_token(hub: Running, repository: Path, tmp_path: Path, kind: str) -> None:
    """Pages are followed; large files come by a redirect, to which the token does not go; the token's file is gone."""
    hub.knobs |= {"token": TOKEN, "page": 3}
    refused = ask(hub.spec(kind))
    assert (refused["status"], refused["files"]) == (401, [])
    secret = tmp_path / "source.token"
    secret.write_text(TOKEN + "\n", encoding="utf-8")
    done = fetch(hub.spec(kind), tmp_path, "--token", str(secret))
    assert done.returncode == 0, done.stdout + done.stderr
    same(repository, tmp_path / "weights")
    assert hub.hub.apis.tokens_at_cdn == 0
    assert not secret.exists()
    left = [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN in path.read_text("utf-8", "replace")]
    assert left == []


@pytest.mark.parametrize("kind", HUBS)
def test_cuts_and_wrong_bytes_and_a_busy_hub(hub: Running, repository: Path, tmp_path: Path, kind: str) -> None:
    """Each fault once; the files are right in the end, and a cut file goes on where it was cut."""
    hub.knobs |= {"cut_after_bytes": 100_000, "wrong_byte_at": 5000, "only": "quant_model_weight", "stall_s": 0.1}
    done = fetch(hub.spec(kind), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RETRY" in done.stdout
    same(repository, tmp_path / "weights")
    hub.knobs |= {"retry_after_s": 1}
    hub.knobs.pop("only")
    listed = fetch(hub.spec(kind), tmp_path)
    assert listed.returncode == 0
    assert "RETRY list: " in listed.stdout


def test_a_revision_that_is_gone_is_said_at_once(hub: Running, tmp_path: Path) -> None:
    """Waiting does not bring it back."""
    hub.knobs["gone"] = True
    done = fetch(hub.spec("huggingface"), tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "HTTP 404 RevisionNotFound" in done.stdout


def test_a_signed_address_that_expired_is_asked_for_again(hub: Running, tmp_path: Path) -> None:
    """Every try resolves anew; when no address ever holds, that is the end, and no wrong file is there."""
    hub.knobs["sign_s"] = -1.0
    done = fetch(hub.spec("modelscope"), tmp_path)
    assert done.returncode == 1
    assert "HTTP 403" in done.stdout
    assert not list((tmp_path / "weights").glob("*.safetensors"))


def test_an_error_page_with_status_200_is_no_file(hub: Running, tmp_path: Path) -> None:
    """One page costs one try."""
    hub.knobs["html"] = True
    done = fetch(hub.spec("modelers"), tmp_path)
    assert done.returncode == 0, done.stdout
    assert "bytes are offered, the list says" in done.stdout


def test_a_changed_file_starts_again(hub: Running, repository: Path, tmp_path: Path) -> None:
    """A part of another version is not glued to this one."""
    name = min(path.name for path in repository.glob("*.safetensors"))
    part = tmp_path / "weights" / f"{name}.incomplete"
    part.parent.mkdir()
    part.write_bytes(bytes(1000))
    (tmp_path / "state.json").write_text(json.dumps({"verified": {}, "etags": {name: '"of-another-version"'}}))
    done = fetch(hub.spec("huggingface"), tmp_path)
    assert done.returncode == 0, done.stdout
    same(repository, tmp_path / "weights")
    assert "RETRY" not in done.stdout, "If-Range made the server send the whole file at once"


def test_the_list_of_the_probe_has_the_config(hub: Running, repository: Path) -> None:
    """What must be changed in config.json is planned before the first byte."""
    for kind in HUBS:
        said = ask(hub.spec(kind))
        assert said["error"] == ""
        assert (
            json.loads(said["config"])["model_type"]
            == json.loads((repository / "config.json").read_text())["model_type"]
        )
        assert len(said["files"]) == 13
