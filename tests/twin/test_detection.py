"""A compact form of benchmarks/detection_matrix.py: one twin, a fault of each kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.twin.fault_list import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

MATRIX = Path(__file__).parents[2] / "benchmarks/detection_matrix.py"
# cables, settings that another host sees too, a stuck detection, a lost card, leftovers, a stopped service, a clock
SOME = (
    "link-down",
    "ip-duplicate",
    "tls-on",
    "health-thread-error",
    "card-lost",
    "hbm-dead-container",
    "docker-down",
    "clock-skew",
)
UNSEEN = "mpi-missing"  # shows in the collective test only: the matrix must say that it was not found


def test_faults_are_found_blamed_and_mended(networks: Iterator[str]) -> None:
    """All at once hold, but the one that these stages cannot see: so the matrix can fail."""
    names = [word for name in (*SOME, f"{UNSEEN}@node1") for word in ("--fault", name)]
    options = ["--json", "--shape", "2x8-direct", "--pairs", "0", "--together", "--network", next(networks)]
    ran = subprocess.run(
        [sys.executable, str(MATRIX), *options, *names], capture_output=True, text=True, timeout=400, check=False
    )
    said = json.loads(ran.stdout)
    assert said["healthy"] == []
    unseen = ["NET-HCCL-TOOLS on cluster says nothing", f"nothing shows what is still there: {UNSEEN} node1"]
    assert [each["problems"] for each in said["failures"]] == [unseen], ran.stderr
    assert (said["cases"], ran.returncode) == (1, 1)
    assert {FAULTS[name].remedy for name in SOME} == {"hands", "run", "command"}
