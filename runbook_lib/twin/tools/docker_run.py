"""The emulated `docker run` and `docker exec`."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from runbook_lib.twin.ascend_runtime import daemon_config, runtimes
from runbook_lib.twin.container_options import RunOptions, UsageError, parse_run
from runbook_lib.twin.container_runtime import ROOT_USERS
from runbook_lib.twin.tools.docker_call import Docker, DockerError, log_bytes
from runbook_lib.twin.tools.docker_images import no_registry
from runbook_lib.twin.world import Reply


async def run(me: Docker, words: list[str]) -> Reply:
    """Answer `docker run`."""
    options = parse_run(words)
    if not options.name:
        options.name = f"eager_{os.urandom(4).hex()}"
    other = me.runtime.find(me.node, options.name)
    if other is not None and other["name"] == options.name:
        raise DockerError(
            f'docker: Error response from daemon: Conflict. The container name "/{options.name}" is already in use by '
            f'container "{other["id"]}". You have to remove (or rename) that container to be able to reuse that name.\n'
            "See 'docker run --help'.",
            125,
        )
    image = me.image(options.image)
    if image is None:
        name = options.image if ":" in options.image.rpartition("/")[2] else f"{options.image}:latest"
        raise DockerError(
            f"Unable to find image '{name}' locally\n"
            f"docker: Error response from daemon: {no_registry(options.image)}.\nSee 'docker run --help'.",
            125,
        )
    options.runtime = options.runtime or str(daemon_config(me.node).get("default-runtime", "runc"))
    if options.runtime not in runtimes(me.node):
        raise DockerError(
            f"docker: Error response from daemon: unknown or invalid runtime name: {options.runtime}.\n"
            "See 'docker run --help'.",
            125,
        )
    record = _record(me, options, image)
    await asyncio.to_thread(me.runtime.create, me.node, record, me.image_folder(image) / "rootfs")
    if problem := await me.runtime.start(me.node, record):
        code = 127 if "executable file not found" in problem else 125
        raise DockerError(f"docker: Error response from daemon: {problem}", code)
    if options.detach:
        return Reply(0, f"{record['id']}\n")
    live = me.runtime.live.get((me.node.name, record["id"]))
    if live is not None and live.ended is not None:
        await asyncio.shield(live.ended)
    log = me.runtime.folder(me.node, record) / "log"
    return Reply(record["exit_code"], log_bytes(log))


def _record(me: Docker, options: RunOptions, image: dict[str, Any]) -> dict[str, Any]:
    ident = os.urandom(32).hex()
    config = image["config"]["config"]
    env = [*config["Env"], *(_env_item(item, me.call.env) for item in options.env if _env_item(item, me.call.env))]
    for file in options.env_files:
        try:
            text = me.path(file).read_text(encoding="utf-8")
        except OSError:
            raise DockerError(
                f"docker: open {file}: no such file or directory.\nSee 'docker run --help'.", 125
            ) from None
        env += [line.strip() for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#")]
    devices = []
    for device in options.devices:
        if not device.startswith("/dev/"):
            raise DockerError(
                f"docker: Error response from daemon: error gathering device information while adding custom device "
                f'"{device}": not a device node.',
                125,
            )
        devices.append(device.partition(":")[0])
    command = [*([options.entrypoint] if options.entrypoint else []), *(options.command or config["Cmd"])]
    return {
        "id": ident,
        "name": options.name,
        "image": options.image,
        "image_id": image["id"],
        "command": command,
        "env": env,
        "binds": options.binds,
        "devices": devices,
        "shm": options.shm_bytes,
        "network": options.network,
        "privileged": options.privileged,
        "runtime": options.runtime,
        "restart": options.restart,
        "user": options.user,
        "workdir": options.workdir,
        "init": options.init,
        "tty": options.tty,
        "open_stdin": options.interactive or options.tty,
        "auto_remove": options.remove,
        "labels": options.labels,
        "ulimits": options.ulimits,
        "hostname": me.node.name if options.network == "host" else options.hostname or ident[:12],
        "status": "created",
        "stopped": False,
        "pid": 0,
        "exit_code": 0,
        "created": f"{me.world.emulated_now(me.node.name):%Y-%m-%dT%H:%M:%S.%f}000Z",
        "started": "0001-01-01T00:00:00Z",
        "finished": "0001-01-01T00:00:00Z",
    }


def _env_item(item: str, env: dict[str, str]) -> str:
    return item if "=" in item else f"{item}={env[item]}" if item in env else ""


class _ExecOptions:
    """What `docker exec` was told before the container's name."""

    def __init__(self, words: list[str]) -> None:
        self.env: dict[str, str] = {}
        self.workdir = self.user = ""
        self.detach = False
        while words and words[0].startswith("-"):
            name, _, value = words[0].partition("=")
            word = words.pop(0)
            if name in {"-e", "--env", "-w", "--workdir", "-u", "--user"}:
                self._valued(name, value or (words.pop(0) if words else ""))
            elif word in {"--detach", "--interactive", "--tty", "--privileged"} or set(word[1:]) <= set("dit"):
                self.detach = self.detach or word == "--detach" or (word[1] != "-" and "d" in word)
            else:
                what = f"flag: {word}" if word.startswith("--") else f"shorthand flag: '{word[1]}' in {word}"
                raise UsageError(f"unknown {what}\nSee 'docker exec --help'.")

    def _valued(self, name: str, value: str) -> None:
        if name in {"-e", "--env"}:
            key, _, text = value.partition("=")
            self.env[key] = text
        elif name in {"-w", "--workdir"}:
            self.workdir = value
        else:
            self.user = value


async def exec_command(me: Docker, words: list[str]) -> Reply:
    """Answer `docker exec`."""
    options = _ExecOptions(words)
    if len(words) < 2:  # noqa: PLR2004 - a name and a command
        raise UsageError("\"docker exec\" requires at least 2 arguments.\nSee 'docker exec --help'.")
    record = me.container(words[0])
    if (me.node.name, record["id"]) not in me.runtime.live:
        raise DockerError(f"Error response from daemon: Container {record['id']} is not running")
    command = words[1:]
    if options.user not in ROOT_USERS:
        uid, _, gid = options.user.partition(":")
        command = ["setpriv", "--reuid", uid, "--regid", gid or uid, "--clear-groups", *command]
    argv = me.runtime.exec_argv(me.node, record, command, options.env, options.workdir)
    if options.detach:
        me.runtime.spawn(me.node, argv)
        return Reply()
    return Reply(exec_argv=argv)
