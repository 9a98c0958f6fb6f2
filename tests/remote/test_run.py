"""Commands: quoting, exit codes, bounded capture, and the end of processes on the host."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.errors import CommandFailed, CommandTimeout, HostUnreachable
from runbook_lib.model import Upload
from runbook_lib.remote import Host, Target, output_digest
from runbook_lib.remote.run import _Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

HOSTILE = ["", " ", "a b", "$HOME", "`id`", "'", '"', "\\", "*", "a\nb", "; exit 9", "--", "-n", "ü\t中", "!x", "#"]


Eventually = Callable[[Callable[[], object]], bool]
Gone = Callable[[Path], bool]


def test_echo(host: Host) -> None:
    """Both streams come back apart, without a byte more or less."""
    result = host.run(["sh", "-c", "echo out; echo err >&2; printf end"], 5)
    assert (result.stdout, result.stderr, result.exit_code) == ("out\nend", "err\n", 0)


@pytest.mark.parametrize("code", [0, 1, 3, 124, 137, 255])
def test_exit_code(host: Host, code: int) -> None:
    """Any exit code is a result; those of `timeout` are no timeout when the command gave them early."""
    result = host.run(["sh", "-c", f"exit {code}"], 5)
    assert (result.exit_code, result.timed_out) == (code, False)


def test_missing_program_has_127_and_says_so(host: Host) -> None:
    """A tool that is not installed is told from one that failed."""
    result = host.run(["no-such-program"], 5)
    assert result.exit_code == 127
    assert "no-such-program" in result.stderr


def test_words_arrive_as_they_are(host: Host) -> None:
    """No word is seen by any shell."""
    script = "import sys; sys.stdout.write(repr(sys.argv[1:]))"
    result = host.run([sys.executable, "-S", "-c", script, *HOSTILE], 10)
    assert result.stdout == ascii(HOSTILE) or result.stdout == repr(HOSTILE)


def test_locale_and_path(host: Host) -> None:
    """Output is in English, and the vendor's tools are found."""
    lines = host.run(["sh", "-c", 'echo "$LC_ALL"; echo "$PATH"'], 5).stdout.splitlines()
    assert lines[0] == "C"
    assert lines[1].endswith("/usr/local/Ascend/driver/tools")
    assert "/usr/local/sbin" in lines[1]


def test_there_is_no_stdin_and_no_terminal(host: Host) -> None:
    """A command that asks a question gets an end of file."""
    result = host.run(["sh", "-c", "cat; tty"], 5)
    assert result.stdout == "not a tty\n"


def test_stdin_arrives_whole(host: Host) -> None:
    """Input is binary and larger than any window."""
    data = os.urandom(3_000_000)
    result = host.run(["sha256sum"], 10, stdin=data)
    assert result.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_large_output_is_bounded_and_counted(host: Host) -> None:
    """What is cut is said, with its size, and the command still runs to its end."""
    script = "head -c 20000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 4"
    result = host.run(["sh", "-c", script], 30, max_output=100_000)
    assert len(result.stdout) == 100_000
    assert result.exit_code == 4
    assert "first 100000 of 20000000 bytes" in result.stderr
    assert "first 100000 of 3000000 bytes" in result.stderr


def test_large_output_can_be_kept(host: Host) -> None:
    """20 MB come whole when they are asked for."""
    result = host.run(["head", "-c", "20000000", "/dev/zero"], 30, max_output=1 << 25)
    assert len(result.stdout) == 20_000_000
    assert result.stderr == ""


def test_binary_output_is_shown_as_escapes(host: Host) -> None:
    """Bytes that are no text are neither dropped nor an error."""
    assert host.run(["printf", r"a\377\200b"], 5).stdout == r"a\xff\x80b"


def test_timeout_kills_grandchildren(host: Host, tmp_path: Path, eventually: Eventually, gone: Gone) -> None:
    """Also one that ignores TERM, and one that moved to a group of its own."""
    stubborn = f"trap '' TERM; echo $$ >{tmp_path}/a; sleep 60"
    other_group = f"echo $$ >{tmp_path}/b; sleep 60"
    script = f'sh -c "$1" & timeout 60 sh -c "$2" & echo begun; wait; echo {tmp_path} >/dev/null'
    result = host.run(["sh", "-c", script, "x", stubborn, other_group], 0.6)
    assert (result.timed_out, result.exit_code, result.stdout) == (True, None, "begun\n")
    assert eventually(lambda: gone(tmp_path / "a") and gone(tmp_path / "b"))


def test_a_program_that_ignores_term_is_killed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """KILL follows TERM."""
    monkeypatch.setattr("runbook_lib.remote.wrapper.KILL_AFTER_S", 0.2)
    result = host.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], 0.3)
    assert (result.timed_out, result.exit_code) == (True, None)


def test_a_child_that_keeps_the_output_open_is_not_waited_for(host: Host, tmp_path: Path, gone: Gone) -> None:
    """A command is over when it ends, and what it left behind lives on."""
    result = host.run(["sh", "-c", f"sleep 20 & echo $! >{tmp_path}/pid; echo up"], 10)
    try:
        assert (result.stdout, result.exit_code) == ("up\n", 0)
        assert not gone(tmp_path / "pid")  # it may be a service: only a timeout kills what is left
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_lost_connection_kills_the_command(target: Target, tmp_path: Path, eventually: Eventually, gone: Gone) -> None:
    """Nobody is left to read the output, so nothing is left running."""
    script = f"sh -c 'trap \"\" TERM; echo $$ >{tmp_path}/child; sleep 60' & echo $$ >{tmp_path}/pid; wait"
    errors: list[Exception] = []

    def work() -> None:
        try:
            host.run(["sh", "-c", script], 30)
        except HostUnreachable as error:
            errors.append(error)

    with Host(target) as host:
        thread = threading.Thread(target=work)
        thread.start()
        files = [tmp_path / "pid", tmp_path / "child"]
        assert eventually(lambda: all(file.exists() and file.read_text() for file in files))
        host.transport.sock.shutdown(2)
        thread.join(5)
    assert "connection lost" in str(errors[0])
    assert eventually(lambda: all(gone(file) for file in files))


def test_interrupt_kills_the_command(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, gone: Gone
) -> None:
    """Ctrl-C here ends the command there, while the connection stays open."""

    def interrupted(*_: object) -> None:
        assert eventually(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        raise KeyboardInterrupt

    monkeypatch.setattr("runbook_lib.remote.run._drain", interrupted)
    with Host(target) as host:
        with pytest.raises(KeyboardInterrupt):
            host.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; sleep 60"], 30)
        assert eventually(lambda: gone(tmp_path / "pid"))  # while the connection itself stays open


def test_observer_sees_every_command(target: Target) -> None:
    """With its words, exit code and the digest of all that it printed."""
    seen: list[tuple[str, tuple[str, ...], int | None, str]] = []

    def observer(host: str, argv: Sequence[str], code: int | None, duration_s: float, digest: str) -> None:
        assert duration_s > 0
        seen.append((host, tuple(argv), code, digest))

    with Host(target, observer) as host:
        host.run(["sh", "-c", "printf hello; exit 3"], 5)
    hello, nothing = hashlib.sha256(b"hello").hexdigest(), hashlib.sha256(b"").hexdigest()
    assert seen == [("hostA", ("sh", "-c", "printf hello; exit 3"), 3, output_digest(hello, nothing))]


def test_observer_is_told_of_a_lost_connection_and_of_our_scripts(target: Target, tmp_path: Path) -> None:
    """A command whose end nobody saw is in the record as well; our own scripts are there by name, not by text."""
    seen: list[tuple[tuple[str, ...], int | None]] = []
    with Host(target, lambda _host, argv, code, _s, _digest: seen.append((tuple(argv), code))) as host:
        host.upload(Upload(f"{tmp_path}/x", "", mode=0o600))
        host.transport.sock.shutdown(2)
        with pytest.raises(HostUnreachable):
            host.run(["true"], 5)
    empty = hashlib.sha256(b"").hexdigest()
    assert seen == [(("runbook:upload", f"{tmp_path}/x", "0600", "", empty), 0), (("true",), None)]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_stream_is_the_same_however_it_is_cut(size: int) -> None:
    """Marks that arrive in pieces, and what only begins like one."""
    data = b"a=en\nm=endm=end=x"[:-6] + b"mm=e"
    wire = b"welcome\nm\n" + data + b"m=end=17\nlate"
    stream = _Stream("m", 5)
    for at in range(0, len(wire), size):
        stream.feed(wire[at : at + size])
    stream.finish()
    assert (stream.value(), stream.total, stream.exit_code) == (data[:5], len(data), 17)
    assert stream.hash.hexdigest() == hashlib.sha256(data).hexdigest()


def test_check_raises_with_what_was_printed(host: Host) -> None:
    """The error has the tool's own words."""
    assert host.check(["true"], 5).ok
    with pytest.raises(CommandFailed, match="disk on fire"):
        host.check(["sh", "-c", "echo disk on fire >&2; exit 5"], 5)
    with pytest.raises(CommandTimeout, match="hostA"):
        host.check(["sleep", "5"], 0.2)


def test_hung_connection_ends(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that stops answering is given up, even though the connection still looks open."""
    monkeypatch.setattr("runbook_lib.remote.run._GRACE_S", 0.1)
    monkeypatch.setattr("runbook_lib.remote.run.KILL_AFTER_S", 0)
    with Host(target) as host, pytest.raises(HostUnreachable, match="no answer within"):
        # the wrapper's own timeout never fires: its process is stopped
        host.run(["sh", "-c", "kill -STOP $PPID; sleep 1"], 0.3)


def test_bad_arguments(host: Host) -> None:
    """What cannot be sent is refused before it is sent."""
    for argv, timeout_s in (([], 5.0), (["true"], 0.0), (["a\0b"], 5.0), (["x" * 200_000], 5.0)):
        with pytest.raises(ValueError, match=r"command|timeout"):
            host.run(argv, timeout_s)


def test_sudo(server: Any) -> None:
    """Commands go through `sudo -n`, and its refusal is not taken for the command's failure (a stand-in sudo)."""
    fake = server.bin / "sudo"
    fake.write_text('#!/bin/sh\n[ "$1 $2" = "-n --" ] || exit 99\nshift 2\nAS_ROOT=yes exec "$@"\n')
    fake.chmod(0o755)
    with Host(replace(server.target, become="sudo")) as host:
        assert host.run(["sh", "-c", "echo $AS_ROOT; exit 1"], 5).exit_code == 1
        assert host.run(["sh", "-c", "echo $AS_ROOT"], 5).stdout == "yes\n"
        fake.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
        with pytest.raises(CommandFailed, match=r"(?s)refused to user .*sudo: a password is required"):
            host.run(["true"], 5)
    fake.unlink()
