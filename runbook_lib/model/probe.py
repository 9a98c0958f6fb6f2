"""Probes: read-only commands of one host, run in one round trip, and what came back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One read-only command of a probe. `key` names it in the result; the timeout is its own."""

    key: str
    argv: tuple[str, ...]
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ProbeScript:
    """The read-only commands of one host for one stage, run one after the other."""

    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Capture:
    """What one command printed. `exit_code` is None when it was killed by its timeout or never ran."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether the command ran and ended with 0."""
        return self.exit_code == 0
