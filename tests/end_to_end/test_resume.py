"""Approvals, cuts, resume, locks, rollback and teardown on one twin; the tests build on each other.

Only the first stages run here, since they are quick; benchmarks/kill_campaign.py cuts all of them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook_lib.cli import main
from runbook_lib.runs import events
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.history import read_history
from tests.end_to_end.conftest import Done, make_home, worker_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.end_to_end.conftest import Home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the twin needs Linux")

STAGES = ["--stage", "preflight", "--stage", "network"]
WORK = "/var/lib/ascend-runbook"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = make_home(tmp_path_factory.mktemp("home"), "resume", f"127.82.{8 + worker_number()}")
    assert made.runbook("twin", "up", made.params, "--fresh").code == 0
    try:
        yield made
    finally:
        made.runbook("twin", "down", made.params)


@pytest.fixture
def cli(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Return a caller of the command line in this process, which saves the start of one."""
    monkeypatch.setenv("RUNBOOK_HOME", str(home.path))
    monkeypatch.setenv("PYTHONPATH", home.env["PYTHONPATH"])
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.chdir(home.path)

    def call(*argv: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["runbook", *argv])
        capsys.readouterr()
        before = signal.getsignal(signal.SIGPIPE)
        with pytest.raises(SystemExit) as caught:
            main()
        signal.signal(signal.SIGPIPE, before)
        said = capsys.readouterr()
        return Done(int(caught.value.code or 0), said.out, said.err)

    return call


def runs(home: Home) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted((home.path / "outputs" / "resume").glob("2*"))]


def cut(
    home: Home, argv: list[str], moment: Callable[[list[events.Event]], bool], kill: Callable[[int, int], None]
) -> int:
    """Start a command, wait for a moment in the newest run's events, kill; return the exit code."""
    known = len(events.read(runs(home)[-1].events)) if argv[0] == "resume" else 0
    before = len(runs(home))
    process = subprocess.Popen(
        [sys.executable, "-m", "runbook_lib", *argv],
        cwd=home.path,
        env=home.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if argv[0] == "resume" or len(runs(home)) > before:
            chain = events.read(runs(home)[-1].events)[known:]
            if moment(chain):
                kernel = next((each.pid for each in reversed(chain) if each.kind == "stage_start"), 0)
                kill(process.pid, kernel)
                break
        time.sleep(0.01)
    else:
        process.kill()
        pytest.fail("the moment did not come")
    return process.wait(90)


def test_a_killed_run_says_how_to_go_on(home: Home, cli: Callable[..., Done]) -> None:
    def in_network(chain: list[events.Event]) -> bool:
        return [each.data["stage"] for each in chain if each.kind == "change_end"].count("network") > 2

    argv = ["run", home.params, "--mode", "apply", "--yes", *STAGES]
    assert cut(home, argv, in_network, lambda runner, _kernel: os.kill(runner, signal.SIGKILL)) == -signal.SIGKILL
    status = cli("status", home.params, "--json").json
    assert not status["ok"]
    failure = next(each for each in status["failures"] if each["name"] == "network")
    assert failure["seen"] == "network is interrupted"
    assert failure["next_command"] == f"runbook resume {home.params} --yes"
    assert "Network setup was interrupted" in cli("status", home.params).out


def test_a_resume_inherits_no_approval(home: Home, cli: Callable[..., Done]) -> None:
    chain = events.read(runs(home)[-1].events)
    with runs(home)[-1].events.open("ab") as file:
        file.write(b'{"data":{"torn')
    done = cli("resume", home.params)
    assert done.code == 1
    assert "the last line of the record was cut short (14 bytes); it was moved to events.torn" in done.err
    assert re.search(rf"next: runbook resume {home.params} --approve [0-9a-f]{{16}}", done.out)
    after = events.read(runs(home)[-1].events)
    assert after[: len(chain)] == chain
    assert after[len(chain)].kind == "chain_repaired"
    assert events.verify(runs(home)[-1].events) == ""
    assert not any(each.kind == "change_start" for each in after[len(chain) :])


def test_a_killed_kernel_is_a_failed_stage_and_the_same_run_ends_well(home: Home, cli: Callable[..., Done]) -> None:
    def in_network(chain: list[events.Event]) -> bool:
        return "change_end" in {each.kind for each in chain}

    argv = ["resume", home.params, "--yes"]
    # its changes take 20 ms each: on a busy machine the stage would be over before it is killed
    assert cli("twin", "inject", home.params, "host-slow", "--host", "node1").code == 0
    assert cut(home, argv, in_network, lambda _runner, kernel: os.kill(kernel, signal.SIGKILL)) == 1
    assert cli("twin", "clear", home.params, "host-slow").code == 0
    done = cli("resume", home.params, "--yes", "--why", "the kernel was killed", "--json")
    assert done.code == 0, done.out + done.err
    assert [stage["verdict"] for stage in done.json["stages"]] == ["ok", "ok"]
    assert len(runs(home)) == 1, "the same run goes on"
    run = runs(home)[-1]
    chain = events.read(run.events)
    assert events.verify(run.events) == ""
    resumes = [each for each in chain if each.kind == "resume"]
    assert len(resumes) == 3
    assert resumes[-1].data["why"] == "the kernel was killed"
    rechecks = [each.data for each in chain if each.kind == "stage_recheck"]
    assert [(each["stage"], each["holds"]) for each in rechecks] == [("preflight", True)] * 3
    left = [each.data["of"] for each in chain if each.kind == "lock_released" and "of" in each.data]
    assert left, "the dead kernel's locks are given back"
    assert "gave back the apply lock of the process that died" in done.err
    assert {each["token"] for each in left} == {run.run_id}
    history = read_history(run)
    assert history is not None
    done_keys = [each.key for each in history.made if each.state == "done"]
    assert len(done_keys) == len(set(done_keys)), "nothing is made twice"
    for host in (1, 2):
        assert home.ssh(host, f"ls -A {WORK}").split() in ([], ["heads"])
    again = cli("resume", home.params)
    assert again.code == 2
    assert f"next: runbook check {home.params}" in again.err


def test_an_open_run_of_another_process_approves_nothing(home: Home, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from runbook_lib.runs.folder import new_run; "
        "from runbook_lib.runs.events import EventLog; from runbook_lib.runs.redaction import Redactor; "
        "log = EventLog(new_run(Path('outputs'), 'resume').events, Redactor()); "
        "log.append('run_start', mode='apply', stages=['gateway'], params=''); "
        "log.append('approval', by='somebody', yes=True, digests=[])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=home.path, env=home.env, check=True)
    before = home.ssh(2, "cat /etc/hccn.conf")
    argv = [str(Path(sys.executable).with_name("papermill")), "notebooks/30_gateway.ipynb", str(tmp_path / "out.ipynb")]
    argv += ["-p", "params", home.params, "-p", "mode", "apply"]
    done = subprocess.run(argv, cwd=home.path, env=home.env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "ApprovalNeeded" in done.stderr
    assert re.search(rf"runbook run {home.params} --mode apply --stage gateway --approve [0-9a-f]{{16}}", done.stderr)
    assert home.ssh(2, "cat /etc/hccn.conf") == before
    by_hand = events.read(runs(home)[-1].events)
    assert events.verify(runs(home)[-1].events) == ""
    assert {"stage_start", "findings", "plan", "commands", "stage_end"} <= {each.kind for each in by_hand}


def test_an_approved_plan_whose_facts_changed_is_refused_and_shown(
    home: Home, cli: Callable[..., Done], tmp_path: Path
) -> None:
    saved = tmp_path / "plans.json"
    plan = cli("plan", home.params, "--stage", "gateway", "--save", str(saved))
    assert plan.code == 0
    assert "ok: every problem has a planned change" in plan.out
    assert f"--approve {saved}" in plan.err
    tool = "/usr/local/Ascend/driver/tools/hccn_tool"
    home.ssh(1, f"{tool} -i 5 -gateway -s gateway 192.168.11.105; {tool} -i 6 -gateway -s gateway 192.168.11.1")
    apply = ["run", home.params, "--mode", "apply", "--stage", "gateway"]
    refused = cli(*apply, "--approve", str(saved))
    assert refused.code == 1
    assert "no longer planned: node1 card 5: set gateway to 192.168.11.105" in refused.out
    assert "node1 card 6: set gateway to 192.168.11.106: before was 'no gateway', is '192.168.11.1'" in refused.out
    assert "node2" not in refused.out.partition("is now")[2].partition("next:")[0]
    digest = json.loads(saved.read_text(encoding="utf-8"))["plans"][0]["digest"]
    assert f"when plan {digest} was approved; nothing was changed" in " ".join(refused.out.split())
    now = re.search(r"--approve ([0-9a-f]{16})", refused.out)
    assert now is not None
    done = cli(*apply, "--approve", now.group(1), "--json")
    assert done.code == 0, done.out
    event = next(each for each in events.read(runs(home)[-1].events) if each.kind == "apply_start")
    assert (event.data["digest"], event.data["approved_how"]) == (now.group(1), "digest")
    assert event.data["approved_by"]
    assert event.data["approved_at"]


def test_somebody_elses_lock_is_explained_and_broken_on_purpose(home: Home, cli: Callable[..., Done]) -> None:
    lock = {"taken_at": 1, "expires_at": 2, "owner": "ann@laptop", "reason": "stage network", "token": "run-of-ann"}
    home.ssh(2, f"mkdir {WORK}/lock && echo '{json.dumps(lock, separators=(',', ':'))}' > {WORK}/lock/info.json")
    assert cli("twin", "inject", home.params, "gateway-foreign", "--host", "node2", "--card", "3").code == 0
    refused = cli("run", home.params, "--mode", "apply", "--yes", "--stage", "gateway")
    assert refused.code == 1
    unlock = f"unlock {home.params} --host node2 --token run-of-ann"
    for words in ("ann@laptop holds the apply lock: stage network", "EXPIRED", f"next: runbook {unlock}"):
        assert words in refused.out
    assert "lock" not in home.ssh(1, f"ls {WORK}").split(), "ours was given back"
    assert cli("unlock", home.params, "--host", "node2", "--token", "other").code == 1
    assert cli(*unlock.split(), "--why", "ann went home").code == 0
    broken = events.read(home.path / "outputs" / "resume" / "locks.jsonl")
    assert [each.kind for each in broken] == ["lock_break", "lock_broken"]
    assert broken[0].data["lock"]["owner"] == "ann@laptop"
    assert broken[0].data["why"] == "ann went home"
    assert "no host is locked" in cli("unlock", home.params).out


def test_a_rollback_brings_back_what_was_there(home: Home, cli: Callable[..., Done]) -> None:
    before = home.ssh(2, "cat /etc/hccn.conf")
    assert cli("run", home.params, "--mode", "apply", "--yes", "--stage", "gateway", "--json").code == 0
    assert home.ssh(2, "cat /etc/hccn.conf") != before
    shown = cli("rollback", home.params, "--json")
    assert shown.code == 1
    assert [change["summary"] for change in shown.json["changes"]] == ["undo: set gateway to 192.168.11.203"]
    assert home.ssh(2, "cat /etc/hccn.conf") != before, "nothing is taken back without approval"
    undone = cli("rollback", home.params, "--approve", shown.json["digest"], "--json")
    assert undone.code == 0, undone.out + undone.err
    assert sorted(home.ssh(2, "cat /etc/hccn.conf").split()) == sorted(before.split())
    chain = events.read(Path(undone.json["run_dir"]) / "events.jsonl")
    assert chain[0].data["mode"] == "rollback"
    assert {"approval", "apply_start", "change_end", "undo_checked", "run_end"} <= {each.kind for each in chain}
    assert cli("rollback", home.params, "--json").json["state"] == "nothing to undo"


def test_a_teardown_leaves_what_it_cannot_undo_and_says_so(home: Home, cli: Callable[..., Done]) -> None:
    done = cli("teardown", home.params, "--yes", "--json")
    assert done.code == 0, done.out + done.err
    assert {each["reason"] for each in done.json["kept"]} == {
        "hccn_tool cannot take away the IP of a card",
        "hccn_tool cannot take away the gateway of a card",
    }
    for host in (1, 2):
        assert "ascend-runbook" not in home.ssh(host, "ls /var/lib").split()
    assert "tls_enable_0=1" in home.ssh(2, "cat /etc/hccn.conf").split()
    assert cli("teardown", home.params, "--json").json["state"] == "nothing to undo"
