"""Faults of container, service files, weights and daemons, as data: service_faults.yaml, whose head explains the keys.

A fault is a shell script that runs in the node and spoils files, which are kept and put back; or another value of a
container's record, as if somebody had made it again in another way; or another state of image and tar; or a signal to a
daemon.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from runbook_lib.errors import TwinError
from runbook_lib.twin.container_runtime import DOCKER_ROOT, runtime_of
from runbook_lib.twin.fault_base import At, Deed, run_in_node
from runbook_lib.twin.image_faults import image_deed

FILE = Path(__file__).with_name("service_faults.yaml")
# set FILE DOTTED.PATH JSON: set a value; drop FILE DOTTED.PATH: take a key away. Lists count from 0.
_HELPERS = """set -e
edit() { "$PYTHON" -c 'import json, sys
file, path, *value = sys.argv[1:]
with open(file) as text: tree = json.load(text)
node, *keys = tree, *path.split(".")
for key in keys[:-1]: node = node[int(key) if isinstance(node, list) else key]
last = int(keys[-1]) if isinstance(node, list) else keys[-1]
if value: node[last] = json.loads(value[0])
else: del node[last]
with open(file, "w") as text: json.dump(tree, text, indent=4)' "$@"; }
"""
DATA: dict[str, dict[str, Any]] = YAML(typ="safe").load(FILE.read_text(encoding="utf-8"))


def _variables(at: At) -> dict[str, str]:
    params = at.world.params
    root = str(at.node.files) if at.node.level == "L0" else ""
    record = runtime_of(at.world).find(at.node, params.container.name)
    weights = at.node.path(params.model.weights.directory)
    return {
        "ROOTFS": f"{root}{DOCKER_ROOT}/containers/{record['id'] if record else 'none'}/rootfs",
        "SHARD": at.kept.setdefault(
            "shard", min((each.name for each in weights.glob("*.safetensors")), default="none")
        ),
        "SERVICE": f"{root}{params.paths.work}/service",
        "WEIGHTS": f"{root}{params.model.weights.directory}",
        "NAME": params.container.name,
        "PYTHON": at.node.python,
        "HOME": f"{root}/root",
    }


async def _shell(at: At, script: str) -> None:
    await run_in_node(at.node, _HELPERS + script, env=_variables(at))


def _place(at: At, name: str) -> Path:
    for key, value in _variables(at).items():
        name = name.replace(f"${key}", value)
    folder, _, file = name.rpartition("/")  # a link itself is meant, not what it leads to
    return at.node.path(folder) / file


def _print(path: Path) -> str:
    """Return what tells a file in one state from the same in another."""
    if not path.exists() and not path.is_symlink():
        return "missing"
    status = path.lstat()
    content = b"" if path.is_symlink() else path.read_bytes()
    return f"{status.st_mode:o} {status.st_uid} {hashlib.sha256(content).hexdigest()}"


def _edited(name: str, given: dict[str, Any]) -> Deed:
    """Return the deed of a script; the files that it touches are kept beside the twin and come back as they were."""

    async def do(at: At) -> None:
        for number, each in enumerate(given["touches"]):
            place, kept = _place(at, each), at.world.root / "kept" / f"{name}.{at.node.name}.{number}"
            if not place.exists():
                raise TwinError(f"{at.node.name} has no {each} yet, so it cannot be spoilt")
            kept.parent.mkdir(exist_ok=True)
            shutil.copy2(place, kept)
        await _shell(at, given["shell"])
        at.kept["after"] = [_print(_place(at, each)) for each in given["touches"]]

    async def undo(at: At) -> None:
        for number, each in enumerate(given["touches"]):
            place, kept = _place(at, each), at.world.root / "kept" / f"{name}.{at.node.name}.{number}"
            if place.is_symlink():
                place.unlink()
            shutil.copy2(kept, place)
        if "mend" in given:
            await _shell(at, given["mend"])

    def there(at: At) -> bool:
        return [_print(_place(at, each)) for each in given["touches"]] == at.kept.get("after")

    return Deed(do, undo, there)


def _remade(given: dict[str, Any]) -> Deed:
    """Return the deed of a container that somebody made again with other options."""

    async def do(at: At) -> None:
        record = _record(at)
        at.kept["id"] = record["id"]
        at.kept["before"] = {key: record[key] for key in given}
        at.kept["running"] = record["status"] == "running"
        changed = {
            key: [each for each in record[key] if not any(word in each for word in value["without"])]
            if isinstance(value, dict)
            else value
            for key, value in given.items()
        }
        await _with(at, record, changed, run=given.get("status") != "exited")

    async def undo(at: At) -> None:
        record = runtime_of(at.world).find(at.node, at.world.params.container.name)
        if record is not None and record["id"] == at.kept["id"]:
            await _with(at, record, at.kept["before"], run=at.kept["running"])

    def there(at: At) -> bool:
        record = runtime_of(at.world).find(at.node, at.world.params.container.name)
        if record is None or record["id"] != at.kept.get("id"):
            return False
        return any(record[key] != value for key, value in at.kept["before"].items())

    return Deed(do, undo, there)


def _record(at: At) -> dict[str, Any]:
    record = runtime_of(at.world).find(at.node, at.world.params.container.name)
    if record is None:
        raise TwinError(f"{at.node.name} has no container {at.world.params.container.name} yet")
    return record


async def _with(at: At, record: dict[str, Any], values: dict[str, Any], *, run: bool) -> None:
    runtime = runtime_of(at.world)
    await runtime.stop(at.node, record, 0)
    record.update({key: value for key, value in values.items() if key != "status"})
    if run and (problem := await runtime.start(at.node, record)):
        raise TwinError(f"{at.node.name}: {problem}")


def _signalled(given: dict[str, Any]) -> Deed:
    """Return the deed of a signal to the daemon of a host; it is over when that process is gone or goes on."""

    async def send(at: At, number: str) -> None:
        script = 'read -r pid _ < "$1"; kill "$2" "$pid"'
        pid_file = f"{at.world.params.paths.work}/service/daemon.pid"
        await _shell(at, f"docker exec \"$NAME\" bash -c '{script}' bash {pid_file} {number}")

    async def do(at: At) -> None:
        await send(at, f"-{given['signal']}")
        at.kept["on"] = True

    async def undo(at: At) -> None:
        at.kept["on"] = False
        if given["signal"] == "STOP":
            await send(at, "-CONT")
            runtime_of(at.world).resume()

    return Deed(do, undo, lambda at: bool(at.kept.get("on")))


def _deed(name: str, given: dict[str, Any]) -> Deed:
    if "container" in given:
        return _remade(given["container"])
    if "image" in given:
        return image_deed(name, given["image"])
    return _signalled(given) if "signal" in given else _edited(name, given)


SERVICE_DEEDS: dict[str, Deed] = {name: _deed(name, given) for name, given in DATA.items()}
