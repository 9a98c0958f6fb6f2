"""An older npu-smi prints no process table at all: idle memory is then a warning, never ok and never in the way."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from runbook_lib.model import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene


def test_no_process_table_is_a_warning(make: Callable[..., Scene]) -> None:
    scene = make("preflight")
    whole = scene.captures["node1"]["npus"]
    lines = whole.stdout.splitlines(keepends=True)
    header = next(number for number, line in enumerate(lines) if "Process id" in line)
    scene.captures["node1"]["npus"] = dataclasses.replace(whole, stdout="".join(lines[: header - 1]))
    verdicts = {(each.subject.host, each.verdict) for each in scene.findings() if each.code == "PRE-HBM-LEFTOVER"}
    assert verdicts == {("node1", Verdict.WARN), ("node2", Verdict.OK)}
