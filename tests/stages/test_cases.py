"""One small data file for each case: captures in, findings and changes out.

A file names the cluster (direct, switch), what it starts from (healthy, bare), and what is different:

    captures: host ("*" for all) -> section -> {stdout, stderr, exit}, {timed_out: true}, {replace: [old, new]} or
              {npus: {lost: [3], holders: {0: 4711}}} or {container: {marker: "", state: exited}}, or for the ping
              matrix {pings: [[card, address, received packets of 3], ...]}
    overrides, unreachable, points (benchmark)
    expect: findings: [{code, host, card, item, verdict, seen}]; every problem must be listed, unless
            `problems` gives their number; `waits_for`; changes: ["<subject>: <summary>"] in order, or their number;
            argv: commands that must be among them
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from runbook_lib.model import Capture, Command, Job, Subject
from runbook_lib.params import load_params

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.glob("*/*.yaml"))
PARAMS = {"direct": "twin-2x8-direct", "switch": "twin-4x8-switch"}
_KEYS = {"what", "cluster", "base", "captures", "overrides", "unreachable", "points", "expect"}
_EXPECT = {"findings", "problems", "changes", "argv", "waits_for", "phases"}


def _capture(scene: Scene, before: Capture, said: dict[str, Any]) -> Capture:
    if "replace" in said:
        old, new = said["replace"]
        assert old in before.stdout, f"nothing to replace: {old!r} is not in {before.stdout!r}"
        return dataclasses.replace(before, stdout=before.stdout.replace(old, new, 1))
    if "json" in said:
        return Capture(stdout=json.dumps(said["json"]), exit_code=0)
    if said.get("timed_out"):
        return Capture(stdout=said.get("stdout", ""), timed_out=True)
    if "http" in said:
        answer = {"status": 0, "body": "", "error": "", "seconds": 0.01} | said["http"]
        return Capture(stdout=json.dumps(answer), exit_code=0)
    return _made(scene, said)


def _made(scene: Scene, said: dict[str, Any]) -> Capture:
    if "container" in said:
        return scene.inspect(**said["container"])
    if "npus" in said:
        return scene.npu_table(said["npus"].get("lost", []), said["npus"].get("holders", {}))
    return Capture(said.get("stdout", ""), said.get("stderr", ""), said.get("exit", 0))


def _change(scene: Scene, case: dict[str, Any]) -> None:
    if overrides := case.get("overrides"):
        file = Path(__file__).parents[2] / "params" / f"{PARAMS[case['cluster']]}.yaml"
        scene.params = load_params(file, overrides)
    for name, sections in case.get("captures", {}).items():
        hosts = list(scene.captures) if name == "*" else [name]
        for host in hosts:
            for key, said in sections.items():
                assert key in scene.captures[host], f"{host} is not asked for {key}"
                if "pings" in said:
                    lost = {(int(card), address): got for card, address, got in said["pings"]}
                    scene.captures[host][key] = scene.pings(host, lost)
                    continue
                scene.captures[host][key] = _capture(scene, scene.captures[host][key], said)
    scene.errors = dict(case.get("unreachable", {}))
    scene.points = case.get("points")


def _subject(said: dict[str, Any]) -> Subject:
    return Subject(said.get("host", ""), said.get("card", -1), said.get("item", ""))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_case(file: Path, make: Callable[..., Scene]) -> None:
    """The stage says and plans exactly what the file expects."""
    case = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    expect = case["expect"]
    assert set(case) <= _KEYS, set(case) - _KEYS
    assert set(expect) <= _EXPECT, set(expect) - _EXPECT
    scene = make(file.parent.name, case["cluster"], case["base"])
    _change(scene, case)
    _compare_findings(scene, expect)
    _compare_changes(scene, expect)
    if "waits_for" in expect:
        assert list(scene.waits_for()) == expect["waits_for"]


def _compare_findings(scene: Scene, expect: dict[str, Any]) -> None:
    found = scene.findings()
    for wanted in expect.get("findings", []):
        same = [each for each in found if each.code == wanted["code"] and each.subject == _subject(wanted)]
        hit = [each for each in same if each.verdict == wanted["verdict"] and wanted.get("seen", "") in each.seen]
        assert hit, f"expected {wanted}, the stage says {same}"
        assert wanted["verdict"] in {"ok", "skipped"} or hit[0].next_command, f"no next command: {hit[0]}"
    problems = [(each.code, each.subject, each.verdict.value) for each in scene.problems()]
    if "problems" in expect:
        assert len(problems) == expect["problems"], problems
        return
    listed = [
        (each["code"], _subject(each), each["verdict"])
        for each in expect.get("findings", [])
        if each["verdict"] not in {"ok", "skipped"}
    ]
    assert sorted(problems) == sorted(listed)


def _compare_changes(scene: Scene, expect: dict[str, Any]) -> None:
    changes = scene.changes()
    wanted = expect.get("changes", [])
    said = [f"{each.subject}: {each.summary}" for each in changes]
    if isinstance(wanted, int):
        assert len(said) == wanted, said
    else:
        assert said == wanted
    words = [" ".join(each.action.argv) for each in changes if isinstance(each.action, Command | Job)]
    for argv in expect.get("argv", []):
        assert argv in words, words
    if "phases" in expect:
        assert [each.phase for each in changes] == expect["phases"]


def test_every_stage_has_cases() -> None:
    """A stage without a healthy and a bare case would go untested without anybody noticing."""
    for stage in ("preflight", "network", "gateway", "weights", "container", "service", "benchmark", "diagnose"):
        names = {file.stem for file in FILES if file.parent.name == stage}
        assert {"healthy_direct", "healthy_switch", "bare"} <= names, stage
