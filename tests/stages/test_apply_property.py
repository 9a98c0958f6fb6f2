"""From any legal state of the cards the two network stages reach what params want, and then have nothing to do.

The tool is a small pure model of hccn_tool as its documents describe it: it refuses an address that another card of
the host has, drops a gateway that is not in the new segment, takes none without an IP, and writes hccn.conf.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import random
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Capture, Command, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.model import Change
    from runbook_lib.params import Host, Params
    from tests.stages.conftest import Scene

CASES = 200
READS = ("ip", "gateway", "netdetect", "net_health", "route", "tls", "mtu", "fec")


@dataclasses.dataclass
class Port:
    """What one card is set to; "" is unset."""

    ip: str = ""
    netmask: str = ""
    gateway: str = ""
    netdetect: str = ""
    tls: int = 0
    mtu: int = 1500
    fec: str = "rs"

    @property
    def segment(self) -> ipaddress.IPv4Network:
        """The card's own network."""
        return ipaddress.IPv4Interface(f"{self.ip}/{self.netmask}").network


class Tool:
    """hccn_tool of one host."""

    def __init__(self, ports: dict[int, Port], conf: dict[str, str]) -> None:
        self.ports = ports
        self.conf = conf

    def run(self, argv: tuple[str, ...]) -> str:
        """Run one set command; return why it is refused, "" when it is not."""
        number, word, values = int(argv[2]), argv[3], dict(zip(argv[5::2], argv[6::2], strict=True))
        port = self.ports[number]
        if word == "-ip":
            return self._set_ip(number, port, values["address"], values["netmask"])
        if word == "-gateway":
            return self._set_gateway(number, port, values["gateway"])
        key, value = {"-netdetect": ("netdetect", "address"), "-tls": ("tls", "enable"), "-mtu": ("mtu", "size"),
                      "-fec": ("fec", "encoding")}[word]  # fmt: skip
        kind = type(getattr(port, key))
        setattr(port, key, kind(values[value]))
        if word != "-fec":  # the file has no key for it
            self.conf[{"tls": "tls_enable"}.get(key, key) + f"_{number}"] = values[value]
        return ""

    def _set_ip(self, number: int, port: Port, address: str, netmask: str) -> str:
        if any(other.ip == address for key, other in self.ports.items() if key != number):
            return "The ip address configured is conflicted!"
        port.ip, port.netmask = address, netmask
        self.conf |= {f"address_{number}": address, f"netmask_{number}": netmask}
        if port.gateway and ipaddress.IPv4Address(port.gateway) not in port.segment:
            port.gateway = ""
            self.conf.pop(f"gateway_{number}", None)
        return ""

    def _set_gateway(self, number: int, port: Port, gateway: str) -> str:
        if not port.ip:
            return "Unable to configure gateway, because ip is not configured!"
        if ipaddress.IPv4Address(gateway) not in port.segment:
            return "The segment of configured gateway doesn't match that of the configured ip adress!"
        port.gateway = self.conf[f"gateway_{number}"] = gateway
        return ""

    def boot(self) -> None:
        """Forget what is live and replay the file."""
        for number in self.ports:
            kept = {key.rpartition("_")[0]: value for key, value in self.conf.items() if key.endswith(f"_{number}")}
            self.ports[number] = Port(
                kept.get("address", ""),
                kept.get("netmask", ""),
                kept.get("gateway", ""),
                kept.get("netdetect", ""),
                int(kept.get("tls_enable", "0")),
                int(kept.get("mtu", "1500")),
            )

    def read(self, number: int, word: str) -> Capture:
        """Answer one get command."""
        port = self.ports[number]
        if word == "ip" and not port.ip:
            return Capture(stderr="Get ipconf failed, because no ip was preset there!\n", exit_code=13)
        if word == "gateway" and not port.gateway:
            return Capture(stderr="Get gateway failed, because no gateway was preset there!\n", exit_code=2)
        rows = f"default {port.gateway} 0.0.0.0 UG 0 0 0 eth{number}\n" if port.gateway else ""
        text = {
            "ip": f"ipaddr:{port.ip}\nnetmask:{port.netmask}\n",
            "gateway": f"default gateway:{port.gateway}, Iface:eth{number}\n",
            "netdetect": f"netdetect addr: {port.netdetect or '0.0.0.0'}\n",
            "net_health": f"net health status: {'Success' if port.gateway and port.netdetect else 'Init'}\n",
            "route": f"Routing table:\nDestination Gateway Genmask Flags Metric Ref Use Iface\n{rows}",
            "tls": f"dev_id:{number}, tls switch[{port.tls}](0:disable, 1:enable)\n",
            "mtu": f"mtu:{port.mtu}\n",
            "fec": f"fec mode: {port.fec} FEC mode\n",
        }
        return Capture(stdout=text[word], exit_code=0)


def random_tool(params: Params, host: Host, dice: random.Random) -> Tool:
    """Return a host in a state to which the tool could have brought it, with a file that may say something else."""
    own = [card.ip for card in host.cards]
    strange = [f"172.16.{dice.randrange(256)}.{number + 1}" for number in range(len(own))]
    addresses = own[:]
    dice.shuffle(addresses)
    ports: dict[int, Port] = {}
    conf: dict[str, str] = {}
    for number, card in enumerate(host.cards):
        ip = dice.choice(["", own[number], addresses[number], strange[number]])
        if any(port.ip == ip for port in ports.values()):
            ip = strange[number]
        port = Port(ip, "", "", dice.choice(["", params.peer(host, card), "10.9.9.9"]))
        if ip:
            port.netmask = dice.choice([card.netmask, "255.255.0.0", "255.255.255.128"])
            inside = str(ipaddress.ip_address(int(port.segment.network_address) + 1))
            port.gateway = dice.choice(["", ip, inside])
        port.tls, port.mtu, port.fec = dice.choice([0, 1]), dice.choice([1500, 4200]), dice.choice(["rs", "no", "auto"])
        ports[card.id] = port
        kept = {"address": ip, "netmask": port.netmask, "gateway": port.gateway, "netdetect": port.netdetect,
                "tls_enable": str(port.tls), "mtu": str(port.mtu)}  # fmt: skip
        for key, value in kept.items():
            fate = dice.random()
            if fate < 0.1 and key == "tls_enable":
                conf[f"{key}_{card.id}"] = str(1 - port.tls)
            elif value and fate > 0.2:
                conf[f"{key}_{card.id}"] = value
    return Tool(ports, conf)


def show(scene: Scene, tools: dict[str, Tool]) -> None:
    """Let the hosts of a scene answer what their tools say."""
    for host, tool in tools.items():
        answers = scene.captures[host]
        for key in answers:
            word, _, number = key.partition(".")
            if word in READS and number:
                answers[key] = tool.read(int(number), word)
        answers["conf"] = Capture(stdout="".join(f"{key}={value}\n" for key, value in tool.conf.items()), exit_code=0)


def apply(scene: Scene, tools: dict[str, Tool]) -> list[Change]:
    """Apply the scene's plan; every command must be accepted. Return the changes."""
    show(scene, tools)
    changes = scene.changes()
    for change in changes:
        assert isinstance(change.action, Command)
        refused = tools[change.subject.host].run(change.action.argv)
        assert not refused, f"{change.subject}: {change.summary}: {refused}"
    show(scene, tools)
    return changes


def check_one(make: Callable[..., Scene], cluster: str, seed: int) -> None:
    """Bring one random state to what params want."""
    network, gateway = make("network", cluster), make("gateway", cluster)
    for scene in (network, gateway):  # what no plan rests on is left out: it is read in vain seven times a case
        for answers in scene.captures.values():
            for key in [key for key in answers if key.partition(".")[0] not in {*READS, "conf"}]:
                del answers[key]
    dice = random.Random(seed)  # noqa: S311 - a test's states, reproduced by their seed
    tools = {host.name: random_tool(network.params, host, dice) for host in network.params.cluster.hosts}
    made = [*apply(network, tools), *apply(gateway, tools)]
    params = network.params
    for host in params.cluster.hosts:
        for card in host.cards:
            assert tools[host.name].ports[card.id] == Port(
                card.ip, card.netmask, params.gateway(card), params.peer(host, card), params.cluster.tls,
                params.cluster.mtu,
            ), f"seed {seed}"  # fmt: skip
    for again in ("second apply", "after a boot"):
        assert not apply(network, tools), f"seed {seed}: {again}"
        assert not apply(gateway, tools), f"seed {seed}: {again}"
        for tool in tools.values():
            tool.boot()
    if seed % 8:
        return
    claimed = {(code, change.subject) for change in made for code in change.fixes}
    for scene in (network, gateway):
        left = [
            each
            for each in scene.findings()
            if (each.code, each.subject) in claimed and each.verdict not in {Verdict.OK, Verdict.SKIPPED}
        ]
        assert not left, f"seed {seed}"


@pytest.mark.parametrize("cluster", ["direct", "switch"])
def test_apply_reaches_what_params_want(cluster: str, make: Callable[..., Scene]) -> None:
    """200 random states: reached by the tool without a refusal, kept in the file, and nothing left to do."""
    for seed in range(CASES // 4 if cluster == "switch" else CASES * 3 // 4):
        check_one(make, cluster, seed)
