"""How things look: one palette for pages and figures, one look per verdict. No network, no external font."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runbook_lib.model import Risk, Verdict

Language = Literal["en", "zh"]

# Text and background pairs keep a contrast of at least 4.5 (WCAG AA), in both schemes; tested.
LIGHT = {
    "ink": "#1f2933", "soft": "#52606d", "paper": "#ffffff", "panel": "#f6f8fa", "line": "#d5dce3",
    "accent": "#1d5fa8",
    "ok": "#1a6b3c", "ok-bg": "#e6f4ea",
    "warn": "#855100", "warn-bg": "#fff3d6",
    "fail": "#a8201a", "fail-bg": "#fdeaea",
    "unknown": "#6b2fa0", "unknown-bg": "#f3eafb",
    "skipped": "#566270", "skipped-bg": "#eef1f4",
}  # fmt: skip
DARK = {
    "ink": "#e4e9ee", "soft": "#a5b1bd", "paper": "#14181d", "panel": "#1c2229", "line": "#38424d",
    "accent": "#7db4f0",
    "ok": "#7fd6a0", "ok-bg": "#15301f",
    "warn": "#f0c263", "warn-bg": "#362a10",
    "fail": "#ff9c95", "fail-bg": "#3d1a1a",
    "unknown": "#cfa6f5", "unknown-bg": "#2d1d3f",
    "skipped": "#a5b1bd", "skipped-bg": "#262d35",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """Symbol and word of a verdict; its colours carry the verdict's own name."""

    symbol: str
    en: str
    zh: str

    def word(self, language: Language) -> str:
        """Return the word in one language."""
        return self.zh if language == "zh" else self.en


LOOKS = {
    Verdict.OK: Look("✓", "ok", "正常"),
    Verdict.WARN: Look("!", "warn", "警告"),
    Verdict.FAIL: Look("✗", "fail", "失败"),
    Verdict.UNKNOWN: Look("?", "unknown", "未知"),
    Verdict.SKIPPED: Look("–", "skipped", "跳过"),  # noqa: RUF001 - an en dash stands for "nothing here"
}
# A risk borrows the colours of the verdict that asks for as much attention.
RISK_COLOURS = {Risk.REVERSIBLE: "skipped", Risk.DISRUPTIVE: "warn", Risk.DESTRUCTIVE: "fail"}


def _variables(palette: dict[str, str]) -> str:
    return "".join(f"--rb-{name}:{colour};" for name, colour in palette.items())


def _style() -> str:
    rules = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    light, dark = _variables(LIGHT), _variables(DARK)
    # Inside JupyterLab its theme decides, not the desktop's; only our own pages follow the desktop.
    return (
        f".rb{{{light}color-scheme:light}}\n"
        f'body[data-jp-theme-light="false"] .rb{{{dark}color-scheme:dark}}\n'
        f"@media screen and (prefers-color-scheme:dark){{body.rb-page,body.rb-page .rb{{{dark}color-scheme:dark}}}}\n"
        f"{rules}"
    )


STYLE_TAG = f"<style>\n{_style()}</style>\n"
