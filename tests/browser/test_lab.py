"""The guided way: a person opens a stage in JupyterLab, runs it, reads the plan and presses Approve."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.runs import events
from runbook_lib.runs.folder import all_runs

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser.conftest import Home, Lab, Tab

CHROMIUM = Path("/usr/bin/chromium")
WORK = "/var/lib/ascend-runbook"
NOTEBOOK = "notebooks/10_preflight.ipynb"
RUN_ALL_S = 40.0

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(sys.platform != "linux", reason="the twin needs Linux"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


def set_parameters(home: Home, notebook: str, **values: str) -> None:
    """Edit the parameters cell as a person would do before opening the notebook."""
    path = home.path / notebook
    content = json.loads(path.read_text(encoding="utf-8"))
    cell = next(each for each in content["cells"] if "parameters" in each["metadata"].get("tags", []))
    for name, value in values.items():
        cell["source"], count = re.subn(rf'(?m)^{name} = "[^"]*"', f'{name} = "{value}"', cell["source"])
        assert count == 1, name
    path.write_text(json.dumps(content), encoding="utf-8")


def run_all(page: Page, lab: Lab, notebook: str) -> None:
    page.goto(lab.url(notebook))
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    deadline = time.monotonic() + RUN_ALL_S
    while not lab.kernel_listens():
        assert time.monotonic() < deadline, "the kernel did not become idle"
        page.wait_for_timeout(100)
    page.wait_for_timeout(300)  # the page hears of it a moment after the server
    menu(page, "Run", "Run All Cells")


def menu(page: Page, name: str, item: str) -> None:
    page.get_by_role("menuitem", name=name, exact=True).click()
    page.get_by_role("menuitem", name=item, exact=True).click()


def output(page: Page, words: str) -> Locator:
    return page.locator(".jp-OutputArea-output", has_text=words)


def saved_cells(home: Home, page: Page, notebook: str) -> list[dict[str, Any]]:
    """Save the notebook and return its code cells as they are on the disk."""
    before = (home.path / notebook).stat().st_mtime_ns
    page.keyboard.press("Control+s")
    deadline = time.monotonic() + 20
    while (home.path / notebook).stat().st_mtime_ns == before:
        assert time.monotonic() < deadline, "JupyterLab did not save the notebook"
        page.wait_for_timeout(50)
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    cells = json.loads((home.path / notebook).read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def works(home: Home) -> list[str]:
    """Return mode and owner of the work folder on both hosts, "absent" where there is none."""
    return [home.ssh(host, f"stat -c %a:%U {WORK} 2>/dev/null || echo absent") for host in (1, 2)]


def test_a_click_on_approve_deploys_a_stage(home: Home, lab: Lab, tab: Tab) -> None:
    page = tab.page
    set_parameters(home, NOTEBOOK, params=home.params, mode="apply")
    with tab.picture_on_failure():
        run_all(page, lab, NOTEBOOK)
        sync_api.expect(output(page, "not recorded when this cell ran")).to_be_visible(timeout=30_000)
        approve = page.locator("button.jupyter-button", has_text="Approve and apply")
        sync_api.expect(approve).to_be_enabled()
        digest = (approve.text_content() or "").split()[-1]
        panel = page.locator(".jp-OutputArea-output", has=page.locator("button.jupyter-button"))
        approve.scroll_into_view_if_needed()
        page.screenshot(path=tab.pictures / "before.png")

        run = all_runs(home.path / "outputs", home.name)[-1]
        assert works(home) == ["absent", "absent"]
        assert not [event for event in events.read(run.events) if event.kind in {"approval", "apply_start"}]

        approve.click()
        sync_api.expect(panel).to_contain_text("applied and verified", timeout=30_000)
        # The panel's title carries the verdict.
        sync_api.expect(panel.locator("h3").first).to_contain_text("ok")
        sync_api.expect(panel.locator("button").first).to_be_disabled()
        page.screenshot(path=tab.pictures / "after.png")
        cells = saved_cells(home, page, NOTEBOOK)

    assert works(home) == ["700:root", "700:root"]
    assert events.verify(run.events) == ""
    approvals = [event.data for event in events.read(run.events) if event.kind == "approval"]
    assert [(each["stage"], each["digest"]) for each in approvals] == [("preflight", digest)]
    assert "@" in approvals[0]["by"]
    assert run.status() == {"preflight": "ok"}
    result = json.loads(run.stage_json("preflight").read_text(encoding="utf-8"))
    assert result["verdict"] == "ok"
    assert result["digest"] == digest
    assert result["states"] == ["done", "done"]

    assert tab.errors == []
    assert all(cell["execution_count"] for cell in cells)
    assert [out for cell in cells for out in cell["outputs"] if out["output_type"] in {"error", "stream"}] == []
    shown = next(cell for cell in cells if cell["source"] == ["ui.approval(stage)"])["outputs"]
    # What stays when the kernel is gone is the state after the click.
    assert ["".join(out["data"]["text/plain"]) for out in shown] == ["Preflight: ok"]
    assert "install -d" not in "".join(shown[0]["data"]["text/html"])
