"""The collective tests of the CANN toolkit and the mpirun that starts them, answered from the fabric model.

Format of the output: hiascend HCCL Performance Tester. Times: an all-reduce of 16 cards over 200GE was measured there
at about 24 GB/s for 64 MiB; small sizes are bound by latency.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runbook_lib.twin.daemon_hccl import DEFAULT_TIMEOUT_S, EI0006, TIMEOUT_RANGE
from runbook_lib.twin.tools.hccn_get import SPEED_MBPS
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from runbook_lib.twin.fabric import Fabric
    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import ToolCall, World

TESTS = (
    "all_gather_test",
    "all_reduce_test",
    "alltoall_test",
    "alltoallv_test",
    "broadcast_test",
    "reduce_scatter_test",
    "reduce_test",
)
MPI_LIBRARY = "libmpi.so.12"
HCCL_LIBRARY = "libhccl.so"
START_S = 6.0  # emulated; all ranks load their libraries and open their cards
_LATENCY_US = 78.0
_BYTES_PER_US = 25_000.0
# a collective is as fast as its slowest link: what is left of the bandwidth
_LOSSY, _FLAPPING, _BIT_ERRORS, _NO_FEC = 0.05, 0.3, 0.6, 0.8
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LOADER = 127
_MPI_FAILED = 255


class _Refused(Exception):  # noqa: N818 - how the tool's own code leaves early; it never reaches a user
    """The program ends without a result."""

    def __init__(self, code: int, out: str = "", err: str = "") -> None:
        super().__init__(err or out)
        self.reply = Reply(code, out, err)


@dataclass(slots=True)
class _Job:
    """What mpirun is asked to start."""

    hosts: list[str] = field(default_factory=list)
    ranks: int = 1
    program: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Sizes:
    """The options of a test: cards per host, sizes in bytes."""

    cards: int = 8
    first: int = 64 << 20
    last: int = 64 << 20
    factor: int = 0
    step: int = 0
    rounds: int = 20
    warmup: int = 10
    checks: bool = True


async def mpirun(call: ToolCall) -> Reply:
    """Start a program on the named hosts (-hosts or -f, -n); it must be one of the collective tests."""
    try:
        job = _job(call)
        nodes = [_reach(call, host) for host in job.hosts] or [call.node]
        return await _start(call, job, nodes)
    except _Refused as refused:
        return refused.reply


async def alone(call: ToolCall) -> Reply:
    """Run a test without mpirun: one rank on this host."""
    try:
        return await _start(call, _Job([], 1, call.argv), [call.node])
    except _Refused as refused:
        return refused.reply


def _job(call: ToolCall) -> _Job:
    job, words = _Job(), list(call.argv[1:])
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in {"--version", "-version", "-info"}:
            raise _Refused(0, "HYDRA build details:\n    Version:                                 4.1.3\n")
        if option == "--allow-run-as-root":
            raise _Refused(
                _MPI_FAILED, err=f"[mpiexec@{call.node.name}] match_arg: unrecognized argument allow-run-as-root\n"
            )
        if not words:
            raise _Refused(_MPI_FAILED, err=f"[mpiexec@{call.node.name}] no value for {option}\n")
        value = words.pop(0)
        if option in {"-n", "-np"} and value.isdigit():
            job.ranks = int(value)
        elif option in {"-hosts", "--hosts", "-host"}:
            job.hosts = [each.partition(":")[0] for each in value.split(",") if each]
        elif option in {"-f", "-hostfile", "--hostfile", "-machinefile"}:
            job.hosts = _host_file(call, value)
        elif option in {"-env", "-genv"} and words:
            call.env[value] = words.pop(0)
        else:
            raise _Refused(_MPI_FAILED, err=f"[mpiexec@{call.node.name}] match_arg: unrecognized argument {option}\n")
    if not words:
        raise _Refused(_MPI_FAILED, err=f"[mpiexec@{call.node.name}] no executable provided\n")
    job.program = words
    return job


def _own(call: ToolCall, path: str) -> str:
    """Return a path of the caller as the node's own absolute path; at L0 it carries the node's folder in front."""
    absolute = str(PurePosixPath(call.cwd, path))
    return absolute.removeprefix(str(call.node.files)) if call.node.level == "L0" else absolute


def _host_file(call: ToolCall, name: str) -> list[str]:
    try:
        text = call.node.path(_own(call, name)).read_text(encoding="utf-8")
    except OSError:
        raise _Refused(_MPI_FAILED, err=f"[mpiexec@{call.node.name}] unable to open host file: {name}\n") from None
    return [line.split(":")[0].split()[0] for line in text.splitlines() if line.strip()]


def _reach(call: ToolCall, host: str) -> Node:
    """Return the node of an address or a name; mpirun logs in there over SSH."""
    where = f"[mpiexec@{call.node.name}]"
    addresses = {each.service_ip: each.name for each in call.world.params.cluster.hosts}
    addresses |= {each.address: each.name for each in call.world.params.cluster.hosts}
    node = call.world.nodes.get(addresses.get(host, host))
    if node is None:
        raise _Refused(_MPI_FAILED, err=f"{where} HYDU_sock_get_iface_ip: unable to get host address for {host}\n")
    if node is call.node:
        return node
    if not node.up:
        raise _Refused(
            _MPI_FAILED, err=f"ssh: connect to host {host} port 22: No route to host\n{where} unable to start\n"
        )
    if call.world.machine(node.name).get("login_refused"):
        raise _Refused(_MPI_FAILED, err=f"root@{host}: Permission denied (publickey).\n{where} unable to start\n")
    return node


async def _start(call: ToolCall, job: _Job, nodes: list[Node]) -> Reply:
    folder, _, name = _own(call, job.program[0]).rpartition("/")
    for node in nodes:
        if name not in TESTS or not (node.path(folder) / name).is_symlink():
            words = f"[proxy:0:0@{node.name}] HYDU_create_process: execvp error on file {job.program[0]} "
            raise _Refused(_MPI_FAILED, err=f"{words}(No such file or directory)\n")
        for library in (MPI_LIBRARY, HCCL_LIBRARY):
            if not _loads(call, node, library):
                words = f"error while loading shared libraries: {library}: cannot open shared object file"
                raise _Refused(_LOADER, err=f"{job.program[0]}: {words}: No such file or directory\n")
    sizes = _options(job.program)
    cards = min(sizes.cards, -(-job.ranks // len(nodes)))
    await call.world.sleep(START_S)
    ends = [(node.name, number) for node in nodes for number in _numbers(call, node)[:cards]]
    for end in ends:
        if call.world.fabric.lost(*end) or call.world.hbm.get(end):
            raise _Refused(1, f"[ERROR] HCCL(4711,{name}): [Open][Tsd]Open TsdClient failed, devId[{end[1]}]\n")
    if len(nodes) > 1 and not _joined(call.world.fabric, [node.name for node in nodes], ends):
        timeout = call.env.get("HCCL_CONNECT_TIMEOUT", "")
        wait_s = int(timeout) if timeout.isdigit() and int(timeout) in TIMEOUT_RANGE else DEFAULT_TIMEOUT_S
        await call.world.sleep(wait_s)
        stamp = call.world.emulated_now(call.node.name).strftime("%Y-%m-%d-%H:%M:%S.%f")[:-3]
        raise _Refused(1, f"[PID: 4711] {stamp}.356 {EI0006}\n")
    return Reply(0, _table(sizes, _speed(call.world, ends) if len(nodes) > 1 else 1.0))


def _numbers(call: ToolCall, node: Node) -> list[int]:
    """Return the cards that a test takes on a host: those of HCCL_TEST_USE_DEVS, else all from the first on."""
    there = [card.id for card in call.world.params.host(node.name).cards]
    asked = [int(word) for word in call.env.get("HCCL_TEST_USE_DEVS", "").split(",") if word.isdigit()]
    if unheard := [number for number in asked if number not in there]:
        raise _Refused(1, f"acl interface return err: aclrtSetDevice({unheard[0]}), retcode: 107001.\n")
    return sorted(asked) or there


def _loads(call: ToolCall, node: Node, library: str) -> bool:
    folders = call.env.get("LD_LIBRARY_PATH", "").split(":")
    return any(folder and node.path(f"{_own(call, folder)}/{library}").exists() for folder in folders)


def _joined(fabric: Fabric, nodes: list[str], ends: list[tuple[str, int]]) -> bool:
    """Whether all cards find each other: same TLS switch, and each reaches the same card of the next host and back."""
    states = {end: fabric.card(*end) for end in ends}
    if len({state.tls for state in states.values()}) > 1:
        return False
    for node, card in ends:
        following = nodes[(nodes.index(node) + 1) % len(nodes)]
        near, far = states[node, card].ip, states[following, card].ip
        if not near or not far or not fabric.reachable(near, far) or not fabric.reachable(far, near):
            return False
    return True


def _speed(world: World, ends: list[tuple[str, int]]) -> float:
    """Return which part of the usual bandwidth the slowest link leaves."""

    def left(node: str, card: int) -> float:
        condition, state = world.fabric.hardware(node, card), world.fabric.cards[node][card]
        part = int(condition.get("speed", SPEED_MBPS)) / SPEED_MBPS
        for key, factor in (("lossy", _LOSSY), ("flapping", _FLAPPING), ("bit_errors", _BIT_ERRORS)):
            part *= factor if condition.get(key) else 1.0
        return part * (_NO_FEC if state.fec != "rs" else 1.0)

    return min(left(*end) for end in ends)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if found is None:
        raise _Refused(1, err=f"invalid size '{text}'\n")
    return int(found[1]) * _SIZES[found[2]]


def _options(program: list[str]) -> _Sizes:
    sizes, words = _Sizes(), program[1:]
    names = {"-p": "cards", "-b": "first", "-e": "last", "-f": "factor", "-i": "step", "-n": "rounds", "-w": "warmup"}
    ignored = {"-d", "-o", "-r", "-t", "-z"}
    while words:
        option = words.pop(0)
        if not words or option not in {*names, *ignored, "-c"}:
            raise _Refused(1, err=f"{PurePosixPath(program[0]).name}: invalid option -- '{option.lstrip('-')}'\n")
        value = words.pop(0)
        if option == "-c":
            sizes.checks = value != "0"
        elif option in names:
            setattr(sizes, names[option], _size(value))
    return sizes


def _table(sizes: _Sizes, part: float) -> str:
    span = f"the minbytes is {sizes.first}, maxbytes is {sizes.last}"
    lines = [
        f"{span}, iters is {sizes.rounds}, warmup_iters is {sizes.warmup}",
        "data_size(Bytes): |   aveg_time(us): | alg_bandwidth(GB/s): | check_result:",
    ]
    size = sizes.first
    while 0 < size <= sizes.last:
        time_us = _LATENCY_US + size / (_BYTES_PER_US * part)
        result = "success" if sizes.checks else "NULL"
        lines.append(f"{size:<17} | {time_us:^16.2f} | {size / time_us / 1000:^20.5f} | {result}")
        following = size * sizes.factor if sizes.factor > 1 else size + sizes.step
        if following <= size:
            break
        size = following
    return "\n".join(lines) + "\n"
