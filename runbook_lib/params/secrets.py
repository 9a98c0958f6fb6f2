"""Secrets by reference: a params file says where a secret is, never what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from runbook_lib.errors import UsageError


class SecretValue:
    """A resolved secret that cannot print itself."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret; call it only where it leaves for its purpose."""
        return self._value

    def __repr__(self) -> str:
        return "SecretValue(***)"


class Reference(str):
    """A text of a params file that says where a secret is; the class is how the redactor finds them all."""

    __slots__ = ()


def _reference(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind not in {"env", "file"} or not name:
        raise ValueError("a secret is given by reference; right would be env:NAME or file:PATH")
    return Reference(value)


SecretReference = Annotated[str, AfterValidator(_reference)]


def resolve(reference: str) -> SecretValue:
    """Return the secret behind `env:NAME` or `file:PATH`. Raises UsageError when it is not there."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise UsageError(f"the secret {reference} is not set", next_command=f"export {name}=...")
        return SecretValue(os.environ[name])
    try:
        return SecretValue(Path(name).expanduser().read_text(encoding="utf-8").strip())
    except OSError as error:
        raise UsageError(f"the secret {reference} cannot be read: {error.strerror}") from error
