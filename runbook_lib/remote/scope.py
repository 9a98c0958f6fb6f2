"""Cancelling: whoever sets a deadline for a thread can break the connections that the thread opened.

A blocking read in a thread cannot be interrupted, but it returns once its connection is broken.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class CancelScope:
    """The connections opened by one worker thread. `cancel` breaks them, and any that it opens later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._breakers: list[Callable[[], None]] = []
        self.cancelled = False

    def add(self, breaker: Callable[[], None]) -> None:
        """Remember how to break a connection; it is broken at once when the scope is already cancelled."""
        with self._lock:
            self._breakers.append(breaker)
            late = self.cancelled
        if late:
            breaker()

    def discard(self, breaker: Callable[[], None]) -> None:
        """Forget a connection that was closed in good order."""
        with self._lock:
            if breaker in self._breakers:
                self._breakers.remove(breaker)

    def cancel(self) -> None:
        """Break all connections. Does not block."""
        with self._lock:
            self.cancelled = True
            breakers = list(self._breakers)
        for breaker in breakers:
            breaker()


#: The scope of the current thread; None outside a fan-out.
current_scope: ContextVar[CancelScope | None] = ContextVar("current_scope", default=None)


def cancelled() -> bool:
    """Whether whoever set this thread to work waits for it no more."""
    scope = current_scope.get()
    return scope is not None and scope.cancelled
