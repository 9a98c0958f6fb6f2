"""Tamper with a signed record in many ways; every way must be found, and an untouched record must raise no alarm.

Makes a cluster with three signed runs (one of them resumed after it had ended; `--run` puts a copy of a real run
first), and one mutation at a time on a fresh copy, made by somebody who can write all of `outputs/` and has a key of
their own, but neither the trusted key nor the hosts. Prints found/total and false alarms; exit 1 unless all of the
mutations and none of the untouched copies were called out.

    python benchmarks/tamper_campaign.py --cases 300 --untouched 50 --seed 1 [--run outputs/CLUSTER/RUN]
"""

# ruff: noqa: D102 - the names of the attacks say what they do

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import runbook_lib
from runbook_lib.params import load_params
from runbook_lib.runs import events
from runbook_lib.runs.audit import audit_cluster, audit_run
from runbook_lib.runs.close import sign_run
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.heads import Head, HostHeads
from runbook_lib.runs.history import params_text
from runbook_lib.runs.manifest import MANIFEST, SIGNATURE, seal, unseal, write_manifest
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.report import write_report
from runbook_lib.runs.signers import Trust, trust

if TYPE_CHECKING:
    from collections.abc import Callable

CLUSTER = "twin-2x8-direct"
OPERATOR = "alice@ops"
FIRST_RUN = "20260101T030405.678Z-0e0f"
RUN_IDS = ("20260102T030405.678Z-1a2b", "20260103T030405.678Z-3c4d", "20260104T030405.678Z-5e6f")


@dataclass(frozen=True)
class World:
    """The untouched record, what the hosts know of it, whom the auditor trusts, and what the attacker has."""

    parent: Path
    heads: dict[str, HostHeads]
    trusted: Trust
    attacker_key: Path
    foreign: Path
    earlier: Path

    def found(self, parent: Path) -> str:
        """Return the first problem that the audit names, "" when it finds none."""
        audit = audit_cluster(parent, self.trusted, self.heads)
        first = audit.problems[0].seen if audit.problems else ""
        if audit.ok != (not first):
            raise AssertionError(f"the audit is {audit.ok} and says {first!r}")
        return first


def make_key(path: Path) -> str:
    """Write a new Ed25519 key, and return the public one as a line."""
    key = Ed25519PrivateKey.generate()
    private = serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    path.chmod(0o600)
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _result(stage: str, verdict: str) -> dict[str, Any]:
    subject = {"host": "node1", "card": 0, "item": ""}
    finding: dict[str, Any] = {"code": "NET-GATEWAY-MISSING", "stage": stage, "subject": subject, "verdict": verdict}
    finding |= {"seen": "192.168.11.203", "expected": "192.168.11.203", "next_command": "", "transient": False}
    return {
        "name": stage,
        "mode": "apply",
        "verdict": verdict,
        "findings": [finding],
        "changes": [{"subject": subject, "summary": "set gateway", "before": "", "after": "x", "state": "done"}],
        "plan": None,
        "waits_for": [],
        "error": "",
        "seconds": 1.25,
        "facts": {"hosts": {"node1": {"architecture": "aarch64"}}},
    }


def record_stage(folder: RunFolder, log: EventLog, stage: str) -> None:
    """Record one applied stage as a notebook does."""
    log.append("stage_start", stage=stage, mode="apply", params=CLUSTER, by=OPERATOR)
    log.append("plan", stage=stage, digest="3479ec16b452bf02", provisional=False)
    log.append("apply_start", stage=stage, digest="3479ec16b452bf02", approved_by=OPERATOR)
    for index in range(4):
        log.append("change_start", stage=stage, index=index, summary=f"set gateway of card {index}", undo=None)
        log.append("change_end", stage=stage, index=index, state="done")
    log.append("commands", stage=stage, commands=[{"host": "node1", "argv": ["hccn_tool", "-i", "0"], "exit": 0}])
    log.append("stage_end", stage=stage, verdict="ok", error="")
    folder.write_json(folder.stage_json(stage), _result(stage, "ok"))
    cells = [{"cell_type": "code", "source": f"stage.apply()  # {stage}", "outputs": [], "metadata": {}}]
    folder.write_json(folder.notebook(stage), {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    folder.notebook(stage).with_suffix(".html").write_text(f"<h1>{stage}</h1>\n" * 40, encoding="utf-8")


def close(folder: RunFolder, key: Path, hosts: dict[str, list[Head]]) -> None:
    """Close, sign and anchor a run as the runner does, on hosts that are lists here."""
    log = EventLog(folder.events, Redactor())
    log.append("run_end", ok=True, stopped_by="")
    last = events.read(folder.events)[-1]
    for known in hosts.values():
        known.append(Head(folder.run_id, last.seq, last.hash, OPERATOR))
    log.append("anchored", head=last.hash, events=last.seq, hosts=dict.fromkeys(hosts, ""))
    write_report(folder)
    write_manifest(folder)
    sign_run(folder, key)
    seal(folder)


def make_run(parent: Path, run_id: str, key: Path, hosts: dict[str, list[Head]]) -> RunFolder:
    """Make a signed run of two stages."""
    folder = RunFolder(parent / run_id)
    folder.path.mkdir(parents=True)
    root = Path(runbook_lib.__file__).parents[1]
    log = EventLog(folder.events, Redactor())
    text = params_text(load_params(root / "params" / f"{CLUSTER}.yaml"))
    log.append("run_start", mode="apply", by=OPERATOR, twin=True, stages=["preflight", "network"], params=text)
    log.append("approval", by=OPERATOR, yes=True, digests=[])
    for stage in ("preflight", "network"):
        record_stage(folder, log, stage)
    close(folder, key, hosts)
    return folder


def make_world(root: Path, real: Path | None = None) -> World:
    """Make the record, another cluster's record by the same trusted key, and an earlier state of a resumed run."""
    config = root / "config"
    config.mkdir(parents=True)
    public = make_key(config / "trusted")
    make_key(config / "attacker")
    allowed = config / "allowed_signers"
    allowed.write_text(f'# who may sign\n{OPERATOR} namespaces="ascend-runbook-run" {public}\n', encoding="utf-8")
    parent = root / "outputs" / CLUSTER
    hosts: dict[str, list[Head]] = {"node1": [], "node2": []}
    if real is not None:
        _adopt(real, parent, config / "trusted")
    runs = [make_run(parent, run_id, config / "trusted", hosts) for run_id in RUN_IDS]
    earlier = root / "earlier" / runs[-1].run_id
    shutil.copytree(runs[-1].path, earlier)
    unseal(runs[-1])
    record_stage(runs[-1], EventLog(runs[-1].events, Redactor()), "network")
    close(runs[-1], config / "trusted", hosts)
    foreign = make_run(root / "outputs" / "other", "20260105T030405.678Z-7a8b", config / "trusted", {"node9": []})
    trusted = trust(root / "outputs", CLUSTER, allowed)
    heads = {name: HostHeads(tuple(known)) for name, known in hosts.items()}
    return World(parent, heads, trusted, config / "attacker", foreign.path, earlier)


def _adopt(real: Path, parent: Path, key: Path) -> None:
    folder = RunFolder(parent / FIRST_RUN)  # older than the others, whenever it was made
    shutil.copytree(real, folder.path)
    for name in (MANIFEST, SIGNATURE):
        (folder.path / name).unlink(missing_ok=True)
    write_manifest(folder)
    sign_run(folder, key)


class Attack:
    """Mutations of one copy of the record, by somebody who may write all of it."""

    def __init__(self, world: World, parent: Path, rng: random.Random) -> None:
        self.world = world
        self.parent = parent
        self.rng = rng
        self.runs = [RunFolder(path) for path in sorted(parent.iterdir())]
        self.run = rng.choice(self.runs)
        unseal(self.run)

    # --- bytes ---

    def _file(self, *, without: tuple[str, ...] = ()) -> Path:
        names = [path for path in sorted(self.run.path.rglob("*")) if path.is_file() and path.stat().st_size]
        return self.rng.choice([path for path in names if path.name not in without])

    def byte_changed(self) -> str:
        path = self._file()
        data = bytearray(path.read_bytes())
        at = self.rng.randrange(len(data))
        data[at] ^= self.rng.randrange(1, 256)
        path.write_bytes(data)
        return f"{path.name} byte {at}"

    def bit_of_signature_changed(self) -> str:
        path = self.run.path / SIGNATURE
        data = bytearray(path.read_bytes())
        data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        path.write_bytes(data)
        return "signature"

    def bytes_inserted(self) -> str:
        path = self._file()
        data = path.read_bytes()
        at = self.rng.randrange(len(data) + 1)
        path.write_bytes(data[:at] + self.rng.choice([b" ", b"\n", b"\0", b"x", b"[]"]) + data[at:])
        return f"{path.name} at {at}"

    def bytes_deleted(self) -> str:
        path = self._file()
        data = path.read_bytes()
        at, size = self.rng.randrange(len(data)), self.rng.randrange(1, 40)
        path.write_bytes(data[:at] + data[at + size :])
        return f"{path.name} at {at}"

    def truncated(self) -> str:
        path = self._file()
        data = path.read_bytes()
        path.write_bytes(data[: self.rng.randrange(len(data))])
        return path.name

    # --- events ---

    def _lines(self) -> list[bytes]:
        return self.run.events.read_bytes().splitlines(keepends=True)

    def _edit_lines(self) -> tuple[list[bytes], str]:
        lines = self._lines()
        at = self.rng.randrange(len(lines) - 1)
        kind = self.rng.choice(["removed", "doubled", "swapped", "tail removed", "moved"])
        if kind == "removed":
            del lines[at]
        elif kind == "doubled":
            lines.insert(at, lines[at])
        elif kind == "swapped":
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        elif kind == "tail removed":
            del lines[at + 1 :]
        else:
            lines.append(lines.pop(at))
        return lines, f"line {at} {kind}"

    def events_edited(self) -> str:
        lines, what = self._edit_lines()
        self.run.events.write_bytes(b"".join(lines))
        return what

    def _forge_chain(self) -> str:
        """Edit the events and compute all hashes anew."""
        lines, what = self._edit_lines()
        parsed = [json.loads(line) for line in lines]
        if self.rng.choice([True, False]):
            victim = self.rng.choice(parsed)
            victim["data"]["verdict"] = "ok"
            victim["data"]["forged"] = self.rng.randrange(1000)
            what += f", event {victim['seq']} rewritten"
        prev, out = "", []
        for number, event in enumerate(parsed, 1):
            made = events.Event(number, event["time"], event["kind"], event["pid"], event["data"], prev, "")
            prev = events._hash(made)  # noqa: SLF001 - an attacker has our source
            out.append(events._line(events.Event(**{**asdict(made), "hash": prev})) + b"\n")  # noqa: SLF001 - see above
        self.run.events.write_bytes(b"".join(out))
        return what

    def chain_forged(self) -> str:
        return self._forge_chain()

    def event_added_after_the_end(self) -> str:
        EventLog(self.run.events, Redactor()).append("approval", by=OPERATOR, yes=True)
        return "one event"

    def chain_and_manifest_forged_unsigned(self) -> str:
        what = self._forge_chain()
        write_manifest(self.run)
        return what

    def chain_and_manifest_forged_signature_kept(self) -> str:
        signature = (self.run.path / SIGNATURE).read_bytes()
        what = self._forge_chain()
        write_manifest(self.run)
        (self.run.path / SIGNATURE).write_bytes(signature)
        return what

    def chain_and_manifest_forged_by_a_stranger(self) -> str:
        what = self._forge_chain()
        write_manifest(self.run)
        sign_run(self.run, self.world.attacker_key)
        return what

    def file_and_manifest_forged_by_a_stranger(self) -> str:
        path = self._file(without=("events.jsonl", MANIFEST, SIGNATURE))
        path.write_bytes(path.read_bytes().replace(b"ok", b"no") + b"\n")
        write_manifest(self.run)
        sign_run(self.run, self.world.attacker_key)
        return path.name

    def made_to_look_interrupted(self) -> str:
        what = self._forge_chain()
        for name in (MANIFEST, SIGNATURE):
            (self.run.path / name).unlink()
        return what

    # --- files ---

    def file_added(self) -> str:
        name = self.rng.choice(["notes.txt", ".hidden", "weights.json", "events.torn", "sub/notes.txt", "x.sig"])
        path = self.run.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.rng.choice([b"", b"hello\n"]))
        return name

    def folder_added(self) -> str:
        (self.run.path / "empty").mkdir()
        return "an empty folder"

    def file_removed(self) -> str:
        path = self._file()
        path.unlink()
        return path.name

    def file_renamed(self) -> str:
        path = self._file()
        path.rename(path.with_name(f"{path.stem}-old{path.suffix}"))
        return path.name

    def files_swapped(self) -> str:
        one = self._file(without=(SIGNATURE,))
        two = self._file(without=(SIGNATURE, one.name))
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
        return f"{one.name} and {two.name}"

    def file_of_another_run(self) -> str:
        other = self.rng.choice([run for run in self.runs if run != self.run])
        path = self.run.path / self.rng.choice(["events.jsonl", MANIFEST, SIGNATURE, "report.html"])
        path.write_bytes((other.path / path.name).read_bytes())
        return path.name

    def manifest_and_signature_of_another_run(self) -> str:
        other = self.rng.choice([run for run in self.runs if run != self.run])
        for name in (MANIFEST, SIGNATURE):
            (self.run.path / name).write_bytes((other.path / name).read_bytes())
        return other.run_id

    def file_made_a_link(self) -> str:
        path = self._file()
        aside = self.parent.parent / f"aside-{path.name}"
        path.rename(aside)
        path.symlink_to(aside)
        return path.name

    def lock_file_filled(self) -> str:
        events.lock_path(self.run.events).write_bytes(b"\0" * 7)
        return "lock file"

    # --- manifest and signature ---

    def manifest_field_edited(self) -> str:
        path = self.run.path / MANIFEST
        said = json.loads(path.read_bytes())
        name: str = self.rng.choice(sorted(said))
        said[name] = self.rng.choice([None, "", {}, [], 2, "forged"])
        if json.loads(path.read_bytes()) == said:
            said["added"] = True
        path.write_text(json.dumps(said, indent=1, sort_keys=True), encoding="utf-8")
        return name

    def manifest_respelled(self) -> str:
        path = self.run.path / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_bytes())), encoding="utf-8")
        return "the same JSON without blanks"

    def signature_respelled(self) -> str:
        path = self.run.path / SIGNATURE
        begin, *lines, end = path.read_text(encoding="ascii").splitlines()
        body = base64.b64encode(base64.b64decode("".join(lines))).decode()
        path.write_text(f"{begin}\n{body}\n{end}\n", encoding="ascii")
        return "in one line"

    def signature_removed(self) -> str:
        (self.run.path / SIGNATURE).unlink()
        return "signature"

    def signed_by_a_stranger(self) -> str:
        sign_run(self.run, self.world.attacker_key)
        return "the untouched manifest"

    # --- runs ---

    def run_removed(self) -> str:
        shutil.rmtree(self.run.path)
        return self.run.run_id

    def newest_runs_removed(self) -> str:
        count = self.rng.randrange(1, len(self.runs))
        for run in self.runs[-count:]:
            shutil.rmtree(run.path)
        return f"{count} runs"

    def run_renamed(self) -> str:
        name = self.rng.choice(["20260103T000000.000Z-0000", "20270103T000000.000Z-0000", "old-run", "..run"])
        self.run.path.rename(self.parent / name)
        return name

    def run_copied(self) -> str:
        name = self.rng.choice(["20260101T000000.000Z-0000", "20260103T000000.000Z-0000", "20270103T000000.000Z-0000"])
        shutil.copytree(self.run.path, self.parent / name)
        return name

    def run_inserted_by_a_stranger(self) -> str:
        name = self.rng.choice(["20260101T000000.000Z-0000", "20260103T000000.000Z-0000", "20270103T000000.000Z-0000"])
        folder = RunFolder(self.parent / name)
        shutil.copytree(self.run.path, folder.path)
        write_manifest(folder)
        sign_run(folder, self.world.attacker_key)
        return name

    def runs_swapped(self) -> str:
        other = self.rng.choice([run for run in self.runs if run != self.run])
        aside = self.parent / "aside"
        self.run.path.rename(aside)
        other.path.rename(self.run.path)
        aside.rename(other.path)
        return f"{self.run.run_id} and {other.run_id}"

    def run_of_another_cluster(self) -> str:
        target = self.rng.choice([self.run.path, self.parent / self.world.foreign.name])
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(self.world.foreign, target)
        return target.name

    def run_made_a_link(self) -> str:
        aside = self.parent.parent / "aside-run"
        self.run.path.rename(aside)
        self.run.path.symlink_to(aside)
        return self.run.run_id

    def run_put_back_to_an_earlier_signed_state(self) -> str:
        newest = self.parent / self.world.earlier.name
        shutil.rmtree(newest)
        shutil.copytree(self.world.earlier, newest)
        return newest.name


ATTACKS: list[str] = [name for name in vars(Attack) if not name.startswith("_")]


def untouched(parent: Path, rng: random.Random) -> None:
    """Do what is no tampering: modes, times, the lock file of the writers."""
    for path in parent.rglob("*"):
        if path.is_file() and rng.choice([True, False]):
            path.chmod(rng.choice([0o444, 0o600, 0o644]))
            os.utime(path, (rng.randrange(1, 2**31), rng.randrange(1, 2**31)))
    for folder in parent.iterdir():
        lock = events.lock_path(folder / "events.jsonl")
        if rng.choice([True, False]):
            lock.unlink(missing_ok=True)


def one(world: World, scratch: Path, rng: random.Random, attack: str = "") -> tuple[str, str]:
    """Tamper with a fresh copy (or leave it as it is), and return what was done and what the audit says first."""
    parent = scratch / "outputs" / CLUSTER
    shutil.copytree(world.parent, parent, symlinks=True)
    try:
        what = ""
        if attack:
            mutation: Callable[[], str] = getattr(Attack(world, parent, rng), attack)
            what = mutation()
        else:
            untouched(parent, rng)
        return what, world.found(parent)
    finally:
        shutil.rmtree(scratch / "outputs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=320)
    parser.add_argument("--untouched", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a real run to put first")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def main() -> int:
    options = _options()
    rng = random.Random(options.seed)  # noqa: S311 - cases that can be repeated, no secrets
    began = time.monotonic()
    total, found, alarms = Counter[str](), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="tamper-") as name:
        world = make_world(Path(name, "world"), options.run.resolve() if options.run else None)
        for run in sorted(world.parent.iterdir()):
            alone = audit_run(RunFolder(run), world.trusted)
            if alone.problems:
                print(f"{run.name}: {alone.problems[0].seen}")
                return 1
        for number in range(options.cases):
            attack = ATTACKS[number % len(ATTACKS)]
            what, said = one(world, Path(name, "scratch"), rng, attack)
            total[attack] += 1
            found[attack] += bool(said)
            if options.verbose or not said:
                print(f"{attack}: {what}: {said or 'NOT FOUND'}")
        for _ in range(options.untouched):
            _, said = one(world, Path(name, "scratch"), rng)
            alarms += bool(said)
            if said:
                print(f"untouched: FALSE ALARM: {said}")
    for attack in ATTACKS:
        print(f"{attack:<45} {found[attack]:>4} / {total[attack]}")
    print(
        f"found {found.total()} / {total.total()}, false alarms {alarms} / {options.untouched}, "
        f"{time.monotonic() - began:.0f} s, seed {options.seed}"
    )
    return 0 if found.total() == total.total() and not alarms else 1


if __name__ == "__main__":
    sys.exit(main())
