"""The collective test: all cards exchange with all others, as the service will; part of the gateway stage.

It is load on the network and on the cards, so it is no probe: it runs once in mode apply, while the cards are idle.
Command and format: HCCL performance tester (hiascend, HCCLpertest_16_0005 and 0006).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.ascend import npu_smi
from runbook_lib.ascend.hccl_test import parse_hccl_test, reason
from runbook_lib.model import Command, Finding, ProbeScript, Section, Subject, Verdict
from runbook_lib.stages.base import Findings
from runbook_lib.stages.preflight.cards import IDLE_HBM_MB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.ascend.hccl_test import Collective
    from runbook_lib.ascend.npu_smi import NpuInfo
    from runbook_lib.ascend.reading import Reading
    from runbook_lib.model import Capture
    from runbook_lib.params import Host, HostPaths, Params
    from runbook_lib.stages.base import Probes

STAGE = "gateway"
TIMEOUT_S = 600.0
_SMALL, _LARGE = "8K", "64M"
_SIZES = tuple(1 << power for power in range(13, 27))  # what these two ask for, doubling each time
_FAR_BELOW, _BELOW = 0.1, 0.5  # of the expected bandwidth: another order of magnitude, and worth a look
_LOOK = """
for each in "$1"/*/tools/hccl_test/bin/all_reduce_test; do [ -x "$each" ] && echo "test $each"; done
for each in "$1"/*/*-linux/lib64; do [ -d "$each" ] && echo "lib $each"; done
[ -x "$2/bin/mpirun" ] && echo "mpirun $2/bin/mpirun"
for each in "$2"/lib/libmpi.so*; do [ -e "$each" ] && echo "libmpi $each"; done
echo end
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What one host has for the test. versions: toolkits with both the test and its libraries.

    busy_cards: of the params' cards; None where one of them is not known to be idle or in use.
    """

    versions: tuple[str, ...]
    mpirun: bool
    libmpi: bool
    busy_cards: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class HcclFacts:
    """Tools of every host that answered (None: unreadable), and the run, where there was one."""

    tools: Mapping[str, Tools | None]
    run: Reading[tuple[Collective, ...]] | None = None


def probe(params: Params, host: Host, paths: HostPaths) -> ProbeScript:  # noqa: ARG001 - the same form as a stage's
    """Look for the test, its libraries and MPI, and whether the cards are idle."""
    return ProbeScript(
        (
            Section("tools", ("sh", "-c", _LOOK, "sh", paths.toolkit, paths.mpi)),
            Section("npus", ("npu-smi", "info"), 30.0),
        )
    )


def tools(params: Params, probes: Probes) -> dict[str, Tools | None]:
    """Read what every host has; a host that was not reached is None too."""
    return {
        name: None if each.error else _tools(params.host(name), each.get("tools"), each.get("npus"))
        for name, each in probes.items()
    }


def _tools(host: Host, capture: Capture, npus: Capture) -> Tools | None:
    lines = capture.stdout.splitlines()
    if not capture.ok or lines[-1:] != ["end"]:
        return None
    kinds = {kind: [line.split(" ", 1)[1] for line in lines if line.startswith(f"{kind} ")] for kind in _KINDS}
    tests = {path.split("/")[-5] for path in kinds["test"]}
    libraries = {path.split("/")[-3] for path in kinds["lib"]}
    # `latest` is a link to one of the others: the version itself goes into the record
    versions = tuple(sorted((tests & libraries) - {"latest"}, key=_numbers))
    return Tools(versions, bool(kinds["mpirun"]), bool(kinds["libmpi"]), _busy(host, npu_smi.parse_info(npus).value))


def _busy(host: Host, info: NpuInfo | None) -> tuple[int, ...] | None:
    """Return the cards with a process or with memory in use; a build without a process table leaves the memory."""
    if info is None or info.unreadable_rows:
        return None
    table = bool(info.processes or info.said_idle)
    busy = []
    for card in host.cards:
        used = [chip.hbm_used_mb for chip in info.cards if chip.id == card.id]
        rows = info.processes_of(card.id)
        if rows or any(each is not None and each > IDLE_HBM_MB for each in used):
            busy.append(card.id)
        elif not used or None in used or (rows is None and table):
            return None
    return tuple(busy)


_KINDS = ("test", "lib", "mpirun", "libmpi")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", version)]


def version(found: Mapping[str, Tools | None]) -> str:
    """Return the newest toolkit that all hosts have, "" when there is none."""
    common = set.intersection(*(set(each.versions) if each else set() for each in found.values())) if found else set()
    return max(common, key=_numbers, default="")


def obstacle(found: Mapping[str, Tools | None], params: Params) -> tuple[Verdict, str]:
    """Return why the test cannot run: skipped where something is not there, unknown where that could not be seen."""
    if params.network.hccl == "off":
        return Verdict.SKIPPED, "network.hccl is off"
    blind = sorted(host.name for host in params.cluster.hosts if found.get(host.name) is None)
    if blind:
        return Verdict.UNKNOWN, f"what {', '.join(blind)} has installed could not be read"
    seen = {name: each for name, each in found.items() if each is not None}
    missing = [
        f"{what} is missing on {', '.join(names)}"
        for what, names in (
            (f"mpirun of {params.paths.mpi}", [name for name, each in seen.items() if not each.mpirun]),
            (f"libmpi.so of {params.paths.mpi}/lib", [name for name, each in seen.items() if not each.libmpi]),
            ("hccl_test of a CANN toolkit", [name for name, each in seen.items() if not each.versions]),
        )
        if names
    ]
    if len({tuple(card.id for card in host.cards) for host in params.cluster.hosts}) > 1:
        missing.append("the hosts use different card numbers, and the test takes one list for all hosts")
    if missing:
        return Verdict.SKIPPED, "; ".join(missing)
    if not version(found):
        return Verdict.SKIPPED, "the hosts have no toolkit version in common"
    unread = sorted(name for name, each in seen.items() if each.busy_cards is None)
    if unread:
        return Verdict.UNKNOWN, f"whether the cards of {', '.join(unread)} are idle could not be read"
    busy = [f"{name} {list(each.busy_cards or ())}" for name, each in seen.items() if each.busy_cards]
    return (Verdict.SKIPPED, f"cards are in use: {', '.join(busy)}") if busy else (Verdict.OK, "")


def command(params: Params, paths: HostPaths, toolkit: str, arch: str = "aarch64") -> Command:
    """Return the run from the first host over all cards; LD_LIBRARY_PATH is that of the installed versions."""
    numbers = [card.id for card in params.master.cards]
    cards = len(numbers)
    hosts = ",".join(f"{host.service_ip}:{cards}" for host in params.cluster.hosts)
    folder = f"{paths.toolkit}/{toolkit}"
    test = f"{folder}/tools/hccl_test/bin/all_reduce_test"
    options = f"-p {cards} -b {_SMALL} -e {_LARGE} -f 2 -d fp32 -o sum -w 5 -n 20 -c 1".split()
    return Command(
        (
            "env",
            f"LD_LIBRARY_PATH={paths.mpi}/lib:{folder}/{arch}-linux/lib64",
            "HCCL_CONNECT_TIMEOUT=120",
            # without it the test takes the first cards of every host (HCCL Test's README); mpirun hands it to all ranks
            f"HCCL_TEST_USE_DEVS={','.join(map(str, numbers))}",
            f"{paths.mpi}/bin/mpirun",
            "-hosts",
            hosts,
            "-n",
            str(params.world_size),
            test,
            *options,
        ),
        TIMEOUT_S,
    )


def read(capture: Capture) -> Reading[tuple[Collective, ...]]:
    """Read what the run printed."""
    return parse_hccl_test(capture)


def check(facts: HcclFacts, params: Params) -> list[Finding]:
    """Judge whether the test could run, and what it said."""
    findings = Findings(params, STAGE)
    verdict, why = obstacle(facts.tools, params)
    toolkit = version(facts.tools)
    findings.add(
        "NET-HCCL-TOOLS",
        Subject(),
        verdict,
        seen=why or f"mpirun, libmpi and toolkit {toolkit} on all hosts, cards idle",
        expected="mpirun, libmpi and one toolkit version with hccl_test on all hosts, idle cards",
        next_command=f"ls {params.paths.mpi}/lib {params.paths.ascend_root}/ascend-toolkit   # on every host",
    )
    if facts.run is not None:
        _check_run(findings, facts.run, params)
    return findings.items


def _check_run(findings: Findings, run: Reading[tuple[Collective, ...]], params: Params) -> None:
    wanted = params.network.hccl_gb_per_s
    expected = f"about {wanted:g} GB/s at the largest size, every result right"
    again = f"runbook run params/{params.cluster.name}.yaml --stage gateway --mode apply"
    subject = Subject()
    if run.value is None:
        known = reason(run.message)
        judged = run.state == "error" and known is not None and not known.setup
        said = f"{known.why}: {run.message}" if known else run.message or "it printed no result"
        verdict = Verdict.FAIL if judged else Verdict.UNKNOWN
        findings.add("NET-HCCL", subject, verdict, seen=said, expected=expected, next_command=again)
        return
    wrong = [row.size_bytes for row in run.value if row.checked is False]
    missing = len(_SIZES) - len(set(_SIZES) & {row.size_bytes for row in run.value})
    last = run.value[-1]
    said = f"{last.gb_per_s:.2f} GB/s at {last.size_bytes >> 20} MiB"
    if wrong:
        said += f"; wrong results at {', '.join(map(str, wrong))} bytes"
    if missing:
        said += f"; {missing} of {len(_SIZES)} sizes are missing: it was cut off"
    unchecked = any(row.checked is None for row in run.value)
    verdict = Verdict.OK
    if wrong or (not missing and last.gb_per_s < wanted * _FAR_BELOW):
        verdict = Verdict.FAIL
    elif unchecked or missing:
        verdict = Verdict.UNKNOWN
    elif last.gb_per_s < wanted * _BELOW:
        verdict = Verdict.WARN
    findings.add("NET-HCCL", subject, verdict, seen=said, expected=expected, next_command=again)
