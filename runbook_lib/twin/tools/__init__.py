"""The emulated tools, by the name under which they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runbook_lib.twin.tools.hccn_tool import hccn_tool

if TYPE_CHECKING:
    from runbook_lib.twin.world import Tool

TOOLS: dict[str, Tool] = {
    "hccn_tool": hccn_tool,
}
