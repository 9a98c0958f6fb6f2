"""What is shown for a port that is down or stuck: recovery, but not while hccn.conf would make it do harm."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Capture, Subject, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene

DOWN = {"network": ("NET-LINK", "link.1"), "gateway": ("NET-HEALTH", "net_health.1")}
SAYS = {"network": "link status: DOWN\n", "gateway": "net health status: Fault\n"}


def shown(scene: Scene, changed: tuple[str, str] = ("", "")) -> str:
    """Return the next command of node1's card 1, which is down, with its hccn.conf changed."""
    code, read = DOWN[scene.stage]
    answers = scene.captures["node1"]
    answers[read] = Capture(stdout=SAYS[scene.stage], exit_code=0)
    conf = answers["conf"].stdout
    assert changed[0] in conf
    answers["conf"] = replace(answers["conf"], stdout=conf.replace(*changed))
    (found,) = [each for each in scene.findings() if (each.code, each.subject) == (code, Subject("node1", 1))]
    assert found.verdict is Verdict.FAIL
    return found.next_command


@pytest.mark.parametrize("stage", DOWN)
def test_recovery_where_the_file_holds_what_params_want_or_nothing(make: Callable[..., Scene], stage: str) -> None:
    assert shown(make(stage)).startswith("hccn_tool -i 1 -cfg recovery   # on node1; ")
    assert shown(make(stage), ("address_1=192.168.11.101\n", "")).startswith("hccn_tool -i 1 -cfg recovery ")


@pytest.mark.parametrize("stage", DOWN)
@pytest.mark.parametrize(
    ("mends", "line", "other"),
    [
        ("network", "address_1=192.168.11.101", "address_1=10.9.9.9"),
        ("network", "netmask_1=255.255.255.0", "netmask_1=255.255.0.0"),
        ("network", "tls_enable_1=0", "tls_enable_1=1"),
        ("network", "tls_enable_1=0", "mtu_1=9000"),
        ("gateway", "gateway_1=192.168.11.101", "gateway_1=10.9.9.1"),
        ("gateway", "netdetect_1=192.168.11.201", "netdetect_1=192.168.11.250"),
    ],
)
def test_the_file_first_where_it_holds_another_value(
    make: Callable[..., Scene], stage: str, mends: str, line: str, other: str
) -> None:
    command, _, comment = shown(make(stage), (f"{line}\n", f"{other}\n")).partition("   # ")
    assert command == f"runbook run params/twin-2x8-direct.yaml --mode apply --stage {mends} --yes"
    assert comment == f"first: recovery replays {other} of hccn.conf; then hccn_tool -i 1 -cfg recovery on node1"


@pytest.mark.parametrize("stage", DOWN)
def test_a_file_that_cannot_be_read_is_looked_at_first(make: Callable[..., Scene], stage: str) -> None:
    scene = make(stage)
    scene.captures["node1"]["conf"] = Capture(stderr="cat: /etc/hccn.conf: Permission denied", exit_code=1)
    command, _, comment = shown(scene).partition("   # ")
    assert command == "cat -n /etc/hccn.conf"
    assert comment == "on node1; it cannot be read, and recovery replays it; then hccn_tool -i 1 -cfg recovery"
    command = shown(make(stage), ("address_1=", "address_1=10.9.9.9\naddress_1="))
    assert command.startswith("cat -n /etc/hccn.conf   # on node1; it holds 'address_1=")
