"""What a stage is: pure functions from a probe's captures to facts, findings and changes."""

from __future__ import annotations

import shlex
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
    """Collects the findings of one stage; adds the stage name and the next command.

    next_command: "" for that which applies the stage's plan, and a new look where something is unknown.
    """

    def __init__(self, params: Params, stage: str, next_command: str = "") -> None:
        self.stage = stage
        self.next_command = next_command or apply_command(params, stage)
        self.look_again = next_command or check_command(params, stage)
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
        """Add one finding. Without a next command what is bad gets the stage's own, and what is unknown another look.

        No plan mends what could not be read.
        """
        if verdict in (Verdict.OK, Verdict.SKIPPED):
            command = ""
        else:
            own = self.look_again if verdict is Verdict.UNKNOWN else self.next_command
            command = own if next_command is None else next_command
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
                    next_command=ssh_command(params, host),
                )


def apply_command(params: Params, stage: str) -> str:
    """Return the command that lets the runbook repair what a stage can repair; it works as typed."""
    return f"runbook run {params_file(params)} --mode apply --stage {stage} --yes"


def check_command(params: Params, stage: str) -> str:
    """Return the command that reads and judges one stage anew."""
    return f"runbook check {params_file(params)} --stage {stage}"


def ssh_command(params: Params, host: Host) -> str:
    """Return the call that shows whether a host can be reached as the runbook does it, from the project's folder."""
    ssh = params.cluster.ssh
    known = ssh.known_hosts or f"outputs/{params.cluster.name}/known_hosts"
    words = ["ssh", *(["-i", ssh.key] if ssh.key else []), "-o", f"UserKnownHostsFile={known}"]
    if ssh.jump is not None:
        words += ["-J", f"{ssh.jump.user}@{ssh.jump.address}:{ssh.jump.port}"]
    return shlex.join([*words, "-p", str(ssh.port), f"{ssh.user}@{host.address}", "true"])


def params_file(params: Params) -> str:
    """Return the usual place of a cluster's params file."""
    return f"params/{params.cluster.name}.yaml"
