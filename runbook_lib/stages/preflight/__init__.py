"""Preflight: is this cluster fit for the work; makes the work folder, and sets the power mode, on every host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.stages.preflight.check import check
from runbook_lib.stages.preflight.facts import PreflightFacts, facts
from runbook_lib.stages.preflight.plan import plan
from runbook_lib.stages.preflight.probe import probe

if TYPE_CHECKING:
    from runbook_lib.params import Params

NAME = "preflight"

__all__ = ["NAME", "PreflightFacts", "check", "facts", "plan", "probe", "waits_for"]


def waits_for(facts: PreflightFacts, params: Params) -> tuple[str, ...]:  # noqa: ARG001 - the same form for every stage
    """Return nothing: this stage is the first."""
    return ()
