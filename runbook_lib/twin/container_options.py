"""The command line of `docker run`, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
DEFAULT_SHM = 64 << 20
# option -> attribute; those with a value
_VALUED = {
    "--name": "name",
    "--net": "network",
    "--network": "network",
    "--shm-size": "shm",
    "--device": "devices",
    "-v": "binds",
    "--volume": "binds",
    "-e": "env",
    "--env": "env",
    "--env-file": "env_files",
    "--restart": "restart",
    "-u": "user",
    "--user": "user",
    "-w": "workdir",
    "--workdir": "workdir",
    "--ulimit": "ulimits",
    "--ipc": "ignored",
    "--pid": "ignored",
    "--cap-add": "ignored",
    "--security-opt": "ignored",
    "--log-driver": "ignored",
    "--log-opt": "ignored",
    "--hostname": "hostname",
    "-h": "hostname",
    "-l": "labels",
    "--label": "labels",
    "--entrypoint": "entrypoint",
    "--runtime": "runtime",
    "-m": "ignored",
    "--memory": "ignored",
    "--cpuset-cpus": "ignored",
    "--platform": "ignored",
    "--pull": "ignored",
    "--stop-timeout": "ignored",
}
_FLAGS = {
    "--detach": "detach",
    "--interactive": "interactive",
    "--tty": "tty",
    "--privileged": "privileged",
    "--init": "init",
    "--rm": "remove",
}
_SHORT_FLAGS = {"d": "detach", "i": "interactive", "t": "tty"}


class UsageError(Exception):
    """A command line that docker refuses; the text is docker's."""


@dataclass
class RunOptions:
    """What `docker run` was told. Sizes are bytes."""

    image: str = ""
    command: list[str] = field(default_factory=list)
    name: str = ""
    network: str = "bridge"
    shm: str = ""
    devices: list[str] = field(default_factory=list)
    binds: list[str] = field(default_factory=list)
    env: list[str] = field(default_factory=list)
    env_files: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    ulimits: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    runtime: str = ""
    restart: str = "no"
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    entrypoint: str = ""
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    privileged: bool = False
    init: bool = False
    remove: bool = False
    shm_bytes: int = DEFAULT_SHM


def parse_run(words: Sequence[str]) -> RunOptions:
    """Return the options of `docker run WORDS`. Raises UsageError."""
    options = RunOptions()
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        _one_option(options, word, left)
    if not left:
        raise UsageError(
            "\"docker run\" requires at least 1 argument.\nSee 'docker run --help'.\n\n"
            "Usage:  docker run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nCreate and run a new container from an image"
        )
    options.image, *options.command = left
    repository = options.image.rpartition("/")[2].partition(":")[0]
    if repository != repository.lower():
        raise UsageError("docker: invalid reference format: repository name must be lowercase.")
    if not re.fullmatch(r"[\w.\-/:@]+", options.image):
        raise UsageError("docker: invalid reference format.\nSee 'docker run --help'.")
    options.shm_bytes = _size(options.shm) if options.shm else DEFAULT_SHM
    if options.name and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", options.name):
        raise UsageError(
            f"docker: Error response from daemon: Invalid container name ({options.name}), only "
            "[a-zA-Z0-9][a-zA-Z0-9_.-] are allowed.\nSee 'docker run --help'."
        )
    for bind in options.binds:
        check_bind(bind)
    return options


def _one_option(options: RunOptions, word: str, left: list[str]) -> None:
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        if name in _FLAGS:
            setattr(options, _FLAGS[name], value.lower() not in {"false", "0"} if equals else True)
            return
        if name not in _VALUED:
            raise UsageError(f"unknown flag: {name}\nSee 'docker run --help'.")
        _store(options, name, value if equals else _next(left, name))
        return
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _SHORT_FLAGS:
            setattr(options, _SHORT_FLAGS[letter], True)
        elif f"-{letter}" in _VALUED:
            _store(options, f"-{letter}", letters.removeprefix("=") or _next(left, f"-{letter}"))
            return
        else:
            raise UsageError(f"unknown shorthand flag: '{letter}' in {word}\nSee 'docker run --help'.")


def _next(left: list[str], name: str) -> str:
    if not left:
        raise UsageError(f"flag needs an argument: {name}\nSee 'docker run --help'.")
    return left.pop(0)


def _store(options: RunOptions, name: str, value: str) -> None:
    attribute = _VALUED[name]
    if isinstance(getattr(options, attribute), list):
        getattr(options, attribute).append(value)
    else:
        setattr(options, attribute, value)


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmg]?)b?", text.lower())
    if match is None:
        raise UsageError(
            f"invalid argument \"{text}\" for \"--shm-size\" flag: invalid size: '{text}'\nSee 'docker run --help'."
        )
    return int(float(match[1]) * _UNITS[match[2]])


def check_bind(text: str) -> tuple[str, str, str]:
    """Return (source, target, mode) of a -v value. Raises UsageError."""
    parts = text.split(":")
    if len(parts) not in {2, 3} or not all(part.startswith("/") for part in parts[:2]):
        raise UsageError(
            f"docker: Error response from daemon: invalid volume specification: '{text}'.\nSee 'docker run --help'."
        )
    mode = parts[2] if len(parts) == 3 else "rw"  # noqa: PLR2004 - source:target:mode
    return parts[0], parts[1].rstrip("/") or "/", "ro" if "ro" in mode.split(",") else "rw"
