"""The collective test: what is missing is explained, what failed is named, what is slow is seen."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from runbook_lib.ascend.hccl_test import parse_hccl_test, reason
from runbook_lib.model import Capture, Subject, Verdict
from runbook_lib.params import HostPaths, Params
from runbook_lib.stages import HostProbe, hccl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runbook_lib.model import Finding
    from tests.stages.conftest import Scene

HEAD = """the minbytes is 8192, maxbytes is 67108864, iters is 20, warmup_iters is 5
data_size(Bytes): |   {time}(us): | alg_bandwidth(GB/s): | check_result:
"""
THERE = """test /usr/local/Ascend/ascend-toolkit/8.0.RC3/tools/hccl_test/bin/all_reduce_test
test /usr/local/Ascend/ascend-toolkit/8.0.RC2/tools/hccl_test/bin/all_reduce_test
test /usr/local/Ascend/ascend-toolkit/latest/tools/hccl_test/bin/all_reduce_test
lib /usr/local/Ascend/ascend-toolkit/8.0.RC2/aarch64-linux/lib64
lib /usr/local/Ascend/ascend-toolkit/8.0.RC3/aarch64-linux/lib64
lib /usr/local/Ascend/ascend-toolkit/latest/aarch64-linux/lib64
mpirun /usr/local/mpich/bin/mpirun
libmpi /usr/local/mpich/lib/libmpi.so.12
end
"""


def output(rates: dict[int, float], check: str = "success", time: str = "aveg_time") -> str:
    """Return what the tester prints for sizes and their GB/s."""
    rows = [
        f"{size:<18}| {size / rate / 1000:>12.2f} | {rate:>14.5f} | {check}\n" for size, rate in sorted(rates.items())
    ]
    return HEAD.format(time=time) + "".join(rows)


def whole(gb_per_s: float, check: str = "success") -> str:
    """Return a run over all sizes that ends at this rate."""
    return output({1 << power: gb_per_s * 2 ** ((power - 26) / 2) for power in range(13, 27)}, check)


@pytest.fixture
def params(make: Callable[..., Scene]) -> Params:
    """Return a pair's params."""
    return make("network", "direct").params


@pytest.fixture
def tools(make: Callable[..., Scene]) -> Callable[..., dict[str, hccl.Tools | None]]:
    """Return the function that reads what hosts have: text of the look, and cards that are held."""
    scene = make("network", "direct")

    def read(text: str = THERE, holders: dict[int, int] | None = None) -> dict[str, hccl.Tools | None]:
        captures = {"tools": Capture(stdout=text, exit_code=0), "npus": scene.npu_table([], holders or {})}
        paths = HostPaths.of(scene.params)
        hosts = [host.name for host in scene.params.cluster.hosts]
        return hccl.tools(scene.params, {name: HostProbe(name, paths, captures) for name in hosts})

    return read


def judged(facts: hccl.HcclFacts, params: Params) -> dict[str, Finding]:
    """Return the findings by code."""
    return {each.code: each for each in hccl.check(facts, params)}


@pytest.mark.parametrize("time", ["aveg_time", "avg_time"])
def test_both_wordings_are_read(time: str) -> None:
    """Older builds write aveg_time."""
    rows = parse_hccl_test(Capture(stdout=output({8192: 0.0998, 67108864: 23.76}, time=time), exit_code=0)).value
    assert rows is not None
    assert [(row.size_bytes, row.checked) for row in rows] == [(8192, True), (67108864, True)]
    assert rows[-1].gb_per_s == pytest.approx(23.76)


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        output({8192: 0.1}).replace("0.10000", "9.90000"),
        output({8192: 0.1}) + output({8192: 0.1}),
        output({8192: 0.1}).replace("success", "succ"),
        output({8192: 0.1}) + "67108864 | nan | inf | failed\n",
        output({8192: 0.1}) + "67108864 | 2800.10 | 23.96654 |\n",
    ],
)
def test_half_a_table_has_no_value(text: str) -> None:
    """No rows, a rate that is not size by time, a size twice, a cut row."""
    assert parse_hccl_test(Capture(stdout=text, exit_code=0)).value is None
    assert parse_hccl_test(Capture(stdout=output({8192: 0.1}), exit_code=1)).value is None
    assert parse_hccl_test(Capture(stdout=output({8192: 0.1}), timed_out=True)).value is None


def test_the_command_names_what_is_installed(
    params: Params, tools: Callable[..., dict[str, hccl.Tools | None]]
) -> None:
    """The newest common version, never the link `latest`; LD_LIBRARY_PATH of MPI and toolkit; all cards."""
    found = tools()
    assert hccl.obstacle(found, params) == (Verdict.OK, "")
    assert hccl.version(found) == "8.0.RC3"
    argv = hccl.command(params, HostPaths.of(params), hccl.version(found)).argv
    assert argv[1] == (
        "LD_LIBRARY_PATH=/usr/local/mpich/lib:/usr/local/Ascend/ascend-toolkit/8.0.RC3/aarch64-linux/lib64"
    )
    assert "HCCL_TEST_USE_DEVS=0,1,2,3,4,5,6,7" in argv
    assert argv[argv.index("-n") + 1] == "16"
    assert argv[argv.index("-hosts") + 1] == "127.77.1.1:8,127.77.1.2:8"


def test_what_is_missing_is_explained(params: Params, tools: Callable[..., dict[str, hccl.Tools | None]]) -> None:
    """Skipped with the reason, never ok; what could not be read is unknown."""
    without = THERE.replace("libmpi /usr/local/mpich/lib/libmpi.so.12\n", "")
    assert hccl.obstacle(tools(without), params)[0] is Verdict.SKIPPED
    assert "libmpi.so of /usr/local/mpich/lib is missing on node1, node2" in hccl.obstacle(tools(without), params)[1]
    assert hccl.obstacle(tools("end\n"), params)[0] is Verdict.SKIPPED
    assert hccl.obstacle(tools(THERE[:-4]), params)[0] is Verdict.UNKNOWN
    assert "node1 [3]" in hccl.obstacle(tools(holders={3: 4711}), params)[1]
    lost = tools() | {"node2": None}
    assert hccl.obstacle(lost, params)[0] is Verdict.UNKNOWN
    assert judged(hccl.HcclFacts(lost), params)["NET-HCCL-TOOLS"].next_command
    off = params.model_copy(update={"network": params.network.model_copy(update={"hccl": "off"})})
    assert hccl.obstacle(tools(), off) == (Verdict.SKIPPED, "network.hccl is off")


def test_cards_are_idle_only_where_the_table_says_so(make: Callable[..., Scene]) -> None:
    """Memory in use counts also without a process table; a card that is not listed, or a cut table, is not idle."""
    params, idle = make("network").params, make("network").npu_table([], {}).stdout
    head = idle[: idle.index("| NPU     Chip              | Process id")]
    held = make("network").npu_table([], {3: 4711}).stdout

    def busy(text: str, asked: Params = params) -> tuple[int, ...] | None:
        captures = {"tools": Capture(stdout=THERE, exit_code=0), "npus": Capture(stdout=text, exit_code=0)}
        tools = hccl.tools(asked, {"node1": HostProbe("node1", HostPaths.of(params), captures)})["node1"]
        return None if tools is None else tools.busy_cards

    assert busy(idle) == busy(head) == ()
    assert busy(held) == busy(held[: held.index("| NPU     Chip              | Process id")]) == (3,)
    assert busy(make("network").npu_table([5], {}).stdout) is None
    assert busy(idle.replace("No running processes found in NPU 5", "")) is None
    assert busy(idle.replace("0000:C6:00.0", "0000:C")) is None
    assert busy(idle.replace("3372 / 65536", "-", 1)) is None
    hosts = [host.model_copy(update={"cards": host.cards[4:]}) for host in params.cluster.hosts]
    some = params.model_copy(update={"cluster": params.cluster.model_copy(update={"hosts": hosts})})
    assert busy(held, some) == ()
    assert "HCCL_TEST_USE_DEVS=4,5,6,7" in hccl.command(some, HostPaths.of(some), "8.0.RC3").argv
    hosts = [hosts[0], params.cluster.hosts[1].model_copy(update={"cards": params.cluster.hosts[1].cards[:4]})]
    mixed = some.model_copy(update={"cluster": some.cluster.model_copy(update={"hosts": hosts})})
    seen = hccl.Tools(("8.0.RC3",), mpirun=True, libmpi=True, busy_cards=())
    assert "one list for all hosts" in hccl.obstacle({"node1": seen, "node2": seen}, mixed)[1]


@pytest.mark.parametrize(
    ("capture", "verdict", "said"),
    [
        (Capture(stdout=whole(24.3), exit_code=0), Verdict.OK, "24.30 GB/s at 64 MiB"),
        (Capture(stdout=whole(8.0), exit_code=0), Verdict.WARN, "8.00 GB/s"),
        (Capture(stdout=whole(1.1), exit_code=0), Verdict.FAIL, "1.10 GB/s"),
        (Capture(stdout=whole(24.3, "failed"), exit_code=0), Verdict.FAIL, "wrong results"),
        (Capture(stdout=whole(24.3, "NULL"), exit_code=0), Verdict.UNKNOWN, "24.30"),
        (Capture(stdout=output({1 << 20: 21.0}), exit_code=0), Verdict.UNKNOWN, "13 of 14 sizes are missing"),
        (Capture(stdout=output({1 << 13: 0.1}), exit_code=0), Verdict.UNKNOWN, "13 of 14 sizes are missing"),
        (
            Capture(stderr="x: error while loading shared libraries: libmpi.so.12: cannot open", exit_code=127),
            Verdict.UNKNOWN,
            "libmpi",
        ),
        (
            Capture(stdout="first\nGet_Socket_Timeout(EI0006): Getting socket times out. Reason: 1.\n", exit_code=1),
            Verdict.FAIL,
            "a card was not reached",
        ),
        (Capture(stderr="Permission denied (publickey).\n", exit_code=255), Verdict.UNKNOWN, "no SSH key"),
        (Capture(timed_out=True), Verdict.UNKNOWN, "no result"),
        (Capture(stderr="something new\n", exit_code=1), Verdict.UNKNOWN, "something new"),
    ],
)
def test_a_run_is_judged(
    capture: Capture,
    verdict: Verdict,
    said: str,
    params: Params,
    tools: Callable[..., dict[str, hccl.Tools | None]],
) -> None:
    """Wrong results and another order of magnitude fail; what says nothing about the links is unknown."""
    found = judged(hccl.HcclFacts(tools(), hccl.read(capture)), params)["NET-HCCL"]
    assert found.verdict is verdict
    assert found.subject == Subject()
    assert said in found.seen
    assert bool(found.next_command) == (verdict is not Verdict.OK)


def test_the_look_finds_real_folders(tmp_path: Path, params: Params) -> None:
    """The script itself, on a folder with a toolkit, its link, and an MPI without its library."""
    paths = HostPaths.of(params, str(tmp_path))
    test = tmp_path / "usr/local/Ascend/ascend-toolkit/8.0.RC3/tools/hccl_test/bin/all_reduce_test"
    for program in (test, tmp_path / "usr/local/mpich/bin/mpirun"):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n", encoding="utf-8")
        program.chmod(0o755)
    (tmp_path / "usr/local/Ascend/ascend-toolkit/8.0.RC3/aarch64-linux/lib64").mkdir(parents=True)
    (tmp_path / "usr/local/Ascend/ascend-toolkit/latest").symlink_to("8.0.RC3")
    section = hccl.probe(params, params.master, paths).sections[0]
    done = subprocess.run(section.argv, capture_output=True, text=True, check=True, timeout=10)
    capture = Capture(stdout=done.stdout, exit_code=0)
    seen = hccl.tools(params, {"node1": HostProbe("node1", paths, {"tools": capture})})["node1"]
    assert seen == hccl.Tools(("8.0.RC3",), mpirun=True, libmpi=False, busy_cards=None)
    assert reason("nothing that is known") is None
