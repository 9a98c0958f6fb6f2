"""Run the collective test of the hosts, where they have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.errors import HostError
from runbook_lib.model import Verdict
from runbook_lib.params import HostPaths
from runbook_lib.remote import fan_out
from runbook_lib.runs.cluster import PROBE_DEADLINE_S, probe_unless_busy
from runbook_lib.stages import HostProbe, hccl

if TYPE_CHECKING:
    from runbook_lib.model import Capture
    from runbook_lib.params import Params
    from runbook_lib.remote import Target
    from runbook_lib.runs.cluster import Cluster
    from runbook_lib.stages.hccl import HcclFacts


def run_collective(cluster: Cluster, params: Params) -> HcclFacts:
    """Look for the tools, and run the test once from the first host when nothing is in the way."""

    def look(target: Target) -> dict[str, Capture]:
        host = cluster.connected(target)
        return probe_unless_busy(host, hccl.probe(params, params.host(target.name), cluster.paths_of(target.name)))

    probes = {}
    for name, result in fan_out(cluster.targets, look, deadline_s=PROBE_DEADLINE_S).items():
        if result.error is not None and not isinstance(result.error, HostError):
            raise result.error
        paths = cluster.paths_of(name) if result.error is None else HostPaths.of(params)
        probes[name] = HostProbe(name, paths, result.value or {}, str(result.error or ""))
    found = hccl.tools(params, probes)
    verdict, _ = hccl.obstacle(found, params)
    if verdict is not Verdict.OK:
        return hccl.HcclFacts(found)
    first = params.master.name
    order = hccl.command(params, probes[first].paths, hccl.version(found))
    host = cluster.connected(next(each for each in cluster.targets if each.name == first))
    return hccl.HcclFacts(found, hccl.read(host.run(order.argv, order.timeout_s)))
