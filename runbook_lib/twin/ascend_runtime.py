"""Which runtimes the emulated docker has, by daemon.json, and what ascend-docker-runtime puts into containers.

It injects the cards that ASCEND_VISIBLE_DEVICES names, the manager devices and the driver (docker_run.md section 3);
`docker inspect` shows neither.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.twin.node import Node

CONFIG = "/etc/docker/daemon.json"
ASCEND = "ascend"
_MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
_MOUNTS = ("/usr/local/Ascend/driver", "/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi", "/usr/local/dcmi")


def daemon_config(node: Node) -> dict[str, Any]:
    """Return docker's own configuration on a node; {} without one."""
    try:
        config = json.loads(node.path(CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def runtimes(node: Node) -> dict[str, Any]:
    """Return the runtimes that `docker info` names."""
    return {"runc": {"path": "runc"}, **daemon_config(node).get("runtimes", {})}


def visible_cards(text: str) -> list[int]:
    """Return the cards of ASCEND_VISIBLE_DEVICES: numbers and ranges, as 0,2 or 0-7."""
    cards: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            cards += range(int(first), int(last or first) + 1)
    return cards


def injected(node: Node, record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the devices and binds that a container has beside those that docker was told."""
    if record.get("runtime") != ASCEND:
        return [], []
    environment = dict(item.partition("=")[::2] for item in record["env"])
    cards = visible_cards(environment.get("ASCEND_VISIBLE_DEVICES", ""))
    if not cards:
        return [], []
    told = {bind.split(":")[1] for bind in record["binds"]}
    binds = [f"{place}:{place}:ro" for place in _MOUNTS if place not in told and node.path(place).exists()]
    return [*(f"/dev/davinci{card}" for card in cards), *_MANAGERS], binds
