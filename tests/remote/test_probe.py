"""Probes: one round trip, and no section can harm another."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Capture, ProbeScript, Section
from runbook_lib.remote import Host, Target
from runbook_lib.remote.probe import MAX_SECTION_OUTPUT, compile_script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def script(*sections: tuple[str, str] | tuple[str, str, float]) -> ProbeScript:
    """Return a probe of shell commands."""
    return ProbeScript(tuple(Section(s[0], ("sh", "-c", s[1]), *s[2:]) for s in sections))


def leftovers() -> set[Path]:
    """Return the temp dirs of probes."""
    return set(Path("/dev/shm").glob(".runbook.*"))


def test_each_section_has_its_own_streams_and_code(host: Host) -> None:
    """A missing last newline, an error and a missing tool stay in their sections."""
    result = host.probe(
        ProbeScript(
            (
                Section("plain", ("echo", "one two", "$HOME")),
                Section("no newline", ("printf", "a\\nb")),
                Section("fails", ("sh", "-c", "echo out; echo err >&2; exit 7")),
                Section("missing", ("no-such-tool", "-i", "0")),
                Section("silent", ("true",)),
            )
        )
    )
    assert list(result) == ["plain", "no newline", "fails", "missing", "silent"]
    assert result["plain"].stdout == "one two $HOME\n"
    assert result["no newline"].stdout == "a\nb"
    fails = result["fails"]
    assert (fails.stdout, fails.stderr, fails.exit_code) == ("out\n", "err\n", 7)
    assert result["missing"].exit_code == 127
    assert "no-such-tool" in result["missing"].stderr
    assert (result["silent"].stdout, result["silent"].exit_code) == ("", 0)


def test_hung_section_loses_only_itself(
    host: Host, tmp_path: Path, eventually: Callable[[object], bool], gone: Callable[[Path], bool]
) -> None:
    """Also when its child ignores TERM; what it printed before is kept."""
    hang = f"echo begun; sh -c 'trap \"\" TERM; echo $$ >{tmp_path}/pid; sleep 60' & wait"
    result = host.probe(script(("before", "echo 1"), ("hang", hang, 0.4), ("after", "echo 3")))
    hung = result["hang"]
    assert (hung.stdout, hung.exit_code, hung.timed_out) == ("begun\n", None, True)
    assert result["before"].stdout == "1\n"
    assert (result["after"].stdout, result["after"].exit_code) == ("3\n", 0)
    assert eventually(lambda: gone(tmp_path / "pid"))


def test_after_a_hang_the_rest_of_its_unit_is_not_run(host: Host, tmp_path: Path) -> None:
    """What hangs once would cost its whole timeout each time; other units go on."""
    result = host.probe(
        ProbeScript(
            (
                Section("hangs", ("sleep", "60"), 0.3, unit="card-0"),
                Section("same", ("touch", str(tmp_path / "ran")), 60.0, unit="card-0"),
                Section("other", ("echo", "1"), unit="card-1"),
                Section("none", ("echo", "2")),
            )
        )
    )
    assert (result["hangs"].timed_out, result["hangs"].exit_code) == (True, None)
    assert (result["same"].timed_out, result["same"].exit_code) == (False, None)
    assert result["same"].stderr == "runbook: not run: an earlier command of card-0 hung\n"
    assert not (tmp_path / "ran").exists()
    assert (result["other"].stdout, result["none"].stdout) == ("1\n", "2\n")


def test_what_stands_in_for_a_section_runs_only_after_its_hang(host: Host, tmp_path: Path) -> None:
    """And the observer is told only of what ran."""
    told: list[tuple[str, ...]] = []
    host.observer = lambda _host, argv, *_: told.append(tuple(argv))
    quick, hangs = ("true",), ("sleep", "60")
    never, careful = ("touch", str(tmp_path / "ran")), ("echo", "careful")
    result = host.probe(
        ProbeScript(
            (
                Section("fine", quick, unit="a"),
                Section("for fine", never, if_hung="a"),
                Section("hangs", hangs, 0.3, unit="b"),
                Section("for hangs", careful, if_hung="b"),
            )
        )
    )
    assert result["for fine"] == Capture(stderr="runbook: not run: no command of a hung\n")
    assert result["for hangs"] == Capture(stdout="careful\n", exit_code=0)
    assert not (tmp_path / "ran").exists()
    assert told == [quick, hangs, careful]
    with pytest.raises(ValueError, match="stands in for"):
        host.probe(ProbeScript((Section("one", quick, unit="a"), Section("other", quick, if_hung="b"))))


def test_exit_code_of_timeout_alone_is_no_timeout(host: Host) -> None:
    """A tool may return 124 by itself."""
    result = host.probe(script(("early", "exit 124")))["early"]
    assert (result.exit_code, result.timed_out) == (124, False)


def test_binary_and_frame_like_output(host: Host) -> None:
    """The nonce cannot be known to a tool, and nothing else is looked for."""
    frame = "0" * 32
    text = f"{frame} end 0\\n{frame} begin 1 0 1.0 1.0\\n{frame} middle 1"
    result = host.probe(script(("binary", r"printf '\0\377\n\0'"), ("frames", f"printf '{text}'"), ("last", "echo x")))
    assert result["binary"].stdout == "\0\\xff\n\0"
    assert result["frames"].stdout == text.replace("\\n", "\n")
    assert result["last"].stdout == "x\n"


def test_process_list_does_not_show_the_frame(host: Host) -> None:
    """`ps` prints our own command lines, marks and all, in the middle of a section."""
    result = host.probe(script(("ps", "cat /proc/[0-9]*/cmdline; echo; echo done"), ("next", "echo n")))
    assert result["ps"].stdout.endswith("\ndone\n")
    assert "=end=" in result["ps"].stdout
    assert result["next"].stdout == "n\n"


def test_large_section_is_cut_and_says_so(host: Host) -> None:
    """And the next one is not lost."""
    size = MAX_SECTION_OUTPUT + 5000
    result = host.probe(script(("large", f"head -c {size} /dev/zero"), ("next", "echo n")))
    assert len(result["large"].stdout) == MAX_SECTION_OUTPUT
    assert "stdout cut" in result["large"].stderr
    assert result["next"].stdout == "n\n"


def test_sections_have_no_stdin(host: Host) -> None:
    """A tool that reads stdin must not eat the rest of the script."""
    result = host.probe(script(("reader", "cat"), ("next", "echo n")))
    assert result["reader"].stdout == ""
    assert result["next"].stdout == "n\n"


def test_lost_connection_keeps_what_came(target: Target, tmp_path: Path) -> None:
    """The others have no exit code, and say why."""
    before = leftovers()
    mark = tmp_path / "go"
    with Host(target) as host:

        def cut() -> None:
            while not mark.exists():
                stop.wait(0.02)
            stop.wait(0.3)
            host.transport.sock.shutdown(2)

        stop = threading.Event()
        thread = threading.Thread(target=cut)
        thread.start()
        result = host.probe(script(("first", "echo 1"), ("second", f"touch {mark}; sleep 5"), ("third", "echo")))
        thread.join()
        assert result["first"].stdout == "1\n"
        for key in ("second", "third"):
            assert result[key].exit_code is None
            assert "connection lost" in result[key].stderr
        while leftovers() - before:
            assert not stop.wait(0.02)


def test_temp_dir_is_removed(host: Host) -> None:
    """Nothing of a probe stays on the host."""
    before = leftovers()
    host.probe(script(("a", "echo 1"), ("b", "sleep 5", 0.1)))
    assert leftovers() == before


def test_observer_is_told_of_each_section(target: Target) -> None:
    """With the section's own words."""
    seen: list[tuple[tuple[str, ...], int | None]] = []

    def observer(_host: str, argv: Sequence[str], code: int | None, _duration_s: float, digest: str) -> None:
        assert len(digest) == 64
        seen.append((tuple(argv), code))

    with Host(target, observer) as host:
        host.probe(ProbeScript((Section("a", ("true",)), Section("b", ("false",)))))
    assert seen == [(("true",), 0), (("false",), 1)]


def test_keys_are_unique(host: Host) -> None:
    """Two sections of one key would hide one of them."""
    with pytest.raises(ValueError, match="same key"):
        host.probe(script(("a", "true"), ("a", "false")))
    assert host.probe(ProbeScript(())) == {}


def test_no_writable_temp_dir_is_said(host: Host) -> None:
    """Then every section is without result: an empty output would be taken for an answer."""
    text = compile_script((Section("a", ("true",)),), "n" * 32).replace('mkdir "$d"', "false")
    result = host.run(["sh"], 5, stdin=text.encode())
    assert (result.stdout, result.exit_code) == ("", 73)
    assert "no temp dir" in result.stderr


@pytest.mark.parametrize("number", range(20))
def test_an_end_that_comes_twice_leaves_nothing(number: int) -> None:
    """Our `reap` ends every process of the session, and `timeout` passes it on: the `rm` of the end is hit as well."""
    text = compile_script(tuple(Section(str(each), ("true",)) for each in range(50)), f"{number:032x}")
    argv = ["timeout", "20", "sh", "-c", text]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        time.sleep(number / 200)
        for pid in (process.pid, -process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    name = text.partition(" D=")[2].split()[0]
    assert not Path("/dev/shm", f".runbook.{name}").exists()
