"""Probes: read-only commands of one host, run in one round trip, and what came back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One read-only command of a probe. `key` names it in the result; the timeout is its own.

    unit: one word for what it asks (a tool). After a command that overran its timeout, the others of that unit are not
    run: what hangs once hangs each time, and each would cost its whole timeout.
    if_hung: a unit; run only after an earlier command of that unit overran its timeout, as what stands in for it.
    """

    key: str
    argv: tuple[str, ...]
    timeout_s: float = 10.0
    unit: str = ""
    if_hung: str = ""


@dataclass(frozen=True, slots=True)
class ProbeScript:
    """The read-only commands of one host, run one after the other."""

    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Capture:
    """What one command printed. `exit_code` is None when it was killed by its timeout or never ran.

    lost: the connection broke before the answer came.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    timed_out: bool = False
    lost: bool = False

    @property
    def absent(self) -> bool:
        """Whether the tool itself said that a file is not there: then it is known, not unread."""
        return self.exit_code == 1 and "No such file" in self.stderr

    @property
    def ok(self) -> bool:
        """Whether the command ran and ended with 0."""
        return self.exit_code == 0
