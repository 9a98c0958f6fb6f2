"""Everything that can go wrong, as one tree.

RunbookError                  base; carries the exact next command
├── UsageError                bad command line or notebook parameter           exit 2
│   └── ParamsError           a params file that does not hold; lists problems  exit 2
├── HostError                 one host could not do what was asked
│   ├── HostUnreachable       no TCP connection, no banner, connection lost
│   ├── HostKeyRejected       the host key is unknown or has changed
│   ├── AuthenticationFailed  the host refused the key or the user
│   ├── CommandTimeout        a remote command did not end in time and was killed
│   └── CommandFailed         a remote command ended with a non-zero code
├── ApprovalNeeded            a plan has changes that nobody approved
├── PlanChanged               the facts behind an approved plan are no longer true
├── StageBlocked              a stage's prerequisites are not met
├── StageFailed               a stage was applied and does not verify
├── LockHeld                  somebody else is applying to this cluster
├── RecordError               the run record cannot be written or read
├── LoadError                 the load generator could not measure
└── TwinError                 the emulated cluster cannot do what was asked
    └── TwinDown              the emulated cluster is not up

Unreadable tool output is not an error: parsers answer it with an unknown value, which checks turn into
the verdict `unknown`.
"""

from __future__ import annotations


class RunbookError(Exception):
    """Base of all our errors. `next_command` is what the user can run or do next ("" when nothing helps)."""

    exit_code = 1

    def __init__(self, message: str, *, next_command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_command = next_command

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_command}" if self.next_command else self.message


class UsageError(RunbookError):
    """Bad command line or notebook parameter; nothing was touched."""

    exit_code = 2


class ParamsError(UsageError):
    """A params file that does not hold. `problems` has one `file:line: what, and what would be right` each."""

    def __init__(self, problems: list[str], *, next_command: str = "") -> None:
        super().__init__("\n".join(problems), next_command=next_command)
        self.problems = problems


class HostError(RunbookError):
    """One host could not do what was asked."""

    def __init__(self, host: str, message: str, *, next_command: str = "") -> None:
        super().__init__(f"{host}: {message}", next_command=next_command)
        self.host = host
        self.reason = message


class HostUnreachable(HostError):
    """No TCP connection, no SSH banner in time, or the connection was lost."""


class HostKeyRejected(HostError):
    """The host key is unknown or differs from the pinned one."""


class AuthenticationFailed(HostError):
    """The host refused the key or the user."""


class CommandTimeout(HostError):
    """A remote command did not end in time; it was killed on the host."""


class CommandFailed(HostError):
    """A remote command ended with a non-zero exit code."""


class ApprovalNeeded(RunbookError):
    """A plan has changes that nobody approved. `digest` names the plan."""

    def __init__(self, message: str, *, digest: str, next_command: str = "") -> None:
        super().__init__(message, next_command=next_command)
        self.digest = digest


class PlanChanged(RunbookError):
    """The facts behind an approved plan are no longer true."""


class StageBlocked(RunbookError):
    """A stage's prerequisites are not met."""


class StageFailed(RunbookError):
    """A stage was applied and does not verify."""


class LockHeld(RunbookError):
    """Somebody else is applying to this cluster."""


class RecordError(RunbookError):
    """The run record cannot be written or read."""


class LoadError(RunbookError):
    """The load generator could not measure."""


class TwinError(RunbookError):
    """The emulated cluster cannot do what was asked."""


class TwinDown(TwinError):
    """The emulated cluster is not up."""
