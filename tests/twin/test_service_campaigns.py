"""Compact forms of benchmarks/config_campaign.py and benchmarks/service_faults.py: they hold, and they can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Run a campaign for its JSON."""
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--json", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    said: dict[str, Any] = json.loads(ran.stdout)
    return ran.returncode, said


def test_the_verdicts_on_random_configurations_agree() -> None:
    """Some start and some do not, and the runbook says which."""
    code, said = run("config_campaign.py", "--count", "20", "--seed", "7")
    assert said["failures"] == []
    assert code == 0
    assert said["refused by both"] >= 5
    assert said["fine for both"] >= 5


def test_faults_are_reported_before_the_start(networks: Iterator[str]) -> None:
    """A container, a file, the environment and weights: each is found on its host, by its code, before a start."""
    names = ["service-shm-small", "service-table-old", "service-env-aiv", "service-shard-link"]
    words = [word for name in names for word in ("--fault", name)]
    code, said = run("service_faults.py", "--before-only", "--network", next(networks), *words)
    assert [each["problems"] for each in said["cases"]] == [[], [], [], []]
    assert code == 0
    assert said["cases"][0]["before"] == "CON-SHM"
