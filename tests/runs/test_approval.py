"""Approvals: whom they bind, what they cover, and what is said when the facts changed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.model import Change, Command, Plan, Risk, Subject, to_json
from runbook_lib.runs import events
from runbook_lib.runs.approval import (
    approval_of,
    approved_plan,
    command,
    plan_difference,
    read_approvals,
)
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder, new_run
from runbook_lib.runs.redaction import Redactor

if TYPE_CHECKING:
    from pathlib import Path

ALL = [Risk.REVERSIBLE, Risk.DISRUPTIVE]


def change(before: str = "no gateway", risk: Risk = Risk.REVERSIBLE, after: str = "10.0.0.1", card: int = 3) -> Change:
    return Change(Subject("node2", card), f"set gateway to {after}", before, after, Command(("set", after)), risk=risk)


def plan(*changes: Change) -> Plan:
    return Plan("gateway", changes or (change(),))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path, "lab")


def log(run: RunFolder) -> EventLog:
    return EventLog(run.events, Redactor())


def test_what_was_said_to_this_process_holds_in_the_run_that_it_was_told_of(run: RunFolder) -> None:
    log(run).append("approval", by="ann", yes=True, digests=[])
    chain = events.read(run.events)
    found = approval_of(chain, "gateway", plan(), ALL, given_run=True)
    assert found is not None
    assert (found.by, found.how, found.time) == ("ann", "policy", chain[0].time)
    assert approval_of(chain, "gateway", plan(), ALL, given_run=False) is None


def test_what_was_said_to_another_process_holds_for_nobody_else(run: RunFolder) -> None:
    code = (
        "import sys; from pathlib import Path; from runbook_lib.runs.events import EventLog; "
        "from runbook_lib.runs.redaction import Redactor; "
        "EventLog(Path(sys.argv[1]), Redactor()).append('approval', by='ann', yes=True, digests=[sys.argv[2]])"
    )
    subprocess.run([sys.executable, "-c", code, str(run.events), plan().digest], check=True)
    assert approval_of(events.read(run.events), "gateway", plan(), ALL, given_run=True) is None


def test_a_click_names_stage_and_digest_and_holds_for_that_plan_alone(run: RunFolder) -> None:
    log(run).append("approval", by="ann", stage="gateway", digest=plan().digest, yes=False)
    chain = events.read(run.events)
    found = approval_of(chain, "gateway", plan(), [], given_run=False)
    assert found is not None
    assert found.how == "button"
    assert approval_of(chain, "network", plan(), [], given_run=False) is None
    assert approval_of(chain, "gateway", plan(change("10.0.0.9")), [], given_run=False) is None


@pytest.mark.parametrize(
    ("risk", "allowed", "expected"),
    [
        (Risk.REVERSIBLE, ALL, True),
        (Risk.DISRUPTIVE, ALL, True),
        (Risk.DISRUPTIVE, [Risk.REVERSIBLE], False),
        (Risk.DESTRUCTIVE, ALL, False),
        (Risk.DESTRUCTIVE, list(Risk), False),
    ],
)
def test_yes_goes_as_far_as_the_policy_and_never_to_destruction(
    run: RunFolder, *, risk: Risk, allowed: list[Risk], expected: bool
) -> None:
    log(run).append("approval", by="ann", yes=True, digests=[])
    wanted = plan(change(), change(card=4, risk=risk))
    found = approval_of(events.read(run.events), "gateway", wanted, allowed, given_run=True)
    assert (found is not None) is expected
    log(run).append("approval", by="ann", yes=False, digests=[wanted.digest])
    assert approval_of(events.read(run.events), "gateway", wanted, allowed, given_run=True) is not None


def test_the_digest_covers_subject_and_before_and_no_clock() -> None:
    assert plan().digest == plan().digest
    assert len({plan().digest, plan(change("10.0.0.9")).digest, plan(change(card=4)).digest}) == 3


def test_a_difference_is_told_change_by_change() -> None:
    old = plan(change(), change(card=4), change(card=5))
    new = plan(change("10.0.0.9"), change(card=4), change(card=6))
    said = plan_difference(old, new)
    assert "node2 card 3: set gateway to 10.0.0.1: before was 'no gateway', is '10.0.0.9'" in said
    assert "no longer planned: node2 card 5" in said
    assert "new: node2 card 6" in said
    assert "card 4" not in said


def test_the_approved_plan_is_found_in_the_record_or_in_the_file(run: RunFolder, tmp_path: Path) -> None:
    earlier = plan(change("10.0.0.9"))
    log(run).append("plan", stage="gateway", digest=earlier.digest, plan=earlier)
    later = new_run(tmp_path, "lab")
    log(later).append("approval", by="ann", yes=False, digests=[earlier.digest])
    assert approved_plan(later, events.read(later.events), "gateway") == earlier
    assert approved_plan(later, events.read(later.events), "network") is None
    other = new_run(tmp_path, "elsewhere")
    log(other).append("approval", by="ann", yes=False, digests=[earlier.digest], plans=[to_json(earlier)])
    assert approved_plan(other, events.read(other.events), "gateway") == earlier


def test_a_saved_file_approves_its_plans_and_refuses_edited_ones(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    saved = {"plans": [{"stage": "gateway", "digest": plan().digest, "plan": to_json(plan())}]}
    path.write_text(json.dumps(saved), encoding="utf-8")
    assert read_approvals(["plans.json", "abc"], tmp_path) == ([plan().digest, "abc"], [to_json(plan())])
    saved["plans"][0]["plan"]["changes"][0]["after"] = "10.0.0.66"
    path.write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(UsageError, match="was changed after it was saved"):
        read_approvals([str(path)], tmp_path)
    path.write_text('{"plans": [1]}', encoding="utf-8")
    with pytest.raises(UsageError, match="is no saved plan"):
        read_approvals([str(path)], tmp_path)


def test_next_commands_work_as_typed() -> None:
    said = command("run", "params/a b.yaml", overrides={"service.port": 1035, "model.name": "x"}, stages=["gateway"])
    assert said == "runbook run 'params/a b.yaml' --stage gateway --set service.port=1035 --set model.name=x"
    assert command("run", "p.yaml", overrides='{"a": true}', mode="apply", last="--yes") == (
        "runbook run p.yaml --mode apply --set a=true --yes"
    )
