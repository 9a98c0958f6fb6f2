"""What the service stage writes: the values that decide whether a multi-host service comes up at all."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene


def written(scene: Scene, host: str) -> dict[str, Upload]:
    """Return the uploads for one host by file name."""
    return {
        each.action.path.rpartition("/")[2]: each.action
        for each in scene.changes()
        if isinstance(each.action, Upload) and each.subject.host == host
    }


@pytest.mark.parametrize(("cluster", "hosts", "world"), [("direct", 2, "16"), ("switch", 4, "32")])
def test_files_of_every_host(make: Callable[..., Scene], cluster: str, hosts: int, world: str) -> None:
    """config.json counts this host's cards, environment and rank table the cluster's; modes are closed."""
    scene = make("service", cluster, "bare")
    tables = set()
    for host in scene.params.cluster.hosts:
        files = written(scene, host.name)
        assert {name: each.mode for name, each in files.items()} == {
            "config.json": 0o640,
            "rank_table.json": 0o640,
            "service.env": 0o640,
            "start.sh": 0o750,
            "stop.sh": 0o750,
        }
        config = json.loads(files["config.json"].content)
        assert config["ServerConfig"]["ipAddress"] == host.service_ip
        assert config["ServerConfig"]["httpsEnabled"] is False
        assert config["BackendConfig"]["multiNodesInferEnabled"] is True
        assert config["BackendConfig"]["npuDeviceIds"] == [list(range(8))]
        model = config["BackendConfig"]["ModelDeployConfig"]["ModelConfig"][0]
        assert model["worldSize"] == 8
        assert model["modelWeightPath"] == "/data/weights/deepseek-r1-w8a8"
        environment = files["service.env"].content
        assert f"WORLD_SIZE={world}" in environment.replace('"', "").replace("'", "")
        assert host.service_ip in environment
        assert "/var/lib/ascend-runbook/service/rank_table.json" in environment
        tables.add(files["rank_table.json"].content)
    table = json.loads(tables.pop())
    assert not tables, "one rank table for all hosts"
    assert table["server_count"] == str(hosts)
    assert [server["server_id"] for server in table["server_list"]] == [
        host.service_ip for host in scene.params.cluster.hosts
    ]
    ranks = [device["rank_id"] for server in table["server_list"] for device in server["device"]]
    assert ranks == [str(rank) for rank in range(int(world))]
    addresses = [device["device_ip"] for server in table["server_list"] for device in server["device"]]
    assert addresses == [card.ip for host in scene.params.cluster.hosts for card in host.cards]


def test_undo_brings_the_old_file_back(make: Callable[..., Scene]) -> None:
    """A file that was there is written back byte by byte; one that was not is removed."""
    scene = make("service")
    key = "file./var/lib/ascend-runbook/service/service.env"
    old = scene.captures["node1"][key].stdout
    scene.captures["node1"][key] = type(scene.captures["node1"][key])(stdout=old + "# by hand\n", exit_code=0)
    change = next(each for each in scene.changes() if isinstance(each.action, Upload))
    assert isinstance(change.undo, Upload)
    assert change.undo.content == old + "# by hand\n"
    assert isinstance(change.action, Upload)
    assert change.action.content == old
