"""Our own data files beside the code: read once, kept for the life of the process."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML


@cache
def load(name: str) -> Any:  # noqa: ANN401 - the modules that ask for a file turn it into their own types
    """Return the content of one YAML file of this package. Callers must not change it."""
    return YAML(typ="safe").load(files("runbook_lib.ascend").joinpath(name).read_text(encoding="utf-8"))
