"""What the emulated `docker inspect` says of containers and images."""

from __future__ import annotations

import json
from typing import Any

from runbook_lib.twin.container_options import check_bind
from runbook_lib.twin.images import CREATED, SHOWN_SIZE
from runbook_lib.twin.tools.docker_call import Docker, split_format
from runbook_lib.twin.tools.docker_format import template
from runbook_lib.twin.world import Reply


def image_facts(image: dict[str, Any]) -> dict[str, Any]:
    """Return what `inspect` says of an image."""
    return {
        "Id": image["id"],
        "RepoTags": image["tags"],
        "RepoDigests": [],
        "Created": CREATED,
        "Architecture": image["config"]["architecture"],
        "Os": image["config"]["os"],
        "Size": SHOWN_SIZE,
        "Config": image["config"]["config"],
        "RootFS": {"Type": "layers", "Layers": image["config"]["rootfs"]["diff_ids"]},
    }


async def inspect(me: Docker, words: list[str]) -> Reply:
    """Answer `docker inspect`, of containers and images."""
    form, names = split_format(words)
    found: list[dict[str, Any]] = []
    errors = ""
    for name in names:
        record = me.runtime.find(me.node, name)
        image = me.image(name) if record is None else None
        if record is not None:
            found.append(_container_facts(record))
        elif image is not None:
            found.append(image_facts(image))
        else:
            errors += f"Error: No such object: {name}\n"
    return inspected(found, errors, form)


def inspected(found: list[dict[str, Any]], errors: str, form: str) -> Reply:
    """Return objects as JSON or by a template, with the errors of the others."""
    if form:
        return Reply(1 if errors else 0, "".join(template(form, facts) + "\n" for facts in found), errors)
    return Reply(1 if errors else 0, json.dumps(found, indent=4) + "\n", errors)


def _container_facts(record: dict[str, Any]) -> dict[str, Any]:
    mounts = [(source, target, mode) for source, target, mode in map(check_bind, record["binds"])]
    devices = [{"PathOnHost": each, "PathInContainer": each, "CgroupPermissions": "rwm"} for each in record["devices"]]
    return {
        "Id": record["id"],
        "Created": record["created"],
        "Path": record["command"][0],
        "Args": record["command"][1:],
        "State": {
            "Status": record["status"],
            "Running": record["status"] == "running",
            "Paused": False,
            "Restarting": False,
            "OOMKilled": False,
            "Dead": False,
            "Pid": record["pid"],
            "ExitCode": record["exit_code"],
            "Error": "",
            "StartedAt": record["started"],
            "FinishedAt": record["finished"],
        },
        "Image": record["image_id"],
        "Name": f"/{record['name']}",
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "HostConfig": {
            "Binds": record["binds"] or None,
            "NetworkMode": record["network"],
            "RestartPolicy": {"Name": record["restart"], "MaximumRetryCount": 0},
            "AutoRemove": record["auto_remove"],
            "Privileged": record["privileged"],
            "ShmSize": record["shm"],
            "Devices": devices,
            "Init": record["init"],
            "IpcMode": "private",
            "Ulimits": [_ulimit(each) for each in record.get("ulimits", [])] or None,
            "Runtime": record.get("runtime", "runc"),
        },
        "Mounts": [
            {
                "Type": "bind",
                "Source": source,
                "Destination": target,
                "Mode": "ro" if mode == "ro" else "",
                "RW": mode != "ro",
                "Propagation": "rprivate",
            }
            for source, target, mode in mounts
        ],
        "Config": {
            "Hostname": record["hostname"],
            "User": record["user"],
            "Tty": record["tty"],
            "OpenStdin": record["open_stdin"],
            "Env": record["env"],
            "Cmd": record["command"],
            "Image": record["image"],
            "WorkingDir": record["workdir"],
            "Entrypoint": None,
            "Labels": dict(label.partition("=")[::2] for label in record["labels"]),
        },
    }


def _ulimit(text: str) -> dict[str, Any]:
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
