"""One call of the emulated docker: whose node, which images and containers; and how options are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.twin.container_runtime import DOCKER_ROOT, Runtime, runtime_of

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import ToolCall

SERVER_VERSION = "24.0.9"


class DockerError(Exception):
    """What docker answers: text for stderr and an exit code."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class Docker:
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


def log_bytes(path: Path) -> bytes:
    """Return a container's log."""
    return path.read_bytes() if path.exists() else b""


def named(words: list[str], valued: set[str]) -> tuple[dict[str, str], list[str]]:
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


def format_of(words: list[str]) -> str:
    """Return the value of --format, "" without one."""
    for index, word in enumerate(words):
        if word.startswith("--format="):
            return word.partition("=")[2]
        if word == "--format" and index + 1 < len(words):
            return words[index + 1]
    return ""


def split_format(words: list[str]) -> tuple[str, list[str]]:
    """Return (format, names) of an inspect."""
    options, names = named(words, {"-f", "--format", "--type"})
    return options.get("-f") or options.get("--format") or "", names
