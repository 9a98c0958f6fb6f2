"""What holds for every stage: plans are deterministic, unknown input is never ok, no host hides another."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import catalogue
from runbook_lib.model import Capture, Plan, Subject, Verdict
from runbook_lib.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene

NAMES = [each.name for each in STAGES]
PLANNING = ["preflight", "network", "gateway", "weights", "container", "service"]

# Sections that no finding of a healthy host rests on, and why that is right.
SILENT = {
    ("preflight", "present"): "only lessens the room that is asked for",
    ("preflight", "ours"): "a healthy host has no container yet, and docker ps says so too",
    ("preflight", "product"): "only adds a known trap to the system's name",
    ("preflight", "pids"): "a healthy host has no container yet: none of its processes is asked for",
    ("preflight", "lfs"): "only names traps of tools that this runbook does not use",
    ("gateway", "ip"): "decides whether this stage waits for network",
    ("weights", "tool"): "decides whether the downloader is pushed",
    ("weights", "work"): "decides whether this stage waits for preflight",
    ("container", "containers"): "evidence only, docker inspect decides",
    ("container", "tar"): "needed only while the image is missing",
    ("container", "tool"): "decides whether the downloader is pushed",
    ("container", "work"): "decides whether this stage waits for preflight",
    ("container", "weights"): "decides whether this stage waits for weights",
    ("container", "daemon"): "decides whether a daemon is stopped before its container is replaced",
    ("service", "container"): "decides whether this stage waits for container",
    ("service", "net_health"): "decides whether this stage waits for gateway",
    ("service", "default"): "with a stopped container our own defaults stand in; see the case files for running ones",
    ("service", "logs"): "an error that is not seen is reported by diagnose as unknown",
    ("diagnose", "alive"): "only softens an error to a warning",
    ("benchmark", "ready"): "decides whether this stage waits for service",
}


@pytest.mark.parametrize("cluster", ["direct", "switch"])
@pytest.mark.parametrize("name", PLANNING)
def test_plans_are_deterministic_and_name_what_they_read(name: str, cluster: str, make: Callable[..., Scene]) -> None:
    """The same facts give the same digest; another `before` of any change gives another."""
    first = Plan(name, tuple(make(name, cluster, "bare").changes()))
    again = Plan(name, tuple(make(name, cluster, "bare").changes()))
    assert first.digest
    assert first == again
    assert first.digest == again.digest
    for index in (0, len(first.changes) - 1):
        changes = list(first.changes)
        changes[index] = dataclasses.replace(changes[index], before="something else")
        assert Plan(name, tuple(changes)).digest != first.digest


@pytest.mark.parametrize("cluster", ["direct", "switch"])
@pytest.mark.parametrize("name", PLANNING)
def test_changes_claim_what_the_stage_really_judges(name: str, cluster: str, make: Callable[..., Scene]) -> None:
    """Every claimed code is in the catalogue, and this stage says it of the same subject, bare or healthy."""
    bare, healthy = make(name, cluster, "bare"), make(name, cluster)
    judged = {(each.code, each.subject) for each in [*bare.findings(), *healthy.findings()]}
    ok_later = healthy.greens()
    for change in bare.changes():
        for code in change.fixes:
            assert code in catalogue.codes()
            assert (code, change.subject) in judged
            assert (code, change.subject) in ok_later, "claimed as fixed, but a healthy host never shows it as ok"
        assert change.undo is not None or change.irreversible, f"no undo, and no word why: {change.summary}"


@pytest.mark.parametrize("name", PLANNING)
def test_a_bare_cluster_has_no_problem_that_nobody_plans_for(name: str, make: Callable[..., Scene]) -> None:
    """Whatever a new cluster lacks, the stage's own plan claims to bring."""
    bare = make(name, "direct", "bare")
    claimed = {(code, change.subject) for change in bare.changes() for code in change.fixes}
    left = [each for each in bare.problems() if (each.code, each.subject) not in claimed]
    assert left == []


@pytest.mark.parametrize("name", NAMES)
def test_every_code_is_explained(name: str, make: Callable[..., Scene]) -> None:
    """A finding that the catalogue does not know could not be explained to anybody."""
    for base in ("bare", "healthy"):
        for finding in make(name, "switch", base).findings():
            assert finding.code in catalogue.codes()
            assert finding.stage == name


@pytest.mark.parametrize("base", ["healthy", "bare"])
@pytest.mark.parametrize("name", [each for each in NAMES if each != "benchmark"])  # it asks the master only
def test_an_unreachable_host_hides_no_other(name: str, base: str, make: Callable[..., Scene]) -> None:
    """The host fails, nothing of it is ok, and all that is said of single other hosts is still said."""
    whole, partial = make(name, "switch", base), make(name, "switch", base)
    partial.errors = {"node3": "no SSH banner"}
    found = partial.findings()
    about = [each for each in found if each.subject.host == "node3"]
    assert [each.verdict for each in about] == [Verdict.FAIL]
    assert about[0].next_command
    others = {each.subject for each in whole.findings() if each.subject.host not in {"", "node3"}}
    assert others <= {each.subject for each in found}
    assert not partial.greens() - whole.greens()
    assert all(change.subject.host != "node3" for change in partial.changes())


def test_a_benchmark_without_the_master_waits(make: Callable[..., Scene]) -> None:
    """Nothing is measured while the only host that is asked does not answer."""
    scene = make("benchmark")
    scene.errors = {"node1": "no SSH banner"}
    assert scene.waits_for() == ("service",)


def test_no_host_at_all_is_not_ok(make: Callable[..., Scene]) -> None:
    """With nothing seen no stage is green, and none plans anything."""
    for name in NAMES:
        scene = make(name)
        scene.errors = {"node1": "refused", "node2": "refused"}
        per_host = [each for each in scene.findings() if each.subject.host]
        assert all(each.verdict is Verdict.FAIL for each in per_host)
        assert scene.changes() == []


def _sections(scene: Scene) -> list[tuple[str, str]]:
    """Return one (host, section) of each kind."""
    kinds: dict[str, tuple[str, str]] = {}
    for host, captures in scene.captures.items():
        for key in captures:
            kind = key if key.startswith("file.") else key.partition(".")[0]
            kinds.setdefault(kind, (host, key))
    return list(kinds.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_section_matters(name: str, make: Callable[..., Scene]) -> None:
    """A command that never ran takes at least one ok away; else its answer is not looked at."""
    whole = make(name)
    for host, key in _sections(whole):
        scene = make(name)
        del scene.captures[host][key]
        lost = whole.greens() - scene.greens()
        assert not scene.greens() - whole.greens()
        if (name, key.partition(".")[0]) not in SILENT:
            assert lost, f"{name}: {key} never ran and everything is still ok"
            assert {subject.host for _, subject in lost} <= {host, ""} | set(scene.captures)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["never", "timeout", "cut", "exit", "empty", "shell"])
def test_no_answer_is_never_ok(name: str, how: str, make: Callable[..., Scene]) -> None:
    """What the absence of an answer turns from ok into something else, no half answer leaves ok."""
    whole = make(name)
    green = whole.greens()
    for host, key in _sections(whole):
        if (name, key) in FRAMED and how in {"timeout", "cut"}:
            continue
        before = whole.captures[host][key]
        gone = make(name)
        del gone.captures[host][key]
        dependent = green - gone.greens()
        junk = {
            "never": Capture(),
            "timeout": Capture(stdout=before.stdout, timed_out=True),
            "cut": Capture(stdout=before.stdout[: len(before.stdout) // 3], timed_out=True),
            "exit": Capture(stdout=before.stdout, stderr="it went wrong", exit_code=1),
            "empty": Capture(exit_code=1),
            "shell": Capture(stderr="bash: no such program: command not found", exit_code=127),
        }[how]
        scene = make(name)
        scene.captures[host][key] = junk
        still = dependent & scene.greens()
        assert not still, f"{name}: {key} ({how}) leaves {still} ok"


# Sections with frames of their own inside: what was finished before the cut counts, see the case files.
FRAMED = {("network", "pings")}

_CAPTURE = st.builds(
    Capture,
    stdout=st.text(max_size=60)
    | st.sampled_from(["{}", "[]", "null", "0", "-1", "nan", "[{}]", '{"files": [{}]}', "1e999"]),
    stderr=st.text(max_size=30),
    exit_code=st.none() | st.integers(0, 255),
    timed_out=st.booleans(),
)


@pytest.mark.parametrize("base", ["healthy", "bare"])
@pytest.mark.parametrize("name", NAMES)
def test_random_answers_raise_nothing_and_turn_nothing_green(name: str, base: str, make: Callable[..., Scene]) -> None:
    """Whatever one command prints, checks and plans come to an end, and no new ok appears."""
    whole = make(name, "direct", base)
    green = whole.greens()
    places = _sections(whole)

    @settings(max_examples=60, deadline=None, database=None)
    @given(place=st.sampled_from(places), capture=_CAPTURE)
    def holds(place: tuple[str, str], capture: Capture) -> None:
        host, key = place
        before = whole.captures[host][key]
        whole.captures[host][key] = capture
        try:
            new = whole.greens() - green
            whole.changes()
            whole.waits_for()
        finally:
            whole.captures[host][key] = before
        assert not new

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_foreign_json_raises_nothing(name: str, make: Callable[..., Scene]) -> None:
    """JSON of another form than expected is unreadable, not an exception."""
    forms = [
        '{"files": "x", "verified": [1]}',
        '{"files": [{"name": [], "size": "x", "sha256": 1}], "verified": {"config.json": 3}}',
        '{"status": 200, "body": "{\\"files\\": 7}"}',
        '{"status": [200], "body": null, "error": {}}',
        '{"ServerConfig": 3, "BackendConfig": []}',
        '{"version": "1.0", "status": "completed", "server_count": "2", "server_list": [{"device": [{}]}]}',
        '[{"Id": "x", "Config": {"Env": [1]}, "Mounts": 3, "HostConfig": {"Devices": {}}, "State": []}]',
        '{"ID": 1, "Names": [], "Image": {}}',
        "999 /x",
        "Python three.nine",
    ]
    whole = make(name)
    green = whole.greens()
    for host, key in _sections(whole):
        for text in forms:
            scene = make(name)
            scene.captures[host][key] = Capture(stdout=text, exit_code=0)
            scene.changes()
            scene.waits_for()
            assert not scene.greens() - green


def test_subjects_are_of_the_cluster(make: Callable[..., Scene]) -> None:
    """Findings blame hosts and cards that params name, or the cluster as a whole."""
    for name in NAMES:
        scene = make(name, "switch", "bare")
        known = {Subject()} | {Subject(host.name) for host in scene.params.cluster.hosts}
        known |= {Subject(host.name, card.id) for host in scene.params.cluster.hosts for card in host.cards}
        assert {each.subject for each in scene.findings()} <= known
