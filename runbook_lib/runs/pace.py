"""How fast a job goes and when it will be done, from what its log says again and again."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.remote import JobStatus

_WINDOW_S = 20.0
_GB = 1e9
_MINUTE, _HOUR = 60, 3600


class Pace:
    """Speed over the last seconds, so that a stall shows soon, and the time that is left at that speed.

    `afterwards` says what a job does that goes on when all its bytes are there.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, afterwards: str = "") -> None:
        self._clock = clock
        self._afterwards = afterwards
        self._seen: deque[tuple[float, float]] = deque()

    def say(self, status: JobStatus) -> str:
        """Return bytes, speed and time left as one line; "" when the job prints no progress."""
        step = status.progress
        if step is None:
            return ""
        now = self._clock()
        self._seen.append((now, step.done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:  # noqa: PLR2004 - two points make a speed
            self._seen.popleft()
        passed = now - self._seen[0][0]
        speed = (step.done - self._seen[0][1]) / passed if passed > 0 else 0.0
        text = f"{size(step.done)} of {size(step.total)}"
        if step.done >= step.total:
            return f"{text}, {self._afterwards}" if self._afterwards else text
        if speed <= 0:
            return text if passed < _WINDOW_S / 2 else f"{text}, stalled for {duration(passed)}"
        return f"{text}, {speed / 1e6:.1f} MB/s, {duration((step.total - step.done) / speed)} left"


def size(count: float) -> str:
    """Return bytes for people."""
    return f"{count / _GB:.1f} GB" if count >= _GB else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return seconds for people."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
