"""Reading a params file: YAML 1.2, `extends`, overrides, errors with file:line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from runbook_lib.errors import ParamsError, UsageError
from runbook_lib.params.models import Params

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EXTENDS_LIMIT = 8


def project_root(start: Path | None = None) -> Path:
    """Return RUNBOOK_HOME, or the nearest parent of `start` (default: the working folder) with params/ and notebooks/.

    Raises UsageError when there is none.
    """
    if home := os.environ.get("RUNBOOK_HOME"):
        return Path(home).resolve()
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise UsageError(
        f"no folder above {here} holds params/ and notebooks/",
        next_command="cd <project>, or export RUNBOOK_HOME=<project>",
    )


def resolve_path(path: str | Path, root: Path | None = None) -> Path:
    """Return a params path: as given when absolute or found from here, else below the project root."""
    given = Path(path).expanduser()
    if given.is_absolute():
        return given
    if given.exists():
        return given.resolve()
    return (root or project_root()) / given


def load_params(path: str | Path, overrides: Mapping[str, Any] | str | None = None) -> Params:
    """Read and validate a params file.

    overrides: {"service.port": 1035, "cluster.hosts.0.address": "10.0.0.1"} or its JSON text; the schema types them.
    Raises ParamsError with every problem as `file:line: message`.
    """
    file = resolve_path(path)
    data, lines = _read(file, depth=0)
    for dotted, value in _override_items(overrides).items():
        _set(data, dotted, value)
        lines.pop(dotted, None)
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError(
            _problems(error, file, lines), next_command=f"edit {path}, then: runbook params validate {path}"
        ) from None


def _override_items(overrides: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides) if overrides.strip() else None
        except json.JSONDecodeError as error:
            raise UsageError(f"overrides is not JSON: {error}") from None
    if overrides is None:
        return {}
    if not isinstance(overrides, dict):
        raise UsageError('overrides must be a mapping, like {"service.port": 1035}')
    return dict(overrides)


def _read(file: Path, depth: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the plain data and, for each dotted key, its `file:line`."""
    if depth > _EXTENDS_LIMIT:
        raise ParamsError(
            [f"{file}: `extends` goes more than {_EXTENDS_LIMIT} files deep; right would be a chain without a circle"]
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ParamsError([f"{file}: cannot be read: {reason}"], next_command="ls params/") from None
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError([f"{file}:{line}: not YAML: {error.problem}"]) from None
    except YAMLError as error:  # a character that YAML does not allow, for example
        raise ParamsError([f"{file}:1: not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(tree, CommentedMap):
        raise ParamsError([f"{file}:1: a params file is a mapping of cluster, model, container, ...; this one is not"])
    lines: dict[str, str] = {}
    _note_lines(tree, file, "", lines)
    data = _plain(tree)
    parent = data.pop("extends", None)
    if parent is None:
        return data, lines
    if not isinstance(parent, str):
        raise ParamsError([f"{lines['extends']}: extends: right would be the path of one params file"])
    base, base_lines = _read(file.parent / parent, depth + 1)
    kept = {dotted: place for dotted, place in base_lines.items() if not _replaced(dotted, data)}
    return _merge(base, data), kept | lines


def _note_lines(node: object, file: Path, prefix: str, lines: dict[str, str]) -> None:
    if isinstance(node, CommentedMap):
        for key, value in node.items():
            dotted = f"{prefix}{key}"
            lines[dotted] = f"{file}:{node.lc.key(key)[0] + 1}"
            _note_lines(value, file, f"{dotted}.", lines)
    elif isinstance(node, CommentedSeq):
        for index, value in enumerate(node):
            dotted = f"{prefix}{index}"
            lines[dotted] = f"{file}:{node.lc.item(index)[0] + 1}"
            _note_lines(value, file, f"{dotted}.", lines)


def _plain(node: Any) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):  # ruamel's round-trip scalars are subclasses of these
        if isinstance(node, kind):
            return kind(node)
    return node


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _replaced(dotted: str, top: Mapping[str, Any]) -> bool:
    """Whether a key of the file below lies in a value that the file on top replaces as a whole."""
    node: Any = top
    for part in dotted.split("."):
        if not isinstance(node, dict):
            return True
        if part not in node:
            return False
        node = node[part]
    return False


def _set(data: dict[str, Any], dotted: str, value: object) -> None:
    *path, last = dotted.split(".")
    node: Any = data
    for part in path:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            raise UsageError(f"overrides: {dotted} does not lead anywhere in the params")
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UsageError(f"overrides: {dotted} does not lead anywhere in the params")


def _problems(error: ValidationError, file: Path, lines: Mapping[str, str]) -> list[str]:
    return [
        f"{_where(item['loc'], file, lines)}: {'.'.join(map(str, item['loc']))}{': ' if item['loc'] else ''}{line}"
        for item in error.errors(include_url=False)
        for line in _say(item).splitlines()
    ]


def _where(location: Sequence[str | int], file: Path, lines: Mapping[str, str]) -> str:
    parts = [str(part) for part in location]
    while parts:
        if place := lines.get(".".join(parts)):
            return place
        parts.pop()
    return f"{file}:1"


def _say(item: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    if item["type"] == "extra_forbidden":
        return "unknown key; right would be one of the keys in params/schema.json"
    if item["type"] == "missing":
        return "missing; it has no default"
    message = str(item["msg"]).removeprefix("Value error, ")
    # whoever wrote a secret itself there, or one within a URL, shall not read it in a log
    secret = item["loc"][-1:] in {("token",), ("url",)}
    return message if item["type"] == "value_error" or secret else f"{message}, not {item['input']!r}"


def params_schema() -> dict[str, Any]:
    """Return the JSON schema of a params file, for editors."""
    schema = Params.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "another params file, whose values this one changes",
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
