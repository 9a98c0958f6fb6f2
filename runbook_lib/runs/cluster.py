"""A cluster as a run sees it: its hosts connected, probed and changed."""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_fixed

from runbook_lib.errors import (
    CommandFailed,
    HostError,
    HostUnreachable,
    RunbookError,
    StageFailed,
    TwinDown,
    UsageError,
)
from runbook_lib.model import Capture, Change, Command, Job, ProbeScript, Upload
from runbook_lib.params import OWN_ROOT, ROOT_VARIABLE, HostPaths, project_root, resolve_path
from runbook_lib.params.secrets import SecretValue, resolve
from runbook_lib.remote import Host, JobState, Target, cancelled, fan_out, job_directory, start_job, wait_job
from runbook_lib.runs.pace import Pace
from runbook_lib.runs.redaction import redactor_of
from runbook_lib.stages import HostProbe, Probes, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from runbook_lib.model import Section
    from runbook_lib.params import Params
    from runbook_lib.remote import JobStatus
    from runbook_lib.stages.base import FactsT

    OnProgress = Callable[[str, float, str], None]

PROBE_DEADLINE_S = 300.0
_BUSY = "hccn_tool is busy"
_BUSY_TRIES = 10
_POLL_S = 0.5
_EARLY_END_S = 2.0
BACK_S = 900.0  # a server with 8 cards boots in 5 to 10 minutes
_SHOWN_CHARACTERS = 400


def known_hosts_file(params: Params, root: Path) -> Path:
    """Return the file with the cluster's pinned host keys."""
    given = params.cluster.ssh.known_hosts
    return resolve_path(given, root) if given else root / "outputs" / params.cluster.name / "known_hosts"


def targets(params: Params, root: Path) -> list[Target]:
    """Return how to reach every host of a cluster."""
    ssh = params.cluster.ssh
    key = str(resolve_path(ssh.key, root)) if ssh.key else None
    known = str(known_hosts_file(params, root))
    jump = None
    if ssh.jump is not None:
        jump = Target("jump", ssh.jump.address, ssh.jump.port, ssh.jump.user, key, known)
    return [
        Target(
            name=host.name,
            address=host.address,
            port=ssh.port,
            user=ssh.user,
            key_file=key,
            known_hosts=known,
            become=params.cluster.become,
            jump=jump,
            connect_timeout_s=ssh.connect_timeout_s,
        )
        for host in params.cluster.hosts
    ]


@dataclass(frozen=True, slots=True)
class Signs:
    """What ends the waiting for a job. stop: somebody wants to go. failed: a change on some host went wrong."""

    stop: threading.Event = field(default_factory=threading.Event)
    failed: threading.Event = field(default_factory=threading.Event)


class Cluster:
    """The hosts of one cluster, one connection each for as long as this object lives."""

    def __init__(self, params: Params, root: Path | None = None) -> None:
        self.params = params
        # what comes from a host is masked as it comes in; only a run, not a reader, needs to have all secrets
        self.redactor = redactor_of(params, strict=False)
        self.root = root or project_root()
        self.targets = targets(params, self.root)
        self.commands: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._generated: dict[str, str] = {}
        self._brought: dict[str, list[Upload]] = defaultdict(list)  # secrets by host, for a job that is started again
        self._hosts: dict[str, Host] = {}
        self._paths: dict[str, HostPaths] = {}
        known = known_hosts_file(params, self.root)
        if not known.is_file():
            if params.twin is not None:
                raise self._twin_down()
            raise UsageError(
                f"{known} is missing: no host key of this cluster was pinned yet",
                next_command=f"runbook trust params/{params.cluster.name}.yaml",
            )

    def _twin_down(self) -> TwinDown:
        name = self.params.cluster.name
        return TwinDown(f"the twin of {name} is not up", next_command=f"runbook twin up params/{name}.yaml")

    def close(self) -> None:
        """Close every connection."""
        for host in self._hosts.values():
            host.close()
        self._hosts.clear()

    def take_commands(self) -> list[dict[str, Any]]:
        """Return the commands that ran since the last call, for the record."""
        with self._lock:
            taken, self.commands = self.commands, []
        return taken

    def _observe(self, host: str, argv: Sequence[str], code: int | None, seconds: float, digest: str) -> None:
        entry = {"host": host, "argv": list(argv), "exit": code, "seconds": round(seconds, 4), "output": digest}
        with self._lock:
            self.commands.append(entry)

    def paths_of(self, name: str) -> HostPaths:
        """Return the paths of a host that was connected to."""
        return self._paths[name]

    def connected(self, target: Target) -> Host:
        """Return the open host; connects when there is no connection. Raises HostError."""
        host = self._hosts.get(target.name)
        if host is None:
            host = self._hosts[target.name] = Host(target, self._observe, self.redactor.text)
        host.open()
        if target.name not in self._paths:
            prefix = ""
            if self.params.twin is not None and not host.transport.remote_version.endswith(OWN_ROOT):
                prefix = self._asked_root(host)
            self._paths[target.name] = HostPaths.of(self.params, prefix)
        return host

    def _asked_root(self, host: Host) -> str:
        """Return where a twin's host keeps its files; without an answer its paths would be those of this machine."""
        said = host.run(("printenv", ROOT_VARIABLE), 10.0)
        if not said.ok or not said.stdout.strip():
            raise CommandFailed(
                host.target.name,
                f"the twin's host does not say where its files begin ({ROOT_VARIABLE}); is it of an older version?",
                next_command=f"runbook twin down params/{self.params.cluster.name}.yaml   # then `twin up`",
            )
        return said.stdout.strip()

    def reach(self) -> dict[str, str]:
        """Connect to every host; return the error of each that cannot be reached. Raises TwinDown for a twin."""
        results = fan_out(self.targets, lambda target: self.connected(target) and None, deadline_s=PROBE_DEADLINE_S)
        if self.params.twin is not None and all(isinstance(each.error, HostUnreachable) for each in results.values()):
            raise self._twin_down()
        return {name: str(result.error) for name, result in results.items() if result.error is not None}

    def observe(self, stage: Stage[FactsT]) -> tuple[Probes, FactsT]:
        """Read all hosts at once, then what the first answers call for; return the answers and their facts.

        A host that cannot be read has its error; one that is lost meanwhile keeps its first answers. Raises TwinDown
        when the twin is down.
        """
        return self.follow_up(stage, self.probe([stage])[stage.name])

    def follow_up(self, stage: Stage[FactsT], probes: Probes) -> tuple[Probes, FactsT]:
        """Ask for what the first answers call for; return all answers and their facts."""
        facts = stage.module.facts(self.params, probes)
        scripts = (
            stage.follow_up(facts, self.params, {name: seen.paths for name, seen in probes.items()})
            if stage.follow_up is not None
            else {}
        )
        asked = [each for each in self.targets if each.name in scripts and scripts[each.name].sections]
        if not asked:
            return probes, facts
        results = fan_out(
            asked,
            lambda target: probe_unless_busy(self.connected(target), scripts[target.name]),
            deadline_s=PROBE_DEADLINE_S,
        )
        more = {name: result.value or {} for name, result in results.items()}
        probes = {
            name: replace(seen, captures={**seen.captures, **more.get(name, {})}) for name, seen in probes.items()
        }
        return probes, stage.module.facts(self.params, probes)

    def probe(self, stages: Sequence[Stage[Any]], first: Callable[[str], Section] | None = None) -> dict[str, Probes]:
        """Ask all hosts at once for what some stages read, in one round trip; see `observe`.

        first: makes a section out of a host's work folder that is run before all others; its answer is among those of
        the first stage.
        """
        asked: dict[str, float] = {}

        def read(target: Target) -> dict[str, HostProbe]:
            self.connected(target)
            asked[target.name] = time.time()
            host, paths = self.params.host(target.name), self._paths[target.name]
            scripts = {stage.name: stage.module.probe(self.params, host, paths) for stage in stages}
            if first is not None:
                beginning = scripts[stages[0].name]
                scripts[stages[0].name] = ProbeScript((first(paths.work), *beginning.sections))
            return self._read(target, scripts)

        results = fan_out(self.targets, read, deadline_s=PROBE_DEADLINE_S * len(stages))
        if self.params.twin is not None and all(isinstance(each.error, HostUnreachable) for each in results.values()):
            raise self._twin_down()
        probes: dict[str, Probes] = {stage.name: {} for stage in stages}
        for name, result in results.items():
            if result.error is not None and not isinstance(result.error, HostError):
                raise result.error
            for stage in stages:
                probes[stage.name][name] = (
                    self._unread(name, result.error, asked.get(name))
                    if result.value is None
                    else result.value[stage.name]
                )
        return probes

    def _read(self, target: Target, scripts: Mapping[str, ProbeScript]) -> dict[str, HostProbe]:
        """Run the scripts of some stages as one; those after the one that lost the connection are asked again."""
        seen: dict[str, HostProbe] = {}
        while left := {name: script for name, script in scripts.items() if name not in seen}:
            asked_s = time.time()
            try:
                came = _probe_all(self.connected(target), left)
            except HostError as error:
                if not seen:
                    raise
                return seen | dict.fromkeys(left, self._unread(target.name, error))
            for name, captures in came.items():
                seen[name] = HostProbe(target.name, self._paths[target.name], captures, asked_s=asked_s)
                if seen[name].lost:
                    break
        return seen

    def _unread(self, name: str, error: HostError | None, asked_s: float | None = None) -> HostProbe:
        paths = self._paths.get(name) or HostPaths.of(self.params)
        why = self.redactor.text(error.reason if error else "it was not read")
        return HostProbe(name, paths, error=why, asked_s=asked_s)

    def apply(self, change: Change, on_progress: OnProgress, signs: Signs) -> None:
        """Make one change. Raises StageFailed with what was tried, what came, and what to do next."""
        target = next(each for each in self.targets if each.name == change.subject.host)
        action = change.action
        try:
            host = self.connected(target)
            if isinstance(action, Upload):
                host.upload(self._with_secret(action))
                if action.secret:
                    self._brought[target.name].append(action)
            elif isinstance(action, Command):
                _judge(change, run_unless_busy(host, action), target)
            else:
                self._run_job(host, change, action, on_progress, signs)
        except Exception as error:
            self.redactor.mask(error)
            raise

    def _with_secret(self, item: Upload) -> Upload:
        """Fill in the secret that an upload refers to; it exists in no plan and no record."""
        if not item.secret:
            return item
        kind, _, name = item.secret.partition(":")
        if kind != "generated":
            return replace(item, content=resolve(item.secret).reveal() + "\n")
        with self._lock:
            value = self._generated.setdefault(name, secrets.token_urlsafe(32))
            self.redactor.learn(SecretValue(value))
        return replace(item, content=value + "\n")

    def _run_job(self, host: Host, change: Change, job: Job, on_progress: OnProgress, signs: Signs) -> None:
        log = f"{job_directory(job, self._paths[host.target.name].work)}/log"
        pace = Pace(afterwards=job.afterwards)

        def look(status: JobStatus | None) -> None:
            if status is not None and not job.wait:
                return
            step = status.progress if status is not None else None
            whole = step is not None and step.done >= step.total
            running = status is not None and status.state is JobState.RUNNING
            alone = bool(job.afterwards) and whole and running and signs.failed.is_set()
            if signs.stop.is_set() or alone:
                why = " for the other hosts, since a change on one of them failed" if alone else ""
                raise RunbookError(
                    f"{change.subject}: stopped waiting{why}; the job goes on on the host, a re-run attaches to it",
                    next_command=f"tail -f {log}   # on {host.target.name}",
                )
            if status is None:
                on_progress(
                    host.target.name, -1.0, "no connection; the job goes on, or is resumed when the host is back"
                )
            else:
                fraction = step.done / step.total if step is not None and step.total else -1.0
                on_progress(host.target.name, fraction, pace.say(status) or change.summary)

        status = self._until_over(host, job, look)
        if status.state in {JobState.FAILED, JobState.LOST} or (job.wait and status.state is not JobState.DONE):
            raise StageFailed(
                f"{change.subject}: {change.summary}: the job is {status.state.value}, exit code {status.exit_code}\n"
                f"  its log ends with: {status.log_tail[-_SHOWN_CHARACTERS:]}",
                next_command=f"tail -n 100 {log}   # on {host.target.name}",
            )

    def _until_over(self, host: Host, job: Job, look: Callable[[JobStatus | None], None]) -> JobStatus:
        """Start a job and wait for it, also over lost connections; one that a reboot ended is started again.

        When the connection is lost at the start nobody knows whether it began: a second start attaches to the first
        if so, whatever became of it. A job that is lost on a host that stayed connected was killed by somebody, and is
        left so, and so is a service that a reboot ended. Raises HostUnreachable when a host does not come back within
        BACK_S, or when nobody waits for this host any more.
        """
        work = self._paths[host.target.name].work
        # a service stays; but what ends at once shall not be waited for until the stage's deadline
        deadline_s = job.deadline_s if job.wait else _EARLY_END_S
        attempt = secrets.token_hex(8)
        handle, dropped, gone_since = None, False, None

        def seen(status: JobStatus) -> None:
            nonlocal dropped, gone_since
            gone_since = None
            dropped = dropped and status.state is not JobState.RUNNING  # it outlived the loss of the connection
            look(status)

        while not cancelled():  # for another thread may have connected the host again
            try:
                host.open()
                if handle is None:
                    handle = start_job(host, job, work, restart=True, attempt=attempt)
                status = wait_job(host, handle, deadline_s=deadline_s, poll_s=_POLL_S, on_progress=seen)
                if status.state is not JobState.LOST or not (dropped and job.wait):
                    return status
                for item in self._brought[host.target.name]:
                    host.upload(self._with_secret(item))
                start_job(host, job, work)
                dropped = False
            except HostUnreachable:
                dropped, gone_since = True, gone_since or time.monotonic()
                if cancelled() or time.monotonic() > gone_since + BACK_S:
                    raise
                look(None)
                time.sleep(_POLL_S)
        raise HostUnreachable(host.target.name, "nobody waits for this host any more")


def _probe_all(host: Host, scripts: Mapping[str, ProbeScript]) -> dict[str, dict[str, Capture]]:
    """Run the scripts of some stages as one."""
    sections = [
        (stage, each.key, replace(each, key=f"{stage}/{each.key}"))
        for stage, script in scripts.items()
        for each in script.sections
    ]
    found = probe_unless_busy(host, ProbeScript(tuple(section for _, _, section in sections)))
    captures: dict[str, dict[str, Capture]] = {stage: {} for stage in scripts}
    for stage, key, section in sections:
        captures[stage][key] = found[section.key]
    return captures


def probe_unless_busy(host: Host, script: ProbeScript) -> dict[str, Capture]:
    """Probe; sections that met a busy hccn_tool (somebody else reads or sets on this host) are asked again.

    What stands in for them goes with them. An answer that came is replaced only by one that comes.
    """
    captures = host.probe(script)
    for _ in range(_BUSY_TRIES):
        busy = {each.key for each in script.sections if _BUSY in captures[each.key].stdout}
        if not busy:
            break
        units = {each.unit for each in script.sections if each.unit and each.key in busy}
        asked = [
            replace(each, if_hung="") if each.key in busy else each
            for each in script.sections
            if each.key in busy or each.if_hung in units
        ]
        time.sleep(_POLL_S)
        try:
            came = host.probe(ProbeScript(tuple(asked)))
        except HostUnreachable:
            break
        captures |= {key: each for key, each in came.items() if each.exit_code is not None or each.timed_out}
    return captures


def run_unless_busy(host: Host, command: Command) -> Capture:
    """Run a command; hccn_tool refuses to run twice at once on a host, so a busy answer is asked again."""
    retrying = Retrying(
        retry=retry_if_result(lambda capture: _BUSY in capture.stdout),
        stop=stop_after_attempt(_BUSY_TRIES),
        wait=wait_fixed(_POLL_S),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else Capture(),
    )
    capture: Capture = retrying(host.run, command.argv, command.timeout_s)
    return capture


def _judge(change: Change, capture: Capture, target: Target) -> None:
    if capture.ok:
        return
    assert isinstance(change.action, Command)  # noqa: S101 - the caller's own branch
    said = (capture.stderr.strip() or capture.stdout.strip())[:_SHOWN_CHARACTERS]
    what = "it did not end in time" if capture.timed_out else f"exit code {capture.exit_code}"
    raise StageFailed(
        f"{change.subject}: {change.summary}: expected exit code 0, {what}\n  the host said: {said or 'nothing'}",
        next_command=f"{target.ssh_command} {shlex.quote(shlex.join(change.action.argv))}",
    )
