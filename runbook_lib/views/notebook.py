"""An executed notebook as one static HTML page: no script, nothing from a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbconvert import HTMLExporter

if TYPE_CHECKING:
    from os import PathLike

# These packages claim types, but have none on what we call.
_READ: Any = nbformat.read
_NODE: Any = nbformat.from_dict
_EXPORTER: Any = HTMLExporter

# Widgets, scripts and diagrams would need a script from a CDN. Every widget of ours has its static twin in the
# same output, which is shown once its richer form is gone.
_ACTIVE = (
    "application/vnd.jupyter.widget-view+json",
    "application/javascript",
    "text/vnd.mermaid",
)
_SCRIPT = re.compile(
    r"<script\b.*?(?:</script\s*>|\Z)|<(?:link|meta|base|iframe|object|embed)\b[^>]*>", re.IGNORECASE | re.DOTALL
)
# The policy is the belt to the braces above: whatever slips through, browsers load and run nothing.
_TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head -%}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
font-src data:">
{{ super() }}
{%- endblock html_head -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block jupyter_widgets -%}{%- endblock jupyter_widgets -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
"""


def notebook_html(notebook: Any | str | PathLike[str]) -> str:  # noqa: ANN401 - nbformat publishes no types
    """Return a notebook (node or path of an .ipynb file) as HTML. Raises OSError or nbformat's errors."""
    source = Path(notebook) if isinstance(notebook, str | Path) else None
    node = _READ(source, as_version=4) if source else _NODE(notebook)
    still = _still(node)
    exporter = _EXPORTER(template_name="lab", raw_template=_TEMPLATE, theme="light")
    resources = {"metadata": {"name": source.stem if source else node.metadata.get("title", "notebook")}}
    body, _ = exporter.from_notebook_node(still, resources=resources)
    return str(body)


def _still(node: Any) -> Any:  # noqa: ANN401 - nbformat publishes no types
    """Return a copy of the notebook without its active parts."""
    metadata = {key: value for key, value in node.metadata.items() if key != "widgets"}
    return _NODE({**node, "metadata": metadata, "cells": [_still_cell(cell) for cell in node.cells]})


def _still_cell(cell: Any) -> dict[str, Any]:  # noqa: ANN401 - nbformat publishes no types
    if cell.cell_type == "markdown":
        return {**cell, "source": _SCRIPT.sub("", cell.source)}
    if cell.cell_type != "code":
        return dict(cell)
    return {**cell, "outputs": [_still_output(output) for output in cell.outputs]}


def _still_output(output: Any) -> dict[str, Any]:  # noqa: ANN401 - nbformat publishes no types
    if "data" not in output:
        return dict(output)
    data = {
        mime: _SCRIPT.sub("", value) if mime in {"text/html", "image/svg+xml", "text/markdown"} else value
        for mime, value in output.data.items()
        if mime not in _ACTIVE
    }
    if not any(mime.startswith(("text/", "image/")) for mime in data):
        data["text/plain"] = f"[an output without a static form: {', '.join(output.data) or 'nothing'}]"
    return {**output, "data": data}
