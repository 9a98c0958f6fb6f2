"""The deed of an image that is not loaded or has other names, and of a tar that is gone or names it otherwise."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import TwinError
from runbook_lib.twin.fault_base import At, Deed
from runbook_lib.twin.images import write_image_tar

if TYPE_CHECKING:
    from pathlib import Path


def _loaded(at: At) -> dict[str, Any]:
    images: dict[str, Any] = at.world.tool_state("docker", at.node.name).setdefault("images", {})
    return images


def _tar(at: At) -> Path:
    place = at.world.params.container.image_tar
    if place is None:
        raise TwinError("params name no container.image_tar")
    return at.node.path(place)


def image_deed(name: str, given: dict[str, Any]) -> Deed:
    """Return the deed of `image` in service_faults.yaml; a twin that has nothing loaded yet has its tar spoilt only."""

    def kept(at: At) -> Path:
        return at.world.root / "kept" / f"{name}.{at.node.name}.tar"

    async def do(at: At) -> None:
        images = _loaded(at)
        if not images and "tar" not in given:
            raise TwinError(f"{at.node.name} has no image yet, so it cannot be spoilt")
        at.kept["loaded"] = copy.deepcopy(images)
        _rename(images, at.world.params.container.image, given["loaded"])
        if "tar" in given:
            kept(at).parent.mkdir(exist_ok=True)
            shutil.move(_tar(at), kept(at))
            if given["tar"] != "gone":
                write_image_tar(_tar(at), at.world.params.container.image, given["tar"])

    async def undo(at: At) -> None:
        images = _loaded(at)
        images.clear()
        images.update(at.kept["loaded"])
        if "tar" in given:
            shutil.move(kept(at), _tar(at))

    def there(at: At) -> bool:
        image = at.world.params.container.image
        return "loaded" in at.kept and not any(image in one["tags"] for one in _loaded(at).values())

    return Deed(do, undo, there)


def _rename(images: dict[str, Any], image: str, names: list[str] | str) -> None:
    """Take a loaded image away ("gone"), or give it other names."""
    for ident in [each for each, one in images.items() if image in one["tags"]]:
        if names == "gone":
            del images[ident]
        else:
            images[ident]["tags"] = list(names)
