"""Many hosts at once: a result for each, whatever happens to the others."""

from __future__ import annotations

import signal
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from runbook_lib.errors import CommandTimeout, HostUnreachable
from runbook_lib.remote import Host, Target, fan_out

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Item:
    """Something with a name."""

    name: str


def items(count: int) -> list[Item]:
    """Return items i0, i1, ..."""
    return [Item(f"i{n}") for n in range(count)]


def test_values_and_errors_in_order() -> None:
    """An error of one is its own result, also one that would end a program."""

    def work(item: Item) -> str:
        if item.name == "i1":
            raise ValueError("one is bad")
        if item.name == "i2":
            raise SystemExit(3)
        return item.name.upper()

    results = fan_out(items(4), work, deadline_s=5)
    assert list(results) == ["i0", "i1", "i2", "i3"]
    assert [result.ok for result in results.values()] == [True, False, False, True]
    assert results["i3"].unwrap() == "I3"
    with pytest.raises(ValueError, match="one is bad"):
        results["i1"].unwrap()
    assert "SystemExit" in str(results["i2"].error)


def test_number_of_workers_is_bounded() -> None:
    """Never more at a time than asked for, and all are done."""
    lock, now, most = threading.Lock(), 0, 0

    def work(_: Item) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    assert len(fan_out(items(20), work, deadline_s=5, workers=3)) == 20
    assert most == 3


def test_hung_one_does_not_block_the_others() -> None:
    """Even with one worker: its place is given to the next. The wait of the others does not count as theirs."""
    release = threading.Event()

    def work(item: Item) -> str:
        if item.name in ("i0", "i1"):
            release.wait(10)
        return item.name

    results = fan_out(items(4), work, deadline_s=0.2, workers=1)
    release.set()
    assert [result.ok for result in results.values()] == [False, False, True, True]
    assert isinstance(results["i0"].error, CommandTimeout)
    assert "i0" in str(results["i0"].error)


def test_names_are_unique() -> None:
    """Two results under one name would be merged."""
    with pytest.raises(ValueError, match="same name"):
        fan_out([Item("a"), Item("a")], str, deadline_s=1)
    assert fan_out([], str, deadline_s=1) == {}


def test_one_dead_and_one_hung_host(target: Target, eventually: Callable[[object], bool]) -> None:
    """The dead one is unreachable, the hung one is over its deadline, the others are as if alone."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        dead_port = sock.getsockname()[1]
    targets = [replace(target, name=f"host{letter}") for letter in "ABC"]
    targets += [replace(target, name="dead", port=dead_port), replace(target, name="hung")]
    ended = threading.Event()

    def work(item: Target) -> str:
        with Host(item) as host:
            try:
                return host.run(["sleep", "20"] if item.name == "hung" else ["echo", item.name], 30).stdout
            finally:
                if item.name == "hung":
                    ended.set()

    results = fan_out(targets, work, deadline_s=1.5)
    assert [results[f"host{letter}"].unwrap() for letter in "ABC"] == ["hostA\n", "hostB\n", "hostC\n"]
    assert isinstance(results["dead"].error, HostUnreachable)
    assert isinstance(results["hung"].error, CommandTimeout)
    assert eventually(ended.is_set)  # its thread did not stay behind: the broken connection woke it up


def test_interrupt_cuts_the_connections(target: Target, eventually: Callable[[object], bool]) -> None:
    """Ctrl-C is raised again at once, and no thread stays behind."""
    ended = threading.Event()

    def work(item: Target) -> None:
        try:
            with Host(item) as host:
                signal.raise_signal(signal.SIGINT)
                host.run(["sleep", "20"], 30)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        fan_out([target], work, deadline_s=15)
    assert eventually(ended.is_set)
