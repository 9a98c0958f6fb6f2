"""Images of the emulated docker: load, list, inspect, remove; a registry is never reached."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from runbook_lib.twin.images import SHOWN_SIZE
from runbook_lib.twin.tools.docker_call import Docker, DockerError, format_of, split_format
from runbook_lib.twin.tools.docker_format import rows_text
from runbook_lib.twin.tools.docker_inspect import image_facts, inspected
from runbook_lib.twin.world import Reply

LOAD_S = 60.0  # emulated seconds to load the image


async def load(me: Docker, words: list[str]) -> Reply:
    """Answer `docker load`."""
    name = ""
    while words:
        word = words.pop(0)
        if word in {"-i", "--input"} and words:
            name = words.pop(0)
        elif word.startswith("--input="):
            name = word.partition("=")[2]
    if not name:
        raise DockerError("requested load from stdin, but stdin is empty")
    path = me.path(name)
    if not path.exists():
        raise DockerError(f"open {name}: no such file or directory")
    try:
        with tarfile.open(path) as tar:
            manifest = json.load(_member(tar, "manifest.json"))[0]
            config = _member(tar, manifest["Config"]).read()
            image = {
                "id": f"sha256:{hashlib.sha256(config).hexdigest()}",
                "tags": list(manifest["RepoTags"] or ()),
                "config": json.loads(config),
            }
            await me.world.sleep(LOAD_S)
            await asyncio.to_thread(_extract, tar, manifest["Layers"], me.image_folder(image) / "rootfs")
    except (tarfile.TarError, KeyError, IndexError, ValueError, EOFError):
        raise DockerError("Error processing tar file(exit status 1): archive/tar: invalid tar header") from None
    except OSError as error:
        raise DockerError(f"Error processing tar file(exit status 1): {error.strerror}") from None
    loaded = me.images.setdefault(image["id"], image | {"tags": []})
    for tag in image["tags"]:
        _name(me, loaded, tag)
    me.world.save()
    said = "".join(f"Loaded image: {tag}\n" for tag in image["tags"])
    return Reply(0, said or f"Loaded image ID: {image['id']}\n")


def _name(me: Docker, image: dict[str, Any], tag: str) -> None:
    """Give an image a name, and take it from the one that had it."""
    for other in me.images.values():
        other["tags"] = [each for each in other["tags"] if each != tag]
    image["tags"].append(tag)


async def tag_image(me: Docker, words: list[str]) -> Reply:
    """Answer `docker tag`."""
    if len(words) != 2:  # noqa: PLR2004 - which, and its name
        raise DockerError("\"docker tag\" requires exactly 2 arguments.\nSee 'docker tag --help'.")
    image = me.image(words[0])
    if image is None:
        raise DockerError(f"Error response from daemon: No such image: {words[0]}")
    _name(me, image, words[1] if ":" in words[1].rpartition("/")[2] else f"{words[1]}:latest")
    me.world.save()
    return Reply(0)


def _member(tar: tarfile.TarFile, name: str) -> Any:  # noqa: ANN401 - a binary file object
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file


def _extract(tar: tarfile.TarFile, layers: list[str], rootfs: Path) -> None:
    """Unpack beside the place and move there: a load that is killed leaves no half of an image."""
    if rootfs.exists():
        return
    rootfs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="load-", dir=rootfs.parent) as folder:
        made = Path(folder, "rootfs")
        made.mkdir()
        _unpack(tar, layers, made)
        if not rootfs.exists():  # another load of the same image may have been quicker
            made.rename(rootfs)


def _unpack(tar: tarfile.TarFile, layers: list[str], rootfs: Path) -> None:
    for name in layers:
        with tarfile.open(fileobj=_member(tar, name)) as layer:
            folders = []
            for entry in layer:
                layer.extract(entry, rootfs, set_attrs=not entry.isdir(), filter="tar")
                folders += [entry] if entry.isdir() else []
        # modes last; a plain user keeps the write bit, else nobody could take the twin's disks away again
        extra = 0 if os.getuid() == 0 else 0o200
        for entry in reversed(folders):
            (rootfs / entry.name).chmod(entry.mode | extra)


async def images(me: Docker, words: list[str]) -> Reply:
    """Answer `docker images`."""
    plain = [word for word in words if not word.startswith("-")]
    rows = []
    for image in me.images.values():
        for tag in image["tags"] or ["<none>:<none>"]:
            repository, _, label = tag.rpartition(":")
            if plain and "--format" not in words and plain[0] not in {tag, repository}:
                continue
            rows.append(
                {
                    "Repository": repository,
                    "Tag": label,
                    "ID": image["id"][7:19] if "--no-trunc" not in words else image["id"],
                    "CreatedSince": "2 weeks ago",
                    "CreatedAt": "2025-03-03 11:06:40 +0000 UTC",
                    "Size": f"{SHOWN_SIZE / 1e9:.1f}GB",
                    "Containers": "N/A",
                    "Digest": "<none>",
                }
            )
    if {"-q", "--quiet"} & set(words):
        return Reply(0, "".join(f"{row['ID']}\n" for row in rows))
    columns = {
        "REPOSITORY": "Repository",
        "TAG": "Tag",
        "IMAGE ID": "ID",
        "CREATED": "CreatedSince",
        "SIZE": "Size",
    }
    return Reply(0, rows_text(rows, columns, format_of(words)))


async def image_inspect(me: Docker, words: list[str]) -> Reply:
    """Answer `docker image inspect`."""
    form, names = split_format(words)
    found: list[dict[str, Any]] = []
    errors = ""
    for name in names:
        image = me.image(name)
        if image is None:
            errors += f"Error response from daemon: No such image: {name}\n"
        else:
            found.append(image_facts(image))
    return inspected(found, errors, form)


async def rmi(me: Docker, words: list[str]) -> Reply:
    """Answer `docker rmi`: one of several names goes, the image with the last."""
    out = ""
    for name in [word for word in words if not word.startswith("-")]:
        image = me.image(name)
        if image is None:
            raise DockerError(f"Error response from daemon: No such image: {name}")
        short, by_name = image["id"][7:19], name in image["tags"]
        if not by_name and len(image["tags"]) > 1:
            raise DockerError(
                f"Error response from daemon: conflict: unable to delete {short} (must be forced) - image is "
                "referenced in multiple repositories"
            )
        if by_name and len(image["tags"]) > 1:
            image["tags"].remove(name)
            out += f"Untagged: {name}\n"
            continue
        users = [record for record in me.runtime.containers(me.node).values() if record["image_id"] == image["id"]]
        if users:
            raise DockerError(
                f'Error response from daemon: conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {users[0]['id'][:12]} is using its referenced image {short}"
            )
        del me.images[image["id"]]
        out += "".join(f"Untagged: {tag}\n" for tag in image["tags"]) + f"Deleted: {image['id']}\n"
    me.world.save()
    return Reply(0, out)


async def pull(_me: Docker, words: list[str]) -> Reply:
    """Answer `docker pull`: there is no registry in reach."""
    raise DockerError(f"Error response from daemon: {no_registry(words[-1] if words else '')}")


def no_registry(image: str) -> str:
    """Say that the server is air-gapped: the name of the image's registry is not resolved."""
    first, slash, _ = image.partition("/")
    host = first if slash and "." in first else "registry"
    return f'Get "https://{host}/v2/": dial tcp: lookup {host}: Temporary failure in name resolution'
