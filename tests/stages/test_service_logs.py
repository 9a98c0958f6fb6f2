"""What the logs of a start say: early errors are found in long logs, causes before their echo, clients do not count."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from runbook_lib.model import Capture
from runbook_lib.params import load_params
from runbook_lib.stages import logs
from runbook_lib.stages.push import source

if TYPE_CHECKING:
    from pathlib import Path

ERROR = "[2026-01-05 08:00:{:02d}.000001+08:00] [10] [10] [server] [ERROR] [a.cpp:1] : {}"


def test_an_early_error_is_read_out_of_a_long_log(tmp_path: Path) -> None:
    """The error stands thousands of lines before the end; a log folder that is not there does not hide it."""
    lines = [ERROR.format(1, "[MIE05E030000] [config] maxBatchSize [0] is out of range"), *["nothing to see"] * 5000]
    (tmp_path / "daemon.log").write_text("\n".join([*lines, "the end"]) + "\n", encoding="utf-8")
    ran = subprocess.run(
        ["sh", "-c", source("logs.sh"), "sh", "50", str(tmp_path / "daemon.log"), str(tmp_path / "plog")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    capture = Capture(ran.stdout, ran.stderr, ran.returncode)
    texts = logs.by_file(capture)
    assert logs.whole(capture)
    assert len(ran.stdout.splitlines()) < 60
    assert texts[str(tmp_path / "daemon.log")].endswith("the end")
    first = logs.first(texts)
    assert first is not None
    assert first.code == "MIE05E030000"


def test_a_cause_without_a_stamp_comes_before_its_echo() -> None:
    """What Python raised stands before the line of the service that follows from it."""
    text = "ValueError: WORLD_SIZE is 32, the rank table has 16 ranks\n" + ERROR.format(3, "[MIE05E030001] failed")
    first = logs.first({"daemon.log": text})
    assert first is not None
    assert first.text.startswith("ValueError: WORLD_SIZE")
    assert first.at.startswith("2026-01-05T08:00:03")


def test_refused_requests_are_no_error_of_the_service() -> None:
    """A client's wrong model name does not make a service suspicious."""
    assert logs.first({"a.log": ERROR.format(1, "[MIE04E020207] [endpoint] Failed to check model name")}) is None


def test_who_waits_for_whom_is_told_by_host_and_card() -> None:
    """The table of HCCL names addresses; people know hosts and cards. The earliest host is named."""
    params = load_params("params/twin-2x8-direct.yaml")
    stamp = "[ERROR] HCCL(9,python3):2026-01-05-08:00:0{}.100.200 [hccl_socket_manager.cc:583] [9]"
    row = (
        "   |  192.168.11.205(13)   |  16666  |   192.168.11.105(5)   |  3234403008  |  client  | time out |   "
        "DISABLE  | LinkInfo"
    )
    head = "[Wait][LinkEstablish]wait socket establish timeout, role[1] rank[5] timeout[120 s]"
    texts = {"plog.log": f"{stamp.format(2)}{head}\n{stamp.format(2)}{row}"}
    other = {"plog.log": f"{stamp.format(1)}{head}"}
    firsts = {"node1": logs.first(texts), "node2": logs.first(other)}
    assert logs.earliest(firsts) == "node2"
    error = firsts["node1"]
    assert error is not None
    told = logs.told(error, texts, params, earliest="node2")
    assert "node1 card 5 waited for node2 card 5" in told
    assert "EI0006" in told
    assert "the first error of all hosts is that of node2" in told


def test_progress_is_the_last_line_that_says_it() -> None:
    """None before the first line: the daemons may still wait for each other."""
    assert logs.loaded_percent({"a": "g_mainPid = 1"}) is None
    text = "Loading safetensors checkpoint shards:  35% Completed\nload weights from /w: 40%"
    assert logs.loaded_percent({"a": text}) == 40
