"""The image's tar: what it is seen to carry, how one host gives it to another, and how it is loaded and named."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.stages.push import bundle, source
from runbook_lib.twin.images import write_image_tar

if TYPE_CHECKING:
    from collections.abc import Callable

PUSH = Path(__file__).parents[2] / "runbook_lib/stages/push"
IMAGE = "mindie:2.0.T3.1-800I-A2-py311-openeuler24.03-lts"
OTHER = "registry.example:5000/ascend/mindie:2.0.T3.1-arm64"
HOSTS = ("127.92.1.21", "127.92.1.22")
BYTES = bytes(range(256)) * 4000

sys.path.append(str(PUSH))
look: Callable[[Path, str], dict[str, Any]] = importlib.import_module("image_tar").look


@pytest.mark.parametrize("names", [[IMAGE], [OTHER], [], [OTHER, IMAGE]])
def test_a_tar_says_what_it_carries(tmp_path: Path, names: list[str]) -> None:
    """Id and names, as docker load would print them; the whole file is not read."""
    tar = tmp_path / "mindie.tar"
    write_image_tar(tar, IMAGE, names)
    said = look(tar, str(tmp_path / "none"))
    (carried,) = said["images"]
    assert (said["size"], said["error"], carried["names"]) == (tar.stat().st_size, "", names)
    assert len(carried["id"]) == len("sha256:") + 64


def test_what_is_no_tar_is_said(tmp_path: Path) -> None:
    """A compressed tar is one whose names are not known; a cut one, or a web page, is none."""
    whole, packed, cut, page = (tmp_path / name for name in ("a.tar", "a.tar.gz", "cut.tar", "page.tar"))
    write_image_tar(whole, IMAGE)
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    cut.write_bytes(whole.read_bytes()[:5000])
    page.write_text("<html>not here</html>", encoding="utf-8")
    assert (look(packed, "")["images"], look(packed, "")["error"]) == (None, "")
    assert look(cut, "")["error"]
    assert "is no tar" in look(page, "")["error"]
    gone = look(tmp_path / "sub/none.tar", "")
    assert (gone["size"], gone["error"], gone["free"] > 0) == (None, "", True)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOSTS[0], 0))
        return int(one.getsockname()[1])


def _bring(folders: tuple[Path, ...], sha256: str = "") -> list[tuple[int, str]]:
    """Run the downloader as the plan of the stage does, the first host as the one that has the tar."""
    (tool := folders[0].parent / "tool.py").write_text(bundle("weights_tool.py"), encoding="utf-8")
    (token := folders[0].parent / "token").write_text("secret", encoding="utf-8")
    only = {"name": "mindie.tar"} | ({"sha256": sha256} if sha256 else {})
    port = str(_free_port())
    jobs = []
    for folder, address in zip(folders, HOSTS, strict=False):
        (own := folder / "token").write_text(token.read_text(encoding="utf-8"), encoding="utf-8")
        spec = json.dumps({"kind": "path", "path": str(folder), "only": only})
        argv = [sys.executable, str(tool), "fetch", "--spec", spec, "--directory", str(folder)]
        argv += ["--state", str(folder / "record/state.json"), "--bind", address, "--port", port]
        argv += ["--hosts", ",".join(HOSTS[: len(folders)]), "--owners", "0", "--exchange-token", str(own)]
        argv += ["--patience", "10"]
        jobs.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    ended = []
    for job in jobs:
        said, _ = job.communicate(timeout=40)
        ended.append((job.returncode, said))
    return ended


def test_one_host_gives_its_tar_to_another(tmp_path: Path) -> None:
    """Only that file goes; another of the same size is replaced; what an earlier try left is not sent again."""
    giver, taker = folders = (tmp_path / "giver", tmp_path / "taker")
    for folder in folders:
        folder.mkdir()
    (giver / "mindie.tar").write_bytes(BYTES)
    (giver / "other.tar").write_bytes(b"of somebody else")
    (taker / "mindie.tar").write_bytes(bytes(len(BYTES)))
    (taker / "mindie.tar.incomplete").write_bytes(BYTES[:700_000])
    assert [code for code, _ in _bring(folders)] == [0, 0]
    assert (taker / "mindie.tar").read_bytes() == BYTES
    assert {path.name for path in taker.iterdir()} == {"mindie.tar", "record"}
    assert look(taker / "mindie.tar", str(taker / "record/state.json"))["sha256"] == hashlib.sha256(BYTES).hexdigest()
    (taker / "mindie.tar").write_bytes(BYTES[1:])
    assert look(taker / "mindie.tar", str(taker / "record/state.json"))["sha256"] == ""


def test_a_tar_without_the_sum_of_the_params_is_given_to_nobody(tmp_path: Path) -> None:
    """The giving host reads its tar once, says so, and makes no copy of it."""
    (giver := tmp_path / "giver").mkdir()
    (giver / "mindie.tar").write_bytes(BYTES)
    ((code, said),) = _bring((giver,), sha256="c" * 64)
    assert code == 1
    assert f"ERROR {giver / 'mindie.tar'} has not the sum of the list" in said
    assert not list(giver.glob("*.incomplete"))


@pytest.mark.parametrize(
    ("says", "inspected", "tagged"),
    [
        (f"Loaded image: {IMAGE}", True, ""),
        (f"Loaded image: {OTHER}", False, f"tag {OTHER} {IMAGE}"),
        ("Loaded image ID: sha256:abcd", False, f"tag sha256:abcd {IMAGE}"),
    ],
)
def test_the_image_gets_its_name_when_the_tar_has_another(
    tmp_path: Path, says: str, tagged: str, *, inspected: bool
) -> None:
    """What docker load says is tagged; a tar with another sum is not loaded at all."""
    log, docker = tmp_path / "calls", tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$*" >>{log}\ncase $1 in load) echo "{says}";; image) exit {int(not inspected)};; esac\n',
        encoding="utf-8",
    )
    docker.chmod(0o755)
    (tar := tmp_path / "a.tar").write_bytes(BYTES)

    def load(sha256: str) -> int:
        argv = ["sh", "-c", source("image_load.sh"), "sh", str(tar), IMAGE, sha256]
        return subprocess.run(argv, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False).returncode

    assert load("c" * 64) == 1
    assert not log.exists()
    assert load(hashlib.sha256(BYTES).hexdigest()) == 0
    calls = log.read_text(encoding="utf-8").splitlines()
    assert calls == [f"load -i {tar}", f"image inspect {IMAGE}", *([tagged] if tagged else [])]
