"""What may be asked of the execution of a notebook, and what became of it. Knows nothing of papermill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Status = Literal["completed", "failed", "interrupted", "timeout", "kernel_died"]

OUTPUT_CAP_CHARS = 1_000_000  # per cell; about what JupyterLab still opens at once with 30 such cells
GRACE_S = 5.0  # from the interrupt to the kill: the stage gives back its lock and records where it stopped


@dataclass(frozen=True, slots=True)
class Options:
    """Limits and surroundings of one execution; see `engine.RunbookEngine`."""

    deadline_s: float | None = None
    grace_s: float = GRACE_S
    output_cap: int = OUTPUT_CAP_CHARS
    kernel_cwd: str | None = None
    kernel_env: Mapping[str, str] = field(default_factory=dict)
    on_cell: Callable[[int, int, str], None] | None = None


@dataclass(slots=True)
class Outcome:
    """What became of a notebook; `failed_cell` counts from 0 and is None when no cell is to blame."""

    status: Status | None = None
    error: str = ""
    failed_cell: int | None = None
    signum: int | None = None
