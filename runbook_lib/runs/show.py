"""Results that display themselves: HTML in a notebook, text elsewhere, JSON for programs."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

MIME = "application/vnd.ascend-runbook+json"


@dataclass(frozen=True, slots=True)
class Shown:
    """What one call shows. `data` is its JSON form, also put into the notebook."""

    html: str
    text: str
    data: Any = None

    @classmethod
    def line(cls, text: str) -> Shown:
        """Show one sentence."""
        return cls(f"<p>{escape(text)}</p>", text)

    @classmethod
    def table(cls, title: str, rows: dict[str, str]) -> Shown:
        """Show names and values."""
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        lines = "\n".join(f"  {name}: {value}" for name, value in rows.items())
        return cls(f"<h3>{escape(title)}</h3><table>{cells}</table>", f"{title}\n{lines}", rows)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002
        return {"text/html": self.html, "text/plain": self.text, MIME: {"data": self.data}}

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text
