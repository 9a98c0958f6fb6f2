"""Pictures: every cell has its state, what was not tested is drawn as untested, and text cannot break out."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from runbook_lib.ascend.hccl_test import Collective
from runbook_lib.ascend.hccn import IpConfig, PingResult
from runbook_lib.ascend.reading import Reading
from runbook_lib.model import Finding, Subject, Verdict
from runbook_lib.params import load_params
from runbook_lib.stages.network import NetworkFacts
from runbook_lib.views import pictures
from runbook_lib.views.cells import Cell, Picture, svg

PARAMS = load_params(Path(__file__).parents[2] / "params" / "twin-4x8-switch.yaml")


def finding(code: str, host: str, verdict: Verdict, card: int = -1, seen: str = "") -> Finding:
    """Return a finding."""
    return Finding(code, "preflight", Subject(host, card), verdict, seen)


def test_host_by_check_shows_the_worst() -> None:
    """Cards of one host share a cell, the cluster has a row of its own, unchecked cells are counted."""
    found = [
        finding("NET-MTU", "node1", Verdict.OK, 0),
        finding("NET-MTU", "node1", Verdict.FAIL, 1, "1400"),
        finding("NET-IP", "node2", Verdict.UNKNOWN),
        finding("NET-TLS", "", Verdict.OK),
    ]
    picture = pictures.checks_picture(found)
    assert picture.rows == ["node1", "node2", "cluster"]
    assert picture.cells[0, 0].verdict is Verdict.FAIL
    assert "1400" in picture.cells[0, 0].words
    assert picture.counts() == {"ok": 1, "fail": 1, "unknown": 1, "not checked": 6}


def _facts(pings: dict[tuple[Subject, Subject], Reading[PingResult]]) -> NetworkFacts:
    class Card:
        link = Reading(value=True, state="set")

        def __init__(self, ip: str) -> None:
            self.ip = Reading(IpConfig(ip, "255.255.0.0"), "set")

    cards = {host.name: {card.id: Card(card.ip) for card in host.cards} for host in PARAMS.cluster.hosts}
    return NetworkFacts(cards, {}, {}, pings)  # type: ignore[arg-type]  # what the picture looks at


def test_untested_pairs_are_drawn_as_untested() -> None:
    """Of 32 x 32 cells 256 lie within a host; two were tested, the rest says so."""
    near, far = Subject("node1", 0), Subject("node2", 0)
    facts = _facts({
        (near, far): Reading(PingResult(3, 3, 0.0), "set"),
        (far, near): Reading(PingResult(3, 0, 100.0), "set"),
    })  # fmt: skip
    picture = pictures.ping_picture(facts, PARAMS)
    assert picture.counts() == {"ok": 1, "fail": 1, "untested": 1024 - 256 - 2}
    text = pictures.picture_text("network", facts, [], PARAMS)
    assert "766 untested" in text
    drawn = svg(picture)
    assert 'fill="url(#rb-untested)"' in drawn
    assert "0 of 3 answered" in drawn


def test_pictures_are_well_formed_and_safe() -> None:
    """A hostile name is text, small cells have no symbol but their colour, and nothing comes from a network."""
    cells = {(0, 0): Cell(Verdict.FAIL, "<script>alert(1)</script>\x1b[31m")}
    for columns in (3, 80):
        drawn = svg(Picture("a <b>", ["r"], [f"c{number}" for number in range(columns)], cells, "untested", group=2))
        ET.fromstring(drawn)  # noqa: S314 - our own text
        assert "<script>" not in drawn
        assert not re.search(r"(?:href|src)=|url\(http", drawn)
    html = pictures.picture_html("preflight", None, [finding("NET-MTU", "node1", Verdict.WARN)], PARAMS, "zh")
    assert "主机" in html


def test_bandwidth_bars() -> None:
    """One bar for each size, and the expected order of magnitude as a line."""
    rows = [Collective(8192, 80.0, 0.1, checked=True), Collective(1 << 26, 2830.0, 23.7, checked=True)]
    html = pictures.collective_html(rows, 20.0)
    assert html.count("<rect") == 2
    assert "64 MiB" in html
    assert "23.70" in html
