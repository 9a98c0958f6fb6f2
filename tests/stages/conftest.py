"""What healthy and bare hosts answer to every stage's probe, in the real tools' formats.

A case file or a test says only what differs from one of these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
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
from runbook_lib.stages.gateway.facts import READS as GATEWAY_READS
from runbook_lib.stages.network.pairs import pairs
from runbook_lib.stages.network.probe import READS as NETWORK_READS
from runbook_lib.stages.weights.probe import tool_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runbook_lib.model import Change, Finding, Section
    from runbook_lib.params import Card, Host

ROOT = Path(__file__).parents[2]
PARAMS = {"direct": "twin-2x8-direct", "switch": "twin-4x8-switch"}
ALL_STAGES = tuple(each.name for each in stages.STAGES)
PROBLEMS = frozenset({Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN})
Captures = dict[str, dict[str, Capture]]

NO_IP = "Get ipconf failed, because no ip was preset there!\n"
NO_GATEWAY = "Get gateway failed, because no gateway was preset there!\n"
LLDP = """Chassis ID TLV
\tMAC: {switch}
Port ID TLV
\tIfname: {port}
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
SSHD = 'users:(("sshd",pid=1211,fd=3))'
DOCKER = {
    "Client": {"Version": "24.0.9", "Os": "linux", "Arch": "arm64"},
    "Server": {"Version": "24.0.9", "Os": "linux", "Arch": "arm64"},
}
DOCKER_INFO = {"ServerVersion": "24.0.9", "DefaultRuntime": "runc", "Runtimes": {"runc": {"path": "runc"}}}
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
            "Ulimits": [{"Name": "nofile", "Soft": 65536, "Hard": 65536}],
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


OPTICAL = """optical info:
present              : present
temperature          : 45 C
Tx Power0            : 1.4035 mW
Tx Power1            : 1.3912 mW
Rx Power0            : 1.0189 mW
Rx Power1            : 1.1022 mW
TxPower High Thres   : 3.5481 mW
TxPower Low Thres    : 0.2818 mW
RxPower High Thres   : 3.5481 mW
RxPower Low Thres    : 0.1445 mW
Tx Los Flag          : 0x0
Rx Los Flag          : 0x0
"""
LINK_STAT = """[devid {card}]current time        : Wed Aug  2 03:09:26 2022
[devid {card}]link up count       : 2
[devid {card}]link change records :
[devid {card}]    Tue Aug  1 14:43:40 2022    LINK UP
[devid {card}]    Tue Aug  1 14:43:40 2022    LINK DOWN
[devid {card}]    Tue Aug  1 14:43:26 2022    LINK UP
"""
STAT = """packet statistics:
mac_tx_mac_pause_num:0
mac_rx_fcs_err_pkt_num:0
roce_rx_err_pkt_num:0
roce_tx_err_pkt_num:0
roce_new_pkt_rty_num:7
nic_tx_all_pkg_num:122404
"""
ROUTE = """Routing table:
Destination     Gateway         Genmask         Flags Metric Ref    Use Iface
default         {gateway:<16}0.0.0.0         UG    0      0        0 eth{card}
{network:<16}*               {netmask:<16}U     0      0        0 eth{card}
127.0.0.1       *               255.255.255.255 UH    0      0        0 lo
"""


def ping_text(card: int, target: str, received: int = 3) -> str:
    """Return what one ping of the matrix prints between its marks."""
    answers = ["recv time out seq={}", "recv seq={},time=0.040000ms"]
    lines = [answers[number < received].format(number) for number in range(3)]
    loss = f"{100 * (3 - received) / 3:.2f}"
    lines += [f"3 packets transmitted, {received} received, {loss}% packet loss"]
    if received < 3:
        lines.append("Cmd execute failed!")
    return "\n".join([f"ping {card} {target}", f"device {card} PING {target}", *lines, f"code {int(received < 3)}", ""])


def pings_of(params: Params, host: Host, lost: Mapping[tuple[int, str], int] | None = None) -> str:
    """Return a host's whole matrix; `lost` gives the received packets of (card, address)."""
    lost = lost or {}
    asked = [pair for pair in pairs(params, host) if pair.turn in {-1, 0}]
    texts = [ping_text(pair.source.card, pair.address, lost.get((pair.source.card, pair.address), 3)) for pair in asked]
    return "".join(texts) + "end\n"


def conf_text(params: Params, host: Host) -> str:
    """Return the hccn.conf of a host that is set up."""
    lines = []
    for card in host.cards:
        values = {
            "address": card.ip,
            "netmask": card.netmask,
            "gateway": params.gateway(card),
            "netdetect": params.peer(host, card),
            "tls_enable": params.cluster.tls,
        }
        lines += [f"{key}_{card.id}={value}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _card_answer(params: Params, host: Host, card: Card, read: str, *, bare: bool) -> Capture:
    switch = params.cluster.topology.value == "switch"
    network = str(ipaddress.ip_interface(f"{card.ip}/{card.netmask}").network.network_address)
    gateway = params.gateway(card)
    answers: dict[str, Capture] = {
        "link": good("link status: UP\n"),
        "lldp": good(LLDP.format(port=card.port, switch=card.switch) if switch else ""),
        "speed": good("Speed: 200000 Mb/s\n"),
        "fec": good("fec mode: rs FEC mode\n"),
        "mtu": good("mtu:1500\n"),
        "ip": bad(NO_IP, 13) if bare else good(f"ipaddr:{card.ip}\nnetmask:{card.netmask}\n"),
        "tls": good(
            f"dev_id:{card.id}, tls switch[{int(bare)}](0:disable, 1:enable), tls preconfigured[1]"
            "(0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
        ),
        "optical": good(OPTICAL if switch else "optical info:\npresent              : not present\n"),
        "link_stat": good(LINK_STAT.format(card=card.id)),
        "stat": good(STAT),
        "stat_after": good(STAT.replace("122404", "122504")),
        "gateway": bad(NO_GATEWAY, 2) if bare else good(f"default gateway:{gateway}, Iface:eth{card.id}\n"),
        "netdetect": good(f"netdetect address: {'0.0.0.0' if bare else params.peer(host, card)}\n"),
        "net_health": good(f"net health status: {'Init' if bare else 'Success'}\n"),
        "route": good(
            ROUTE.format(gateway=gateway, network=network, netmask=card.netmask, card=card.id)
            if not bare
            else "Routing table:\nDestination     Gateway         Genmask         Flags Metric Ref    Use Iface\n"
        ),
    }
    return answers[read]


_READS = (
    "link",
    "lldp",
    "speed",
    "fec",
    "mtu",
    "ip",
    "tls",
    "optical",
    "link_stat",
    "stat",
    "stat_after",
    "gateway",
    "netdetect",
    "net_health",
    "route",
)


def _cards(params: Params, host: Host, *, bare: bool, bare_ip: bool) -> dict[str, Capture]:
    return {
        f"{read}.{card.id}": _card_answer(params, host, card, read, bare=bare_ip if read == "ip" else bare)
        for card in host.cards
        for read in _READS
    }


def _preflight(params: Params, host: Host, paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    return {
        "clock": good(f"{1764000000 + params.cluster.hosts.index(host)}.123456789\n"),
        "npus": good(npu_table(range(8))),
        "driver": good(DRIVER),
        "firmware": good(FIRMWARE),
        "system": good(OS_RELEASE),
        "architecture": good("aarch64\n"),
        "product": good("Atlas 800I A2\n"),
        "docker": good(json.dumps(DOCKER) + "\n"),
        "runtime": good(json.dumps(DOCKER_INFO) + "\n"),
        "containers": good(),
        "ours": bad(f"Error: No such object: {params.container.name}\n", stdout="[]\n"),
        "pids": bad(f"Error response from daemon: No such container: {params.container.name}\n"),
        "disk": good("        Avail Mounted on\n3840000000000 /data\n      Avail Mounted on\n86000000000 /\n"),
        "firewall": bad("", 3, "inactive\ninactive\ninactive\n"),
        "governor": good("ondemand\nondemand\nend\n" if bare else "performance\nperformance\nend\n"),
        "lfs": bad("git: 'lfs' is not a git command. See 'git --help'.\n"),
        "present": absent("du", paths.weights),
        "memory": good(FREE),
        "ports": good(LISTENING.format(address=host.address).rstrip() + f" {SSHD}\n"),
        "work": bad(f"stat: cannot statx '{paths.work}': No such file or directory\n")
        if bare
        else good("700 directory\n"),
        "python": good("Python 3.9.9\n"),
    }


def _conf(params: Params, host: Host, *, bare: bool) -> Capture:
    missing = bad("cat: /etc/hccn.conf: No such file or directory\n")
    return missing if bare else good(conf_text(params, host))


def _network(params: Params, host: Host, _paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    asked = pairs(params, host)
    nothing = "".join(
        f"ping {pair.source.card} {pair.address}\nGet ipconf failed, because no ip was preset there!\ncode 13\n"
        for pair in asked
    )
    return _cards(params, host, bare=bare, bare_ip=bare) | {
        "conf": _conf(params, host, bare=bare),
        "pings": good(f"{nothing}end\n" if bare else pings_of(params, host)),
    }


def _gateway(params: Params, host: Host, _paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    return _cards(params, host, bare=bare, bare_ip=False) | {"conf": _conf(params, host, bare=bare)}


def weights_entries(owner: str = "0:0") -> str:
    """Return what `find -printf` lists for the verified files of MANIFEST."""
    rows = [("d", 4096, "750", ""), ("d", 4096, "750", "tokenizer")]
    rows += [("f", each["size"], "640", each["name"]) for each in MANIFEST["files"]]  # type: ignore[misc]
    return "".join(f"{kind}\t{size}\t{mode}\t{owner}\t{MTIME}\t{path}\n" for kind, size, mode, path in rows)


def _weights(params: Params, _host: Host, paths: HostPaths, *, bare: bool) -> dict[str, Capture]:
    model = "deepseekv2"
    config = {"model_type": model, "torch_dtype": "bfloat16", "quantize": f"{params.model.format}_dynamic"}
    title = "Filesystem 1-blocks Used Available Capacity Mounted on\n"
    listed = MANIFEST | {"commit": "", "status": 200, "error": "", "config": json.dumps(config)}
    common = {
        "source": good(json.dumps(listed)),
        "work": good(paths.work + "\n"),
        "original": bad(f"cat: {paths.weights}/config.json.original: No such file or directory\n"),
        "disk": good(f"{title}/dev/sda2 100 10 90 10% /\n/dev/nvme0n1 4000000000000 1 3900000000000 1% /data\n"),
    }
    if bare:
        return common | {
            "entries": bad(f"find: '{paths.weights}': No such file or directory\n"),
            "state": bad(f"cat: {paths.work}/weights/state.json: No such file or directory\n"),
            "config": bad(f"cat: {paths.weights}/config.json: No such file or directory\n"),
            "tool": bad(f"cat: {paths.work}/weights_tool.py: No such file or directory\n"),
            "headers": good('{"problems": [], "shards": 0, "tensors": 0, "error": "No such file or directory"}'),
        }
    verified = {
        str(each["name"]): {"size": each["size"], "sha256": each["sha256"], "mtime_ns": MTIME_NS}
        for each in MANIFEST["files"]
    }
    return common | {
        "entries": good(weights_entries()),
        "state": good(json.dumps(MANIFEST | {"verified": verified})),
        "config": good(json.dumps(config)),
        "tool": good(tool_text()),
        "headers": good('{"problems": [], "shards": 2, "tensors": 700}'),
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
        "memory": good(FREE),
        "machine": good("aarch64\n"),
        "arch": bad("Error: No such image\n") if bare else good("arm64\n"),
        "runtime": good(json.dumps(DOCKER_INFO)),
        "tar": image_tar([params.container.image]),
        "tool": good(tool_text()),
        "work": good(paths.work + "\n"),
        "service": gone_folder(paths.service) if bare else good(paths.service + "\n"),
        "weights": good(f"{paths.weights}/config.json\n"),
        "daemon": bad("Error: No such container: mindie-deepseek\n") if bare else good("alive\n"),
    }


def image_tar(names: list[str] | None, **otherwise: Any) -> Capture:
    """Return what push/image_tar.py prints; names None: there is no tar."""
    images = None if names is None else [{"id": "sha256:" + "ab" * 32, "names": names}]
    size = None if names is None else 20_000_000_000
    said = {"size": size, "sha256": "", "free": 4_000_000_000_000, "images": images, "error": ""}
    return good(json.dumps(said | otherwise) + "\n")


def serving(status: int, body: str) -> Capture:
    """Return what push/serving_check.py prints when the first answer is this, and all others are right."""
    checks = [{"name": "chat", "ok": True, "said": "8 tokens", "expected": ""}]
    return good(json.dumps({"answer": {"status": status, "body": body, "error": ""}, "checks": checks}) + "\n")


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
        "library": good("440 /usr/local/Ascend/mindie/latest/mindie-service/lib/libmindieservice_llm_engine.so\n"),
        "modes": bad(missing),
        "owners": bad(missing),
        "started": absent("cat", f"{paths.service}/started.sha256"),
        "alive": good("none\n"),
        "logs": bad(f"find: '{paths.service}/daemon.log': No such file or directory\n"),
        **{f"file.{paths.service}/{name}": absent("cat", f"{paths.service}/{name}") for name in names},
        **_cards(params, host, bare=False, bare_ip=False),
    }
    if host == params.master:
        answers |= {
            "ready": http(0, error="[Errno 111] Connection refused"),
            "serving": good('{"error": "not asked: refused"}\n'),
            "metrics": http(0, error="not asked"),
            "listening": good(LISTENING.format(address=host.address)),
        }
    else:
        answers["outside"] = http(0, error="[Errno 111] Connection refused")
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
        "serving": serving(200, json.dumps(COMPLETION)),
        "metrics": http(200, 'num_requests_running{m="x"} 0\nnum_requests_waiting{m="x"} 0\n'),
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
    answers["owners"] = good("".join(f"0:0 {path}\n" for path in want))
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


def joined(captures: Mapping[str, Capture]) -> dict[str, Capture]:
    """Return captures with the reads of each card put together, as the network stages ask for them."""
    groups: dict[str, dict[tuple[int, str], Capture]] = {}
    for key, capture in captures.items():
        read, _, number = key.partition(".")
        if read in _READS and number:
            group, word = ("after", "stat") if read == "stat_after" else ("cards", read)
            groups.setdefault(group, {})[int(number), word] = capture
    together = dict(captures)
    for section, reads in groups.items():
        together |= join_reads(section, reads)
    return together


def join_reads(key: str, reads: Mapping[tuple[int, str], Capture]) -> dict[str, Capture]:
    """Return the captures that `split_reads` takes apart: a hung read ends its card, and all are asked again."""
    text = ""
    hung: set[int] = set()
    for (card, word), capture in sorted(reads.items(), key=lambda item: item[0][0]):
        if card in hung:
            continue
        text += f"@@runbook read {card} {word}\n{capture.stderr}{capture.stdout}"
        if capture.exit_code is None:
            hung.add(card)
            text += f"\n@@runbook card {card} {124 if capture.timed_out else 1}\n"
        else:
            text += f"\n@@runbook code {capture.exit_code}\n"
    whole = Capture(stdout=text, exit_code=0)
    return {key: Capture(timed_out=True), f"{key}.again": whole} if hung else {key: whole}


def probes_of(params: Params, captures: Captures, errors: Mapping[str, str] | None = None) -> dict[str, HostProbe]:
    """Return what a session hands to the stages: one probe for each host of the params."""
    errors = errors or {}
    paths = HostPaths.of(params)
    return {
        host.name: HostProbe(
            host.name,
            paths,
            {} if host.name in errors else joined(captures.get(host.name, {})),
            errors.get(host.name, ""),
        )
        for host in params.cluster.hosts
    }


@cache
def _answers(stage: str, cluster: str, base: str) -> Captures:
    return _answers_of(stage, cluster_params(cluster), bare=base == "bare")


def _answers_of(stage: str, params: Params, *, bare: bool) -> Captures:
    if stage == "service":
        known = _service_answers(params, bare=bare)
    else:
        known = {
            host.name: _MAKERS[stage](params, host, HostPaths.of(params), bare=bare) for host in params.cluster.hosts
        }
    module = stages.stage(stage).module
    return {
        host.name: {
            key: known[host.name][key]
            for section in module.probe(params, host, HostPaths.of(params)).sections
            for key in _single(stage, section, host)
        }
        for host in params.cluster.hosts
    }


def _single(stage: str, section: Section, host: Host) -> list[str]:
    """Return the keys of a section's single reads: tests change one read of one card."""
    if section.if_hung:
        return []
    if section.key == "cards":
        reads = NETWORK_READS if stage == "network" else GATEWAY_READS
        return [f"{read}.{card.id}" for card in host.cards for read in reads]
    return [f"stat_after.{card.id}" for card in host.cards] if section.key == "after" else [section.key]


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

    def pings(self, host: str, lost: Mapping[tuple[int, str], int]) -> Capture:
        """Return the ping matrix of a host with losses: received packets by (card, address)."""
        return good(pings_of(self.params, self.params.host(host), lost))

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


def scene_of(stage: str, params: Params) -> Scene:
    """Return a stage on a healthy cluster of these params."""
    return Scene(stage, params, _answers_of(stage, params, bare=False))


@pytest.fixture
def make() -> Callable[..., Scene]:
    """Return the function that makes a scene of a stage, a cluster (direct, switch) and a base (healthy, bare)."""
    return scene
