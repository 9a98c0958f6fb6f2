"""From random legal states of the cards the network stages reach what params want, on the real twin.

    python benchmarks/apply_property.py [--cases 200] [--seed 0] [--network 127.84.9] [--reboot-every 20]

A twin of two hosts is started in a folder of its own. Each case brings the cards into a random state with hccn_tool
itself, applies the plans of `network` and `gateway`, and then demands that both plans are empty, that a second apply
does nothing, that every finding is ok, and, every few cases, that a reboot changes nothing. Exit 1 when one fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runbook_lib.model import Change, Command, Subject, Verdict
from runbook_lib.params import load_params
from runbook_lib.runs.cluster import Cluster, Signs
from runbook_lib.stages import stage

if TYPE_CHECKING:
    from runbook_lib.params import Params

ROOT = Path(__file__).resolve().parents[1]
SETTLE_S = 20.0


def runbook(home: Path, *words: str) -> None:
    """Run a runbook command in the benchmark's own folder."""
    environment = os.environ | {"RUNBOOK_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "runbook_lib", *words],
        env=environment, cwd=home, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr or done.stdout}")


def home_with_params(folder: Path, network: str) -> Path:
    """Make a project folder with a params file on the given loopback network; return the params file."""
    for name in ("params", "notebooks", "outputs"):
        (folder / name).mkdir()
    text = (ROOT / "params" / "twin-2x8-direct.yaml").read_text(encoding="utf-8")
    file = folder / "params" / "property.yaml"
    file.write_text(text.replace("127.77.1", network).replace("twin-2x8-direct", "property"), encoding="utf-8")
    return file


def random_settings(params: Params, dice: random.Random, tool: str) -> list[Change]:
    """Return changes that bring the cards into a random state that the tool accepts: strange addresses first."""
    changes = []

    def add(host: str, card: int, *words: str) -> None:
        action = Command((tool, "-i", str(card), *words))
        changes.append(Change(Subject(host, card), " ".join(words), "", "", action))

    for host in params.cluster.hosts:
        order = [card.ip for card in host.cards]
        dice.shuffle(order)
        for number, card in enumerate(host.cards):
            base = f"172.{16 + dice.randrange(16)}.{dice.randrange(256)}"
            add(host.name, card.id, "-ip", "-s", "address", f"{base}.{number + 1}", "netmask", "255.255.255.0")
            if dice.random() < 0.6:  # noqa: PLR2004 - a share of the cards
                add(host.name, card.id, "-gateway", "-s", "gateway", f"{base}.254")
        for number, card in enumerate(host.cards):
            if dice.random() < 0.6:  # noqa: PLR2004 - a share of the cards
                mask = dice.choice(["255.255.255.0", "255.255.0.0"])
                add(host.name, card.id, "-ip", "-s", "address", order[number], "netmask", mask)
            add(host.name, card.id, "-netdetect", "-s", "address", dice.choice(["0.0.0.0", "10.9.9.9", card.ip]))  # noqa: S104 - what the tool takes for none
            add(host.name, card.id, "-tls", "-s", "enable", dice.choice("01"))
            add(host.name, card.id, "-mtu", "-s", "size", dice.choice(["1500", "4200", "9000"]))
            add(host.name, card.id, "-fec", "-s", "encoding", dice.choice(["rs", "no", "auto"]))
    return changes


def apply_all(cluster: Cluster, changes: list[Change]) -> None:
    """Make the changes, hosts side by side, each host in order."""
    errors: list[Exception] = []

    def work(host: str) -> None:
        try:
            for change in changes:
                if change.subject.host == host:
                    cluster.apply(change, lambda *_: None, Signs())
        except Exception as error:  # noqa: BLE001 - told in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(host,)) for host in {each.subject.host for each in changes}]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def plan_of(cluster: Cluster, params: Params, name: str) -> list[Change]:
    """Probe, and return what a stage would change."""
    each = stage(name)
    return each.module.plan(cluster.observe(each)[1], params)


def problems(cluster: Cluster, params: Params, name: str) -> list[str]:
    """Return what is not ok in a stage, waiting for what is on its way."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        each = stage(name)
        found = each.module.check(cluster.observe(each)[1], params)
        bad = [one for one in found if one.verdict in {Verdict.FAIL, Verdict.UNKNOWN}]
        if not bad or not all(one.transient for one in bad) or time.monotonic() > deadline:
            return [f"{one.code} {one.subject}: {one.seen}" for one in bad]
        time.sleep(0.5)


def one_case(cluster: Cluster, params: Params, dice: random.Random) -> tuple[int, list[str]]:
    """Run one case; return how many changes it took, and what is wrong."""
    tool = f"{params.paths.ascend_root}/driver/tools/hccn_tool"
    apply_all(cluster, random_settings(params, dice, tool))
    made, wrong = 0, []
    for name in ("network", "gateway"):
        changes = plan_of(cluster, params, name)
        made += len(changes)
        apply_all(cluster, changes)
    for name in ("network", "gateway"):
        left = plan_of(cluster, params, name)
        wrong += [f"{name}: still planned: {each.subject} {each.summary}" for each in left]
        wrong += [f"{name}: {each}" for each in problems(cluster, params, name)]
    return made, wrong


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", default="127.84.9")
    parser.add_argument("--reboot-every", type=int, default=20)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the twin is taken down
    failed = 0
    with tempfile.TemporaryDirectory(prefix="apply-property-") as folder:
        home = Path(folder)
        file = home_with_params(home, given.network)
        os.environ["RUNBOOK_HOME"] = str(home)
        runbook(home, "twin", "up", str(file))
        try:
            failed = campaign(home, file, given)
        finally:
            runbook(home, "twin", "down", str(file))
            shutil.rmtree(home / "outputs", ignore_errors=True)
    return 1 if failed else 0


def campaign(home: Path, file: Path, given: argparse.Namespace) -> int:
    """Run all cases on one twin; return how many failed."""
    params = load_params(file)
    cluster, failed, changes, began = Cluster(params, home), 0, 0, time.monotonic()
    for number in range(given.cases):
        made, wrong = one_case(cluster, params, random.Random(given.seed + number))  # noqa: S311 - reproducible cases
        changes += made
        if given.reboot_every and number % given.reboot_every == given.reboot_every - 1:
            cluster.close()
            for host in params.cluster.hosts:
                runbook(home, "twin", "reboot", str(file), "--host", host.name)
            for name in ("network", "gateway"):
                left = plan_of(cluster, params, name)
                wrong += [f"after a reboot {name} plans {each.subject} {each.summary}" for each in left]
        failed += bool(wrong)
        for each in wrong[:5]:
            print(f"case {given.seed + number}: {each}")
    cluster.close()
    seconds = time.monotonic() - began
    print(f"{given.cases} states, {changes} changes, {failed} failed, {seconds:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
