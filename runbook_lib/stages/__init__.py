"""The eight stages, in the order in which a cluster is brought up."""

from __future__ import annotations

from typing import Any

from runbook_lib.stages import benchmark, container, diagnose, gateway, network, preflight, service, weights
from runbook_lib.stages.base import HostProbe, Probes, Stage

STAGES: tuple[Stage[Any], ...] = (
    Stage(preflight.NAME, "Preflight", "10_preflight", preflight),
    Stage(network.NAME, "Network setup", "20_network_setup", network, follow_up=network.follow_up),
    Stage(
        gateway.NAME,
        "Gateway and direct connect",
        "30_gateway",
        gateway,
        settle_s=60.0,
        follow_up=gateway.follow_up,
    ),
    Stage(weights.NAME, "Weights", "40_weights", weights),
    Stage(container.NAME, "Container launch", "50_container_launch", container),
    Stage(service.NAME, "Service config and start", "60_service_config", service, settle_s=0.0),
    Stage(benchmark.NAME, "Benchmark", "70_benchmark", benchmark),
    Stage(diagnose.NAME, "Diagnosis", "90_diagnose", diagnose),
)


def stage(name: str) -> Stage[Any]:
    """Return the stage of that name; KeyError names those that there are."""
    for each in STAGES:
        if each.name == name:
            return each
    raise KeyError(f"no stage {name!r}; there are {', '.join(each.name for each in STAGES)}")


__all__ = ["STAGES", "HostProbe", "Probes", "Stage", "stage"]
