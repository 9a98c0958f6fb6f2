"""Several stages read in one script: a busy tool and a lost connection cost no more than what they touched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import CommandFailed, HostUnreachable, RecordError
from runbook_lib.model import Capture, ProbeScript, Section
from runbook_lib.params import OWN_ROOT, HostPaths, load_params, project_root
from runbook_lib.remote import LOCK_KEY
from runbook_lib.runs import cluster as module
from runbook_lib.runs import events, locks
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUSY = Capture(stdout="hccn_tool is busy, please try again.\n", exit_code=11)
LOST = Capture(stderr="runbook: no result: connection lost", lost=True)
HUNG = Capture(timed_out=True)
NOT_RUN = Capture(stderr="runbook: not run")
GONE = HostUnreachable("node1", "the connection was lost")


def good(key: str) -> Capture:
    return Capture(stdout=f"{key}\n", exit_code=0)


class Bed:
    """A cluster of one host. Each probe takes the next of `answers`: what differs from good, or an error."""

    def __init__(self, tmp_path: Path) -> None:
        params = load_params(project_root() / "params" / "example-2x8-direct.yaml")
        known = tmp_path / "outputs" / params.cluster.name / "known_hosts"
        known.parent.mkdir(parents=True)
        known.touch()
        self.answers: list[dict[str, Capture] | HostUnreachable] = []
        self.asked: list[list[str]] = []
        self.conditions: list[list[str]] = []
        self.connects = 0
        self.cluster = module.Cluster(params, tmp_path)
        self.cluster.targets = self.cluster.targets[:1]
        self.name = self.cluster.targets[0].name
        self.cluster._paths[self.name] = HostPaths.of(params)
        self.cluster.connected = self.connected  # type: ignore[method-assign,assignment]

    def connected(self, _target: object) -> Any:
        self.connects += 1
        return self

    def probe(self, script: ProbeScript) -> dict[str, Capture]:
        keys = [section.key for section in script.sections]
        assert len(set(keys)) == len(keys), "what the real one refuses"
        self.asked.append(keys)
        self.conditions.append([section.if_hung for section in script.sections])
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, HostUnreachable):
            raise answer
        return {key: answer.get(key, good(key)) for key in keys}

    def read(self, *stages: Any, first: Callable[[str], Section] | None = None) -> dict[str, Any]:
        found = self.cluster.probe(stages, first)
        return {name: probes[self.name] for name, probes in found.items()}


def stage(name: str, *sections: Section) -> Any:
    return SimpleNamespace(name=name, module=SimpleNamespace(probe=lambda *_: ProbeScript(sections)))


ONE = stage("one", Section("conf", ("true",)), Section("cards", ("true",), unit="tool"))
TWO = stage(
    "two",
    Section("cards", ("true",), unit="tool"),
    Section("again", ("true",), if_hung="tool"),
    Section("x", ("true",)),
)


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.setattr(module, "_POLL_S", 0.0)
    return Bed(tmp_path)


def test_each_stage_gets_its_own_answers_from_one_script(bed: Bed) -> None:
    seen = bed.read(ONE, TWO, first=lambda work: Section("lock", ("take", work)))
    assert bed.asked == [["one/lock", "one/conf", "one/cards", "two/cards", "two/again", "two/x"]]
    assert {key: each.stdout for key, each in seen["one"].captures.items()} == {
        "lock": "one/lock\n",
        "conf": "one/conf\n",
        "cards": "one/cards\n",
    }
    assert seen["two"].get("cards") == good("two/cards")
    assert not seen["two"].lost


def test_two_sections_of_one_key_are_seen_by_the_one_who_refuses_them(bed: Bed) -> None:
    with pytest.raises(AssertionError, match="what the real one refuses"):
        bed.read(ONE, first=lambda _work: Section("conf", ("take",)))


def test_a_busy_tool_is_asked_again_with_what_stands_in_for_it(bed: Bed) -> None:
    bed.answers = [{"two/cards": BUSY, "two/again": NOT_RUN}, {"two/cards": HUNG}]
    seen = bed.read(ONE, TWO)
    assert bed.asked[1:] == [["two/cards", "two/again"]]
    assert seen["two"].get("cards").timed_out
    assert seen["two"].get("again").ok
    bed.answers = [{"two/cards": HUNG, "two/again": BUSY}]
    assert bed.read(ONE, TWO)["two"].get("again").ok
    assert (bed.asked[-1], bed.conditions[-1]) == (["two/again"], [""]), "it hung before: no need to hang again"


def test_what_came_is_not_replaced_by_what_did_not(bed: Bed) -> None:
    bed.answers = [{"one/cards": BUSY, "two/cards": BUSY}, {"one/cards": HUNG, "two/cards": NOT_RUN}]
    seen = bed.read(ONE, TWO)
    assert seen["one"].get("cards").timed_out
    assert bed.asked[2] == ["two/cards", "two/again"], "it is still the busy answer that counts"
    assert seen["two"].get("cards").ok


def test_a_connection_lost_at_the_retry_keeps_all_other_answers(bed: Bed) -> None:
    bed.answers = [{"two/cards": BUSY}, GONE]
    seen = bed.read(ONE, TWO, first=lambda _work: Section("lock", ("take",)))
    assert seen["one"].get("lock").ok
    assert seen["two"].get("cards") == BUSY
    assert (seen["one"].error, seen["two"].error) == ("", "")


def test_stages_after_a_lost_connection_are_read_over_a_new_one(bed: Bed) -> None:
    bed.answers = [{"one/cards": LOST, "two/cards": LOST, "two/again": LOST, "two/x": LOST}]
    seen = bed.read(ONE, TWO, first=lambda _work: Section("lock", ("take",)))
    assert bed.asked[1] == ["two/cards", "two/again", "two/x"], "the lock is not taken twice"
    assert seen["one"].lost
    assert seen["one"].get("lock").ok
    assert not seen["two"].lost


def test_a_host_that_does_not_come_back_is_an_error_of_the_later_stages(bed: Bed) -> None:
    bed.answers = [{"one/cards": LOST, "two/x": LOST}, GONE]
    seen = bed.read(ONE, TWO)
    assert (seen["one"].error, seen["one"].get("conf").ok) == ("", True)
    assert "the connection was lost" in seen["two"].error
    assert seen["two"].captures == {}


def test_a_host_that_never_answers_is_an_error_of_all(bed: Bed) -> None:
    bed.answers = [GONE]
    seen = bed.read(ONE, TWO)
    assert all("the connection was lost" in each.error for each in seen.values())


def test_a_lock_whose_answer_was_lost_is_given_back_if_it_lies_there(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = events.EventLog(tmp_path / "events.jsonl", Redactor())
    mine = locks.HostLocks(bed.cluster, log, "run-7", "stage network", "params/x.yaml")
    released: list[str] = []
    monkeypatch.setattr(locks, "release", lambda _host, _work, token: released.append(token))
    bed.answers = [GONE]
    mine.taken(bed.cluster.probe([ONE], lambda _work: Section(LOCK_KEY, ("take",)))["one"])
    mine.release()
    assert released == ["run-7"]
    mine.release()
    assert released == ["run-7"], "once is enough"
    chain = [(each.kind, each.data["hosts"]) for each in events.read(tmp_path / "events.jsonl")]
    assert chain == [("lock_taken", []), ("lock_released", [bed.name])]

    def nothing_there(*_: object) -> None:
        raise RecordError("no lock")

    monkeypatch.setattr(locks, "release", nothing_there)
    bed.answers = [GONE]
    mine.taken(bed.cluster.probe([ONE], lambda _work: Section(LOCK_KEY, ("take",)))["one"])
    mine.release()
    assert events.read(tmp_path / "events.jsonl")[-1].data["hosts"] == [], "none of ours was lost"

    def refused(_target: object) -> Any:
        raise GONE

    bed.cluster.connected = refused  # type: ignore[method-assign,assignment]
    mine.taken(bed.cluster.probe([ONE], lambda _work: Section(LOCK_KEY, ("take",)))["one"])
    known = len(events.read(tmp_path / "events.jsonl"))
    mine.release()
    assert len(events.read(tmp_path / "events.jsonl")) == known, "nobody was asked for a lock"


@pytest.mark.parametrize(
    ("version", "said", "root"),
    [
        ("SSH-2.0-OpenSSH_8.8" + OWN_ROOT, None, ""),
        ("SSH-2.0-OpenSSH_8.8", Capture(stdout="/twin/node1\n", exit_code=0), "/twin/node1"),
        ("SSH-2.0-OpenSSH_8.8", Capture(exit_code=1), None),
        ("SSH-2.0-OpenSSH_8.8", Capture(stdout="\n", exit_code=0), None),
        ("SSH-2.0-OpenSSH_8.8", Capture(timed_out=True), None),
    ],
)
def test_a_twins_host_that_does_not_say_where_its_files_begin_is_not_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, said: Capture | None, root: str | None
) -> None:
    class Host:
        def __init__(self, target: Any, *_: object) -> None:
            self.target = target
            self.transport = SimpleNamespace(remote_version=version)

        def open(self) -> None:
            pass

        def run(self, *_: object) -> Capture:
            assert said is not None, "nobody need ask"
            return said

    params = load_params(project_root() / "params" / "twin-2x8-direct.yaml")
    (tmp_path / str(params.cluster.ssh.known_hosts)).parent.mkdir(parents=True)
    (tmp_path / str(params.cluster.ssh.known_hosts)).touch()
    monkeypatch.setattr(module, "Host", Host)
    cluster = module.Cluster(params, tmp_path)
    if root is None:
        with pytest.raises(CommandFailed, match="does not say where its files begin") as caught:
            cluster.connected(cluster.targets[0])
        assert caught.value.next_command.startswith("runbook twin down params/")
    else:
        cluster.connected(cluster.targets[0])
        assert cluster.paths_of(cluster.targets[0].name).root == root
