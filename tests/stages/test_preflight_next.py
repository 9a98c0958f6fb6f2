"""What preflight tells to type next: reads for what is unknown, and never a kill of what may be ours."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Capture, Command, Verdict
from runbook_lib.params import Params
from tests.stages.conftest import DRIVER, bad, good, npu_table, ps_row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runbook_lib.model import Finding
    from tests.stages.conftest import Scene

LOST = Capture(lost=True, stderr="the connection broke")
BUSY = 'LISTEN 0 128 127.77.1.1:1025 0.0.0.0:* users:(("mindieservice_d",pid=4711,fd=5),("other",pid=999,fd=5))\n'
NO_DOCKER = bad("bash: docker: command not found\n", 127)
UBUNTU = 'ID=ubuntu\nVERSION_ID="22.04"\nVERSION="22.04"\nPRETTY_NAME="Ubuntu 22.04"\n'


def about(scene: Scene, code: str, card: int = -1, host: str = "node1") -> Finding:
    """Return the one finding of a code on a host."""
    (found,) = (each for each in scene.findings() if (each.code, each.subject.host, each.subject.card) ==
                (code, host, card))  # fmt: skip
    return found


@pytest.mark.parametrize("unread", ["ours", "pids"])
def test_no_kill_of_what_may_be_ours(unread: str, make: Callable[..., Scene]) -> None:
    """Our service runs, and one of the two reads that say so is lost."""
    scene = make("preflight")
    answers = scene.captures["node1"]
    answers |= {"ours": scene.inspect(), "pids": good("PID\n4711\n"), unread: LOST, "ports": good(BUSY)}
    answers["containers"] = good(ps_row(scene.params, scene.params.container.name))
    answers["npus"] = scene.npu_table([], {0: 4711})
    for found, command in (
        (about(scene, "PRE-HBM-LEFTOVER", 0), "ps -fp 4711   # on node1"),
        (about(scene, "PRE-PORTS"), "ss -lntp   # on node1; or change the port in params"),
    ):
        assert (found.verdict, found.next_command) == (Verdict.UNKNOWN, command)
    assert not [each for each in scene.problems() if "kill" in each.next_command]


def test_only_the_stranger_is_killed(make: Callable[..., Scene]) -> None:
    """A port and a card that a stranger shares with our own daemon."""
    scene = make("preflight")
    answers = scene.captures["node1"]
    answers |= {"ours": scene.inspect(), "pids": good("PID\n4711\n"), "ports": good(BUSY)}
    answers["npus"] = scene.npu_table([], {0: 999})
    for found in (about(scene, "PRE-HBM-LEFTOVER", 0), about(scene, "PRE-PORTS")):
        assert found.verdict is Verdict.FAIL
        assert found.next_command.startswith("ps -fp 999; kill 999   # on node1")


def test_memory_that_may_be_ours_is_not_reset(make: Callable[..., Scene]) -> None:
    """Used memory, no process table, and nobody knows whether our container runs."""
    scene = make("preflight")
    text = npu_table(range(8)).replace("3372 / 65536", "59718/ 65536")
    scene.captures["node1"] |= {"npus": good(text.partition("| NPU     Chip")[0]), "ours": LOST}
    found = about(scene, "PRE-HBM-LEFTOVER", 0)
    assert found.verdict is Verdict.UNKNOWN
    assert found.next_command.startswith("npu-smi info; docker ps   # on node1")


def test_cards_of_somebody_else_are_not_judged(make: Callable[..., Scene]) -> None:
    """Params use the cards 4 to 7; a tenant works on card 0."""
    scene = make("preflight", "switch")
    data = scene.params.model_dump(mode="json")
    for host in data["cluster"]["hosts"]:
        host["cards"] = host["cards"][4:]
    scene.params = Params.model_validate(data)
    scene.captures["node1"]["npus"] = scene.npu_table([], {0: 4242})
    assert not scene.problems()
    assert {each.subject.card for each in scene.findings() if each.code == "PRE-HBM-LEFTOVER"} == {4, 5, 6, 7}


@pytest.mark.parametrize(
    ("section", "answer", "code", "command"),
    [
        ("work", good("644 regular file\n"), "PRE-WORKDIR", "ls -ld /var/lib/ascend-runbook   # on node1; move"),
        ("work", good("777 symbolic link\n"), "PRE-WORKDIR", "ls -ld /var/lib/ascend-runbook   # on node1; move"),
        ("work", LOST, "PRE-WORKDIR", "ls -ld /var/lib/ascend-runbook   # on node1"),
        ("containers", LOST, "PRE-LEFTOVER-CONTAINER", "docker ps -a   # on node1"),
        ("docker", NO_DOCKER, "PRE-DOCKER", "dnf install docker; systemctl enable --now docker   # on node1"),
        ("docker", LOST, "PRE-DOCKER", "docker version   # on node1"),
        ("runtime", LOST, "PRE-DOCKER-RUNTIME", "docker info   # on node1"),
        ("python", bad("bash: python3: not found", 127), "PRE-PYTHON", "dnf install python3   # on node1"),
        ("python", LOST, "PRE-PYTHON", "python3 --version   # on node1"),
        ("firewall", LOST, "PRE-FIREWALL", "systemctl is-active firewalld ufw nftables   # on node1"),
        ("governor", LOST, "PRE-POWER-MODE", "ls /sys/devices/system/cpu/cpu0/cpufreq   # on node1"),
        ("clock", LOST, "PRE-CLOCK", "date; chronyc tracking   # on node1"),
        ("driver", good(DRIVER.replace("Version=24.1.0", "Version=24.1.1")), "PRE-DRIVER-PAIR", "reboot   # on node1"),
    ],
)
def test_the_next_command(section: str, answer: Capture, code: str, command: str, make: Callable[..., Scene]) -> None:
    """What is unknown is read again on that host; what is missing is installed."""
    scene = make("preflight")
    scene.captures["node1"][section] = answer
    assert about(scene, code).next_command.startswith(command)


def test_packages_are_installed_with_the_tool_of_the_system(make: Callable[..., Scene]) -> None:
    """Ubuntu has apt-get; where the system is unread, either tool may be there."""
    scene = make("preflight")
    answers = scene.captures["node1"]
    answers |= {"python": bad("not found", 127), "docker": NO_DOCKER, "system": good(UBUNTU)}
    assert about(scene, "PRE-PYTHON").next_command.startswith("apt-get install python3   # on node1")
    assert about(scene, "PRE-DOCKER").next_command.startswith("apt-get install docker.io; ")
    answers["system"] = LOST
    assert about(scene, "PRE-PYTHON").next_command.startswith("dnf install python3 || apt-get install python3   #")


def test_the_version_files_are_where_params_say(make: Callable[..., Scene]) -> None:
    """The command reads what the probe read."""
    scene = make("preflight")
    data = scene.params.model_dump(mode="json")
    data["paths"] = {"ascend_root": "/opt/Ascend"}
    scene.params = Params.model_validate(data)
    scene.captures["node1"]["driver"] = LOST
    command = about(scene, "PRE-DRIVER-PAIR").next_command
    assert command == "cat /opt/Ascend/driver/version.info /opt/Ascend/firmware/version.info   # on node1"


@pytest.mark.parametrize("base", ["healthy", "bare"])
def test_the_work_folder_is_closed_below_a_setgid_parent(base: str, tmp_path: Path, make: Callable[..., Scene]) -> None:
    """The planned command, run by the real tools, leaves a folder that the check accepts."""
    tmp_path.chmod(0o2755)
    work = tmp_path / "work"
    scene = make("preflight", "direct", base)
    data = scene.params.model_dump(mode="json")
    data["paths"] = {"work": str(work)}
    scene.params = Params.model_validate(data)
    look = ["stat", "-c", "%a %F", str(work)]
    if base == "healthy":
        work.mkdir()
        work.chmod(0o2755)
        scene.captures["node1"]["work"] = good(subprocess.check_output(look, text=True))
    (change,) = (each for each in scene.changes() if each.subject.host == "node1" and "PRE-WORKDIR" in each.fixes)
    assert isinstance(change.action, Command)
    subprocess.run(change.action.argv, check=True)
    scene.captures["node1"]["work"] = good(subprocess.check_output(look, text=True))
    assert about(scene, "PRE-WORKDIR").verdict is Verdict.OK
