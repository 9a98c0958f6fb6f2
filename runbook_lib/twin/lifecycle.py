"""What the command line and the tests call: power the twin on and off, ask it, break it, mend it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.errors import TwinDown, TwinError
from runbook_lib.twin.ask import exchange
from runbook_lib.twin.fault_list import FAULTS, Fault
from runbook_lib.twin.node import kill_marked
from runbook_lib.twin.processes import alive, start_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runbook_lib.params import Params

_STOP_TIMEOUT_S = 20.0
_ADMIN_TIMEOUT_S = 120.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class TwinHost:
    """One emulated host."""

    name: str
    address: str
    port: int
    up: bool
    boot_id: str


@dataclass(frozen=True, slots=True)
class TwinStatus:
    """`level` is L1a, L1b, L0 or ""; `reasons` say what this twin cannot show and why.

    After `inject`: why the fault cannot be had here (`skipped`). After `clear` and `hands`: what was `mended`.
    """

    up: bool
    level: str = ""
    pid: int = 0
    hosts: list[TwinHost] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    skipped: str = ""
    mended: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KnownTwin:
    """A twin that was made here once. `level` and `pid` are "" and 0 when it is down."""

    name: str
    up: bool
    level: str
    pid: int
    hosts: int


def twins(outputs: Path) -> list[KnownTwin]:
    """Return the twins below a folder of outputs, without asking them."""
    found = []
    for root in sorted(outputs.glob("*/.twin")):
        record = _record(root) or {}
        try:
            hosts = len(json.loads((root / "params.json").read_text(encoding="utf-8"))["cluster"]["hosts"])
        except (OSError, ValueError, KeyError):
            continue  # a folder without a twin's params is none
        name, level, pid = root.parent.name, str(record.get("level", "")), int(record.get("pid", 0))
        found.append(KnownTwin(name, bool(record), level, pid, hosts))
    return found


def up(params: Params, root: Path, *, fresh: bool = False) -> TwinStatus:
    """Power the twin on, unless it is on; `fresh` starts with bare servers.

    Raises TwinError: no Linux, an address or port is taken, the twin runs with other params.
    """
    _need_linux(params)
    root.mkdir(parents=True, exist_ok=True)
    with _starting(root):
        if _record(root) is not None:
            if fresh:
                _stop(root)
            elif _same_servers(params, root):
                return status(params, root)
            else:
                raise TwinError(
                    f"the twin of {params.cluster.name} is up with other params", next_command=_command(params, "down")
                )
        if fresh:
            _wipe(root)
        (root / "params.json").write_text(params.model_dump_json(indent=1), encoding="utf-8")
        _launch(root)
    return status(params, root)


def down(params: Params, root: Path) -> None:
    """Power the twin off and wait until nothing of it runs; its disks stay. Nothing happens when it is down."""
    del params
    if root.is_dir():
        with _starting(root):
            _stop(root)


def status(params: Params, root: Path) -> TwinStatus:
    """Return whether the twin is up, and its hosts."""
    if _record(root) is None:
        return TwinStatus(up=False)
    try:
        return _status(_ask(params, root, {"action": "status"}))
    except TwinDown:
        return TwinStatus(up=False)


def inject(params: Params, root: Path, fault: str, host: str, card: int | None = None) -> TwinStatus:
    """Break something. Raises TwinError for an unknown fault, host or card; TwinDown."""
    return _status(_ask(params, root, {"action": "inject", "fault": fault, "host": host, "card": card}))


def clear(
    params: Params, root: Path, fault: str | None = None, host: str | None = None, card: int | None = None
) -> TwinStatus:
    """Mend what was broken: all, or what matches. Raises TwinDown."""
    return _status(_ask(params, root, {"action": "clear", "fault": fault, "host": host, "card": card}))


def hands(
    params: Params, root: Path, fault: str | None = None, host: str | None = None, card: int | None = None
) -> TwinStatus:
    """Send the technician, who mends only what needs hands: all, or what matches.

    Raises TwinError when the named fault is not there or is no work for hands; TwinDown.
    """
    return _status(_ask(params, root, {"action": "hands", "fault": fault, "host": host, "card": card}))


def reboot(params: Params, root: Path, host: str) -> TwinStatus:
    """Reboot a host and wait until it answers again. Raises TwinError for an unknown host; TwinDown."""
    return _status(_ask(params, root, {"action": "reboot", "host": host}))


def faults() -> list[Fault]:
    """Return everything that can be broken."""
    return list(FAULTS.values())


def _command(params: Params, action: str) -> str:
    return f"runbook twin {action} params/{params.cluster.name}.yaml"


def _need_linux(params: Params) -> None:
    if sys.platform != "linux":
        raise TwinError("the twin needs Linux (addresses 127.x and /proc); on this machine use it in a virtual machine")
    if params.twin is None:
        raise TwinError(
            f"{params.cluster.name} is a real cluster: its params have no `twin:` block",
            next_command="runbook twin up params/twin-2x8-direct.yaml",
        )
    for host in params.cluster.hosts:
        if not host.address.startswith(f"{params.twin.network}."):
            raise TwinError(
                f"{host.name}: address {host.address} is outside the twin's network; "
                f"right would be {params.twin.network}.N"
            )


def _same_servers(params: Params, root: Path) -> bool:
    """Whether the running twin emulates these servers; settings of the service may differ."""
    try:
        running = json.loads((root / "params.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    asked = params.model_dump(mode="json")
    parts = ("cluster", "model", "container", "paths", "twin")
    return all(running.get(part) == asked[part] for part in parts)


@contextmanager
def _starting(root: Path) -> Iterator[None]:
    """Let one starter or stopper at a time touch this twin."""
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _record(root: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((root / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(record) if alive(int(record["pid"]), int(record["start"])) else None


def _wipe(root: Path) -> None:
    shutil.rmtree(root / "nodes", ignore_errors=True)
    if (root / "nodes").exists():
        raise TwinError(f"the disks in {root / 'nodes'} cannot be removed", next_command=f"ls -lR {root / 'nodes'}")
    (root / "state.json").unlink(missing_ok=True)


def _launch(root: Path) -> None:
    (root / "server.json").unlink(missing_ok=True)
    with (root / "twin.log").open("a") as log:
        starter = subprocess.Popen(
            [sys.executable, "-m", "runbook_lib.twin.server", "--root", str(root.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=Path(__file__).resolve().parents[2],
            text=True,
        )
    with starter:
        if starter.stdout is None:
            raise TwinError("the twin's server has no stdout")
        said = starter.stdout.readline()
    answer = json.loads(said) if said else {"error": f"its server died; see {root / 'twin.log'}", "next": ""}
    if "ready" not in answer:
        while start_ticks(int(answer.get("pid", 0))):  # it has stopped everything and is about to end
            time.sleep(_POLL_S)
        raise TwinError(f"the twin cannot start: {answer['error']}", next_command=answer["next"])


def _stop(root: Path) -> None:
    record = _record(root)
    if record is not None:
        pid, start = int(record["pid"]), int(record["start"])
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while alive(pid, start):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                deadline += _STOP_TIMEOUT_S
            time.sleep(_POLL_S)
    kill_marked(root / "nodes")  # at L0 nothing ties a host's processes to a server that was killed
    (root / "server.json").unlink(missing_ok=True)


def _ask(params: Params, root: Path, request: dict[str, Any]) -> dict[str, Any]:
    record = _record(root)
    if record is None:
        raise TwinDown(f"the twin of {params.cluster.name} is not up", next_command=_command(params, "up"))
    message = f"admin\0{record['token']}\0{json.dumps(request)}\0"
    try:
        answer = exchange(record["address"], int(record["port"]), message, _ADMIN_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise TwinDown(
            f"the twin of {params.cluster.name} does not answer: {error}", next_command=_command(params, "up")
        ) from None
    if "error" in answer:
        raise TwinError(answer["error"], next_command=answer["next"])
    return answer


def _status(answer: dict[str, Any]) -> TwinStatus:
    return TwinStatus(
        up=True,
        level=answer["level"],
        pid=answer["pid"],
        hosts=[TwinHost(**host) for host in answer["hosts"]],
        reasons=answer["reasons"],
        faults=answer["faults"],
        skipped=answer.get("skipped", ""),
        mended=answer.get("mended", []),
    )
