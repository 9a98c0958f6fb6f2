"""What a changed value leads to: only what must be restarted is, and what is edited by hand is told with its effect."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Upload, Verdict
from runbook_lib.params import load_params
from runbook_lib.stages.service.advice import advice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene

FOLDER = "/var/lib/ascend-runbook/service"


def spoil(scene: Scene, name: str, old: str, new: str, host: str = "node1") -> None:
    """Edit a file of one host by hand."""
    key = f"file.{FOLDER}/{name}"
    before = scene.captures[host][key]
    assert old in before.stdout
    scene.captures[host][key] = dataclasses.replace(before, stdout=before.stdout.replace(old, new, 1))


def seen(scene: Scene, code: str, host: str = "node1") -> str:
    """Return what a failed finding says."""
    about = [each for each in scene.findings() if (each.code, each.subject.host) == (code, host)]
    wrong = [each for each in about if each.verdict is not Verdict.OK]
    assert [each.verdict for each in wrong] == [Verdict.FAIL]
    return wrong[0].seen


def test_only_what_a_daemon_reads_at_its_start_restarts_it(make: Callable[..., Scene]) -> None:
    """stop.sh is written beside running daemons; config.json stops and starts all of them."""
    scene = make("service")
    spoil(scene, "stop.sh", "rm -f daemon.pid", "true")
    assert [type(each.action) for each in scene.changes()] == [Upload]
    scene = make("service")
    spoil(scene, "config.json", '"maxBatchSize": 512', '"maxBatchSize": 511')
    assert [each.phase for each in scene.changes()] == [1, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "old", "new", "code", "words"),
    [
        ("config.json", '"maxBatchSize": 512', '"maxBatchSize": 0', "SVC-CONFIG", "the daemon refuses the value"),
        ("config.json", '"maxLinkNum"', '// links\n"maxLinkNum"', "SVC-CONFIG", "not valid JSON"),
        (
            "config.json", '"maxPrefillTokens": 32768', '"maxPrefillTokens": 16384', "SVC-CONFIG",
            "the service stands still while its health stays green",
        ),
        (
            "config.json", '"maxPrefillTokens": 32768', '"maxPrefillTokens": 4194304', "SVC-CONFIG",
            "NPU out of memory",
        ),
        ("config.json", '"httpsEnabled": false', '"httpsEnabled": true', "SVC-CONFIG", "without certificates"),
        ("rank_table.json", "192.168.11.103", "192.168.11.193", "SVC-RANK-TABLE", "the card has 192.168.11.103"),
        ("service.env", "NPU_MEMORY_FRACTION='0.95'", "NPU_MEMORY_FRACTION='0.6'", "SVC-ENV", "NPU out of memory"),
        ("service.env", "WORLD_SIZE='16'", "WORLD_SIZE='32'", "SVC-ENV", "but the cluster has 16 cards"),
        ("start.sh", '"$ascend/mindie/set_env.sh"', "", "SVC-ENV", "No module named 'mindie_llm'"),
    ],
)  # fmt: skip
def test_an_edit_by_hand_is_told_with_what_it_leads_to(  # noqa: PLR0917 - a table of edits
    make: Callable[..., Scene], name: str, old: str, new: str, code: str, words: str
) -> None:
    """The finding names the difference, and what the daemon would make of it."""
    scene = make("service")
    spoil(scene, name, old, new)
    assert words in seen(scene, code)


def test_the_image_decides_whether_parallel_sizes_are_written(make: Callable[..., Scene]) -> None:
    """2.x images get them in words, older ones do not know the keys."""
    scene = make("service", "direct", "bare")

    def model() -> dict[str, object]:
        change = next(each for each in scene.changes() if "config.json" in each.summary)
        assert isinstance(change.action, Upload)
        config = json.loads(change.action.content)
        found: dict[str, object] = config["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]
        return found

    assert "dp" not in model()
    image = "mindie:2.2.RC1-800I-A2-py311-openeuler24.03-lts"
    scene.params = load_params("params/twin-2x8-direct.yaml", {"container.image": image, "service.parallel.dp": 2})
    assert {key: model()[key] for key in ("dp", "tp", "moe_ep", "moe_tp")} == {
        "dp": 2, "tp": 8, "moe_ep": 1, "moe_tp": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        ({}, ""),
        ({"benchmark.output_tokens": 600, "service.max_iter_times": 512}, "max_iter_times"),
        ({"benchmark.input_tokens": 600, "service.max_input_token_len": 512}, "max_input_token_len"),
        ({"service.max_link_num": 50}, "max_link_num"),
        ({"benchmark.input_tokens": 8192}, "max_batch_size"),
    ],
)
def test_settings_are_compared_with_the_planned_load(overrides: dict[str, int], setting: str) -> None:
    """Each setting that does not fit is named once, and nothing when all fits."""
    params = load_params("params/twin-2x8-direct.yaml", overrides)
    assert [name for name, _ in advice(params)] == ([setting] if setting else [])


def test_listening_everywhere_is_reported_for_ever(make: Callable[..., Scene]) -> None:
    """The acknowledgement in params is shown, and it stays a warning."""
    scene = make("service")
    scene.params = load_params("params/twin-2x8-direct.yaml", {"service.listen_on_all_reason": "isolated lab"})
    hits = [each for each in scene.findings() if each.code == "SVC-EXPOSED"]
    assert [each.verdict for each in hits] == [Verdict.WARN]
    assert "isolated lab" in hits[0].seen
