"""Power on, off, again; levels; and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import TwinDown, TwinError
from runbook_lib.params import load_params
from runbook_lib.runs.cluster import Cluster
from runbook_lib.twin import lifecycle
from runbook_lib.twin.processes import start_ticks

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.twin.conftest import Rig


@pytest.fixture
def off(new_rig: Callable[..., Rig]) -> Rig:
    """Return a twin that is off."""
    return new_rig()


def _running(root: Path) -> list[str]:
    """Return the command lines of all live processes that name this twin's folder in argv or environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid() and start_ticks(int(process.name)):
            try:
                said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if str(root).encode() in said:
                found.append(said.decode(errors="replace"))
    return found


def _pids_of(inits: list[int]) -> list[int]:
    namespaces = {Path(f"/proc/{pid}/ns/pid").readlink() for pid in inits}
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "ns/pid").readlink() in namespaces:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _inits(root: Path) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            line = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if f"{root}/nodes".encode() in line and b"unshare" in line.split(b"\0")[0]:
            found += [int(pid) for pid in (process / f"task/{process.name}/children").read_text().split()]
    return found


def test_up_twice_is_up_once_and_down_leaves_nothing(off: Rig) -> None:
    first = lifecycle.up(off.params, off.root)
    assert first.up
    assert [(host.name, host.up) for host in first.hosts] == [("node1", True), ("node2", True)]
    assert lifecycle.up(off.params, off.root) == first
    off.run("node1", "echo kept >/root/kept; setsid sleep 4713 </dev/null >/dev/null 2>&1 &")
    inside = _pids_of(_inits(off.root)) if first.level != "L0" else []
    lifecycle.down(off.params, off.root)
    assert _running(off.root) == []
    assert [pid for pid in inside if start_ticks(pid)] == []
    assert not lifecycle.status(off.params, off.root).up
    lifecycle.down(off.params, off.root)
    again = lifecycle.up(off.params, off.root)
    assert again.pid != first.pid
    assert off.run("node1", "cat /root/kept").out == "kept\n"
    lifecycle.up(off.params, off.root, fresh=True)
    assert off.run("node1", "test -e /root/kept").code == 1


def test_a_killed_server_takes_its_nodes_along(off: Rig) -> None:
    status = lifecycle.up(off.params, off.root)
    if status.level == "L0":
        pytest.skip("at L0 nothing ties processes to a server that was killed; `down` and `up` sweep them")
    off.run("node1", "setsid sleep 4714 </dev/null >/dev/null 2>&1 &")
    inside = _pids_of(_inits(off.root))
    assert len(inside) >= 3
    os.kill(status.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while left := [pid for pid in inside if start_ticks(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    with pytest.raises(TwinDown, match="is not up"):
        lifecycle.reboot(off.params, off.root, "node1")
    assert lifecycle.up(off.params, off.root).up


def test_reboot_kills_processes_keeps_files_and_replays_the_file(off: Rig) -> None:
    before = lifecycle.up(off.params, off.root)
    off.run("node1", "hccn_tool -i 0 -ip -s address 192.168.11.100 netmask 255.255.255.0")
    off.run("node1", "echo address_1=192.168.11.101 >>/etc/hccn.conf; echo netmask_1=255.255.255.0 >>/etc/hccn.conf")
    off.run("node1", "setsid sleep 4715 </dev/null >/dev/null 2>&1 &")
    assert off.run("node1", "hccn_tool -i 1 -ip -g").code == 13
    after = lifecycle.reboot(off.params, off.root, "node1")
    assert after.hosts[0].boot_id != before.hosts[0].boot_id
    assert after.hosts[1].boot_id == before.hosts[1].boot_id
    for card in (0, 1):
        shown = off.run("node1", f"hccn_tool -i {card} -ip -g").out
        assert shown == f"ipaddr:192.168.11.10{card}\nnetmask:255.255.255.0\n"
    assert "sleep 4715" not in off.run("node1", "ps ax -o args | grep -v grep").out


def test_an_address_that_is_taken_is_named(off: Rig) -> None:
    address = off.params.host("node2").address
    with socket.create_server((address, 2222)):
        with pytest.raises(TwinError, match=f"node2 cannot listen on {address}:2222: Address already in use"):
            lifecycle.up(off.params, off.root)
        assert _running(off.root) == []
    assert lifecycle.up(off.params, off.root).up


def test_other_params_are_refused_while_it_is_up(off: Rig) -> None:
    lifecycle.up(off.params, off.root)
    other = off.params.model_copy(update={"cluster": off.params.cluster.model_copy(update={"mtu": 4200})})
    with pytest.raises(TwinError, match="is up with other params"):
        lifecycle.up(other, off.root)
    tuned = off.params.model_copy(update={"benchmark": off.params.benchmark.model_copy(update={"input_tokens": 9})})
    assert lifecycle.up(tuned, off.root).up


def test_what_is_off_says_how_to_switch_it_on(off: Rig) -> None:
    with pytest.raises(TwinDown) as caught:
        lifecycle.inject(off.params, off.root, "link-down", "node1", 0)
    assert caught.value.next_command == "runbook twin up params/twin-2x8-direct.yaml"


def test_a_real_cluster_is_no_twin(tmp_path: Path) -> None:
    params = load_params(Path(__file__).parents[2] / "params/example-2x8-direct.yaml")
    with pytest.raises(TwinError, match="is a real cluster"):
        lifecycle.up(params, tmp_path)


LOGIN = {"key": "id_ed25519", "known_hosts": "known_hosts"}


@pytest.mark.parametrize("level", ["L1b", "L0"])
def test_lower_levels(new_rig: Callable[..., Rig], tmp_path: Path, level: str) -> None:
    login = {f"cluster.ssh.{name}": str(tmp_path / "twin0" / file) for name, file in LOGIN.items()}
    rig = new_rig(**{"twin.level": level}, **login)
    try:
        status = lifecycle.up(rig.params, rig.root)
    except TwinError as error:
        if level == "L1b" and "no namespaces" in error.message:
            pytest.skip(error.message)
        raise
    assert status.level == level
    assert any("owners" in reason for reason in status.reasons)
    script = (
        "r=$RUNBOOK_HOST_ROOT; touch $r/data/f && chown 1000:1000 $r/data/f && stat -c '%u %g' $r/data/f; "
        "install -o 1000 -g 1000 -m 640 $r/data/f $r/data/g && stat -c '%u:%g %a' $r/data/g; uname -m; "
        "$r/usr/local/Ascend/driver/tools/hccn_tool -i 2 -link -g"
    )
    ran = rig.run("node1", script)
    assert (ran.out, ran.err) == ("1000 1000\n1000:1000 640\naarch64\nlink status: UP\n", "")
    with closing(Cluster(rig.params, rig.root)) as cluster:
        assert cluster.reach() == {}
        seen = cluster.paths_of("node1").root
    assert seen == rig.run("node1", 'printf %s "$RUNBOOK_HOST_ROOT"').out
    assert bool(seen) == (level == "L0"), "elsewhere a host's paths begin at /"
    rig.run("node1", "setsid sleep 4716 </dev/null >/dev/null 2>&1 &")
    lifecycle.down(rig.params, rig.root)
    assert _running(rig.root) == []
