"""One SSH server per emulated host: commands, interactive shells, SFTP. scp and rsync run their real programs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import pty
import signal
import struct
import termios
from typing import TYPE_CHECKING, Any

import asyncssh

from runbook_lib.errors import TwinError
from runbook_lib.params import OWN_ROOT
from runbook_lib.twin.sftp import NodeSftp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runbook_lib.params.models import Ssh
    from runbook_lib.twin.node import Node

LOG = logging.getLogger(__name__)
_CHUNK = 65536
_HANGUP_GRACE_S = 0.3
_SIGNALS = {"INT", "TERM", "KILL", "HUP", "QUIT", "USR1", "USR2"}


class _Login(asyncssh.SSHServer):
    """Key login, for one user."""

    def __init__(self, ssh: NodeSsh, client_key: str) -> None:
        self.ssh = ssh
        self.client_key = client_key
        self.connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        self.ssh.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.connection is not None:
            self.ssh.connections.discard(self.connection)

    def begin_auth(self, username: str) -> bool:
        if self.connection is not None and username == self.ssh.user and not self.ssh.condition.get("login_refused"):
            self.connection.set_authorized_keys(self.client_key)
        return True  # other users meet a server without any key

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        del dest_port, orig_host, orig_port
        return dest_host.startswith(f"{self.ssh.network}.")  # tunnels lead into the twin only


class NodeSsh:
    """The SSH server of one node. Its host key is kept, so strict checking can stay on.

    condition: World.machine of the host, for `login_refused` and `slow_s` (real seconds before each command).
    """

    def __init__(self, node: Node, login: Ssh, network: str, condition: Mapping[str, Any]) -> None:
        self.node = node
        self.user = login.user
        self.port = login.port
        self.network = network
        self.condition = condition
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.connections: set[asyncssh.SSHServerConnection] = set()

    async def start(self, host_key: str, client_key: str) -> None:
        """Listen. Raises TwinError when the address and port are taken."""
        try:
            self._acceptor = await asyncssh.create_server(
                lambda: _Login(self, client_key),
                self.node.address,
                self.port,
                server_host_keys=[host_key],
                process_factory=self._session,
                sftp_factory=self._sftp,
                allow_scp=False,
                encoding=None,
                line_editor=False,
                backlog=256,
                password_auth=False,
                kbdint_auth=False,
                server_version="OpenSSH_8.8" + ("" if self.node.level == "L0" else OWN_ROOT),
            )
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}:
                raise
            raise TwinError(
                f"{self.node.name} cannot listen on {self.node.address}:{self.port}: {os.strerror(error.errno)}",
                next_command=f"ss -lntp | grep {self.node.address}",
            ) from None

    async def stop(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
            self._acceptor = None
        for connection in list(self.connections):
            connection.abort()

    def _sftp(self, channel: asyncssh.SSHServerChannel[bytes]) -> NodeSftp:
        return NodeSftp(channel, self.node)

    async def _session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        if process.subsystem:
            process.exit(127)
            return
        await asyncio.sleep(float(self.condition.get("slow_s", 0.0)))
        command = ["bash", "-c", process.command] if process.command is not None else ["bash", "-l"]
        try:
            if process.term_type is not None:
                await _run_on_terminal(process, self.node, command)
            else:
                await _run_on_pipes(process, self.node, command)
        except (TwinError, OSError) as error:
            LOG.warning("%s: a session ended early: %s", self.node.name, error)
            process.exit(255)


async def _run_on_pipes(process: asyncssh.SSHServerProcess[bytes], node: Node, command: list[str]) -> None:
    child = await asyncio.create_subprocess_exec(
        *node.argv(command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    if child.stdin is None or child.stdout is None or child.stderr is None:
        raise TwinError("the command has no pipes")
    feed = asyncio.create_task(_feed(process, child.stdin, child))
    outputs = [
        asyncio.create_task(_copy(child.stdout, process.stdout)),
        asyncio.create_task(_copy(child.stderr, process.stderr)),
    ]
    await _until_done(process, child, outputs)
    feed.cancel()
    await asyncio.gather(feed, return_exceptions=True)
    _say_exit(process, child.returncode)


async def _until_done(
    process: asyncssh.SSHServerProcess[bytes],
    child: asyncio.subprocess.Process,
    outputs: list[asyncio.Task[None]],
) -> None:
    """Wait for the command's end and all its output, as sshd does; when the client leaves first, end the command."""
    ended = asyncio.ensure_future(_all(child, outputs))
    left = asyncio.ensure_future(process.channel.wait_closed())
    watched: set[asyncio.Future[None]] = {ended, left}
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left.cancel()
        if child.returncode is None:
            await _kill_group(child)
        ended.cancel()
        await asyncio.gather(ended, left, return_exceptions=True)
        transport = getattr(child, "_transport", None)  # asyncio's only way to let go of pipes that somebody holds
        if transport is not None:
            transport.close()


async def _all(child: asyncio.subprocess.Process, outputs: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(child.wait(), *outputs)


async def _kill_group(child: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGHUP, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _HANGUP_GRACE_S)
            # the group's leader is gone; whoever of the group ignored the hang-up is not
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


async def _copy(source: asyncio.StreamReader, target: asyncssh.SSHWriter[bytes]) -> None:
    try:
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    except (BrokenPipeError, ConnectionError):  # the client closed its side: let the command run into SIGPIPE
        return


async def _feed(
    process: asyncssh.SSHServerProcess[bytes], target: asyncio.StreamWriter, child: asyncio.subprocess.Process
) -> None:
    try:
        while True:
            try:
                data = await process.stdin.read(_CHUNK)
            except asyncssh.SignalReceived as received:
                _signal_group(child.pid, received.signal)
                continue
            except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
                continue
            if not data:
                break
            target.write(data)
            await target.drain()
    except (BrokenPipeError, ConnectionError):
        pass  # the command does not read its stdin any more
    finally:
        target.close()


def _signal_group(pid: int, name: str) -> None:
    if name in _SIGNALS:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.Signals[f"SIG{name}"])


def _say_exit(process: asyncssh.SSHServerProcess[bytes], code: int | None) -> None:
    if code is not None and code < 0:
        process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    else:
        process.exit(255 if code is None else code)


async def _run_on_terminal(process: asyncssh.SSHServerProcess[bytes], node: Node, command: list[str]) -> None:
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    width, height = process.term_size[:2]
    _resize(master, width, height)
    try:
        child = await asyncio.create_subprocess_exec(
            *node.argv(command, {"TERM": process.term_type or "dumb"}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # the only way to a controlling terminal; it makes one system call, so it is safe after fork
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            cwd="/",
        )
    finally:
        os.close(slave)
    feed = asyncio.create_task(_feed_terminal(process, master, child))
    try:
        await _until_done(process, child, [asyncio.create_task(_copy_terminal(master, process.stdout))])
    finally:
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)
        os.close(master)
    _say_exit(process, child.returncode)


def _resize(master: int, width: int, height: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height or 24, width or 80, 0, 0))


async def _ready(descriptor: int, *, to_write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    add(descriptor, lambda: None if waiter.done() else waiter.set_result(None))
    try:
        await waiter
    finally:
        remove(descriptor)


async def _copy_terminal(master: int, target: asyncssh.SSHWriter[bytes]) -> None:
    while True:
        await _ready(master)
        try:
            data = os.read(master, _CHUNK)
        except BlockingIOError:
            continue
        except OSError:  # EIO: the last process has closed the terminal
            return
        if not data:
            return
        try:
            target.write(data)
            await target.drain()
        except (BrokenPipeError, ConnectionError):
            return


async def _feed_terminal(
    process: asyncssh.SSHServerProcess[bytes], master: int, child: asyncio.subprocess.Process
) -> None:
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.TerminalSizeChanged as changed:
            _resize(master, changed.width, changed.height)
            continue
        except asyncssh.SignalReceived as received:
            _signal_group(child.pid, received.signal)
            continue
        except asyncssh.BreakReceived:
            continue
        data = data or b"\x04"  # the client's end of input is the terminal's ^D
        last = data == b"\x04"
        while data:
            await _ready(master, to_write=True)
            data = data[os.write(master, data) :]
        if last:
            return
