"""An executed notebook as a page: all that it showed, nothing that acts or loads."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import nbformat

from runbook_lib.views.notebook import notebook_html

if TYPE_CHECKING:
    from pathlib import Path

CDN = '<script src="https://cdn.example/x.js"></script>'
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebook() -> dict[str, Any]:
    """Make a notebook with everything that could reach out."""
    outputs = [
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {
                WIDGET: {"model_id": "1", "version_major": 2, "version_minor": 0},
                "text/html": f"<b>static twin</b>{CDN}<link rel='stylesheet' href='https://cdn.example/x.css'>",
            },
        },
        {"output_type": "display_data", "metadata": {}, "data": {"application/javascript": "alert('js output')"}},
        {"output_type": "display_data", "metadata": {}, "data": {"application/vnd.own+json": {"a": 1}}},
        {"output_type": "stream", "name": "stdout", "text": "streamed <script>alert(2)</script>"},
        {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<script>never closed"}},
    ]
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# Purpose\n\n$x$ {CDN}"},
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "panel", "outputs": outputs, "execution_count": 1},
    ]
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}
    return {"cells": cells, "metadata": {"widgets": widgets}, "nbformat": 4, "nbformat_minor": 5}


def check(html: str) -> None:
    """Fail on anything active or remote."""
    assert "Purpose" in html
    assert "<b>static twin</b>" in html
    assert "streamed &lt;script&gt;" in html
    assert not re.search(r"<script", html)
    assert "js output" not in html
    assert "an output without a static form: application/javascript" in html
    assert "an output without a static form: application/vnd.own+json" in html
    for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", html):
        assert "//" not in tag
    assert "cdn" not in html.lower()
    assert not re.search(r"@import|url\(['\"]?https?:", html)
    assert "default-src 'none'" in html


def test_a_node_becomes_a_still_page_and_stays_as_it_was() -> None:
    """The widget is replaced by its static twin."""
    make: Any = nbformat.from_dict
    node = make(notebook())
    check(notebook_html(node))
    assert WIDGET in node.cells[1].outputs[0].data


def test_a_path_is_read(tmp_path: Path) -> None:
    """The page's title is the file's name."""
    path = tmp_path / "20_network_setup.ipynb"
    path.write_text(json.dumps(notebook()), encoding="utf-8")
    html = notebook_html(path)
    check(html)
    assert "<title>20_network_setup</title>" in html
