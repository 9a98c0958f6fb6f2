"""Drift: what is on the hosts now against what the params want. Reads only, writes no record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runbook_lib.model import Finding, Verdict, worst
from runbook_lib.runs.cluster import Cluster
from runbook_lib.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from runbook_lib.params import Params

PROBLEMS = (Verdict.FAIL, Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class StageCheck:
    """What one stage's checks say now."""

    name: str
    title: str
    findings: tuple[Finding, ...]
    facts: Any = None

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        return worst(finding.verdict for finding in self.findings)


def check_cluster(
    params: Params, only: Collection[str] = (), say: Callable[[str], None] = lambda _line: None
) -> list[StageCheck]:
    """Probe and judge every stage, or those of `only`: all in one round trip, but for what the first answers call for.

    Raises TwinDown when the cluster is a twin that is down.
    """
    stages = [stage for stage in STAGES if not only or stage.name in only]
    cluster = Cluster(params)
    checks = []
    try:
        say(f"reading {len(params.cluster.hosts)} hosts")
        probes = cluster.probe(stages)
        for stage in stages:
            _, facts = cluster.follow_up(stage, probes[stage.name])
            checks.append(StageCheck(stage.name, stage.title, tuple(stage.module.check(facts, params)), facts))
    finally:
        cluster.close()
    return checks


def is_ok(checks: list[StageCheck]) -> bool:
    """Whether nothing failed and nothing is unknown."""
    return bool(checks) and not any(finding.verdict in PROBLEMS for each in checks for finding in each.findings)
