"""A signed record: every kind of tampering is found, and named; an untouched one raises no alarm."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import UsageError
from runbook_lib.runs.audit import Holds, audit_cluster, audit_run
from runbook_lib.runs.close import close_by_hand, sign_run
from runbook_lib.runs.events import EventLog
from runbook_lib.runs.folder import RunFolder
from runbook_lib.runs.heads import Head, HostHeads
from runbook_lib.runs.manifest import MANIFEST, SIGNATURE, unseal
from runbook_lib.runs.redaction import Redactor
from runbook_lib.runs.signatures import NAMESPACE
from runbook_lib.runs.signers import make_key, signing_key, trust

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
SEED = 7


def _load() -> Any:
    name = "tamper_campaign"
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


CAMPAIGN = _load()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return CAMPAIGN.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def record(world: Any, tmp_path: Path) -> Path:
    """Return a fresh copy of the record that may be changed."""
    parent = tmp_path / "outputs" / str(CAMPAIGN.CLUSTER)
    shutil.copytree(world.parent, parent)
    for path in parent.iterdir():
        unseal(RunFolder(path))
    return parent


def runs_of(parent: Path) -> list[RunFolder]:
    return [RunFolder(path) for path in sorted(parent.iterdir())]


@pytest.mark.parametrize("attack", CAMPAIGN.ATTACKS)
def test_tampering_is_found(world: Any, tmp_path: Path, attack: str) -> None:
    rng = random.Random(f"{SEED} {attack}")  # noqa: S311 - a case that can be repeated, no secret
    what, said = CAMPAIGN.one(world, tmp_path, rng, attack)
    assert said, f"{attack} ({what}) was not found"


def test_an_untouched_record_raises_no_alarm(world: Any, tmp_path: Path) -> None:
    for seed in range(3):
        rng = random.Random(seed)  # noqa: S311 - see above
        assert CAMPAIGN.one(world, tmp_path, rng) == ("", "")
    for run in runs_of(world.parent):
        found = audit_run(run, world.trusted)
        assert (found.verdict, found.signer) == (Holds.OK, CAMPAIGN.OPERATOR)


def test_the_first_thing_is_named(world: Any, record: Path) -> None:
    run = runs_of(record)[1]
    (run.path / "network.json").write_text("{}")
    found = audit_cluster(record, world.trusted, world.heads)
    assert not found.ok
    assert found.problems[0].seen.startswith(f"{run.run_id}: network.json: was changed")
    assert audit_run(run, world.trusted).verdict is Holds.FAIL


def test_who_is_not_trusted_is_unknown_and_never_ok(world: Any, record: Path) -> None:
    run = runs_of(record)[0]
    nobody = replace(world.trusted, names={})
    found = audit_run(run, nobody)
    assert found.verdict is Holds.UNKNOWN
    assert "stranger" in found.problems[0].seen
    assert not audit_cluster(record, nobody, world.heads).ok
    (run.path / SIGNATURE).unlink()
    assert "unsigned" in audit_run(run, world.trusted).problems[0].seen


@pytest.mark.parametrize("closed", [True, False])
def test_a_stage_without_an_end_is_interrupted_whatever_its_notebook_says(
    world: Any, tmp_path: Path, *, closed: bool
) -> None:
    run = RunFolder(tmp_path / "outputs" / "c" / CAMPAIGN.RUN_IDS[0])
    run.path.mkdir(parents=True)
    log = EventLog(run.events, Redactor())
    log.append("run_start")
    # a process that is gone: no pid is that large
    _with_pid(run, lambda: log.append("stage_start", stage="network", mode="apply"), 2**30)
    run.notebook("network").write_text('{"metadata": {"papermill": {"status": "completed"}}}')
    if closed:
        run.notebook("network").with_suffix(".html").write_text("<p>")
        close_by_hand(run, "alice@ops", print)
        sign_run(run, world.trusted.files[0].with_name("trusted"))
    found = audit_run(run, world.trusted)
    assert found.verdict is Holds.INTERRUPTED
    assert "stage network has a start and no end" in found.problems[0].seen
    # signed, the record of an interrupted run is a record that holds
    assert found.record_holds is closed


def _with_pid(run: RunFolder, append: Callable[[], object], pid: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.getpid", lambda: pid)
        append()
    assert f'"pid":{pid}' in run.events.read_text()


def test_the_removal_of_the_newest_run_needs_the_hosts(world: Any, record: Path) -> None:
    newest = runs_of(record)[-1]
    shutil.rmtree(newest.path)
    offline = audit_cluster(record, world.trusted, None, offline=True)
    assert offline.ok
    assert offline.anchor.holds is Holds.UNANCHORED
    found = audit_cluster(record, world.trusted, world.heads)
    assert not found.ok
    assert found.problems[0].seen.startswith(f"{newest.run_id}: is missing: node1 has its head")


def test_hosts_that_cannot_be_asked_are_unknown(world: Any, record: Path) -> None:
    silent = {name: HostHeads(error="no route") for name in world.heads}
    found = audit_cluster(record, world.trusted, silent)
    assert not found.ok
    assert found.anchor.holds is Holds.UNKNOWN
    one = {"node1": world.heads["node1"], "node2": HostHeads(error="no route")}
    assert audit_cluster(record, world.trusted, one).ok
    forgot = {name: HostHeads() for name in world.heads}
    assert audit_cluster(record, world.trusted, forgot).problems[0].holds is Holds.UNKNOWN
    assert not audit_cluster(record, world.trusted).ok  # nobody asked, and nobody said that this is meant


def test_a_run_of_somebody_else_is_not_called_removed(world: Any, record: Path) -> None:
    others = Head("20260106T030405.678Z-9c0d", 3, "0" * 64, "bob@elsewhere")
    heads = {name: HostHeads((*known.heads, others)) for name, known in world.heads.items()}
    problem = audit_cluster(record, world.trusted, heads).problems[0]
    assert problem.holds is Holds.UNKNOWN
    assert "not in this record" in problem.seen


def test_trust_comes_from_outside_the_record(world: Any, record: Path, tmp_path: Path) -> None:
    outputs = record.parent
    inside = record / "allowed_signers"
    shutil.copy(world.trusted.files[0], inside)
    with pytest.raises(UsageError, match="lies inside"):
        trust(outputs, CAMPAIGN.CLUSTER, inside)
    link = tmp_path / "signers"
    link.symlink_to(inside)
    with pytest.raises(UsageError, match="lies inside"):
        trust(outputs, CAMPAIGN.CLUSTER, link)
    inside.rename(tmp_path / "open")
    (tmp_path / "open").chmod(0o666)
    with pytest.raises(UsageError, match="everybody may write"):
        trust(outputs, CAMPAIGN.CLUSTER, tmp_path / "open")


def test_lines_that_are_not_understood_trust_nobody(world: Any, tmp_path: Path) -> None:
    line = world.trusted.files[0].read_text().splitlines()[1]
    name, key = line.split(" ", 1)[0], " ".join(line.split()[-2:])
    allowed = tmp_path / "allowed"
    for good in (f"{name} {key}", f'{name} namespaces="git,{NAMESPACE}" {key} a comment'):
        allowed.write_text(f"{good}\n")
        assert list(trust(tmp_path / "outputs", "c", allowed).names.values()) == [name]
    for bad in (f"#{name} {key}", f'{name} namespaces="git" {key}', f'{name} valid-before="20200101" {key}', key, "'"):
        allowed.write_text(f"{bad}\n")
        assert trust(tmp_path / "outputs", "c", allowed).names == {}


def test_a_cluster_may_have_signers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("RUNBOOK_SIGNING_KEY", raising=False)
    key = make_key("demo", "demo@here")
    assert make_key("demo", "demo@here") == key == signing_key("demo")
    assert key.stat().st_mode & 0o777 == 0o600
    assert list(trust(tmp_path / "outputs", "demo").names.values()) == ["demo@here"]
    assert signing_key("other") is None
    assert trust(tmp_path / "outputs", "other").names == {}


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
def test_signatures_are_those_of_openssh(world: Any, record: Path) -> None:
    run = runs_of(record)[0]
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(world.trusted.files[0]), "-I", CAMPAIGN.OPERATOR, "-n", NAMESPACE]
    verify += ["-s", str(run.path / SIGNATURE)]
    content = (run.path / MANIFEST).read_bytes()
    assert subprocess.run(verify, input=content, capture_output=True, check=False).returncode == 0
    key = str(world.trusted.files[0].with_name("trusted"))
    sign = ["ssh-keygen", "-Y", "sign", "-f", key, "-n", NAMESPACE]
    theirs = subprocess.run(sign, input=content, capture_output=True, check=True).stdout
    (run.path / SIGNATURE).write_bytes(theirs)
    assert audit_run(run, world.trusted).verdict is Holds.OK
    sign[-1] = "git"
    other = subprocess.run(sign, input=content, capture_output=True, check=True).stdout
    (run.path / SIGNATURE).write_bytes(other)
    assert "was made for 'git'" in audit_run(run, world.trusted).problems[0].seen


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs OpenSSH")
def test_a_key_with_a_passphrase_is_left_to_openssh(record: Path, tmp_path: Path) -> None:
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret passphrase", "-f", str(tmp_path / "key")]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSH_ASKPASS", "/bin/false")
        patch.setenv("SSH_ASKPASS_REQUIRE", "force")
        with pytest.raises(UsageError, match="ssh-keygen cannot sign"):
            sign_run(runs_of(record)[0], tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        sign_run(runs_of(record)[0], tmp_path / "key")
