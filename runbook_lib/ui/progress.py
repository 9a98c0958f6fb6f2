"""Progress per host as one row each: name, bar, text."""

from __future__ import annotations

import threading
from html import escape
from typing import Any

import ipywidgets

from runbook_lib.views.html import plain

# A browser needs no more steps than a bar has pixels; each change is a message to it.
_STEPS = 200
_TEXT_LIMIT = 200


class ProgressRows:
    """The rows of all hosts that reported. `update` may be called from any thread."""

    def __init__(self) -> None:
        self.box: Any = ipywidgets.VBox()
        self._rows: dict[str, tuple[Any, Any]] = {}
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Forget all hosts, for the next apply."""
        with self._lock:
            self._rows.clear()
            self.box.children = ()

    def update(self, host: str, fraction: float, text: str) -> None:
        """Show how far one host is; a fraction below 0 means that nobody knows, and leaves the bar empty."""
        with self._lock:
            bar, words = self._row(host)
            step = round(min(max(fraction, 0.0), 1.0) * _STEPS)
            shown = escape(plain(text, _TEXT_LIMIT)) if fraction >= 0 else f"… {escape(plain(text, _TEXT_LIMIT))}"
            # Equal values are not sent again by traitlets, so chatty callers cost nothing.
            bar.value = step
            bar.bar_style = "success" if step == _STEPS else "info"
            words.value = shown

    def _row(self, host: str) -> tuple[Any, Any]:
        if host not in self._rows:
            name = ipywidgets.HTML(escape(plain(host or "cluster", _TEXT_LIMIT)), layout={"width": "140px"})
            bar = ipywidgets.IntProgress(min=0, max=_STEPS, layout={"width": "240px"})
            words = ipywidgets.HTML()
            self._rows[host] = bar, words
            self.box.children = (*self.box.children, ipywidgets.HBox([name, bar, words]))
        return self._rows[host]
