"""A picture of coloured cells as SVG text: rows, columns, a state in each cell. No library, no script, no font."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from runbook_lib.model import Verdict
from runbook_lib.views.html import plain
from runbook_lib.views.style import LIGHT, LOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runbook_lib.views.style import Language

_LARGE, _SMALL = 22, 9  # px of a cell; many columns get small ones, without a symbol
_MANY = 48
_LETTER = 6.2  # px, about, of a letter in the labels


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell shows: a verdict, and what to say when it is pointed at."""

    verdict: Verdict
    words: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows by columns. What has no cell is drawn as `empty`; what is in `closed` has no meaning and is left blank.

    groups: how many columns and rows belong together; a line is drawn between them (0 for none).
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[int, int], Cell]
    empty: str
    closed: frozenset[tuple[int, int]] = frozenset()
    group: int = 0

    def counts(self) -> dict[str, int]:
        """Count the cells by state, `empty` included."""
        found = {verdict.value: 0 for verdict in LOOKS}
        for cell in self.cells.values():
            found[cell.verdict.value] += 1
        found[self.empty] = len(self.rows) * len(self.columns) - len(self.cells) - len(self.closed)
        return {name: number for name, number in found.items() if number}


def svg(picture: Picture, language: Language = "en") -> str:
    """Draw a picture. Its text is escaped; control characters are made visible."""
    size = _SMALL if len(picture.columns) > _MANY else _LARGE
    left = 12 + _LETTER * max((len(name) for name in picture.rows), default=0)
    top = 34 + _LETTER * max((len(name) for name in picture.columns), default=0) * 0.95
    width, height = left + size * len(picture.columns) + 60, top + size * len(picture.rows) + 34
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="10">'
        ),
        f"<title>{_text(picture.title)}</title>",
        (
            '<defs><pattern id="rb-untested" width="5" height="5" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)">'
            f'<rect width="5" height="5" fill="{LIGHT["skipped-bg"]}"/>'
            f'<line x1="0" y1="0" x2="0" y2="5" stroke="{LIGHT["line"]}" stroke-width="2"/></pattern></defs>'
        ),
        f'<text x="4" y="14" font-size="12" fill="currentColor">{_text(picture.title)}</text>',
        (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{size * len(picture.columns)}" '
            f'height="{size * len(picture.rows)}" fill="url(#rb-untested)"><title>{_text(picture.empty)}</title></rect>'
        ),
    ]
    parts += _labels(picture, size, left, top)
    parts += [
        f'<rect x="{left + column * size:.1f}" y="{top + row * size:.1f}" width="{size}" height="{size}" '
        f'fill="{LIGHT["paper"]}"/>'
        for row, column in sorted(picture.closed)
    ]
    parts += [_cell(cell, left + column * size, top + row * size, size, language)
              for (row, column), cell in sorted(picture.cells.items())]  # fmt: skip
    parts += _lines(picture, size, left, top)
    parts.append(_legend(picture, left, height - 10, language))
    return "\n".join([*parts, "</svg>"])


def _text(text: str) -> str:
    return escape(plain(text, 300).replace("\n", " "))


def _labels(picture: Picture, size: int, left: float, top: float) -> Iterable[str]:
    """Name rows and columns; where cells are small, the first of every group only."""
    step = picture.group if size == _SMALL and picture.group else 1
    for number, name in enumerate(picture.rows):
        if number % step == 0:
            y = top + number * size + size / 2 + 3
            yield f'<text x="{left - 5:.1f}" y="{y:.1f}" text-anchor="end" fill="currentColor">{_text(name)}</text>'
    for number, name in enumerate(picture.columns):
        if number % step == 0:
            x = left + number * size + size / 2 + 3
            yield (
                f'<text transform="translate({x:.1f},{top - 5:.1f}) rotate(-70)" fill="currentColor">'
                f"{_text(name)}</text>"
            )


def _cell(cell: Cell, x: float, y: float, size: int, language: Language) -> str:
    name, look = cell.verdict.value, LOOKS[cell.verdict]
    said = f"{look.word(language)}: {cell.words}" if cell.words else look.word(language)
    box = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{size}" height="{size}" fill="{LIGHT[name + "-bg"]}" '
        f'stroke="{LIGHT["line"]}" stroke-width="0.5"><title>{_text(said)}</title></rect>'
    )
    if size == _SMALL:
        # too small for a symbol: what is not ok takes the full colour
        return box if cell.verdict is Verdict.OK else box.replace(LIGHT[name + "-bg"], LIGHT[name])
    return (
        f'{box}<text x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" text-anchor="middle" pointer-events="none" '
        f'font-size="12" fill="{LIGHT[name]}">{look.symbol}</text>'
    )


def _lines(picture: Picture, size: int, left: float, top: float) -> Iterable[str]:
    if not picture.group:
        return
    right, bottom = left + size * len(picture.columns), top + size * len(picture.rows)
    style = f'stroke="{LIGHT["soft"]}" stroke-width="1"'
    for number in range(0, len(picture.rows) + 1, picture.group):
        y = top + number * size
        yield f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" {style}/>'
    for number in range(0, len(picture.columns) + 1, picture.group):
        x = left + number * size
        yield f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" {style}/>'


def _legend(picture: Picture, left: float, y: float, language: Language) -> str:
    names = {verdict.value: f"{look.symbol} {look.word(language)}" for verdict, look in LOOKS.items()}
    said = "   ".join(f"{names.get(name, name)}: {number}" for name, number in picture.counts().items())
    return f'<text x="{min(left, 60):.1f}" y="{y:.1f}" fill="currentColor">{_text(said)}</text>'
