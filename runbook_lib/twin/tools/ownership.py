"""chown, chgrp, stat and install where the node has one real uid only: the owner is kept as twin/owners.py says.

Shown are `chown`, `chgrp` (with -R, -h), `stat -c` and `--printf` with %u %g %U %G, and `install -o -g`. Others,
such as `ls -l` and `find -user`, show root; `twin status` says so.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.twin.owners import owner_of, set_owner
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import ToolCall


def _place(call: ToolCall, path: str) -> Path:
    absolute = os.path.normpath(Path(call.cwd, path))
    if call.node.level == "L0":
        return Path(absolute)
    return call.node.path(absolute)


def _ids(node: Node, file: str) -> dict[str, int]:
    lines = (node.files / "etc" / file).read_text(encoding="utf-8").splitlines()
    return {fields[0]: int(fields[2]) for fields in (line.split(":") for line in lines) if len(fields) > 2}  # noqa: PLR2004


def _id(node: Node, file: str, name: str) -> int | None:
    """Return a numeric id; None for "". Raises KeyError for an unknown name."""
    if not name:
        return None
    return int(name) if name.isdigit() else _ids(node, file)[name]


def _tree(place: Path) -> Iterator[Path]:
    yield place
    if place.is_dir() and not place.is_symlink():
        for here, folders, files in os.walk(place):
            yield from (Path(here, name) for name in (*folders, *files))


async def chown(call: ToolCall) -> Reply:
    """Change owner and group; `chgrp` the group only."""
    name = call.argv[0]
    options = [word for word in call.argv[1:] if word.startswith("-")]
    words = [word for word in call.argv[1:] if not word.startswith("-")]
    if len(words) < 2:  # noqa: PLR2004 - owner and at least one file
        return Reply(1, err=f"{name}: missing operand\nTry '{name} --help' for more information.\n")
    spec = f":{words[0]}" if name == "chgrp" else words[0]
    user, _, group = spec.partition(":")
    try:
        uid, gid = _id(call.node, "passwd", user), _id(call.node, "group", group)
    except KeyError:
        kind = "group" if name == "chgrp" else "user"
        return Reply(1, err=f"{name}: invalid {kind}: '{words[0]}'\n")
    recursive = any(word == "--recursive" or (not word.startswith("--") and "R" in word) for word in options)
    errors = ""
    for path in words[1:]:
        place = _place(call, path)
        if not place.exists() and not place.is_symlink():
            errors += f"{name}: cannot access '{path}': No such file or directory\n"
            continue
        for each in _tree(place) if recursive else [place]:
            set_owner(call.node, each, uid, gid)
    return Reply(1 if errors else 0, err=errors)


async def stat(call: ToolCall) -> Reply:
    """Let the real program run with the owner written into its format."""
    real = ["/usr/bin/stat"]
    words = list(call.argv[1:])
    form, flag = "", ""
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word in {"-c", "--format", "--printf"} and words:
            flag, form = "--printf" if word == "--printf" else "-c", words.pop(0)
        elif word.startswith(("--format=", "--printf=")):
            option, _, form = word.partition("=")
            flag = "--printf" if option == "--printf" else "-c"
        elif word.startswith("-c") and len(word) > 2:  # noqa: PLR2004
            flag, form = "-c", word[2:]
        else:
            rest.append(word)
    options = [word for word in rest if word.startswith("-") and word != "--"]
    paths = [word for word in rest if not word.startswith("-")]
    if not flag or "-f" in options or not any(code in form for code in ("%u", "%g", "%U", "%G")):
        return Reply(exec_argv=[*real, *call.argv[1:]])
    commands = []
    for path in paths:
        given = _with_owner(call, form, path)
        shown = [f"--printf={given}"] if flag == "--printf" else ["-c", given]
        commands.append(shlex.join([*real, *options, *shown, "--", path]) + " || code=1")
    return Reply(exec_argv=["bash", "-c", "code=0\n" + "\n".join(commands) + "\nexit $code"])


def _with_owner(call: ToolCall, form: str, path: str) -> str:
    try:
        uid, gid = owner_of(call.node, _place(call, path))
    except OSError:
        return form
    names = [
        next((name for name, number in _ids(call.node, file).items() if number == wanted), "UNKNOWN")
        for file, wanted in (("passwd", uid), ("group", gid))
    ]
    shown = {"%u": str(uid), "%g": str(gid), "%U": names[0], "%G": names[1], "%%": "%%"}
    out, index = "", 0
    while index < len(form):
        pair = form[index : index + 2]
        out += shown.get(pair, form[index])
        index += 2 if pair in shown else 1
    return out


async def install(call: ToolCall) -> Reply:
    """Let the real program copy, then note the owner."""
    words, kept = list(call.argv[1:]), []
    owner = {"-o": "", "-g": ""}
    values: list[str] = []
    while words:
        word = words.pop(0)
        long = {"--owner": "-o", "--group": "-g"}.get(word.partition("=")[0], word)
        if long in owner:
            owner[long] = word.partition("=")[2] if "=" in word else words.pop(0)
        elif word in {"-m", "-t", "-S"}:
            kept += [word, words.pop(0)]
        else:
            kept.append(word)
            if not word.startswith("-"):
                values.append(word)
    real = shlex.join(["/usr/bin/install", *kept])
    if not any(owner.values()) or not values:
        return Reply(exec_argv=["bash", "-c", real])
    targets = values if "-d" in kept else _targets(call, kept, values)
    here = call.node.twin / "bin" if call.node.level == "L0" else Path("/opt/twin/bin")
    note = shlex.join([str(here / "chown"), f"{owner['-o']}:{owner['-g']}", *targets])
    return Reply(exec_argv=["bash", "-c", f"{real} && {note}"])


def _targets(call: ToolCall, kept: list[str], values: list[str]) -> list[str]:
    if "-t" in kept:
        folder, sources = kept[kept.index("-t") + 1], values
    else:
        *sources, folder = values
        if "-T" in kept or not _place(call, folder).is_dir():
            return [folder]
    return [f"{folder}/{Path(source).name}" for source in sources]
