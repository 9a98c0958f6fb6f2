"""The emulated docker: the commands that a deployment uses, in docker's words (docker_run.md)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

from runbook_lib.twin.container_options import RunOptions, UsageError, check_bind, parse_run
from runbook_lib.twin.container_runtime import DOCKER_ROOT, ROOT_USERS, Runtime, runtime_of
from runbook_lib.twin.images import CREATED, SHOWN_SIZE
from runbook_lib.twin.tools.docker_format import rows_text, template
from runbook_lib.twin.world import Reply, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from runbook_lib.twin.node import Node

SERVER_VERSION = "24.0.9"
LOAD_S = 60.0  # emulated seconds to load the image
_STOP_S = 10.0
_PULL_ERROR = 125


class DockerError(Exception):
    """What docker answers: text for stderr and an exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


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
    try:
        return await command(_Docker(call), words[1:])
    except UsageError as error:
        return Reply(_PULL_ERROR if words[0] == "run" else 1, err=f"{error}\n")
    except DockerError as error:
        return Reply(error.code, err=f"{error.text}\n")


class _Docker:
    """One call: the node's images and containers."""

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.world = call.world
        self.node: Node = call.node
        self.runtime: Runtime = runtime_of(call.world)

    @property
    def images(self) -> dict[str, dict[str, Any]]:
        """The loaded images, by id."""
        loaded: dict[str, dict[str, Any]] = self.world.tool_state("docker", self.node.name).setdefault("images", {})
        return loaded

    def image(self, reference: str) -> dict[str, Any] | None:
        """Return an image by reference (":latest" when it has no tag) or by the beginning of its id."""
        name = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        for image in self.images.values():
            plain = image["id"].removeprefix("sha256:")
            if name in image["tags"] or (len(reference) > 3 and plain.startswith(reference.removeprefix("sha256:"))):  # noqa: PLR2004 - as docker: a short id has a few digits
                return image
        return None

    def image_folder(self, image: dict[str, Any]) -> Path:
        """Where the image's files are."""
        ident = str(image["id"]).removeprefix("sha256:")
        return self.node.files / DOCKER_ROOT.lstrip("/") / "images" / ident

    def container(self, name: str) -> dict[str, Any]:
        """Return a container. Raises DockerError."""
        record = self.runtime.find(self.node, name)
        if record is None:
            raise DockerError(f"Error response from daemon: No such container: {name}")
        return record

    def path(self, word: str) -> Path:
        """Return where a path of the command line is for this process."""
        inside = word if word.startswith("/") else f"{self.call.cwd.rstrip('/')}/{word}"
        if self.node.level == "L0":
            inside = inside.removeprefix(str(self.node.files))
        return self.node.path(inside)


async def _version(_me: _Docker, words: list[str]) -> Reply:
    part = {"Version": SERVER_VERSION, "ApiVersion": "1.43", "Os": "linux", "Arch": "arm64", "GoVersion": "go1.20.13"}
    facts = {"Client": part, "Server": part | {"KernelVersion": "5.10.0-216.0.0.115.oe2203sp4.aarch64"}}
    if form := _format(words):
        return Reply(0, template(form, facts) + "\n")
    rows = f" Version:           {SERVER_VERSION}\n API version:       1.43\n OS/Arch:           linux/arm64\n"
    return Reply(0, f"Client:\n{rows}\nServer:\n{rows}")


async def _info(me: _Docker, words: list[str]) -> Reply:
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
        "DefaultRuntime": "runc",
        "Runtimes": {"runc": {"path": "runc"}},
        "LoggingDriver": "json-file",
    }
    if form := _format(words):
        return Reply(0, template(form, facts) + "\n")
    lines = [
        f" Containers: {facts['Containers']}",
        f"  Running: {running}",
        f"  Stopped: {facts['ContainersStopped']}",
        f" Images: {facts['Images']}",
        f" Server Version: {SERVER_VERSION}",
        " Storage Driver: overlay2",
        " Cgroup Driver: systemd",
        " Default Runtime: runc",
        " OSType: linux",
        " Architecture: aarch64",
        f" Name: {me.node.name}",
        f" Docker Root Dir: {DOCKER_ROOT}",
    ]
    return Reply(0, "Client:\n Version:    24.0.9\n\nServer:\n" + "\n".join(lines) + "\n")


async def _load(me: _Docker, words: list[str]) -> Reply:
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
                "tags": list(manifest["RepoTags"]),
                "config": json.loads(config),
            }
            await me.world.sleep(LOAD_S)
            await asyncio.to_thread(_extract, tar, manifest["Layers"], me.image_folder(image) / "rootfs")
    except (tarfile.TarError, KeyError, IndexError, ValueError, EOFError):
        raise DockerError("Error processing tar file(exit status 1): archive/tar: invalid tar header") from None
    except OSError as error:
        raise DockerError(f"Error processing tar file(exit status 1): {error.strerror}") from None
    for other in me.images.values():
        other["tags"] = [tag for tag in other["tags"] if tag not in image["tags"]]
    me.images[image["id"]] = image
    me.world.save()
    return Reply(0, "".join(f"Loaded image: {tag}\n" for tag in image["tags"]))


def _member(tar: tarfile.TarFile, name: str) -> Any:  # noqa: ANN401 - a binary file object
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file


def _extract(tar: tarfile.TarFile, layers: list[str], rootfs: Path) -> None:
    if rootfs.exists():
        return
    rootfs.mkdir(parents=True)
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


async def _images(me: _Docker, words: list[str]) -> Reply:
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
    return Reply(0, rows_text(rows, columns, _format(words)))


async def _image_inspect(me: _Docker, words: list[str]) -> Reply:
    form, names = _split_format(words)
    found: list[dict[str, Any]] = []
    errors = ""
    for name in names:
        image = me.image(name)
        if image is None:
            errors += f"Error response from daemon: No such image: {name}\n"
        else:
            found.append(_image_facts(image))
    return _inspected(found, errors, form)


def _image_facts(image: dict[str, Any]) -> dict[str, Any]:
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


async def _rmi(me: _Docker, words: list[str]) -> Reply:
    out = ""
    for name in [word for word in words if not word.startswith("-")]:
        image = me.image(name)
        if image is None:
            raise DockerError(f"Error response from daemon: No such image: {name}")
        users = [record for record in me.runtime.containers(me.node).values() if record["image_id"] == image["id"]]
        if users:
            raise DockerError(
                f'Error response from daemon: conflict: unable to remove repository reference "{name}" (must force) - '
                f"container {users[0]['id'][:12]} is using its referenced image {image['id'][7:19]}"
            )
        del me.images[image["id"]]
        out += "".join(f"Untagged: {tag}\n" for tag in image["tags"]) + f"Deleted: {image['id']}\n"
    me.world.save()
    return Reply(0, out)


async def _pull(_me: _Docker, words: list[str]) -> Reply:
    raise DockerError(f"Error response from daemon: {_no_registry(words[-1] if words else '')}")


def _no_registry(image: str) -> str:
    """Say that the server is air-gapped: the name of the image's registry is not resolved."""
    first, slash, _ = image.partition("/")
    host = first if slash and "." in first else "registry"
    return f'Get "https://{host}/v2/": dial tcp: lookup {host}: Temporary failure in name resolution'


async def _run(me: _Docker, words: list[str]) -> Reply:
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
            f"docker: Error response from daemon: {_no_registry(options.image)}.\nSee 'docker run --help'.",
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
    return Reply(record["exit_code"], _read(log))


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _record(me: _Docker, options: RunOptions, image: dict[str, Any]) -> dict[str, Any]:
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


async def _ps(me: _Docker, words: list[str]) -> Reply:
    options, filters, form = set(words), [], _format(words)
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


async def _inspect(me: _Docker, words: list[str]) -> Reply:
    form, names = _split_format(words)
    found: list[dict[str, Any]] = []
    errors = ""
    for name in names:
        record = me.runtime.find(me.node, name)
        image = me.image(name) if record is None else None
        if record is not None:
            found.append(_container_facts(record))
        elif image is not None:
            found.append(_image_facts(image))
        else:
            errors += f"Error: No such object: {name}\n"
    return _inspected(found, errors, form)


def _inspected(found: list[dict[str, Any]], errors: str, form: str) -> Reply:
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
            "Runtime": "runc",
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


async def _exec(me: _Docker, words: list[str]) -> Reply:
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


async def _logs(me: _Docker, words: list[str]) -> Reply:
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
    lines = _read(me.runtime.folder(me.node, record) / "log").splitlines(keepends=True)
    return Reply(0, b"".join(lines[-tail:] if tail else lines))


def _named(words: list[str], valued: set[str]) -> tuple[dict[str, str], list[str]]:
    """Return (options, names): flags have the value ""."""
    options: dict[str, str] = {}
    names = []
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            names.append(word)
        elif "=" in word:
            name, _, value = word.partition("=")
            options[name] = value
        else:
            options[word] = words.pop(0) if word in valued and words else ""
    return options, names


async def _stop(me: _Docker, words: list[str]) -> Reply:
    options, names = _named(words, {"-t", "--time"})
    grace_s = float(options.get("-t") or options.get("--time") or _STOP_S)
    for name in names:
        record = me.container(name)
        record["stopped"] = True
        await me.runtime.stop(me.node, record, grace_s)
    me.world.save()
    return Reply(0, "".join(f"{name}\n" for name in names))


async def _kill(me: _Docker, words: list[str]) -> Reply:
    _, names = _named(words, {"-s", "--signal"})
    for name in names:
        record = me.container(name)
        if record["status"] != "running":
            raise DockerError(
                f"Error response from daemon: Cannot kill container: {name}: Container {record['id']} is not running"
            )
        record["stopped"] = True
        await me.runtime.stop(me.node, record, 0)
    return Reply(0, "".join(f"{name}\n" for name in names))


async def _start(me: _Docker, words: list[str]) -> Reply:
    _, names = _named(words, set())
    for name in names:
        record = me.container(name)
        record["stopped"] = False
        if record["status"] != "running" and (problem := await me.runtime.start(me.node, record)):
            raise DockerError(f"Error response from daemon: {problem}\nError: failed to start containers: {name}")
    return Reply(0, "".join(f"{name}\n" for name in names))


async def _restart(me: _Docker, words: list[str]) -> Reply:
    stopped = await _stop(me, list(words))
    _, names = _named(words, {"-t", "--time"})
    await _start(me, names)
    return stopped


async def _rm(me: _Docker, words: list[str]) -> Reply:
    options, names = _named(words, set())
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


def _format(words: list[str]) -> str:
    for index, word in enumerate(words):
        if word.startswith("--format="):
            return word.partition("=")[2]
        if word == "--format" and index + 1 < len(words):
            return words[index + 1]
    return ""


def _split_format(words: list[str]) -> tuple[str, list[str]]:
    options, names = _named(words, {"-f", "--format", "--type"})
    return options.get("-f") or options.get("--format") or "", names


_COMMANDS: dict[str, Callable[[_Docker, list[str]], Awaitable[Reply]]] = {
    "version": _version,
    "info": _info,
    "load": _load,
    "images": _images,
    "image-inspect": _image_inspect,
    "rmi": _rmi,
    "pull": _pull,
    "run": _run,
    "ps": _ps,
    "inspect": _inspect,
    "exec": _exec,
    "logs": _logs,
    "stop": _stop,
    "kill": _kill,
    "start": _start,
    "restart": _restart,
    "rm": _rm,
}
