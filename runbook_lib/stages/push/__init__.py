"""Programs that are pushed to hosts: standard library only, valid for Python 3.7."""

from __future__ import annotations

import ast
from functools import cache
from importlib.resources import files

_LOADER = """
import sys, types
for _name, _text in {modules!r}.items():
    sys.modules[_name] = types.ModuleType(_name)
    exec(compile(_text, _name + ".py", "exec"), sys.modules[_name].__dict__)
"""


def source(name: str) -> str:
    """Return the text of a program in this folder."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def bundle(name: str) -> str:
    """Return a program with the programs of this folder that it imports, as the text of one file."""
    modules: dict[str, str] = {}
    _collect(name.removesuffix(".py"), modules)
    main = modules.pop(name.removesuffix(".py"))
    return f"{_LOADER.format(modules=modules).lstrip()}\n{main}" if modules else main


def _collect(name: str, modules: dict[str, str]) -> None:
    """Add a program after those that it imports."""
    text = source(f"{name}.py")
    for node in ast.walk(ast.parse(text)):
        other = node.module if isinstance(node, ast.ImportFrom) else None
        if other and other not in modules and files(__package__).joinpath(f"{other}.py").is_file():
            _collect(other, modules)
    modules[name] = text
