"""Where the image comes from on each host: another name of what is loaded, the tar that lies there, or another host's.

A tar that lies on some hosts only goes from host to host, see image_plan.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.ascend.images import image_version
from runbook_lib.stages.container.wanted import has_image
from runbook_lib.stages.weights.room import MARGIN

if TYPE_CHECKING:
    from runbook_lib.params import Params
    from runbook_lib.stages.container.facts import Carried, ContainerFacts, Tar


def needing(facts: ContainerFacts, params: Params) -> list[str]:
    """Return the hosts that must load the image: it is not there, under no name."""
    return [
        name
        for name, seen in facts.hosts.items()
        if seen.images.value is not None and not has_image(params, seen) and not loaded_as(facts, params, name)
    ]


def loaded_as(facts: ContainerFacts, params: Params, host: str) -> str:
    """Return the id under which a host has the image with another name or none, "" when it has it not.

    It is the same image by its id, which a tar or another host says; or by repository and tag, behind another registry.
    """
    rows = facts.hosts[host].images.value or ()
    asked = params.container.image
    ids = {row.image_id for each in facts.hosts.values() for row in each.images.value or () if row.reference == asked}
    held = carried(facts, params)
    ids |= {held.image_id} if held is not None and not other_version(params, held) else set()
    same = [row.image_id for row in rows if row.image_id in ids]
    alike = {row.image_id for row in rows if row.reference.rpartition("/")[2] == asked.rpartition("/")[2]}
    return same[0] if same else alike.pop() if len(alike) == 1 else ""


def source_host(facts: ContainerFacts, params: Params) -> str:
    """Return the host whose tar all others shall have; "" when there is none, or nobody can say which is right.

    With the sum in params that is a host which has it recorded, else the one with the most: a cut copy is less.
    """
    wanted = params.container.image_sha256
    tars = {name: tar for name, tar in _tars(facts).items() if not (wanted and tar.sha256 not in {wanted, ""})}
    if not wanted and len({tar.size for tar in tars.values()}) > 1:
        return ""
    best = max(((bool(tar.sha256), tar.size or 0) for tar in tars.values()), default=None)
    return next((name for name, tar in tars.items() if (bool(tar.sha256), tar.size or 0) == best), "")


def _tars(facts: ContainerFacts) -> dict[str, Tar]:
    """Return the tars that are there, and are tars."""
    return {
        name: seen.tar
        for name, seen in facts.hosts.items()
        if seen.tar is not None and seen.tar.size is not None and not seen.tar.error
    }


def tar_of(facts: ContainerFacts, params: Params) -> Tar | None:
    """Return the tar that all hosts shall have."""
    return _tars(facts).get(source_host(facts, params))


def carried(facts: ContainerFacts, params: Params) -> Carried | None:
    """Return the image in the tar, as its own list says it; None when it holds several, or could not be read."""
    tar = tar_of(facts, params)
    images = (tar.images if tar is not None else None) or ()
    named = [each for each in images if params.container.image in each.names]
    return named[0] if named else images[0] if len(images) == 1 else None


def other_version(params: Params, held: Carried) -> str:
    """Return a name in the tar that is of another version than the params' image; to rename that would be a lie."""
    wanted = image_version(params.container.image)
    if params.container.image in held.names:
        return ""
    return next((name for name in held.names if image_version(name) not in {wanted, None}), "")


def lacks_tar(facts: ContainerFacts, params: Params, host: str) -> bool:
    """Whether a host has not the tar that the source has."""
    tar, right = facts.hosts[host].tar, tar_of(facts, params)
    if tar is None or right is None or host == source_host(facts, params):
        return False
    return tar.size != right.size or bool(tar.error) or len({tar.sha256, right.sha256} - {""}) > 1


def obstacle(facts: ContainerFacts, params: Params, host: str) -> str:
    """Say why a host that needs the image cannot get it from a tar; "" when it can."""
    place, tar = facts.paths[host].image_tar, facts.hosts[host].tar
    if not place:
        return "params name no container.image_tar"
    if tar is None:
        return f"{place} could not be looked at"
    if tar_of(facts, params) is None:
        return _no_source(facts, params, place, tar)
    return _wrong_content(facts, params) or _no_room(facts, params, host, place)


def _no_source(facts: ContainerFacts, params: Params, place: str, tar: Tar) -> str:
    """Say why no tar can be taken."""
    there = ", ".join(f"{name} {each.size} bytes" for name, each in _tars(facts).items())
    if tar.error:
        return f"{place} {tar.error}"
    if not there:
        return f"no host has {place}"
    if params.container.image_sha256:
        return f"no tar has the sum of container.image_sha256: {there}"
    return f"the tars differ, and container.image_sha256 does not say which is right: {there}"


def _wrong_content(facts: ContainerFacts, params: Params) -> str:
    tar, held = tar_of(facts, params), carried(facts, params)
    if held is None:
        several = tar is not None and tar.images is not None
        return "the tar carries several images, and none has the name of container.image" if several else ""
    other = other_version(params, held)
    return f"the tar carries {other}, another version" if other else ""


def _no_room(facts: ContainerFacts, params: Params, host: str, place: str) -> str:
    tar, right = facts.hosts[host].tar, tar_of(facts, params)
    if not lacks_tar(facts, params, host) or tar is None or right is None:
        return ""
    needed, free = (right.size or 0) * MARGIN, tar.free_bytes
    if free is not None and needed <= free:
        return ""
    return (
        f"{needed / 1e9:.1f} GB come to {place}, {'an unknown room' if free is None else f'{free / 1e9:.1f} GB'} free"
    )


def receivers(facts: ContainerFacts, params: Params) -> list[str]:
    """Return the hosts that the tar is brought to."""
    return [
        name for name in needing(facts, params) if not obstacle(facts, params, name) and lacks_tar(facts, params, name)
    ]
