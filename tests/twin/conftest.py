"""A twin of one's own per test worker, and a world without processes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from runbook_lib.params import Params, load_params
from runbook_lib.twin import lifecycle
from runbook_lib.twin.disk import make_disk
from runbook_lib.twin.world import Reply, ToolCall, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runbook_lib.twin.world import Tool

TWIN_FILE = Path(__file__).parents[2] / "params/twin-2x8-direct.yaml"


def twin_params(network: str, **overrides: Any) -> Params:
    """Return the demo's params on another network, with small weights and a fast clock."""
    changes: dict[str, Any] = {
        "twin.network": network,
        "twin.time_factor": 40,
        "twin.weights_bytes": 1_000_000,
        "model.weights.source.url": f"http://{network}.250:8080/deepseek-r1-w8a8",
    }
    for number in (1, 2):
        changes[f"cluster.hosts.{number - 1}.address"] = f"{network}.{number}"
        changes[f"cluster.hosts.{number - 1}.service_ip"] = f"{network}.{number}"
    return load_params(TWIN_FILE, {**changes, **overrides})


@dataclass(frozen=True)
class Ran:
    """The end of one command."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Rig:
    """A running twin."""

    params: Params
    root: Path

    def ssh_options(self) -> list[str]:
        """Return what ssh, scp and sftp need to reach it with strict host key checking."""
        options = {"UserKnownHostsFile": self.root / "known_hosts", "StrictHostKeyChecking": "yes", "BatchMode": "yes"}
        words = ["-F", "none", "-i", str(self.root / "id_ed25519")]
        return words + [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    async def connect(self, host: str) -> asyncssh.SSHClientConnection:
        """Log in."""
        return await asyncssh.connect(
            self.params.host(host).address,
            self.params.cluster.ssh.port,
            username="root",
            client_keys=[str(self.root / "id_ed25519")],
            known_hosts=str(self.root / "known_hosts"),
            config=None,
            agent_path=None,
        )

    def run(self, host: str, command: str) -> Ran:
        """Run one command on a host."""

        async def work() -> Ran:
            async with await self.connect(host) as connection:
                done = await connection.run(command, encoding="utf-8", timeout=20)
            return Ran(done.exit_status, str(done.stdout), str(done.stderr))

        return asyncio.run(work())


@pytest.fixture(scope="session")
def networks(worker_number: int) -> Iterator[str]:
    """Give out networks that no other worker uses."""
    return (f"127.90.{20 * worker_number + number}" for number in range(20))


@pytest.fixture(scope="session")
def worker_number(request: pytest.FixtureRequest) -> int:
    """Return this worker's number; 0 without pytest-xdist."""
    given = getattr(request.config, "workerinput", {}).get("workerid", "gw0")
    return int(given.removeprefix("gw"))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, networks: Iterator[str]) -> Iterator[Rig]:
    """Power on a bare twin of the best level that this machine has, for the tests of one module."""
    params = twin_params(next(networks))
    root = tmp_path_factory.mktemp("twin")
    try:
        lifecycle.up(params, root)
        yield Rig(params, root)
    finally:
        lifecycle.down(params, root)


@pytest.fixture
def new_rig(tmp_path: Path, networks: Iterator[str]) -> Iterator[Callable[..., Rig]]:
    """Return a maker of twins that are off; it takes overrides of the params. They are off again afterwards."""
    made: list[Rig] = []

    def make(**overrides: Any) -> Rig:
        made.append(Rig(twin_params(next(networks), **overrides), tmp_path / f"twin{len(made)}"))
        return made[-1]

    yield make
    for rig in made:
        lifecycle.down(rig.params, rig.root)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Return a bare world whose hosts count as on, but have no processes and no listeners."""
    return bare_world(tmp_path)


def bare_world(folder: Path) -> World:
    """Make a world without processes below a folder."""
    world = World(twin_params("127.90.250", **{"twin.time_factor": 1000}), folder)
    for node in world.nodes.values():
        make_disk(node, world.params, range(8) if node.name == "node2" else ())
        node.up = True
    for name in world.nodes:
        world.fabric.power_on(name)
    return world


@pytest.fixture
def call(world: World) -> Callable[..., Reply]:
    """Return what calls a tool as a shim does: the tool, a host, a command line."""

    def ask(tool: Tool, host: str, line: str) -> Reply:
        async def work() -> Reply:
            return await tool(ToolCall(world, world.nodes[host], line.split()))

        return asyncio.run(work())

    return ask
