"""The changes that bring the image to a host: a name, a load, and before it the tar of another host.

The tar goes from host to host with the downloader of the weights, whose source is then one file; the sum is that of
the params, or the one that the giving host read.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Job, Subject
from runbook_lib.stages.container.image import carried, loaded_as, obstacle, receivers, source_host, tar_of
from runbook_lib.stages.container.probe import state_file
from runbook_lib.stages.container.wanted import has_image
from runbook_lib.stages.push import source
from runbook_lib.stages.weights.plan import EXCHANGE_TOKEN, SERVES, bring_secret, bring_tool
from runbook_lib.stages.weights.probe import tool_file

if TYPE_CHECKING:
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.container.facts import ContainerFacts

_LOAD_DEADLINE_S = 3600.0
_BRING_DEADLINE_S = 12 * 3600.0  # 24 GB to 15 hosts over one link of 1 Gbit/s: 51 minutes
_SECRET = "generated:image-exchange"  # noqa: S105 - a reference; the value is made anew at each apply
_UPLOAD, _BRING, LOAD = range(3)


def _token_file(paths: HostPaths) -> str:
    """Return where the secret of the transfer lies while it runs."""
    return f"{paths.work}/image-exchange.token"


def image_changes(facts: ContainerFacts, params: Params, host: Host) -> list[Change]:
    """Return what brings the image to a host: a name for what is loaded, or the tar of another host and its load."""
    seen, paths, subject = facts.hosts[host.name], facts.paths[host.name], Subject(host.name)
    image = params.container.image
    if seen.images.value is None or has_image(params, seen):
        return _serve_changes(facts, params, host)
    if ident := loaded_as(facts, params, host.name):
        names = [row.reference for row in seen.images.value if row.image_id == ident and row.repository != "<none>"]
        return [
            *_serve_changes(facts, params, host),
            Change(
                subject=subject,
                summary=f"name the loaded image {ident[7:19]} {image}",
                before=", ".join(names) or "no name; the way back takes the image away with its last name",
                after=image,
                action=Command(("docker", "tag", ident, image)),
                undo=Command(("docker", "rmi", image)),
                phase=LOAD,
                fixes=("CON-IMAGE",),
            ),
        ]
    if obstacle(facts, params, host.name):
        return []
    held = carried(facts, params)
    named = held is not None and image in held.names
    others = tuple(name for name in (held.names if held else ()) if name != image)
    what = f"load {image} from {paths.image_tar}"
    if not named:
        what += f", where it is {', '.join(others) or 'without a name'}" if held else ", whatever its name is there"
    return [
        *_serve_changes(facts, params, host),
        Change(
            subject=subject,
            summary=what,
            before="no such image",
            after=image,
            action=Job("docker-load", _load_argv(params, paths, named=named), _LOAD_DEADLINE_S),
            undo=Command(("docker", "rmi", image, *others)),
            phase=LOAD,
            fixes=("CON-IMAGE", "CON-IMAGE-TAR"),
        ),
    ]


def _load_argv(params: Params, paths: HostPaths, *, named: bool) -> tuple[str, ...]:
    """Return the command that loads the tar; where params give its sum, not before that is right."""
    if named and not params.container.image_sha256:
        return ("docker", "load", "-i", paths.image_tar)
    words = (paths.image_tar, params.container.image, params.container.image_sha256)
    return ("sh", "-c", source("image_load.sh"), "sh", *words)


def _serve_changes(facts: ContainerFacts, params: Params, host: Host) -> list[Change]:
    """Return what one host does in the transfer of the tar: it gives, takes, or has no part in it."""
    at, takers = source_host(facts, params), receivers(facts, params)
    if not takers or host.name not in {at, *takers}:
        return []
    seen, paths, subject = facts.hosts[host.name], facts.paths[host.name], Subject(host.name)
    changes = [] if seen.tool_present else [bring_tool(subject, paths, _UPLOAD)]
    changes.append(bring_secret(subject, EXCHANGE_TOKEN, _token_file(paths), _SECRET, _UPLOAD))
    right = tar_of(facts, params)
    size = (right.size or 0) / 1e9 if right is not None else 0.0
    argv = _bring_argv(params, host, paths, at, takers)
    job = Job("image-tar", argv, _BRING_DEADLINE_S, progress=True, afterwards=SERVES)
    if host.name == at:
        summary = f"give {paths.image_tar} to {', '.join(takers)}"
        before, after, back = "only read here", "unchanged", Command(("rm", "-f", state_file(paths)))
    else:
        summary = f"take {paths.image_tar} from {at}, compare its sum"
        there = seen.tar.size if seen.tar is not None else None
        before = "missing" if there is None else f"another file of {there} bytes, which is replaced"
        after = f"{size:.2f} GB, as on {at}"
        back = Command(("rm", "-f", paths.image_tar, state_file(paths)))
    replaced = before.startswith("another")
    changes.append(
        Change(
            subject=subject,
            summary=summary,
            before=before,
            after=after,
            action=job,
            undo=None if replaced else back,
            irreversible="the file that was there was not the image" if replaced else "",
            phase=_BRING,
            fixes=() if host.name == at else ("CON-IMAGE-TAR",),
        )
    )
    return changes


def _bring_argv(params: Params, host: Host, paths: HostPaths, at: str, takers: list[str]) -> tuple[str, ...]:
    tar = PurePosixPath(paths.image_tar)
    only = {"name": tar.name}
    if params.container.image_sha256:
        only["sha256"] = params.container.image_sha256
    hosts = [each for each in params.cluster.hosts if each.name in {at, *takers}]
    owner = next(number for number, each in enumerate(hosts) if each.name == at)
    spec = json.dumps({"kind": "path", "path": str(tar.parent), "only": only}, sort_keys=True)
    argv: tuple[str, ...] = ("python3", tool_file(paths), "fetch", "--spec", spec)
    argv += ("--directory", str(tar.parent), "--state", state_file(paths))
    argv += ("--bind", host.service_ip, "--port", str(params.model.weights.exchange_port))
    argv += ("--hosts", ",".join(each.service_ip for each in hosts), "--owners", str(owner))
    return (*argv, "--exchange-token", _token_file(paths))
