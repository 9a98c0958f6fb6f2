"""Do the same on many hosts at once: bounded, with a deadline per host, and a result for every host always."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from runbook_lib.errors import CommandTimeout
from runbook_lib.remote.scope import CancelScope, current_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: How long the main thread sleeps at most; Ctrl-C is answered within it.
_TICK_S = 0.5


class Named(Protocol):
    """Anything with a name: a Target, a Host."""

    @property
    def name(self) -> str:
        """The host's name in the params file."""


N = TypeVar("N", bound=Named)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What one host gave: a value, or the error that stopped it. `duration_s` counts from its own start."""

    name: str
    value: T | None
    error: Exception | None
    duration_s: float

    @property
    def ok(self) -> bool:
        """Whether the function came to its end. It says nothing about what it found."""
        return self.error is None

    def unwrap(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # without an error the value is what the function gave


@dataclass(slots=True)
class _Running:
    begin: float
    scope: CancelScope


def fan_out(
    targets: Iterable[N], function: Callable[[N], T], *, deadline_s: float, workers: int = 32
) -> dict[str, Result[T]]:
    """Call function(target) for all targets, at most `workers` at a time; results in the order of the targets.

    The deadline of a host counts from its own start. A host beyond it gets a CommandTimeout, its connections are
    broken so that its thread ends, and its place is given to the next one. Ctrl-C breaks all connections and is
    raised again. Raises ValueError when two targets share a name: their results would be merged.
    """
    waiting = list(targets)
    order = [target.name for target in waiting]
    if len(set(order)) != len(order):
        raise ValueError("two targets have the same name")
    if workers < 1:
        raise ValueError("fan_out needs at least one worker")
    waiting.reverse()
    running: dict[str, _Running] = {}
    results: dict[str, Result[T]] = {}
    finished: queue.SimpleQueue[Result[T]] = queue.SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                target = waiting.pop()
                running[target.name] = _start(target, function, finished)
            _collect(running, results, finished, deadline_s)
    finally:
        for entry in running.values():
            entry.scope.cancel()
    return {name: results[name] for name in order}


def _start(target: N, function: Callable[[N], T], finished: queue.SimpleQueue[Result[T]]) -> _Running:
    entry = _Running(time.monotonic(), CancelScope())

    def work() -> None:
        current_scope.set(entry.scope)
        value: T | None = None
        error: Exception | None = None
        try:
            value = function(target)
        except Exception as caught:  # noqa: BLE001 - whatever happened to one host is that host's result
            error = caught
        except BaseException as caught:  # noqa: BLE001 - SystemExit in a worker must not lose the host's result
            error = RuntimeError(f"{type(caught).__name__} in the worker of {target.name}: {caught}")
        finished.put(Result(target.name, value, error, time.monotonic() - entry.begin))

    # a daemon: a thread that hangs beyond its broken connection must not keep the program from ending
    threading.Thread(target=work, name=f"host-{target.name}", daemon=True).start()
    return entry


def _collect(
    running: dict[str, _Running],
    results: dict[str, Result[T]],
    finished: queue.SimpleQueue[Result[T]],
    deadline_s: float,
) -> None:
    """Wait for the next result or deadline, and move what is over from `running` to `results`."""
    next_deadline = min(entry.begin for entry in running.values()) + deadline_s
    try:
        done = finished.get(timeout=min(_TICK_S, max(0.0, next_deadline - time.monotonic())))
    except queue.Empty:
        pass
    else:
        if running.pop(done.name, None) is not None:  # else it came after its deadline, which is already told
            results[done.name] = done
    now = time.monotonic()
    for name in [name for name, entry in running.items() if now - entry.begin >= deadline_s]:
        entry = running.pop(name)
        entry.scope.cancel()
        error = CommandTimeout(name, f"no end within its deadline of {deadline_s:g} s; its connections are cut")
        results[name] = Result(name, None, error, now - entry.begin)
