"""The reverse plan: only what was really made, newest first, with the barriers of the way there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import RecordError
from runbook_lib.model import Capture, Change, Command, Job, Plan, Subject, Upload, to_json
from runbook_lib.params import Params, load_params
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder, new_run
from runbook_lib.runs.history import HALF_MADE, RunHistory, params_text, read_history
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.undo import confirm_section, confirmed, reverse_plan, without_moot

if TYPE_CHECKING:
    from pathlib import Path

    from runbook_lib.runs.history import Made


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params("params/twin-2x8-direct.yaml")


def setting(old: str, new: str, card: int = 0, phase: int = 0) -> Change:
    undo = Command(("set", str(card), old)) if old else None
    why = "" if old else "the tool cannot take it away"
    action = Command(("set", str(card), new))
    return Change(Subject("node1", card), f"set to {new}", old or "none", new, action, undo, why, phase=phase)


def written(run: RunFolder, params: Params, plan: Plan, states: list[str], mode: str = "apply") -> RunHistory | None:
    log = EventLog(run.events, Redactor())
    log.append("run_start", mode=mode, params=params_text(params), params_file="params/x.yaml")
    for index, (change, state) in enumerate(zip(plan.changes, states, strict=True)):
        log.append("change_start", stage=plan.stage, index=index, digest=plan.digest, **to_json(change))
        if state:
            log.append("change_end", stage=plan.stage, index=index, state=state)
    return read_history(run)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path, "twin-2x8-direct")


def made_of(run: RunFolder, params: Params, *changes: Change, states: list[str] | None = None) -> tuple[Made, ...]:
    history = written(run, params, Plan("network", changes), states or ["done"] * len(changes))
    assert history is not None
    assert history.params == params
    return history.made


def test_the_history_reads_back_what_was_begun(run: RunFolder, params: Params) -> None:
    changes = (setting("a", "b"), setting("", "c", 1), setting("a", "d", 2))
    made = made_of(run, params, *changes, states=["done", "failed: no", ""])
    assert tuple(each.change for each in made) == changes
    assert [each.state for each in made] == ["done", "failed: no", HALF_MADE]


def test_an_undo_run_has_no_history_of_its_own(run: RunFolder, params: Params) -> None:
    assert written(run, params, Plan("rollback", (setting("a", "b"),)), ["done"], mode="rollback") is None


def test_a_record_that_does_not_hold_undoes_nothing(run: RunFolder, params: Params) -> None:
    made_of(run, params, setting("a", "b"))
    text = run.events.read_text(encoding="utf-8")
    run.events.write_text(text.replace('"set","0","a"', '"set","0","z"'), encoding="utf-8")
    with pytest.raises(RecordError, match="was changed"):
        read_history(run)


def test_newest_first_and_barriers_hold(run: RunFolder, params: Params) -> None:
    made = made_of(run, params, setting("a", "b", 0), setting("a", "b", 1), setting("a", "b", 2, phase=1))
    plan = reverse_plan("rollback", made, {run.run_id: set()}).plan
    assert [(change.subject.card, change.phase) for change in plan.changes] == [(2, 0), (1, 1), (0, 1)]
    assert plan.changes[1].action == Command(("set", "1", "a"))
    assert (plan.changes[1].before, plan.changes[1].after) == ("b", "a")
    assert plan.changes[1].undo == Command(("set", "1", "b"))


def test_what_a_stage_would_plan_again_is_not_in_effect(run: RunFolder, params: Params) -> None:
    made = made_of(run, params, setting("a", "b", 0), setting("a", "b", 1), states=["done", ""])
    reverse = reverse_plan("rollback", made, {run.run_id: {made[1].key}})
    assert [each.change.subject.card for each in reverse.undone] == [0]
    assert [each.change.subject.card for each, _ in reverse.skipped] == [1]


def test_what_has_no_inverse_is_kept_and_says_why(run: RunFolder, params: Params) -> None:
    made = made_of(run, params, setting("", "b"))
    reverse = reverse_plan("rollback", made, {run.run_id: set()})
    assert reverse.plan.changes == ()
    assert reverse.plan.digest == ""
    assert [why for _, why in reverse.kept] == ["the tool cannot take it away"]


def test_a_masked_undo_is_never_written_to_a_host(run: RunFolder, params: Params) -> None:
    change = Change(
        Subject("node1"), "write f", "x", "y", Upload("/f", "y", 0o640), undo=Upload("/f", "password=***", 0o640)
    )
    reverse = reverse_plan("rollback", made_of(run, params, change), {run.run_id: set()})
    assert reverse.undone == ()
    assert "secret" in reverse.kept[0][1]


def test_a_value_that_was_set_twice_goes_back_to_the_first(run: RunFolder, params: Params) -> None:
    # a -> b -> c; now c, so the stage would plan "set to b" again: it is what the undo of c brings back
    made = made_of(run, params, setting("a", "b"), setting("b", "c"))
    reverse = reverse_plan("teardown", made, {run.run_id: {made[0].key}})
    assert [change.action for change in reverse.plan.changes] == [
        Command(("set", "0", "b")),
        Command(("set", "0", "a")),
    ]


def test_a_file_is_seen_to_be_as_it_was(run: RunFolder, params: Params) -> None:
    new = Change(Subject("node1"), "write f", "missing", "y", Upload("/f", "y", 0o640), Command(("rm", "-f", "/f")))
    old = Change(Subject("node1"), "write g", "x", "y", Upload("/g", "y", 0o640), Upload("/g", "xx", 0o600))
    other = setting("a", "b")
    made = made_of(run, params, new, old, other)
    assert [section is not None for section in (confirm_section(each, 0) for each in made)] == [True, True, False]
    gone = Capture(stderr="stat: cannot statx '/f': No such file or directory", exit_code=1)
    assert confirmed(made[0], gone)
    assert not confirmed(made[0], Capture(stdout="640 1 regular file\n", exit_code=0))
    assert not confirmed(made[0], Capture(stderr="stat: Permission denied", exit_code=1))
    assert confirmed(made[1], Capture(stdout="600 2 regular file\n", exit_code=0))
    assert not confirmed(made[1], Capture(stdout="640 1 regular file\n", exit_code=0))
    assert not confirmed(made[1], gone)


def test_a_teardown_revives_nothing_that_it_removes(run: RunFolder, params: Params) -> None:
    host = Subject("node1")
    remove, revive = Command(("docker", "rm", "-f", "c")), Command(("docker", "run", "c"))
    make = Change(host, "make", "none", "there", revive, remove)
    stop = Change(host, "stop", "alive", "stopped", Command(("stop",)), Job("daemon", ("start",), 30.0, wait=False))
    replace = Change(host, "remove", "other", "none", remove, revive)
    elsewhere = Change(Subject("node2"), "stop", "alive", "stopped", Command(("stop",)), stop.undo)
    made = made_of(run, params, make, stop, replace, elsewhere, make)
    assert [(each.change, each.order) for each in without_moot(made)] == [(elsewhere, 3), (make, 4)]
    plan = reverse_plan("teardown", without_moot(made), {run.run_id: set()}, last=[setting("a", "b")]).plan
    assert plan.changes[-1].phase > max(change.phase for change in plan.changes[:-1])
