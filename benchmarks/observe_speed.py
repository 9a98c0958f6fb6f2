"""How long the whole network observation of many hosts takes, against plain ways of making the same reads.

    python benchmarks/observe_speed.py [--hosts 4,16,64] [--rounds 3] [--ansible BIN] [--pyinfra BIN]

Against a twin, connection and parsing included, same commands, same run:
  ours      the stages `network` and `gateway` as `runbook check` reads them: probe, facts, findings
  batched   a thread per host, one SSH connection, one script with all commands
  single    one command at a time by plain fabric, one host after the other (some hosts measured, and scaled up)
  ansible, pyinfra   one batched script, where their programs are given
Goals: ours at most 1.2 times `batched`, at least 10 times as fast as `single`, ahead of the others. Exit 1 when missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import fabric
import paramiko

from runbook_lib.params import HostPaths, load_params
from runbook_lib.runs.cluster import Cluster, Signs
from runbook_lib.stages import stage
from runbook_lib.stages.network.pairs import pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.model import Change, Section
    from runbook_lib.params import Host, Params

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("network", "gateway")
BATCHED_GOAL, SINGLE_GOAL = 1.2, 10.0
SINGLE_HOSTS = 2
LIMIT_S = 900


def params_text(hosts: int, network: str) -> str:
    """Return a params file of a switched cluster on loopback addresses."""
    rows = []
    for number in range(1, hosts + 1):
        cards = [
            f"        - {{id: {card}, ip: 10.20.{number}.{10 + card}, netmask: 255.255.0.0, gateway: 10.20.0.1}}"
            for card in range(8)
        ]
        address = f"{network}.{number}"
        rows += [
            f"    - name: node{number}",
            f"      address: {address}",
            f"      service_ip: {address}",
            "      cards:",
        ]
        rows += cards
    text = (ROOT / "params" / "twin-4x8-switch.yaml").read_text(encoding="utf-8")
    head, _, rest = text.partition("  hosts:\n")
    _, _, tail = rest.partition("\nmodel:")
    joined = f"{head}  hosts:\n" + "\n".join(rows) + "\n\nmodel:" + tail + "\nnetwork:\n  ping_matrix: neighbour\n"
    return joined.replace("twin-4x8-switch", "speed").replace("127.77.2", network)


def commands_of(params: Params, host: Host, paths: HostPaths) -> list[str]:
    """Return every command that our probes run on a host, the pings one by one."""
    lines = []
    for name in STAGES:
        for section in stage(name).module.probe(params, host, paths).sections:
            if not section.if_hung:
                lines += pings(params, host, paths) if section.key == "pings" else plain(section)
    return lines


def plain(section: Section) -> list[str]:
    """Return a section's commands as shell lines; of a section with many reads every single one."""
    if section.argv[0] != "sh":
        return [shlex.join(section.argv)]
    tool, words, cards = section.argv[4], section.argv[5].split(), section.argv[6:]
    return [f"{tool} -i {card} -{word} -g" for card in cards for word in words]


def pings(params: Params, host: Host, paths: HostPaths) -> list[str]:
    """Return the pings of the matrix as single commands."""
    return [
        f"{paths.hccn_tool} -i {pair.source.card} -ping -g address {pair.address}"
        for pair in pairs(params, host)
        if pair.turn < 0
    ]


def connect(params: Params, host: Host) -> paramiko.SSHClient:
    """Connect as cheaply as paramiko can: without Nagle, with one key."""
    ssh = params.cluster.ssh
    raw = socket.create_connection((host.address, ssh.port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = paramiko.SSHClient()
    client.load_host_keys(str(home() / str(ssh.known_hosts)))
    client.connect(
        host.address,
        port=ssh.port,
        username=ssh.user,
        key_filename=str(home() / str(ssh.key)),
        sock=raw,
        look_for_keys=False,
        allow_agent=False,
        banner_timeout=120,
        auth_timeout=120,
    )
    return client


def home() -> Path:
    """Return the benchmark's own project folder."""
    return Path(os.environ["RUNBOOK_HOME"])


def run_one(client: paramiko.SSHClient, line: str) -> str:
    """Run one line and return its output."""
    _, out, _ = client.exec_command(line)
    text: str = out.read().decode()
    out.channel.recv_exit_status()
    return text


def batch(lines: list[str]) -> str:
    """Return one script that runs all lines and marks them."""
    return "\n".join(f"echo '#{number}'; {line}; echo \"rc=$?\"" for number, line in enumerate(lines))


def batched(params: Params, lines: dict[str, list[str]]) -> None:
    """Let a thread per host run the whole script. Raises RuntimeError when an answer is not whole."""
    short: list[str] = []

    def work(host: Host) -> None:
        try:
            client = connect(params, host)
            text = run_one(client, batch(lines[host.name]))
            client.close()
        except Exception as error:  # noqa: BLE001 - told in the main thread
            short.append(f"{host.name}: {error}")
            return
        if text.count("rc=") != len(lines[host.name]):
            short.append(f"{host.name}: {text.count('rc=')} of {len(lines[host.name])} answers")

    threads = [threading.Thread(target=work, args=(host,)) for host in params.cluster.hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if short:
        raise RuntimeError("; ".join(short[:3]))


def single(params: Params, lines: dict[str, list[str]]) -> float:
    """Return what one command at a time, by fabric as it comes, would take on all hosts, from some of them."""
    measured = params.cluster.hosts[:SINGLE_HOSTS]
    ssh = params.cluster.ssh
    keys = {"key_filename": str(home() / str(ssh.key)), "look_for_keys": False, "allow_agent": False}
    began = time.perf_counter()
    for host in measured:
        with fabric.Connection(host.address, user=ssh.user, port=ssh.port, connect_kwargs=keys) as connection:
            for line in lines[host.name]:
                connection.run(line, hide=True, warn=True, in_stream=False)
    return (time.perf_counter() - began) * len(params.cluster.hosts) / len(measured)


def ours(params: Params) -> None:
    """Observe by the stages. Raises RuntimeError when a host is missing."""
    cluster = Cluster(params, home())
    try:
        probes = cluster.probe([stage(name) for name in STAGES])
        for name in STAGES:
            seen, facts = cluster.follow_up(stage(name), probes[name])
            lost = [each.host for each in seen.values() if each.error]
            if lost:
                raise RuntimeError(f"{name}: no answer of {', '.join(lost)}")
            stage(name).module.check(facts, params)
    finally:
        cluster.close()


def timed(work: Callable[[], None]) -> float:
    """Return the wall time in s."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def outside(argv: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Return how long another tool takes in s, infinity when it fails: nothing is shown then."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            argv, cwd=folder, env=os.environ | environment, capture_output=True, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return math.inf
    return time.perf_counter() - began if done.returncode == 0 else math.inf


def ansible(program: str, params: Params, lines: dict[str, list[str]], folder: Path) -> float:
    """Run the script by ansible's raw module."""
    ssh = params.cluster.ssh
    options = f"ansible_port={ssh.port} ansible_user={ssh.user} ansible_ssh_private_key_file={home() / str(ssh.key)}"
    rows = [f"{host.name} ansible_host={host.address} {options}" for host in params.cluster.hosts]
    (folder / "inventory.ini").write_text("[all]\n" + "\n".join(rows) + "\n", encoding="utf-8")
    tasks = [{"raw": "{{ script }}", "changed_when": False}]
    play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (folder / "play.json").write_text(json.dumps(play), encoding="utf-8")
    variables = folder / "host_vars"
    variables.mkdir(exist_ok=True)
    for name, each in lines.items():
        (variables / f"{name}.json").write_text(json.dumps({"script": batch(each)}), encoding="utf-8")
    settings = {
        "ANSIBLE_FORKS": str(len(params.cluster.hosts)),
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s",
    }
    return outside([program, "-i", "inventory.ini", "play.json"], folder, settings)


def pyinfra(program: str, params: Params, lines: dict[str, list[str]], folder: Path) -> float:
    """Run the script by pyinfra's shell operation."""
    ssh = params.cluster.ssh
    nodes = [
        (
            host.address,
            {
                "ssh_port": ssh.port,
                "ssh_user": ssh.user,
                "ssh_key": str(home() / str(ssh.key)),
                "ssh_strict_host_key_checking": "off",
                "script": batch(lines[host.name]),
            },
        )
        for host in params.cluster.hosts
    ]
    (folder / "inventory.py").write_text(f"nodes = {nodes!r}\n", encoding="utf-8")
    deploy = "from pyinfra import host\nfrom pyinfra.operations import server\n"
    (folder / "deploy.py").write_text(
        f"{deploy}server.shell(name='reads', commands=[host.data.script])\n", encoding="utf-8"
    )
    return outside([program, "-y", "inventory.py", "deploy.py"], folder, {"HOME": str(folder)})


def configure(params: Params) -> None:
    """Give every card what params want, hosts side by side."""
    cluster = Cluster(params, home())
    for name in STAGES:
        module = stage(name).module
        changes = module.plan(cluster.observe(stage(name))[1], params)

        def work(host: str, changes: tuple[Change, ...] = tuple(changes)) -> None:
            for change in changes:
                if change.subject.host == host:
                    cluster.apply(change, lambda *_: None, Signs())

        threads = [threading.Thread(target=work, args=(host.name,)) for host in params.cluster.hosts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    cluster.close()


def runbook(*words: str) -> None:
    """Run a runbook command in the benchmark's own folder."""
    done = subprocess.run(
        [sys.executable, "-m", "runbook_lib", *words], cwd=home(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr or done.stdout}")


def measure(hosts: int, given: argparse.Namespace, folder: Path) -> bool:
    """Measure one size; print a row; return whether the goals hold."""
    for name in ("params", "notebooks", "outputs"):
        (folder / name).mkdir()
    file = folder / "params" / "speed.yaml"
    file.write_text(params_text(hosts, given.network), encoding="utf-8")
    os.environ["RUNBOOK_HOME"] = str(folder)
    tools = (("ansible", given.ansible, ansible), ("pyinfra", given.pyinfra, pyinfra))
    runbook("twin", "up", str(file))
    try:
        params = load_params(file)
        configure(params)
        probes, _ = Cluster(params, folder).observe(stage("gateway"))
        lines = {host.name: commands_of(params, host, probes[host.name].paths) for host in params.cluster.hosts}
        own, plain_loop = [], []
        others: dict[str, list[float]] = {name: [] for name, program, _ in tools if program}
        for _ in range(given.rounds):  # all in every round, so that what else the machine does meets all alike
            plain_loop.append(timed(lambda: batched(params, lines)))
            own.append(timed(lambda: ours(params)))
            for name, program, tool in tools:
                if program:
                    others[name].append(tool(program, params, lines, folder))
        slow = single(params, lines)
    finally:
        runbook("twin", "down", str(file))
    best = {name: min(seconds) for name, seconds in others.items()}
    return report(hosts, len(next(iter(lines.values()))), min(own), min(plain_loop), slow, best)


def report(  # noqa: PLR0913, PLR0917 - what was measured
    hosts: int, reads: int, own: float, plain_loop: float, slow: float, others: dict[str, float]
) -> bool:
    """Print a row and say whether the goals hold."""
    ratio, gain = own / plain_loop, slow / own
    good = ratio <= BATCHED_GOAL and gain >= SINGLE_GOAL
    said = [f"{name} {'failed' if math.isinf(seconds) else f'{seconds:.2f} s'}" for name, seconds in others.items()]
    good = good and all(own < seconds < math.inf for seconds in others.values())
    print(
        f"{hosts:>3} hosts x {reads} reads: ours {own:.2f} s, batched loop {plain_loop:.2f} s (x{ratio:.2f}), "
        f"one at a time {slow:.1f} s (x{gain:.1f} faster)",
        *said,
        "" if good else "GOAL MISSED",
        flush=True,
    )
    return good


def main() -> int:
    """Measure every size; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", default="4,16,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", default="127.84.5")
    parser.add_argument("--ansible", default="", help="path of ansible-playbook")
    parser.add_argument("--pyinfra", default="", help="path of pyinfra")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the twin is taken down
    good = True
    for hosts in map(int, given.hosts.split(",")):
        with tempfile.TemporaryDirectory(prefix="observe-speed-") as folder:
            good = measure(hosts, given, Path(folder)) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
