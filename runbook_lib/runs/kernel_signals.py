"""SIGINT and SIGTERM while notebooks run: the notebooks end in order, and whoever was asked before hears of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    Stop = Callable[[str], None]

# The same signal often arrives twice (process and group); the third is from somebody who wants out at once.
_PATIENCE_SIGNALS = 3


class SignalExit(SystemExit):
    """A signal ended the notebook, its record is saved, and nobody else handles the signal."""


class Caught:
    """The signals that arrived, the handlers that were there before, and what is to be stopped."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.before: dict[int, Any] = {}
        self._stops: list[Stop] = []
        self._count = 0

    @contextlib.contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """Have `stop` called with the reason when a signal arrives meanwhile, or has arrived already. Any thread."""
        self._stops.append(stop)
        try:
            if self.signum is not None:
                stop(self.why)
            yield
        finally:
            self._stops.remove(stop)

    @property
    def why(self) -> str:
        """Say which signal it was."""
        return f"{signal.Signals(self.signum).name} was received" if self.signum is not None else ""

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """Stop what runs; at the third signal let the handlers of before decide."""
        self.signum = self.signum or signum
        self._count += 1
        if self._count >= _PATIENCE_SIGNALS:
            self.restore()
            signal.raise_signal(signum)
            return
        for stop in list(self._stops):
            stop(self.why)

    def restore(self) -> None:
        """Put back the handlers that were there before."""
        while self.before:
            signum, handler = self.before.popitem()
            signal.signal(signum, handler)

    def hand_on(self) -> None:
        """Give the signal to the handler that was there before. Raises what that raises, else SignalExit."""
        if self.signum is None:
            return
        handler = signal.getsignal(self.signum)
        if callable(handler):
            handler(self.signum, None)
        raise SignalExit(128 + self.signum)


_ABOVE: ContextVar[Caught | None] = ContextVar("_ABOVE", default=None)


@contextlib.contextmanager
def signals_caught() -> Iterator[Caught]:
    """Catch SIGINT and SIGTERM in the main thread; in another thread hear of those that `heard_from` names."""
    caught = Caught()
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(signum)
            # ignored on purpose (a background job of a shell), or set by C code that could not be restored
            if before not in (signal.SIG_IGN, None):
                caught.before[signum] = before
                signal.signal(signum, caught.handle)
    try:
        yield caught
    finally:
        caught.restore()


@contextlib.contextmanager
def heard_from(caught: Caught) -> Iterator[None]:
    """Have the notebooks of this thread stop when `caught`, which lives in the main thread, catches a signal."""
    token = _ABOVE.set(caught)
    try:
        yield
    finally:
        _ABOVE.reset(token)


def caught_above() -> Caught | None:
    """Return who catches the signals for this thread, None when it is left to the notebook."""
    return _ABOVE.get()
