"""Changes and plans: what is to be done on which host, as pure data with its undo."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from runbook_lib.model.finding import Subject  # noqa: TC001 - read at run time when a plan is read back from JSON
from runbook_lib.model.serialize import canonical_json


class Risk(StrEnum):
    """How much a change can hurt. Destructive changes are never approved by policy."""

    REVERSIBLE = "reversible"
    DISRUPTIVE = "disruptive"
    DESTRUCTIVE = "destructive"


@dataclass(frozen=True, slots=True)
class Command:
    """Run one program to its end. `argv` is quoted word by word; there is no shell in between."""

    argv: tuple[str, ...]
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Upload:
    """Put a text file in place, atomically, with owner and mode. `owner` is "user:group", "" for the login user.

    secret: a reference (`env:NAME`, `file:PATH`, `generated:NAME`) to what is written instead of `content`, so that
    the value stands in no plan, record or report. `generated` is made anew for each apply, the same on all hosts.
    """

    path: str
    content: str
    mode: int = 0o640
    owner: str = ""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Run a long program as a detached job on the host, and wait for it.

    A job is keyed by a digest of its content: a second start attaches to the first.
    wait: False for a service that stays; the job then counts as done once it runs.
    progress: the job's log holds lines `PROGRESS <done> <total> <unit>`, which are shown while it runs.
    afterwards: what a job with progress still does when all is there, for people; "" for nothing.
    """

    name: str
    argv: tuple[str, ...]
    deadline_s: float
    wait: bool = True
    progress: bool = False
    afterwards: str = ""


Action = Command | Upload | Job


@dataclass(frozen=True, slots=True)
class Change:
    """One change on one host.

    phase: all hosts finish phase n before any starts n+1; within a phase a host works in order.
    fixes: finding codes on the same subject that are ok after this change.
    undo: the inverse as data; None needs `irreversible` to say why.
    """

    subject: Subject
    summary: str
    before: str
    after: str
    action: Action
    undo: Action | None = None
    irreversible: str = ""
    risk: Risk = Risk.REVERSIBLE
    phase: int = 0
    fixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The ordered changes of one stage. `provisional` plans (prerequisites unmet) have no digest."""

    stage: str
    changes: tuple[Change, ...] = field(default=())
    provisional: bool = False
    waits_for: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Name this plan by all that its changes read and do; 16 hex digits, "" when provisional or empty."""
        if self.provisional or not self.changes:
            return ""
        import hashlib  # noqa: PLC0415 - 4 MB of libcrypto that a load generator must not carry

        return hashlib.sha256(canonical_json([self.stage, self.changes]).encode()).hexdigest()[:16]

    @property
    def risks(self) -> frozenset[Risk]:
        """The risk levels that occur in this plan."""
        return frozenset(change.risk for change in self.changes)
