"""Two servers joined back to back: from bare to benchmarked, then drift and repair; the tests build on each other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib import stages
from runbook_lib.params import load_params
from runbook_lib.runs import events
from runbook_lib.runs.cluster import Cluster
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.manifest import verify_manifest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the twin needs Linux")

STAGES = ["preflight", "network", "gateway", "weights", "container", "service", "benchmark", "diagnose"]
GOOD = {"ok", "warn", "skipped"}


def changes(result: Any) -> list[dict[str, Any]]:
    return [change for stage in result["stages"] for change in stage["changes"]]


def problems(result: Any) -> list[tuple[str, str, int]]:
    return [
        (each["code"], each["subject"]["host"], each["subject"]["card"])
        for stage in result["stages"]
        for each in stage["findings"]
        if each["verdict"] in {"fail", "unknown"}
    ]


def test_a_twin_that_is_down_is_said_and_not_started(home: Home) -> None:
    for command in ("plan", "check"):
        done = home.runbook(command, home.params)
        assert done.code == 1
        assert f"runbook twin up {home.params}" in done.err
    assert home.runbook("twin", "status", home.params).code == 1


def test_bad_input_touches_nothing(home: Home) -> None:
    bad = home.path / "params" / "bad.yaml"
    text = (home.path / home.params).read_text(encoding="utf-8")
    for change, words in (
        (("service:\n", "service:\n  prot: 1\n"), "prot: unknown key"),
        (("192.168.11.201}", "192.168.11.200}"), "192.168.11.200 is given more than once"),
        (("start_deadline_s: 60", "start_deadline_s: soon"), "'soon'"),
    ):
        bad.write_text(text.replace(*change, 1), encoding="utf-8")
        done = home.runbook("run", "params/bad.yaml", "--mode", "apply", "--yes")
        assert done.code == 2
        assert words in done.err
        assert re.search(r"bad\.yaml:\d+: ", done.err)
    assert home.runbook("plan", "params/none.yaml").code == 2
    assert home.runbook("run", home.params, "--mode", "aply").code == 2
    assert not list((home.path / "outputs").rglob("events.jsonl"))


def test_plan_on_bare_servers_changes_nothing(home: Home) -> None:
    assert home.runbook("twin", "up", home.params, "--fresh").code == 0
    before = home.ssh(1, "cat /etc/hccn.conf; ls -A /data /var/lib")
    some = ("network", "gateway", "service")
    done = home.runbook("plan", home.params, "--json", *[word for name in some for word in ("--stage", name)])
    assert done.code == 0, done.err
    result = done.json
    assert tuple(stage["name"] for stage in result["stages"]) == some
    by_name = {stage["name"]: stage for stage in result["stages"]}
    assert len([c for c in by_name["network"]["changes"] if c["summary"].startswith("set IP")]) == 16
    assert by_name["gateway"]["waits_for"] == ["network"]
    assert by_name["gateway"]["verdict"] == "unknown"
    assert by_name["gateway"]["digest"] == ""
    assert before == home.ssh(1, "cat /etc/hccn.conf; ls -A /data /var/lib")


def test_apply_without_approval_changes_nothing(home: Home) -> None:
    done = home.runbook("run", home.params, "--mode", "apply")
    assert done.code == 1
    assert re.search(r"--approve [0-9a-f]{16}", done.out)
    assert "ascend-runbook" not in home.ssh(1, "ls /var/lib")


def test_a_digest_approves_one_plan(home: Home) -> None:
    plan = home.runbook("plan", home.params, "--stage", "preflight", "--json").json
    digest = plan["stages"][0]["digest"]
    wrong = home.runbook("run", home.params, "--mode", "apply", "--stage", "preflight", "--approve", "0" * 16)
    assert wrong.code == 1
    right = home.runbook("run", home.params, "--mode", "apply", "--stage", "preflight", "--approve", digest)
    assert right.code == 0, right.out
    assert home.ssh(1, "stat -c %a /var/lib/ascend-runbook").strip() == "700"


def test_apply_takes_the_cluster_from_bare_to_benchmarked(home: Home) -> None:
    done = home.runbook("run", home.params, "--mode", "apply", "--yes", "--json")
    assert done.code == 0, done.out + done.err
    result = done.json
    assert result["ok"] is True
    assert result["failures"] == []
    assert [stage["name"] for stage in result["stages"]] == STAGES
    assert all(stage["verdict"] in GOOD for stage in result["stages"])
    folder = RunFolder(Path(result["run_dir"]))
    assert events.verify(folder.events) == ""
    assert verify_manifest(folder) == ""
    report = Path(result["report"]).read_text(encoding="utf-8")
    assert "rehearsal on the twin" in report.lower()
    assert report.count("<svg") >= 2
    for page in folder.path.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|link)[^>]+(src|href)=.https?://", text), page
    points = next(s for s in result["stages"] if s["name"] == "benchmark")["findings"]
    assert any(each["code"] == "BEN-DELIVERED" and each["verdict"] == "ok" for each in points)
    assert home.ssh(2, "find /data/weights -type l | wc -l").strip() == "0"


def test_a_second_run_plans_nothing_and_check_is_green(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.path)
    monkeypatch.setenv("RUNBOOK_HOME", str(home.path))
    params = load_params(home.params)
    cluster = Cluster(params)
    try:
        for stage in stages.STAGES:
            _, facts = cluster.observe(stage)
            assert stage.module.plan(facts, params) == []
            assert stage.module.waits_for(facts, params) == ()
    finally:
        cluster.close()
    check = home.runbook("check", home.params, "--json")
    assert check.code == 0, check.out
    assert problems(check.json) == []


def test_a_missing_gateway_is_named_and_only_that_is_repaired(home: Home) -> None:
    assert home.runbook("twin", "inject", home.params, "gateway-missing", "--host", "node2", "--card", "3").code == 0
    text = home.runbook("check", home.params)
    assert text.code == 1
    repair = f"runbook run {home.params} --mode apply"
    for words in ("node2 card 3", "192.168.11.203", "no gateway was preset there", repair):
        assert words in text.out
    found = problems(home.runbook("check", home.params, "--json").json)
    assert ("NET-GATEWAY-MISSING", "node2", 3) in found
    assert {each[0] for each in found} <= {"NET-GATEWAY-MISSING", "NET-HEALTH"}
    # the other stages plan nothing, as the test before and the check below say; running them would only take time
    some = ("preflight", "network", "gateway")
    words_of_stages = [word for name in some for word in ("--stage", name)]
    repaired = home.runbook("run", home.params, "--mode", "apply", "--yes", "--json", *words_of_stages)
    assert repaired.code == 0, repaired.out + repaired.err
    assert tuple(stage["name"] for stage in repaired.json["stages"]) == some
    made = changes(repaired.json)
    assert [(each["subject"]["host"], each["subject"]["card"], each["summary"]) for each in made] == [
        ("node2", 3, "set gateway to 192.168.11.203")
    ]
    assert home.runbook("check", home.params).code == 0


def test_plain_papermill_runs_a_stage(home: Home, tmp_path: Path) -> None:
    argv = [
        str(Path(sys.executable).with_name("papermill")),
        "notebooks/20_network_setup.ipynb",
        str(tmp_path / "out.ipynb"),
    ]
    argv += ["-p", "params", home.params, "-p", "mode", "plan"]
    done = subprocess.run(argv, cwd=home.path, env=home.env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    assert "NET-LINK" in text
    assert "nothing is changed" in text


def test_a_host_that_is_down_is_named_and_the_other_still_reports(home: Home) -> None:
    assert home.runbook("twin", "inject", home.params, "host-down", "--host", "node2").code == 0
    try:
        done = home.runbook("check", home.params, "--json")
        assert done.code == 1
        found = done.json
        assert ("PRE-HOST-UNREACHABLE", "node2", -1) in problems(found)
        network = next(stage for stage in found["stages"] if stage["name"] == "network")
        assert {each["subject"]["card"] for each in network["findings"] if each["subject"]["host"] == "node1"} >= set(
            range(8)
        )
        apply = home.runbook("run", home.params, "--mode", "apply", "--yes")
        assert apply.code == 1
        assert "node2" in apply.out
    finally:
        assert home.runbook("twin", "clear", home.params).code == 0


def test_a_changed_host_key_is_refused_by_name(home: Home) -> None:
    known = home.path / "outputs" / "e2e" / ".twin" / "known_hosts"
    right = known.read_text(encoding="utf-8")
    first, second = right.splitlines()[:2]
    known.write_text(f"{first}\n{second.split()[0]} {' '.join(first.split()[1:])}\n", encoding="utf-8")
    try:
        done = home.runbook("check", home.params, "--stage", "preflight", "--json")
        assert done.code == 1
        assert ("PRE-HOST-UNREACHABLE", "node2", -1) in problems(done.json)
        seen = next(each for each in done.json["failures"] if each["subject"]["host"] == "node2")
        assert "key" in seen["seen"]
    finally:
        known.write_text(right, encoding="utf-8")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_where_and_leaves_no_process(home: Home, number: int, code: int) -> None:
    argv = [sys.executable, "-m", "runbook_lib", "run", home.params, "--mode", "plan"]
    process = subprocess.Popen(
        argv,
        cwd=home.path,
        env=home.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "[2/8]" in line:
            break
    folder = RunFolder(max((home.path / "outputs" / "e2e").glob("2*")))
    deadline = time.monotonic() + 30
    while "network" not in folder.status() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopped by" in out
    assert any(event.kind == "interrupted" for event in events.read(folder.events))
    assert folder.status()["preflight"] in GOOD
    assert folder.status()["network"] == "interrupted"
    deadline = time.monotonic() + 10
    while _session_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _session_lives(process.pid)


def _session_lives(session: int) -> list[int]:
    living = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    living.append(int(entry.name))
            except OSError:
                continue
    return living
