"""What healthy and bare hosts answer to every stage's probe, in the real tools' formats.

A case file or a test says only what differs from one of these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib import stages
from runbook_lib.ascend import mindie_defaults
from runbook_lib.model import Capture, Subject, Verdict
from runbook_lib.params import HostPaths, Params, load_params
from runbook_lib.stages import HostProbe, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runbook_lib.model import Change, Finding
    from runbook_lib.params import Card, Host

ROOT = Path(__file__).parents[2]
PARAMS = {"direct": "twin-2x8-direct", "switch": "twin-4x8-switch"}
ALL_STAGES = tuple(each.name for each in stages.STAGES)
PROBLEMS = frozenset({Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN})
Captures = dict[str, dict[str, Capture]]

NO_IP = "Get ipconf failed, because no ip was preset there!\n"
NO_GATEWAY = "Get gateway failed, because no gateway was preset there!\n"
LLDP = """Chassis ID TLV
\tMAC: 08:00:00:00:00:{card:02x}
Port ID TLV
\tIfname: 400GE1/1/{card}:1
System Description TLV
\tMade-up Routing Platform
End of LLDPDU TLV
"""
DRIVER = """Version=24.1.0
ascendhal_version=7.35.23
compatible_version_fw=[7.0.0,7.5.99]
package_version=24.1.0
"""
FIRMWARE = """Version=7.5.0.1.129
firmware_version=1.0
package_version=24.1.0
"""
OS_RELEASE = """NAME="openEuler"
VERSION="24.03 (LTS)"
ID="openEuler"
VERSION_ID="24.03"
PRETTY_NAME="openEuler 24.03 (LTS)"
"""
FREE = """               total        used        free      shared  buff/cache   available
Mem:    1649267441664 34359738368 1600000000000    10485760 14907703296 1600000000000
Swap:               0           0           0
"""
LISTENING = "LISTEN 0      128    {address}:2222      0.0.0.0:*\n"
DOCKER = {
    "Client": {"Version": "24.0.9", "Os": "linux", "Arch": "arm64"},
    "Server": {"Version": "24.0.9", "Os": "linux", "Arch": "arm64"},
}
GOOD_LOG = """==> {service}/daemon.log <==
[2026-01-05 08:00:00.000000] [info] [1] [main.cpp:10] starting
Daemon start success!

==> {service}/mindie-log/mindie-server.log <==
[2026-01-05 08:00:01.000001+00:00] [1] [1] [server] [INFO] [llm_daemon.cpp:70] : ready
"""
MANIFEST = {
    "files": [
        {"name": "config.json", "size": 1200, "sha256": "a" * 64},
        {"name": "model-00001-of-00002.safetensors", "size": 5_000_000, "sha256": "b" * 64},
        {"name": "model-00002-of-00002.safetensors", "size": 4_000_000, "sha256": "c" * 64},
        {"name": "tokenizer/tokenizer.json", "size": 7800, "sha256": "d" * 64},
    ]
}
MTIME = "1764000000.1234567890"
MTIME_NS = 1764000000123456789
COMPLETION = {
    "choices": [{"message": {"role": "assistant", "content": "Earth."}}],
    "usage": {"prompt_tokens": 17, "completion_tokens": 3},
}


def good(stdout: str = "") -> Capture:
    """Return what a command that worked printed."""
    return Capture(stdout=stdout, exit_code=0)


def bad(stderr: str, exit_code: int = 1, stdout: str = "") -> Capture:
    """Return what a command that failed printed."""
    return Capture(stdout=stdout, stderr=stderr, exit_code=exit_code)


def absent(tool: str, path: str) -> Capture:
    """Return how coreutils say that a path is not there."""
    return bad(f"{tool}: cannot access '{path}': No such file or directory\n", 2 if tool == "ls" else 1)


def http(status: int, body: Any = "", error: str = "") -> Capture:
    """Return what push/http_call.py prints."""
    text = body if isinstance(body, str) else json.dumps(body)
    return good(json.dumps({"status": status, "body": text, "error": error, "seconds": 0.01}) + "\n")


@cache
def cluster_params(cluster: str) -> Params:
    """Return the params of the rehearsal cluster `direct` (2x8) or `switch` (4x8)."""
    return load_params(ROOT / "params" / f"{PARAMS[cluster]}.yaml")


def npu_table(cards: Iterable[int], holders: Mapping[int, int] | None = None) -> str:
    """Return what `npu-smi info` prints for 64 GB cards; `holders` are the pids by card."""
    holders = holders or {}
    rule = "+---------------------------+---------------+----------------------------------------------------+"
    thick = rule.replace("-", "=")
    lines = [
        "+" + "-" * 96 + "+",
        f"| {'npu-smi 24.1.0':<32} {'Version: 24.1.0':<61} |",
        rule,
        "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|",
        "| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |",
        thick,
    ]
    numbers = list(cards)
    for card in numbers:
        used = "59718/ 65536" if card in holders else "3372 / 65536"
        lines += [
            f"| {card:<5} {'910B3':<19} | {'OK':<13} | {'92.1':<11} {'41':<17} {'0    / 0':<21}|",
            f"| {0:<25} | 0000:{0xC1 + card:02X}:00.0  | {'0':<11} {'0    / 0':<17} {used:<21}|",
            thick,
        ]
    lines += [
        rule,
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |",
    ]
    for card in numbers:
        row = f"| {f'No running processes found in NPU {card}':<94} |"
        if card in holders:
            row = f"| {card:<7} {0:<17} | {holders[card]:<13} | {'':<24} | {'56373':<23} |"
        lines += [thick, row]
    return "\n".join([*lines, thick]) + "\n"


def inspect(params: Params, paths: HostPaths, marker: str | None = None, state: str = "running") -> Capture:
    """Return `docker inspect` of the container that params ask for; `marker` "" is one made by hand."""
    marker = params.cluster.name if marker is None else marker
    mounted = [*(place for place, there in _mounts(paths) if there), paths.weights, paths.service]
    devices = [*(f"/dev/davinci{card}" for card in range(8)), "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"]
    data = {
        "Id": "5f0c" * 16,
        "Name": f"/{params.container.name}",
        "Image": "sha256:" + "ab" * 32,
        "State": {"Status": state, "Pid": 4711 if state == "running" else 0, "ExitCode": 0, "OOMKilled": False},
        "Config": {
            "Image": params.container.image,
            "Env": [*([f"ASCEND_RUNBOOK_CLUSTER={marker}"] if marker else []), "PATH=/usr/bin:/bin"],
            "Labels": {},
        },
        "HostConfig": {
            "ShmSize": 500 * 2**30,
            "NetworkMode": "host",
            "Privileged": False,
            "Devices": [{"PathOnHost": device, "PathInContainer": device} for device in devices],
        },
        "Mounts": [{"Type": "bind", "Source": place, "Destination": place, "RW": True} for place in mounted],
    }
    return good(json.dumps([data]) + "\n")


def _mounts(paths: HostPaths) -> list[tuple[str, bool]]:
    """Return the optional mounts of the container and whether the host has them."""
    return [
        (f"{paths.ascend_root}/driver", True),
        (f"{paths.ascend_root}/firmware", True),
        ("/usr/local/sbin/npu-smi", False),
        ("/usr/local/bin/npu-smi", True),
        ("/usr/local/dcmi", True),
        ("/etc/ascend_install.info", True),
        ("/etc/hccn.conf", True),
    ]


def ps_row(params: Params, name: str) -> str:
    """Return one line of `docker ps -a --format '{{json .}}'`."""
    row = {
        "ID": "5f0c" * 16,
        "Names": name,
        "Image": params.container.image,
        "State": "running",
        "Status": "Up 2 hours",
    }
    return json.dumps(row) + "\n"


def _card_answer(params: Params, host: Host, card: Card, read: str, *, bare: bool) -> Capture:
    switch = params.cluster.topology.value == "switch"
    number = params.cluster.hosts.index(host)
    following = params.cluster.hosts[(number + 1) % len(params.cluster.hosts)]
    target = following.cards[card.id].ip
    answers: dict[str, Capture] = {
        "link": good("link status: UP\n"),
        "lldp": good(LLDP.format(card=card.id) if switch else ""),
        "speed": good("Speed: 200000 Mb/s\n"),
        "fec": good("fec mode: rs FEC mode\n"),
        "mtu": good("mtu:1500\n"),
        "ip": bad(NO_IP, 13) if bare else good(f"ipaddr:{card.ip}\nnetmask:{card.netmask}\n"),
        "tls": good(
            f"dev_id:{card.id}, tls switch[{int(bare)}](0:disable, 1:enable), tls preconfigured[1]"
            "(0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
        ),
        "ping": bad("Cmd execute failed!\n")
        if bare
        else good(
            f"device {card.id} PING {target}\nrecv seq=0,time=1.418000ms\nrecv seq=1,time=0.034000ms\n"
            "recv seq=2,time=0.040000ms\n3 packets transmitted, 3 received, 0.00% packet loss\n"
        ),
        "gateway": bad(NO_GATEWAY, 2)
        if bare
        else good(f"default gateway:{card.gateway if switch else card.ip}, Iface:eth{card.id}\n"),
        "netdetect": good(f"netdetect address: {'0.0.0.0' if bare else card.gateway if switch else target}\n"),
        "net_health": good(f"net health status: {'Init' if bare else 'Success'}\n"),
    }
    return answers[read]


def _cards(params: Params, host: Host, *, bare: bool, bare_ip: bool) -> dict[str, Capture]:
    reads = (
        "link",
        "lldp",
        "speed",
        "fec",
        "mtu",
        "ip",
        "tls",
        "ping",
        "gateway",
        "netdetect",
        "net_health",
    )
    return {
        f"{read}.{card.id}": _card_answer(params, host, card, read, bare=bare_ip if read == "ip" else bare)
        for card in host.cards
        for read in reads
    }


def _preflight(params: Params, host: Host, paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    return {
        "clock": good(f"{1764000000 + params.cluster.hosts.index(host)}.123456789\n"),
        "npus": good(npu_table(range(8))),
        "driver": good(DRIVER),
        "firmware": good(FIRMWARE),
        "system": good(OS_RELEASE),
        "architecture": good("aarch64\n"),
        "docker": good(json.dumps(DOCKER) + "\n"),
        "containers": good(),
        "ours": bad(f"Error: No such object: {params.container.name}\n", stdout="[]\n"),
        "disk": good("        Avail Mounted on\n3840000000000 /data\n"),
        "present": absent("du", paths.weights),
        "memory": good(FREE),
        "ports": good(LISTENING.format(address=host.address)),
        "work": bad(f"stat: cannot statx '{paths.work}': No such file or directory\n")
        if bare
        else good("700 directory\n"),
        "python": good("Python 3.9.9\n"),
    }


def _network(params: Params, host: Host, _paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    return _cards(params, host, bare=bare, bare_ip=bare)


def _gateway(params: Params, host: Host, _paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    return _cards(params, host, bare=bare, bare_ip=False)


def weights_entries(owner: str = "0:0") -> str:
    """Return what `find -printf` lists for the verified files of MANIFEST."""
    rows = [("d", 4096, "750", ""), ("d", 4096, "750", "tokenizer")]
    rows += [("f", each["size"], "640", each["name"]) for each in MANIFEST["files"]]  # type: ignore[misc]
    return "".join(f"{kind}\t{size}\t{mode}\t{owner}\t{MTIME}\t{path}\n" for kind, size, mode, path in rows)


def _weights(params: Params, _host: Host, paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    model = "deepseekv2"
    common = {"source": http(200, MANIFEST), "work": good(paths.work + "\n")}
    if bare:
        return common | {
            "entries": bad(f"find: '{paths.weights}': No such file or directory\n"),
            "state": bad(f"cat: {paths.work}/weights/state.json: No such file or directory\n"),
            "config": bad(f"cat: {paths.weights}/config.json: No such file or directory\n"),
            "tool": bad(f"cat: {paths.work}/weights_tool.py: No such file or directory\n"),
        }
    verified = {
        str(each["name"]): {"size": each["size"], "sha256": each["sha256"], "mtime_ns": MTIME_NS}
        for each in MANIFEST["files"]
    }
    config = {"model_type": model, "torch_dtype": "bfloat16", "quantize": f"{params.model.format}_dynamic"}
    return common | {
        "entries": good(weights_entries()),
        "state": good(json.dumps(MANIFEST | {"verified": verified})),
        "config": good(json.dumps(config)),
        "tool": good((ROOT / "runbook_lib/stages/push/weights_tool.py").read_text(encoding="utf-8")),
    }


def _container(params: Params, host: Host, paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    repository, _, tag = params.container.image.rpartition(":")
    image = {"Repository": repository, "Tag": tag, "ID": "sha256:" + "ab" * 32, "Size": "20.1GB"}
    devices = [f"/dev/davinci{card.id}" for card in host.cards]
    devices += ["/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"]
    there = "".join(place + "\n" for place, exists in _mounts(paths) if exists)
    gone = "".join(
        f"ls: cannot access '{place}': No such file or directory\n" for place, exists in _mounts(paths) if not exists
    )
    none = bad(f"Error: No such object: {params.container.name}\n", stdout="[]\n")
    return {
        "images": good() if bare else good(json.dumps(image) + "\n"),
        "containers": good() if bare else good(ps_row(params, params.container.name)),
        "container": none if bare else inspect(params, paths),
        "devices": good("\n".join(devices) + "\n"),
        "mounts": bad(gone, 2, there),
        "tar": good(paths.image_tar + "\n"),
        "work": good(paths.work + "\n"),
        "service": gone_folder(paths.service) if bare else good(paths.service + "\n"),
        "weights": good(f"{paths.weights}/config.json\n"),
    }


def gone_folder(path: str) -> Capture:
    return bad(f"ls: cannot access '{path}': No such file or directory\n", 2)


def _service_unstarted(params: Params, host: Host, paths: HostPaths) -> dict[str, Capture]:
    """Return the answers of a host whose container runs and has no file of the service yet."""
    names = ("config.json", "rank_table.json", "service.env", "start.sh", "stop.sh")
    missing = "".join(f"stat: cannot statx '{paths.service}/{name}': No such file or directory\n" for name in names)
    schema = "1.0"
    answers = {
        "container": inspect(params, paths),
        "default": good(json.dumps(mindie_defaults.default_config(schema))),  # type: ignore[arg-type]
        "modes": bad(missing),
        "started": absent("cat", f"{paths.service}/started.sha256"),
        "alive": good("none\n"),
        "logs": bad(f"find: '{paths.service}/daemon.log': No such file or directory\n"),
        **{f"file.{paths.service}/{name}": absent("cat", f"{paths.service}/{name}") for name in names},
        **_cards(params, host, bare=False, bare_ip=False),
    }
    if host == params.master:
        answers |= {
            "ready": http(0, error="[Errno 111] Connection refused"),
            "answer": http(0, error="[Errno 111] Connection refused"),
            "listening": good(LISTENING.format(address=host.address)),
        }
    return answers


def _service_answers(params: Params, *, bare: bool) -> Captures:
    found = {host.name: _service_unstarted(params, host, HostPaths.of(params)) for host in params.cluster.hosts}
    if bare:
        return found
    facts = service.facts(params, probes_of(params, found))
    for host in params.cluster.hosts:
        want = service.wanted_files(facts, params, host)
        assert want is not None
        put_files(params, host, found[host.name], want)
        found[host.name] |= {
            "alive": good("alive\n"),
            "logs": good(GOOD_LOG.format(service=HostPaths.of(params).service)),
        }
    service_ports = f"LISTEN 0 128 {params.master.service_ip}:1025 0.0.0.0:*\n"
    found[params.master.name] |= {
        "ready": http(200),
        "answer": http(200, COMPLETION),
        "listening": good(LISTENING.format(address=params.master.address) + service_ports),
    }
    return found


def put_files(params: Params, host: Host, answers: dict[str, Capture], want: Mapping[str, tuple[str, int]]) -> None:
    """Let a host have the service's files, and a daemon that was started with them."""
    del host
    folder = HostPaths.of(params).service
    sums = ""
    for path, (text, _) in want.items():
        answers[f"file.{path}"] = good(text)
        if path != f"{folder}/stop.sh":
            sums += f"{hashlib.sha256(text.encode()).hexdigest()}  {path.rpartition('/')[2]}\n"
    answers["modes"] = good("".join(f"{mode:o} {path}\n" for path, (_, mode) in want.items()))
    answers["started"] = good(sums)


def _benchmark(params: Params, host: Host, _paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    refused = http(0, error="[Errno 111] Connection refused")
    return {"ready": refused if bare else http(200)} if host == params.master else {}


def _diagnose(_params: Params, _host: Host, paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    if bare:
        return {
            "logs": bad(f"find: '{paths.service}/daemon.log': No such file or directory\n"),
            "alive": bad("Error response from daemon: No such container: mindie-deepseek\n"),
        }
    return {"logs": good(GOOD_LOG.format(service=paths.service)), "alive": good("alive\n")}


_MAKERS: dict[str, Callable[..., dict[str, Capture]]] = {
    "preflight": _preflight,
    "network": _network,
    "gateway": _gateway,
    "weights": _weights,
    "container": _container,
    "benchmark": _benchmark,
    "diagnose": _diagnose,
}


def probes_of(params: Params, captures: Captures, errors: Mapping[str, str] | None = None) -> dict[str, HostProbe]:
    """Return what a session hands to the stages: one probe for each host of the params."""
    errors = errors or {}
    paths = HostPaths.of(params)
    return {
        host.name: HostProbe(
            host.name,
            paths,
            {} if host.name in errors else captures.get(host.name, {}),
            errors.get(host.name, ""),
        )
        for host in params.cluster.hosts
    }


@cache
def _answers(stage: str, cluster: str, base: str) -> Captures:
    params = cluster_params(cluster)
    bare = base == "bare"
    if stage == "service":
        known = _service_answers(params, bare=bare)
    else:
        known = {
            host.name: _MAKERS[stage](params, host, HostPaths.of(params), bare=bare) for host in params.cluster.hosts
        }
    module = stages.stage(stage).module
    return {
        host.name: {
            section.key: known[host.name][section.key]
            for section in module.probe(params, host, HostPaths.of(params)).sections
        }
        for host in params.cluster.hosts
    }


@dataclasses.dataclass
class Scene:
    """One stage on one cluster with what its hosts answer; tests change `captures` and ask again."""

    stage: str
    params: Params
    captures: Captures
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    points: list[dict[str, Any]] | None = None

    def facts(self) -> Any:
        """Return the stage's facts."""
        facts = stages.stage(self.stage).module.facts(self.params, probes_of(self.params, self.captures, self.errors))
        return facts if self.points is None else dataclasses.replace(facts, points=self.points)

    def findings(self) -> list[Finding]:
        """Return what the stage's check says."""
        return stages.stage(self.stage).module.check(self.facts(), self.params)

    def changes(self) -> list[Change]:
        """Return what the stage plans."""
        return stages.stage(self.stage).module.plan(self.facts(), self.params)

    def inspect(self, **said: str) -> Capture:
        """Return `docker inspect` of this cluster's container; see `inspect`."""
        return inspect(self.params, HostPaths.of(self.params), **said)

    def npu_table(self, lost: list[int], holders: dict[int, int]) -> Capture:
        """Return `npu-smi info` of a host without some cards, and with processes on others."""
        return good(npu_table([card for card in range(8) if card not in lost], holders))

    def waits_for(self) -> tuple[str, ...]:
        """Return the stages that this one waits for."""
        return stages.stage(self.stage).module.waits_for(self.facts(), self.params)

    def problems(self) -> list[Finding]:
        """Return the findings that are fail, unknown or warn."""
        return [each for each in self.findings() if each.verdict in PROBLEMS]

    def greens(self) -> set[tuple[str, Subject]]:
        """Return (code, subject) of what is ok, and is not judged otherwise by a second finding of that name."""
        found = self.findings()
        red = {(each.code, each.subject) for each in found if each.verdict in PROBLEMS}
        return {(each.code, each.subject) for each in found if each.verdict is Verdict.OK} - red


def scene(stage: str, cluster: str = "direct", base: str = "healthy") -> Scene:
    """Return a stage on a cluster that is `healthy` or `bare`, with captures of its own."""
    known = _answers(stage, cluster, base)
    return Scene(stage, cluster_params(cluster), {host: dict(each) for host, each in known.items()})


@pytest.fixture
def make() -> Callable[..., Scene]:
    """Return the function that makes a scene of a stage, a cluster (direct, switch) and a base (healthy, bare)."""
    return scene
