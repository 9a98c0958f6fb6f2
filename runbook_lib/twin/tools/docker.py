"""The emulated docker: the commands that a deployment uses, in docker's words (docker_run.md)."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from runbook_lib.twin.ascend_runtime import daemon_config, runtimes
from runbook_lib.twin.container_options import UsageError
from runbook_lib.twin.container_runtime import DOCKER_ROOT
from runbook_lib.twin.tools.docker_call import SERVER_VERSION, Docker, DockerError, format_of
from runbook_lib.twin.tools.docker_containers import kill, logs, ps, restart, rm, start, stop, top
from runbook_lib.twin.tools.docker_format import template
from runbook_lib.twin.tools.docker_images import image_inspect, images, load, pull, rmi, tag_image
from runbook_lib.twin.tools.docker_inspect import inspect
from runbook_lib.twin.tools.docker_run import exec_command, run
from runbook_lib.twin.tools.system import unit_active
from runbook_lib.twin.world import Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


_PULL_ERROR = 125


async def docker(call: ToolCall) -> Reply:
    """Answer one docker command."""
    words = call.argv[1:]
    if words[:1] in (["image"], ["container"]):
        kind, words = words[0], words[1:]
        renamed = {"image": {"ls": "images", "rm": "rmi"}, "container": {"ls": "ps"}}[kind]
        words = [renamed.get(words[0], words[0]), *words[1:]] if words else ["--help"]
        if kind == "image" and words[0] == "inspect":
            words[0] = "image-inspect"
    if not words or words[0] in {"--help", "-h", "help"}:
        return Reply(0, "\nUsage:  docker [OPTIONS] COMMAND\n\nA self-sufficient runtime for containers\n")
    if words[0] in {"--version", "-v"}:
        return Reply(0, f"Docker version {SERVER_VERSION}, build 4debf41\n")
    command = _COMMANDS.get(words[0])
    if command is None:
        return Reply(1, err=f"docker: '{words[0]}' is not a docker command.\nSee 'docker --help'\n")
    if not unit_active(call, "docker"):
        command = partial(_no_daemon, words[0])
    try:
        return await command(Docker(call), words[1:])
    except UsageError as error:
        return Reply(_PULL_ERROR if words[0] == "run" else 1, err=f"{error}\n")
    except DockerError as error:
        return Reply(error.code, err=f"{error.text}\n")


async def _no_daemon(name: str, _me: Docker, words: list[str]) -> Reply:
    """Answer as the client does when the service is stopped; `version` tells about the client first."""
    said = f"{'ERROR: ' if name == 'info' else ''}{NO_DAEMON}\n"
    if name != "version":
        return Reply(1, err=said)
    client = {"Version": SERVER_VERSION, "ApiVersion": "1.43", "Os": "linux", "Arch": "arm64"}
    if form := format_of(words):
        return Reply(1, template(form, {"Client": client, "Server": None}) + "\n", said)
    return Reply(1, f"Client:\n Version:           {SERVER_VERSION}\n", said)


async def _version(_me: Docker, words: list[str]) -> Reply:
    part = {"Version": SERVER_VERSION, "ApiVersion": "1.43", "Os": "linux", "Arch": "arm64", "GoVersion": "go1.20.13"}
    facts = {"Client": part, "Server": part | {"KernelVersion": "5.10.0-216.0.0.115.oe2203sp4.aarch64"}}
    if form := format_of(words):
        return Reply(0, template(form, facts) + "\n")
    rows = f" Version:           {SERVER_VERSION}\n API version:       1.43\n OS/Arch:           linux/arm64\n"
    return Reply(0, f"Client:\n{rows}\nServer:\n{rows}")


async def _info(me: Docker, words: list[str]) -> Reply:
    records = me.runtime.containers(me.node).values()
    running = sum(record["status"] == "running" for record in records)
    facts = {
        "ID": hashlib.sha256(me.node.name.encode()).hexdigest()[:24],
        "Containers": len(records),
        "ContainersRunning": running,
        "ContainersStopped": len(records) - running,
        "Images": len(me.images),
        "Driver": "overlay2",
        "DockerRootDir": DOCKER_ROOT,
        "OSType": "linux",
        "Architecture": "aarch64",
        "OperatingSystem": "openEuler 22.03 (LTS-SP4)",
        "NCPU": 192,
        "Name": me.node.name,
        "ServerVersion": SERVER_VERSION,
        "CgroupDriver": "systemd",
        "DefaultRuntime": str(daemon_config(me.node).get("default-runtime", "runc")),
        "Runtimes": runtimes(me.node),
        "LoggingDriver": "json-file",
    }
    if form := format_of(words):
        return Reply(0, template(form, facts) + "\n")
    lines = [
        f" Containers: {facts['Containers']}",
        f"  Running: {running}",
        f"  Stopped: {facts['ContainersStopped']}",
        f" Images: {facts['Images']}",
        f" Server Version: {SERVER_VERSION}",
        " Storage Driver: overlay2",
        " Cgroup Driver: systemd",
        f" Runtimes: {' '.join(runtimes(me.node))}",
        f" Default Runtime: {facts['DefaultRuntime']}",
        " OSType: linux",
        " Architecture: aarch64",
        f" Name: {me.node.name}",
        f" Docker Root Dir: {DOCKER_ROOT}",
    ]
    return Reply(0, "Client:\n Version:    24.0.9\n\nServer:\n" + "\n".join(lines) + "\n")


_COMMANDS: dict[str, Callable[[Docker, list[str]], Awaitable[Reply]]] = {
    "version": _version,
    "info": _info,
    "load": load,
    "images": images,
    "image-inspect": image_inspect,
    "rmi": rmi,
    "tag": tag_image,
    "pull": pull,
    "run": run,
    "ps": ps,
    "top": top,
    "inspect": inspect,
    "exec": exec_command,
    "logs": logs,
    "stop": stop,
    "kill": kill,
    "start": start,
    "restart": restart,
    "rm": rm,
}
