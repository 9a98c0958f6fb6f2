"""Two servers to test against: a minimal asyncssh one, and OpenSSH's own sshd when it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncssh
import pytest

from runbook_lib.remote import Host, HostKey, Target, fetch_host_key, pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A running SSH server and a target that may log in to it."""

    kind: str
    target: Target
    key: HostKey
    bin: Path  # first on the PATH of its commands


def free_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server((ADDRESS, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def write_key(path: Path, kind: str = "ssh-ed25519") -> Path:
    """Write a new key pair and return the private one's path."""
    key = asyncssh.generate_private_key(kind)
    key.write_private_key(str(path))
    key.write_public_key(f"{path}.pub")
    path.chmod(0o600)
    return path


async def _pump(read: Callable[[int], Any], write: Callable[[bytes], Any], drain: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await read(1 << 16):
            write(data)
            await drain()


async def _serve_command(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run one exec request in a real bash. As with OpenSSH, a lost connection closes stdin and kills nothing."""
    child = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        process.command or "true",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PATH": process.get_extra_info("server_path")},
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr

    async def feed() -> None:
        assert child.stdin
        await _pump(process.stdin.read, child.stdin.write, child.stdin.drain)
        child.stdin.close()

    feeder = asyncio.create_task(feed())
    await asyncio.gather(
        _pump(child.stdout.read, process.stdout.write, process.stdout.drain),
        _pump(child.stderr.read, process.stderr.write, process.stderr.drain),
    )
    code = await child.wait()
    with contextlib.suppress(OSError, asyncssh.Error):
        process.exit(code if code >= 0 else 128 - code)
    feeder.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await feeder
    child._transport.close()  # type: ignore[attr-defined]  # asyncio has no public way to close its pipes


class _Login(asyncssh.SSHServer):
    """Lets commands find the stand-ins of a test, and lets a client go on to another host from here."""

    def __init__(self, folder: Path, connections: list[asyncssh.SSHServerConnection]) -> None:
        self._folder = folder
        self._connections = connections

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        conn.set_extra_info(server_path=f"{self._folder}/bin:{os.environ['PATH']}")

        self._connections.append(conn)

    def connection_requested(self, *_: object) -> bool:
        return True


class AsyncsshServer:
    """An asyncssh server in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._connections: list[asyncssh.SSHServerConnection] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="asyncssh")
        self._ready = threading.Event()
        self._stop = asyncio.Event()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncssh.create_server(
            lambda: _Login(self._folder, self._connections),
            ADDRESS,
            self.port,
            server_host_keys=[str(self._folder / "host_key")],
            authorized_client_keys=str(self._folder / "authorized_keys"),
            process_factory=_serve_command,
            encoding=None,
            line_editor=False,
        )
        self._ready.set()
        await self._stop.wait()
        server.close()
        await server.wait_closed()
        for connection in self._connections:
            connection.abort()
        # commands end when their stdin closes; give their tasks the time to see it
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=3)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.05)  # aborted connections close their sockets in a later turn of the loop

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@contextlib.contextmanager
def _sshd(folder: Path) -> Iterator[int]:
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("no sshd is installed")
    if os.geteuid() == 0:
        try:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            pytest.skip(f"sshd as root needs /run/sshd: {error}")
    port = free_port()
    config = folder / "sshd_config"
    lines = [
        f"ListenAddress {ADDRESS}",
        f"Port {port}",
        f"HostKey {folder}/host_key",
        f"PidFile {folder}/sshd.pid",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        "StrictModes no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "UsePAM no",
        "UseDNS no",
        "PrintMotd no",
        "MaxStartups 100",
        "LogLevel ERROR",
        f"SetEnv PATH={folder}/bin:{os.environ['PATH']} HOME={folder}",
    ]
    config.write_text("\n".join(lines) + "\n")
    log = folder / "sshd.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=output)
    try:
        for _ in range(200):
            if process.poll() is not None:
                pytest.skip(f"sshd does not start here: {log.read_text()}")
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session", params=["asyncssh", "sshd"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Both kinds of server, started once."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "bin").mkdir()
    if request.param == "asyncssh":
        # openEuler's sh is bash, Ubuntu's is dash: one server has each, where this machine's sh is dash
        (folder / "bin" / "sh").symlink_to(shutil.which("bash") or "/bin/bash")
    # a bash that sshd starts reads this even for a plain command, and many people's file prints something
    (folder / ".bashrc").write_text("echo welcome; echo welcome >&2\n")
    write_key(folder / "host_key", "ssh-ed25519" if request.param == "asyncssh" else "ecdsa-sha2-nistp256")
    publics = [Path(f"{write_key(folder / 'user_key')}.pub").read_text()]
    publics.append(Path(f"{write_key(folder / 'user_rsa', 'ssh-rsa')}.pub").read_text())
    publics.append(Path(f"{write_key(folder / 'user_ecdsa', 'ecdsa-sha2-nistp384')}.pub").read_text())
    (folder / "authorized_keys").write_text("".join(publics))
    target = Target(
        name="hostA",
        address=ADDRESS,
        port=0,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        key_file=str(folder / "user_key"),
        known_hosts=str(folder / "known_hosts"),
        connect_timeout_s=5,
    )
    with contextlib.ExitStack() as stack:
        if request.param == "asyncssh":
            port = stack.enter_context(AsyncsshServer(folder)).port
        else:
            port = stack.enter_context(_sshd(folder))
        target = replace(target, port=port)
        key = fetch_host_key(target)
        pin(target.known_hosts, target, key)
        yield Server(request.param, target, key, folder / "bin")


@pytest.fixture
def start_server() -> Iterator[Callable[[Path, str], Target]]:
    """Return a function that starts an asyncssh server with a host key of some kind; nothing is pinned."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, kind: str) -> Target:
            write_key(folder / "host_key", kind)
            user_key = write_key(folder / "user_key")
            shutil.copy(f"{user_key}.pub", folder / "authorized_keys")
            port = stack.enter_context(AsyncsshServer(folder)).port
            return Target("hostA", ADDRESS, port, "anybody", str(user_key), str(folder / "known_hosts"))

        yield start


@pytest.fixture
def target(server: Server) -> Target:
    """Return a target that may log in, with its key pinned."""
    return server.target


@pytest.fixture
def host(target: Target) -> Iterator[Host]:
    """Open a host."""
    with Host(target) as opened:
        yield opened


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], bool]:
    """Return a function that polls a condition, for what happens on the host a moment later."""

    def wait(condition: Callable[[], object]) -> bool:
        end = time.monotonic() + 6
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        return bool(condition())

    return wait


@pytest.fixture
def gone() -> Callable[[Path], bool]:
    """Return a function that says whether the process that wrote its pid to a file has ended."""

    def look(pid_file: Path) -> bool:
        try:
            text = Path(f"/proc/{int(pid_file.read_text().split()[0])}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return text.rpartition(")")[2].split()[0] in "ZX"

    return look
