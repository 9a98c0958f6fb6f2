"""What a stage is: pure functions from a probe's captures to facts, findings and changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from runbook_lib.model import Capture, Finding, Subject, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runbook_lib.model import Change, ProbeScript
    from runbook_lib.params import Host, HostPaths, Params

FactsT = TypeVar("FactsT")

NEVER_RAN = Capture(stderr="this command never ran")


@dataclass(frozen=True, slots=True)
class HostProbe:
    """What one host answered. `error` is "" when it was reached.

    asked_s: our clock (Unix time) when the probe was sent; None where it was not, or that is not known.
    """

    host: str
    paths: HostPaths
    captures: Mapping[str, Capture] = field(default_factory=dict)
    error: str = ""
    asked_s: float | None = None

    @property
    def lost(self) -> bool:
        """Whether the connection broke before all answers had come."""
        return any(each.lost for each in self.captures.values())

    def get(self, key: str) -> Capture:
        """Return one section's capture; a section that is not there never ran."""
        return self.captures.get(key, NEVER_RAN)


Probes = dict[str, HostProbe]


class StageModule(Protocol[FactsT]):
    """The pure functions that every stage module has."""

    def probe(self, params: Params, host: Host, paths: HostPaths) -> ProbeScript:
        """Return the read-only commands for one host."""

    def facts(self, params: Params, probes: Probes) -> FactsT:
        """Turn captures into facts; hosts that were not reached are absent."""

    def check(self, facts: FactsT, params: Params) -> list[Finding]:
        """Judge the facts."""

    def plan(self, facts: FactsT, params: Params) -> list[Change]:
        """Return the changes that make the findings ok; none when there is nothing to do."""

    def waits_for(self, facts: FactsT, params: Params) -> tuple[str, ...]:
        """Return the stages whose work this one needs and does not see done."""


@dataclass(frozen=True, slots=True)
class Stage(Generic[FactsT]):
    """One stage of the runbook.

    settle_s: how long verify polls while findings are transient.
    follow_up: what the first facts call for, by host; a second round trip, where it asks for anything.
    """

    name: str
    title: str
    notebook: str
    module: StageModule[FactsT]
    settle_s: float = 30.0
    follow_up: Callable[[FactsT, Params, Mapping[str, HostPaths]], dict[str, ProbeScript]] | None = None


class Findings:
    """Collects the findings of one stage; adds the stage name and the next command."""

    def __init__(self, stage: str, next_command: str) -> None:
        self.stage = stage
        self.next_command = next_command
        self.items: list[Finding] = []

    def add(  # noqa: PLR0913 - one keyword for each field of a finding
        self,
        code: str,
        subject: Subject,
        verdict: Verdict,
        *,
        seen: str = "",
        expected: str = "",
        next_command: str | None = None,
        transient: bool = False,
    ) -> None:
        """Add one finding. The stage's own next command is used for what is not ok, unless another is given."""
        if verdict in (Verdict.OK, Verdict.SKIPPED):
            command = ""
        else:
            command = self.next_command if next_command is None else next_command
        self.items.append(Finding(code, self.stage, subject, verdict, seen, expected, command, transient=transient))

    def judge(self, code: str, subject: Subject, *, ok: bool, seen: str, expected: str) -> None:
        """Add ok or fail; the common case where the value is known."""
        self.add(code, subject, Verdict.OK if ok else Verdict.FAIL, seen=seen, expected=expected)

    def unreachable(self, params: Params, probes_seen: Sequence[str], code: str = "RUN-HOST") -> None:
        """Add a failure for every host of the params that gave no facts."""
        for host in params.cluster.hosts:
            if host.name not in probes_seen:
                self.add(
                    code,
                    Subject(host.name),
                    Verdict.FAIL,
                    seen="the host gave no facts",
                    expected="every host answers over SSH",
                    next_command=f"ssh -p {params.cluster.ssh.port} {params.cluster.ssh.user}@{host.address} true",
                )


def apply_command(params: Params, stage: str) -> str:
    """Return the command that lets the runbook repair what a stage can repair; it works as typed."""
    return f"runbook run {params_file(params)} --mode apply --stage {stage} --yes"


def params_file(params: Params) -> str:
    """Return the usual place of a cluster's params file."""
    return f"params/{params.cluster.name}.yaml"
