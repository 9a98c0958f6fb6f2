"""The twin answers as OpenSSH does, to the clients that people use."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import asyncssh
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.twin.conftest import Rig


def _client(*argv: str, feed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed here")
    return subprocess.run(argv, input=feed, capture_output=True, timeout=20, check=False)


def test_exit_codes_and_streams(rig: Rig) -> None:
    ran = rig.run("node1", "echo out; echo err >&2; exit 7")
    assert (ran.code, ran.out, ran.err) == (7, "out\n", "err\n")


def test_a_signal_is_told(rig: Rig) -> None:
    async def work() -> str:
        async with await rig.connect("node1") as connection:
            done = await connection.run("kill -TERM $$")
        return str(done.exit_signal)

    assert "TERM" in asyncio.run(work())


def test_stdin_and_large_output_arrive_whole(rig: Rig) -> None:
    async def work() -> tuple[object, object]:
        async with await rig.connect("node1") as connection:
            counted = await connection.run("wc -c", input=b"x" * 3_000_000, encoding=None)
            large = await connection.run("head -c 3000000 /dev/zero", encoding=None)
        return counted.stdout, large.stdout

    counted, large = asyncio.run(work())
    assert counted == b"3000000\n"
    assert large == bytes(3_000_000)


def test_an_unknown_key_and_another_user_are_refused(rig: Rig) -> None:
    async def attempt(user: str, key: object) -> None:
        host = rig.params.host("node1").address
        async with asyncssh.connect(
            host, 2222, username=user, client_keys=[key], known_hosts=None, config=None, agent_path=None
        ):
            raise AssertionError("let in")

    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(attempt("root", asyncssh.generate_private_key("ssh-ed25519")))
    with pytest.raises(asyncssh.PermissionDenied):
        asyncio.run(attempt("admin", str(rig.root / "id_ed25519")))


def test_closing_the_channel_ends_the_command(rig: Rig) -> None:
    async def work() -> None:
        async with await rig.connect("node1") as connection:
            process = await connection.create_process("echo started; exec sleep 4711")
            assert await process.stdout.readline() == "started\n"
            process.close()
            await process.wait_closed()

    asyncio.run(work())
    deadline = time.monotonic() + 5
    while "sleep 4711" in (seen := rig.run("node1", "ps ax -o args | grep -v grep").out):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)


def test_a_detached_job_outlives_its_connection(rig: Rig) -> None:
    rig.run("node1", "setsid sleep 4712 </dev/null >/dev/null 2>&1 & echo $! >/tmp/job")
    ran = rig.run("node1", "kill -0 $(cat /tmp/job) && kill $(cat /tmp/job) && echo alive")
    assert ran.out == "alive\n"


def test_orphans_are_reaped(rig: Rig) -> None:
    ran = rig.run("node1", "(sleep 0.05 & exec true); sleep 0.3; ps ax -o pid,ppid,stat,args")
    left = [line for line in ran.out.splitlines() if line.split()[1] == "1" and line.split()[2].startswith("Z")]
    assert left == []


def test_terminal(rig: Rig) -> None:
    async def work() -> tuple[str, int | None]:
        async with await rig.connect("node1") as connection:
            process = await connection.create_process(term_type="xterm", term_size=(101, 33))
            process.stdin.write("stty size; test -t 0 && exit 5\n")
            text = await process.stdout.read()
            await process.wait_closed()
        return str(text), process.exit_status

    text, code = asyncio.run(work())
    assert "33 101" in text
    assert code == 5


def test_openssh_client(rig: Rig) -> None:
    host = f"root@{rig.params.host('node1').address}"
    ran = _client("ssh", *rig.ssh_options(), "-p", "2222", host, "cat; exit 3", feed=b"through\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, b"through\n", b"")


@pytest.mark.parametrize("protocol", [[], ["-O"]], ids=["sftp", "legacy"])
def test_scp_there_and_back(rig: Rig, tmp_path: Path, protocol: list[str]) -> None:
    host = f"root@{rig.params.host('node1').address}"
    (tmp_path / "file").write_bytes(b"content" * 100_000)
    options = [*protocol, *rig.ssh_options(), "-P", "2222"]
    there = _client("scp", *options, str(tmp_path / "file"), f"{host}:/data/scp")
    back = _client("scp", *options, f"{host}:/data/scp", str(tmp_path / "back"))
    assert (there.returncode, back.returncode) == (0, 0), there.stderr + back.stderr
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


def test_sftp_sees_what_the_shell_sees(rig: Rig) -> None:
    rig.run("node1", "mkdir -p /data/s/real; echo one >/data/s/real/f; ln -sfn /data/s/real /data/s/link")
    host = f"root@{rig.params.host('node1').address}"
    batch = b"cd /data/s/link\npwd\nls -l\nrename f g\nsymlink /data/s/real/g /data/s/h\nls -l /\n"
    ran = _client("sftp", *rig.ssh_options(), "-P", "2222", "-b", "-", host, feed=batch)
    assert ran.returncode == 0, ran.stderr
    assert b"/data/s/real" in ran.stdout
    assert b" root " in ran.stdout
    assert rig.run("node1", "readlink /data/s/h; cat /data/s/h").out == "/data/s/real/g\none\n"


def test_sftp_symlinks_do_not_lead_out_of_the_node(rig: Rig) -> None:
    async def read(path: str) -> bytes:
        content: list[bytes] = []
        async with (
            await rig.connect("node1") as connection,
            connection.start_sftp_client() as sftp,
            sftp.open(path, "rb") as file,
        ):
            content.append(await file.read())
        return content[0]

    rig.run("node1", "ln -sfn /etc/os-release /tmp/a; ln -sfn ../../../../../../../../etc/os-release /tmp/b")
    assert asyncio.run(read("/tmp/a")).startswith(b'NAME="openEuler"')
    assert asyncio.run(read("/tmp/b")).startswith(b'NAME="openEuler"')


def test_rsync(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_text("synced")
    shell = " ".join(["ssh", *rig.ssh_options(), "-p", "2222"])
    target = f"root@{rig.params.host('node2').address}:/data/tree/"
    ran = _client("rsync", "-a", "-e", shell, f"{tmp_path}/tree/", target)
    assert ran.returncode == 0, ran.stderr
    assert rig.run("node2", "cat /data/tree/sub/file").out == "synced"
