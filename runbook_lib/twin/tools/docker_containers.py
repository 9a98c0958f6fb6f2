"""Containers of the emulated docker: list, stop, start, remove, logs."""

from __future__ import annotations

import asyncio
from typing import Any

from runbook_lib.twin.container_options import check_bind
from runbook_lib.twin.tools.docker_call import Docker, DockerError, format_of, log_bytes, named
from runbook_lib.twin.tools.docker_format import rows_text
from runbook_lib.twin.tools.docker_top import pids_of
from runbook_lib.twin.world import Reply

_STOP_S = 10.0


async def ps(me: Docker, words: list[str]) -> Reply:
    """Answer `docker ps`."""
    options, filters, form = set(words), [], format_of(words)
    for index, word in enumerate(words):
        if word in {"-f", "--filter"} and index + 1 < len(words):
            filters.append(words[index + 1])
        elif word.startswith("--filter="):
            filters.append(word.partition("=")[2])
    short = {letter for word in words if word.startswith("-") and not word.startswith("--") for letter in word[1:]}
    everything = "--all" in options or "a" in short
    rows = []
    for record in reversed(list(me.runtime.containers(me.node).values())):
        wanted = all(_filtered(record, each) for each in filters)
        if wanted and (everything or record["status"] == "running" or any("status=" in each for each in filters)):
            rows.append(_ps_row(record, full="--no-trunc" in options))
    if "--quiet" in options or "q" in short:
        return Reply(0, "".join(f"{row['ID']}\n" for row in rows))
    columns = {
        "CONTAINER ID": "ID",
        "IMAGE": "Image",
        "COMMAND": "Command",
        "CREATED": "RunningFor",
        "STATUS": "Status",
        "PORTS": "Ports",
        "NAMES": "Names",
    }
    return Reply(0, rows_text(rows, columns, form))


def _filtered(record: dict[str, Any], text: str) -> bool:
    key, _, value = text.partition("=")
    if key == "name":
        exact = value.startswith("^") and value.endswith("$")
        plain = value.strip("^$/")
        return record["name"] == plain if exact else plain in record["name"]
    if key == "status":
        return bool(record["status"] == value)
    if key == "id":
        return bool(record["id"].startswith(value))
    if key == "label":
        return value in record["labels"] or any(label.partition("=")[0] == value for label in record["labels"])
    if key == "ancestor":
        return bool(record["image"] == value)
    raise DockerError(f"Error response from daemon: invalid filter '{key}'")


def _ps_row(record: dict[str, Any], *, full: bool) -> dict[str, str]:
    states = {
        "running": "Up 2 minutes",
        "created": "Created",
        "exited": f"Exited ({record['exit_code']}) 2 minutes ago",
    }
    command = " ".join(record["command"])
    shown = command if full or len(command) <= 20 else command[:19] + "\N{HORIZONTAL ELLIPSIS}"  # noqa: PLR2004 - as docker
    return {
        "ID": record["id"] if full else record["id"][:12],
        "Image": record["image"],
        "Command": f'"{shown}"',
        "CreatedAt": record["created"][:19].replace("T", " ") + " +0000 UTC",
        "RunningFor": "2 minutes ago",
        "Status": states[record["status"]],
        "State": record["status"],
        "Ports": "",
        "Names": record["name"],
        "Mounts": ",".join(check_bind(bind)[0] for bind in record["binds"]),
        "Networks": record["network"],
        "Labels": ",".join(record["labels"]),
        "LocalVolumes": "0",
        "Size": "0B",
    }


async def logs(me: Docker, words: list[str]) -> Reply:
    """Answer `docker logs`."""
    tail = 0
    names = []
    while words:
        word = words.pop(0)
        if word in {"-n", "--tail", "--since", "--until"} and words:
            value = words.pop(0)
            tail = int(value) if word in {"-n", "--tail"} and value.isdigit() else tail
        elif word.startswith("--tail="):
            tail = int(word.partition("=")[2])
        elif not word.startswith("-"):
            names.append(word)
    record = me.container(names[-1] if names else "")
    lines = log_bytes(me.runtime.folder(me.node, record) / "log").splitlines(keepends=True)
    return Reply(0, b"".join(lines[-tail:] if tail else lines))


async def top(me: Docker, words: list[str]) -> Reply:
    """Print the pids only: the other columns of `ps` say nothing about an emulated process."""
    record = me.container(words[0] if words else "")
    first = me.runtime.host_pid(me.node.name, record["name"])
    if first is None:
        return Reply(1, err=f"Error response from daemon: container {record['id']} is not running\n")
    return Reply(0, "PID\n" + "".join(f"{pid}\n" for pid in pids_of(first, level=me.node.level)))


async def stop(me: Docker, words: list[str]) -> Reply:
    """Answer `docker stop`."""
    options, names = named(words, {"-t", "--time"})
    grace_s = float(options.get("-t") or options.get("--time") or _STOP_S)
    for name in names:
        record = me.container(name)
        record["stopped"] = True
        await me.runtime.stop(me.node, record, grace_s)
    me.world.save()
    return Reply(0, "".join(f"{name}\n" for name in names))


async def kill(me: Docker, words: list[str]) -> Reply:
    """Answer `docker kill`."""
    _, names = named(words, {"-s", "--signal"})
    for name in names:
        record = me.container(name)
        if record["status"] != "running":
            raise DockerError(
                f"Error response from daemon: Cannot kill container: {name}: Container {record['id']} is not running"
            )
        record["stopped"] = True
        await me.runtime.stop(me.node, record, 0)
    return Reply(0, "".join(f"{name}\n" for name in names))


async def start(me: Docker, words: list[str]) -> Reply:
    """Answer `docker start`."""
    _, names = named(words, set())
    for name in names:
        record = me.container(name)
        record["stopped"] = False
        if record["status"] != "running" and (problem := await me.runtime.start(me.node, record)):
            raise DockerError(f"Error response from daemon: {problem}\nError: failed to start containers: {name}")
    return Reply(0, "".join(f"{name}\n" for name in names))


async def restart(me: Docker, words: list[str]) -> Reply:
    """Answer `docker restart`."""
    stopped = await stop(me, list(words))
    _, names = named(words, {"-t", "--time"})
    await start(me, names)
    return stopped


async def rm(me: Docker, words: list[str]) -> Reply:
    """Answer `docker rm`."""
    options, names = named(words, set())
    force = any(option == "--force" or (option[:2] != "--" and "f" in option) for option in options)
    for name in names:
        record = me.container(name)
        if record["status"] == "running":
            if not force:
                raise DockerError(
                    f"Error response from daemon: You cannot remove a running container {record['id']}. Stop the "
                    "container before attempting removal or force remove"
                )
            await me.runtime.stop(me.node, record, 0)
        await asyncio.to_thread(me.runtime.remove, me.node, record)
    return Reply(0, "".join(f"{name}\n" for name in names))
