"""What a params file may say. Rules that span several values live here too."""

from __future__ import annotations

import ipaddress
from collections import Counter
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runbook_lib.model import Risk
from runbook_lib.params.base import StrictModel
from runbook_lib.params.paths import DEFAULT_ASCEND_ROOT, DEFAULT_HCCN_CONF, DEFAULT_MPI, DEFAULT_WORK
from runbook_lib.params.secrets import SecretReference

# hccntool_019 (HDK): on-board vNICs use 192.168.0.x to 192.168.7.x; a device IP or detect target there times out
VNIC_RANGE = ipaddress.ip_network("192.168.0.0/21")
CARD_HBM_GIB = 64
MIN_SHM_MIB = 1024  # hiascend image guide
_LEAST_PARTS = 3  # the root, a top directory, and one of its own
# MindIE DeepSeek-R1 README: W8A8 about 0.65 TB on 16 cards of 64 GB, BF16 about 1.3 TB on 32
MIN_CARDS = {"w8a8": 16, "bf16": 32}
WEIGHTS_GB = {"w8a8": 650, "bf16": 1300}


def _ipv4(value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise ValueError(f"{value!r} is not an IPv4 address; right would be something like 10.20.0.11") from None


def _absolute(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or str(path) == "/":
        raise ValueError(f"{value!r} is not an absolute path below /; right would be something like /data/weights")
    return str(path)


def _risk(value: object) -> object:
    return Risk(value) if isinstance(value, str) and value in set(Risk) else value


class Topology(StrEnum):
    """How the RoCE ports of the hosts are joined."""

    DIRECT = "direct"
    SWITCH = "switch"


def _topology(value: object) -> object:
    return Topology(value) if isinstance(value, str) and value in set(Topology) else value


Ipv4 = Annotated[str, AfterValidator(_ipv4)]
HostPath = Annotated[str, AfterValidator(_absolute)]
Port = Annotated[int, Field(ge=1, le=65535)]
ServicePort = Annotated[int, Field(ge=1024, le=65535)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
RiskName = Annotated[Risk, BeforeValidator(_risk)]


class Card(StrictModel):
    """One NPU's RoCE port. Gateway and peer are derived when not given: see Params.gateway and Params.peer.

    peer: what the card's health check detects (netdetect).
    port, switch: the cabling plan; the interface that LLDP names, and the switch's chassis MAC or system name.
    """

    id: Annotated[int, Field(ge=0, le=15)]
    ip: Ipv4
    netmask: Ipv4 = "255.255.255.0"
    gateway: Ipv4 | None = None
    peer: Ipv4 | None = None
    port: str | None = None
    switch: str | None = None


class Jump(StrictModel):
    """A host to go through."""

    address: str
    port: Port = 22
    user: str = "root"


class Ssh(StrictModel):
    """How to log in. `key` is a file of the operator's machine; relative paths count from the project root."""

    user: str = "root"
    port: Port = 22
    key: str | None = None
    known_hosts: str | None = None
    jump: Jump | None = None
    connect_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0


class Host(StrictModel):
    """One server: its management address, its address for the service, and its cards."""

    name: Name
    address: str
    service_ip: Ipv4
    cards: Annotated[list[Card], Field(min_length=1, max_length=16)]


class Cluster(StrictModel):
    """The servers and how they are joined."""

    name: Name
    topology: Annotated[Topology, BeforeValidator(_topology)]
    ssh: Ssh = Ssh()
    become: Literal["none", "sudo"] = "none"
    mtu: Annotated[int, Field(ge=68, le=9702)] = 1500
    tls: Literal[0, 1] = 0
    hosts: Annotated[list[Host], Field(min_length=1, max_length=256)]


HUBS = {
    "huggingface": "https://huggingface.co",
    "modelscope": "https://modelscope.cn",
    "modelers": "https://modelers.cn",
}


class WeightsSource(StrictModel):
    """Where the weights come from.

    kind: `mirror` is a plain HTTP(S) server with a manifest.json beside the files; the hubs are asked by their HTTP
    APIs (`url` then is another endpoint, like that of a mirror of Hugging Face); `path` is a directory that some of
    the hosts have: a disk, a network file system, or what another tool left.
    limit_mb_s: MB/s per host from the source, 0 for no limit.
    """

    kind: Literal["mirror", "huggingface", "modelscope", "modelers", "path"] = "mirror"
    url: Annotated[str, Field(pattern=r"^(https?://[^\s@]+)?$")] = ""
    repository: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?$")] = ""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]*$")] = ""
    path: HostPath | None = None
    token: SecretReference | None = None
    proxy: Annotated[str, Field(pattern=r"^(https?://[^\s@/]+)?$")] = ""
    limit_mb_s: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _complete(self) -> WeightsSource:
        if self.kind == "path" and self.path is None:
            raise ValueError("a source of kind path needs path, a directory that at least one host has")
        if self.kind == "mirror" and not self.url:
            raise ValueError(
                "a source of kind mirror needs url, where manifest.json lies; like http://10.0.0.5/r1-w8a8"
            )
        if self.kind in HUBS and not (self.repository and self.revision):
            raise ValueError(
                f"a source of kind {self.kind} needs repository (OWNER/NAME) and a revision that does not move: "
                "a commit or a tag"
            )
        return self

    @property
    def endpoint(self) -> str:
        """The address that is asked; "" for a path."""
        return self.url or HUBS.get(self.kind, "")


class Weights(StrictModel):
    """The weights on the hosts: real files below `directory`, owned by `owner` (user:group, numeric)."""

    source: WeightsSource
    directory: HostPath
    owner: Annotated[str, Field(pattern=r"^\d+:\d+$")] = "0:0"
    exchange_port: ServicePort = 18765


class Model(StrictModel):
    """The model and the format of its weights."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,254}[A-Za-z0-9]$")] = "deepseek-r1"
    format: Literal["w8a8", "bf16"] = "w8a8"
    weights: Weights


class Container(StrictModel):
    """The MindIE container, one per host."""

    image: str
    image_tar: HostPath | None = None
    image_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    name: Name = "mindie-deepseek"
    shm_size: Annotated[str, Field(pattern=r"^[1-9]\d*[gm]$")] = "500g"
    privileged: bool = False

    @model_validator(mode="after")
    def _enough_shm(self) -> Container:
        if self.shm_size.endswith("m") and int(self.shm_size[:-1]) < MIN_SHM_MIB:
            raise ValueError(
                f"shm_size {self.shm_size} is below 1 GiB, and the daemon ends with a futex error; "
                "right would be 500g, or at least 1g"
            )
        return self


class Parallel(StrictModel):
    """How one instance spreads over its cards. tp 0: all cards / dp. moe_ep 1: experts are shared by all cards.

    dp x tp = all cards of the instance; moe_ep divides them. Images before MindIE 2.0.RC1 know the default only.
    """

    dp: Annotated[int, Field(ge=1, le=1024)] = 1
    tp: Annotated[int, Field(ge=0, le=1024)] = 0
    moe_ep: Annotated[int, Field(ge=1, le=1024)] = 1


class Service(StrictModel):
    """The settings of the MindIE service; defaults follow the field report for hosts with ample memory."""

    port: ServicePort = 1025
    management_port: ServicePort = 1026
    metrics_port: ServicePort = 1027
    max_seq_len: Annotated[int, Field(ge=1)] = 32768
    max_input_token_len: Annotated[int, Field(ge=1, le=4194304)] = 16384
    max_prefill_tokens: Annotated[int, Field(ge=1, le=4194304)] = 32768
    max_prefill_batch_size: Annotated[int, Field(ge=1)] = 50
    max_batch_size: Annotated[int, Field(ge=1, le=819200)] = 512
    max_iter_times: Annotated[int, Field(ge=1)] = 16384
    max_queue_delay_us: Annotated[int, Field(ge=500, le=1_000_000)] = 5000
    prefill_time_ms: Annotated[int, Field(ge=0, le=1000)] = 150
    decode_time_ms: Annotated[int, Field(ge=0, le=1000)] = 50
    max_link_num: Annotated[int, Field(ge=1, le=4096)] = 1000  # up to 1000 before 2.0.RC1
    npu_memory_fraction: Annotated[float, Field(gt=0, le=1.0)] = 0.92
    npu_mem_size: Annotated[int, Field(ge=-1, le=1024)] = -1  # GB of KV cache per card; -1 takes what is left
    support_select_batch: bool = False
    parallel: Parallel = Parallel()
    start_deadline_s: Annotated[float, Field(gt=0)] = 3600.0
    https: bool = False  # needs certificates in the image's security folder
    # on this machine, the CA of the service's certificate; "" does not verify it. Below the project unless absolute
    ca_file: str = ""
    # why the service may listen on 0.0.0.0; "" is no. For tests on isolated networks only (field report)
    listen_on_all_reason: str = ""

    @model_validator(mode="after")
    def _lengths(self) -> Service:
        if self.max_prefill_tokens < self.max_input_token_len:
            raise ValueError(
                f"max_prefill_tokens {self.max_prefill_tokens} is below max_input_token_len "
                f"{self.max_input_token_len}; "
                f"right would be at least {self.max_input_token_len}"
            )
        if self.max_iter_times > self.max_seq_len:
            raise ValueError(
                f"max_iter_times {self.max_iter_times} is above max_seq_len {self.max_seq_len}; "
                f"right would be at most {self.max_seq_len}"
            )
        if self.max_prefill_batch_size > self.max_batch_size:
            raise ValueError(
                f"max_prefill_batch_size {self.max_prefill_batch_size} is above max_batch_size {self.max_batch_size}; "
                f"right would be at most {self.max_batch_size}"
            )
        return self


class Benchmark(StrictModel):
    """The sweep. `scaled_down` labels a sweep that is smaller than the field report's 512/512 with 1000 requests.

    repeats: of every level, for confidence intervals. slo_*_ms: bounds of one request, 0 for none; a twin's are in its
    clock. slo_share: search the highest concurrency at which this share of the requests keeps the bounds; 0 for no
    search. grid_*: every pair of these lengths at one level, 0 for the highest of the sweep; empty for no grid.
    """

    concurrency: list[Annotated[int, Field(ge=1, le=10000)]] = Field(default=[1, 16, 64, 100, 200, 400], min_length=1)
    requests_per_level: Annotated[int, Field(ge=1)] = 1000
    input_tokens: Annotated[int, Field(ge=1)] = 512
    output_tokens: Annotated[int, Field(ge=1)] = 512
    scaled_down: bool = False
    request_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    repeats: Annotated[int, Field(ge=1, le=20)] = 1
    slo_ttft_ms: Annotated[float, Field(ge=0)] = 0.0
    slo_tpot_ms: Annotated[float, Field(ge=0)] = 0.0
    slo_e2e_ms: Annotated[float, Field(ge=0)] = 0.0
    slo_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    grid_input_tokens: list[Annotated[int, Field(ge=4)]] = Field(default=[])
    grid_output_tokens: list[Annotated[int, Field(ge=1)]] = Field(default=[])
    grid_concurrency: Annotated[int, Field(ge=0, le=10000)] = 0

    @model_validator(mode="after")
    def _can_be_measured(self) -> Benchmark:
        if self.slo_share and not (self.slo_ttft_ms or self.slo_tpot_ms or self.slo_e2e_ms):
            raise ValueError("slo_share needs a bound; right would be slo_ttft_ms, slo_tpot_ms or slo_e2e_ms above 0")
        for name in ("concurrency", "grid_input_tokens", "grid_output_tokens"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} is {values}; right would be each value once")
        return self

    @property
    def grid(self) -> list[tuple[int, int]]:
        """The pairs of input and output tokens of the grid; a side that is not given is that of the sweep."""
        if not self.grid_input_tokens and not self.grid_output_tokens:
            return []
        inputs = self.grid_input_tokens or [self.input_tokens]
        outputs = self.grid_output_tokens or [self.output_tokens]
        return [(each, out) for each in inputs for out in outputs]

    @property
    def grid_level(self) -> int:
        """The concurrency of the grid."""
        return self.grid_concurrency or max(self.concurrency)


class Preflight(StrictModel):
    """What hosts shall be. `systems`: id and beginning of the version, as /etc/os-release names them."""

    systems: list[Annotated[str, Field(pattern=r"^\S+ \S+$")]] = Field(
        default=["openEuler 22.03", "openEuler 24.03", "ubuntu 22.04", "kylin V10"], min_length=1
    )
    power: Literal["performance", "any"] = "performance"
    firewall: Literal["off", "any"] = "off"


class Network(StrictModel):
    """How the cards' network is tested.

    ping_matrix: `auto` is complete up to 4 hosts and a sample above; `neighbour` pings one card each.
    ping_deadline_s: per host; what is not reached until then stays untested.
    speed_mbps: of one port. hccl_gb_per_s: what the collective test shall reach at its largest size.
    """

    ping_matrix: Literal["auto", "complete", "neighbour"] = "auto"
    ping_deadline_s: Annotated[float, Field(ge=1, le=250)] = 60.0
    speed_mbps: Annotated[int, Field(ge=1000)] = 200_000
    hccl: Literal["auto", "off"] = "auto"
    hccl_gb_per_s: Annotated[float, Field(gt=0)] = 20.0


class Capacity(StrictModel):
    """What the planner takes beside the rest; it changes nothing on the hosts.

    hardware: the cards (runbook_lib/capacity/hardware.py). generation: of the scheduler, `auto` reads it off the image.
    mtp: the weights bring a draft layer that is used. constants: values of capacity/constants.py found by calibration.
    ttft_ms, tpot_ms: the service level, mean first token and mean time per further token.
    """

    hardware: Literal["910b1", "910b2", "910b3", "910b4", "910b4-1", "910c-die"] = "910b3"
    generation: Literal["auto", "old", "new"] = "auto"
    mtp: bool = False
    constants: dict[str, float] = Field(default={})
    ttft_ms: Annotated[float, Field(gt=0)] | None = None
    tpot_ms: Annotated[float, Field(gt=0)] | None = None


class Policy(StrictModel):
    """Which risks `--yes` may approve. Destructive changes are always approved by digest."""

    yes_approves: list[RiskName] = Field(default=[Risk.REVERSIBLE, Risk.DISRUPTIVE])

    @model_validator(mode="after")
    def _never_destructive(self) -> Policy:
        if Risk.DESTRUCTIVE in self.yes_approves:
            raise ValueError(
                "destructive changes are never approved by --yes; right would be reversible and disruptive only"
            )
        return self


class Paths(StrictModel):
    """Absolute paths on the hosts."""

    hccn_conf: HostPath = DEFAULT_HCCN_CONF
    ascend_root: HostPath = DEFAULT_ASCEND_ROOT
    work: HostPath = DEFAULT_WORK
    mpi: HostPath = DEFAULT_MPI


class Twin(StrictModel):
    """Present only where the hosts are emulated. `network` is the A.B of the hosts' 127.A.B.C."""

    network: Annotated[str, Field(pattern=r"^127\.\d{1,3}\.\d{1,3}$")]
    time_factor: Annotated[float, Field(gt=0, le=1000)] = 25.0
    weights_bytes: Annotated[int, Field(ge=1_000_000, le=2_000_000_000)] = 24_000_000
    level: Literal["auto", "L1", "L1b", "L0"] = "auto"


class Params(StrictModel):
    """Everything that a run depends on."""

    cluster: Cluster
    model: Model
    container: Container
    service: Service = Service()
    benchmark: Benchmark = Benchmark()
    preflight: Preflight = Preflight()
    network: Network = Network()
    capacity: Capacity = Capacity()
    policy: Policy = Policy()
    paths: Paths = Paths()
    twin: Twin | None = None

    @property
    def world_size(self) -> int:
        """All cards of all hosts."""
        return sum(len(host.cards) for host in self.cluster.hosts)

    @property
    def master(self) -> Host:
        """The first host: it serves the business port."""
        return self.cluster.hosts[0]

    def host(self, name: str) -> Host:
        """Return the host of that name; KeyError when there is none."""
        for host in self.cluster.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def gateway(self, card: Card) -> str:
        """Return the gateway that a card shall have: its own IP on a direct pair (field report)."""
        if card.gateway is not None:
            return card.gateway
        if self.cluster.topology is Topology.DIRECT:
            return card.ip
        raise AssertionError("validated: a card on a switch has a gateway")

    def peer(self, host: Host, card: Card) -> str:
        """Return what the card's health check shall detect: the peer card on a direct pair, else the gateway."""
        if card.peer is not None:
            return card.peer
        if self.cluster.topology is Topology.SWITCH:
            return self.gateway(card)
        other = next(each for each in self.cluster.hosts if each.name != host.name)
        return next(each.ip for each in other.cards if each.id == card.id)

    @model_validator(mode="after")
    def _cross_rules(self) -> Params:
        problems = [
            *_path_problems(self),
            *_address_problems(self),
            *_topology_problems(self),
            *_capacity_problems(self),
            *_grid_problems(self),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


_SYSTEM_ROOTS = frozenset({"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "usr"})


def _path_problems(params: Params) -> list[str]:
    """Owners and modes below the weights directory are set, so it must be a directory of its own."""
    weights, work = PurePosixPath(params.model.weights.directory), PurePosixPath(params.paths.work)
    problems = []
    if len(weights.parts) < _LEAST_PARTS or weights.parts[1] in _SYSTEM_ROOTS:
        problems.append(
            f"model.weights.directory {weights} is a system or top directory, and its owners and modes are set; "
            "right would be one of its own, like /data/weights/deepseek-r1-w8a8"
        )
    if weights.is_relative_to(work) or work.is_relative_to(weights):
        problems.append(
            f"model.weights.directory {weights} and paths.work {work} lie in each other; right would be apart"
        )
    return problems


def _address_problems(params: Params) -> list[str]:
    hosts = params.cluster.hosts
    problems = []
    for what, values in (
        ("host name", [host.name for host in hosts]),
        ("host address", [host.address for host in hosts]),
        ("service_ip", [host.service_ip for host in hosts]),
        ("device IP", [card.ip for host in hosts for card in host.cards]),
    ):
        repeated = sorted(value for value, count in Counter(values).items() if count > 1)
        problems += [
            f"{what} {value} is given more than once; right would be one of its own for each" for value in repeated
        ]
    for host in hosts:
        ids = [card.id for card in host.cards]
        if ids != sorted(set(ids)):
            problems.append(f"{host.name}: card ids {ids}; right would be each id once, in rising order")
        for card in host.cards:
            for what, value in (("device IP", card.ip), ("peer", card.peer)):
                if value is not None and ipaddress.ip_address(value) in VNIC_RANGE:
                    problems.append(
                        f"{host.name} card {card.id}: {what} {value} lies in 192.168.0.x-192.168.7.x, which the "
                        "on-board vNICs use; right would be another segment, for example 192.168.100.x"
                    )
    return problems


def _topology_problems(params: Params) -> list[str]:
    hosts = params.cluster.hosts
    problems = []
    if len({len(host.cards) for host in hosts}) > 1:
        problems.append("the hosts have different numbers of cards; right would be the same on all")
    if params.cluster.topology is Topology.DIRECT:
        if len(hosts) != 2:  # noqa: PLR2004 - a cable has two ends
            problems.append(f"topology direct with {len(hosts)} hosts; right would be 2 hosts, or topology: switch")
        elif [card.id for card in hosts[0].cards] != [card.id for card in hosts[1].cards]:
            problems.append(
                "topology direct, but the card ids of the two hosts differ; right would be a peer for each card"
            )
    for host in hosts:
        for card in host.cards:
            segment = ipaddress.ip_interface(f"{card.ip}/{card.netmask}").network
            where = f"{host.name} card {card.id}"
            if params.cluster.topology is Topology.SWITCH and card.gateway is None:
                problems.append(f"{where}: no gateway; right on a switch would be the gateway of {segment}")
            elif card.gateway is not None and ipaddress.ip_address(card.gateway) not in segment:
                problems.append(f"{where}: gateway {card.gateway} is not in {segment}; right would be an address in it")
    return problems


def _grid_problems(params: Params) -> list[str]:
    service = params.service
    inputs = min(service.max_input_token_len, service.max_seq_len - 1)
    return [
        f"benchmark grid: {into} tokens in and {out} out are more than the service takes; right would be at most "
        f"{inputs} in, {service.max_iter_times} out and {service.max_seq_len} together"
        for into, out in params.benchmark.grid
        if into > inputs or out > service.max_iter_times or into + out > service.max_seq_len
    ]


def _capacity_problems(params: Params) -> list[str]:
    needed = MIN_CARDS[params.model.format]
    parallel = params.service.parallel
    tp = parallel.tp or max(1, params.world_size // parallel.dp)
    if parallel.dp * tp != params.world_size or params.world_size % parallel.moe_ep:
        given = f"dp {parallel.dp} x tp {tp}, moe_ep {parallel.moe_ep}"
        right = f"dp x tp = {params.world_size}, and a moe_ep that divides it"
        return [f"service.parallel is {given}, for {params.world_size} cards; right would be {right}"]
    if params.world_size < needed:
        return [
            f"{params.model.format} weights need {needed} cards of {CARD_HBM_GIB} GB, "
            f"the cluster has {params.world_size}; right would be more hosts"
            + (", or model.format: w8a8" if params.model.format == "bf16" else "")
        ]
    return []
