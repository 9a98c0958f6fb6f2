"""The collective test: format, bandwidth from the fabric model, and the words of what goes wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from runbook_lib.twin import faults
from runbook_lib.twin.tools.hccl_test import mpirun
from runbook_lib.twin.world import Reply, ToolCall

if TYPE_CHECKING:
    from runbook_lib.twin.world import World

TOOLKIT = "/usr/local/Ascend/ascend-toolkit/8.0.RC3"
LIBRARIES = f"/usr/local/mpich/lib:{TOOLKIT}/aarch64-linux/lib64"
LINE = (
    f"mpirun -hosts 127.90.250.1:8,127.90.250.2:8 -n 16 {TOOLKIT}/tools/hccl_test/bin/all_reduce_test "
    "-p 8 -b 8K -e 64M -f 2 -d fp32 -o sum -w 5 -n 20 -c 1"
)


class Power:
    """Nothing of these faults needs the power."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def power_off(self, node: object) -> None: ...

    async def power_on(self, node: object) -> None: ...


@pytest.fixture
def cards(world: World) -> World:
    """Return a world whose cards are set as the params want."""
    for host in world.params.cluster.hosts:
        for card in host.cards:
            world.fabric.set_ip(host.name, card.id, card.ip, card.netmask)
            world.fabric.cards[host.name][card.id].tls = 0
    return world


def run(world: World, line: str = LINE, libraries: str = LIBRARIES, **env: str) -> Reply:
    call = ToolCall(world, world.nodes["node1"], line.split(), env={"LD_LIBRARY_PATH": libraries, **env})
    return asyncio.run(mpirun(call))


def speeds(reply: Reply) -> dict[int, float]:
    assert (reply.code, reply.err) == (0, "")
    rows = [[cell.strip() for cell in line.split("|")] for line in str(reply.out).splitlines()[2:]]
    assert all(row[3] == "success" for row in rows)
    return {int(row[0]): float(row[2]) for row in rows}


def test_bandwidth_rises_with_the_size(cards: World) -> None:
    reply = run(cards)
    assert str(reply.out).splitlines()[:2] == [
        "the minbytes is 8192, maxbytes is 67108864, iters is 20, warmup_iters is 5",
        "data_size(Bytes): |   aveg_time(us): | alg_bandwidth(GB/s): | check_result:",
    ]
    found = speeds(reply)
    assert list(found) == [8192 << step for step in range(14)]
    assert list(found.values()) == sorted(found.values())
    assert 20 <= found[64 << 20] <= 25


@pytest.mark.parametrize(("fault", "most"), [("speed-low", 0.55), ("link-lossy", 0.1), ("link-flapping", 0.4)])
def test_the_slowest_link_counts(cards: World, fault: str, most: float) -> None:
    healthy = speeds(run(cards))[64 << 20]
    asyncio.run(faults.inject(Power(cards), fault, "node2", 5, "L1a"))
    assert speeds(run(cards))[64 << 20] < most * healthy


@pytest.mark.parametrize("fault", ["link-down", "ip-missing", "tls-on", "link-one-way", "cables-swapped"])
def test_cards_that_do_not_find_each_other(cards: World, fault: str) -> None:
    asyncio.run(faults.inject(Power(cards), fault, "node2", 5, "L1a"))
    reply = run(cards)
    assert reply.code == 1
    assert "Get_Socket_Timeout(EI0006): Getting socket times out. Reason: 1." in str(reply.out)


def test_the_cards_that_are_asked_for_take_part(cards: World) -> None:
    asyncio.run(faults.inject(Power(cards), "link-down", "node2", 5, "L1a"))
    four = LINE.replace("-n 16", "-n 8").replace("-p 8", "-p 4")
    assert run(cards, four, HCCL_TEST_USE_DEVS="0,1,2,3").code == 0
    assert run(cards, four, HCCL_TEST_USE_DEVS="4,5,6,7").code == 1
    assert "aclrtSetDevice(9)" in str(run(cards, four, HCCL_TEST_USE_DEVS="5,6,7,9").out)


def test_a_held_card(cards: World) -> None:
    cards.hbm["node2", 5] = {4711: 56373}
    reply = run(cards)
    assert (reply.code, "[Open][Tsd]Open TsdClient failed, devId[5]" in str(reply.out)) == (1, True)


def test_missing_libraries(cards: World) -> None:
    missing = run(cards, libraries="/usr/local/mpich/lib")
    assert (missing.code, "libhccl.so: cannot open shared object file" in str(missing.err)) == (127, True)
    (cards.nodes["node2"].files / "usr/local/mpich/lib/libmpi.so.12").unlink()
    missing = run(cards)
    assert missing.code == 127
    assert str(missing.err).endswith(
        "error while loading shared libraries: libmpi.so.12: cannot open shared object file: "
        "No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("mpirun -n 16", 255, "no executable provided"),
        ("mpirun -hosts 10.9.9.9 -n 2 /bin/true", 255, "unable to get host address for 10.9.9.9"),
        ("mpirun -n 2 /nowhere/all_reduce_test", 255, "execvp error on file /nowhere/all_reduce_test"),
        (LINE.replace("-c 1", "-q 1"), 1, "invalid option -- 'q'"),
    ],
)
def test_wrong_calls(cards: World, line: str, code: int, words: str) -> None:
    reply = run(cards, line)
    assert (reply.code, words in str(reply.err)) == (code, True)


def test_a_host_that_refuses_the_login(cards: World) -> None:
    cards.machine("node2")["login_refused"] = True
    reply = run(cards)
    assert (reply.code, "Permission denied (publickey)." in str(reply.err)) == (255, True)
