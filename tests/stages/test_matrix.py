"""The ping matrix: which pairs are asked, how a cut answer is read, and which card is blamed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from runbook_lib.model import Capture, Subject, Verdict
from runbook_lib.params import HostPaths, Params
from runbook_lib.stages import network
from runbook_lib.stages.base import NEVER_RAN, HostProbe
from runbook_lib.stages.card_reads import card_sections, split_reads
from runbook_lib.stages.network.matrix import blame
from runbook_lib.stages.network.pairs import TURNS, Pair, pairs, subject_of
from runbook_lib.stages.network.pings import parse_pings, ping_section
from tests.stages.conftest import join_reads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runbook_lib.stages.card_reads import Reads
    from tests.stages.conftest import Scene

TOOL = """#!/bin/sh
echo "$*" >>"{log}"
[ "$2" != 3 ] || sleep 30
case " $* " in *' -ping '*) echo "device $2 PING $6"; echo '1 packets transmitted, 1 received, 0.00% packet loss';; esac
case " $* " in *' -lldp '*) exit 0;; *' -ip '*) echo 'no ip was preset there!' >&2; exit 13;; esac
echo "said $3"
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """Return a program that answers pings, hangs for card 3, and writes down how it was called."""
    path = tmp_path / "hccn_tool"
    path.write_text(TOOL.format(log=tmp_path / "log"), encoding="utf-8")
    path.chmod(0o755)
    return path


def large(params: Params, hosts: int) -> Params:
    """Return params with more hosts of the same form."""
    first = params.cluster.hosts[0]
    more = [
        first.model_copy(
            update={
                "name": f"node{number}",
                "cards": [card.model_copy(update={"ip": f"10.20.{number}.{10 + card.id}"}) for card in first.cards],
            }
        )
        for number in range(1, hosts + 1)
    ]
    return params.model_copy(update={"cluster": params.cluster.model_copy(update={"hosts": more})})


def cells(params: Params) -> set[tuple[Subject, Subject]]:
    """Return every pair that is always asked, by all hosts together."""
    return {
        (each.source, each.target) for host in params.cluster.hosts for each in pairs(params, host) if each.turn < 0
    }


def test_a_small_cluster_is_complete(make: Callable[..., Scene]) -> None:
    """Up to four hosts every card pings every card of every other host; on a cable there is one other end."""
    assert len(cells(make("network", "switch").params)) == 32 * 24
    assert len(cells(make("network", "direct").params)) == 16


@pytest.mark.parametrize("hosts", [5, 16, 64])
def test_a_large_cluster_is_sampled(hosts: int, make: Callable[..., Scene]) -> None:
    """The same card of every host both ways, and over the turns other cards too; never a card of the own host."""
    params = large(make("network", "switch").params, hosts)
    always = cells(params)
    assert len(always) == hosts * (hosts - 1) * 8
    assert all((target, source) in always for source, target in always)
    sampled = [each for host in params.cluster.hosts for each in pairs(params, host) if each.turn >= 0]
    assert {each.turn for each in sampled} <= set(range(TURNS))
    assert all(each.source.card != each.target.card and each.source.host != each.target.host for each in sampled)
    for turn in range(TURNS):
        assert sum(each.turn == turn for each in sampled) > hosts * (hosts - 1) * 3 // 4


def test_the_loop_pings_until_its_deadline(tool: Path) -> None:
    """Pairs of another turn are left out, a hung ping costs its own limit, and what came is read."""
    where = {f"10.0.0.{number}": Subject("b", number) for number in range(1, 5)}
    asked = [Pair(Subject("a", number), where[f"10.0.0.{number}"], f"10.0.0.{number}") for number in (1, 2)]
    asked.append(Pair(Subject("a", 4), where["10.0.0.4"], "10.0.0.4", turn=5))
    section = ping_section("pings", str(tool), asked, 1, 60)
    done = subprocess.run(section.argv, capture_output=True, text=True, check=True, timeout=20)
    found = parse_pings(Capture(stdout=done.stdout, exit_code=0), "a", where, asked)
    assert {(cell[0].card, cell[1].card) for cell in found} == {(1, 1), (2, 2)}
    assert all(reading.value is not None and reading.value.received == 1 for reading in found.values())
    hangs = [Pair(Subject("a", 3), where[f"10.0.0.{number}"], f"10.0.0.{number}") for number in (1, 2)]
    argv = list(ping_section("pings", str(tool), hangs, 1, 60).argv)
    argv[6] = "1"
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    found = parse_pings(Capture(stdout=done.stdout, exit_code=0), "a", where, hangs)
    assert [(cell[1].card, reading.reason) for cell, reading in found.items()] == [(1, "timeout")]
    late = ping_section("pings", str(tool), asked, 1, 0)
    done = subprocess.run(late.argv, capture_output=True, text=True, check=True, timeout=20)
    assert parse_pings(Capture(stdout=done.stdout, exit_code=0), "a", where, asked) == {}


def test_reads_of_cards_are_taken_apart(tool: Path) -> None:
    """Every read has its own words and exit code; a card that hangs loses its own reads only."""
    words, cards = ("link", "lldp", "ip"), (0, 3, 4)

    def split(first: Capture, again: Capture = NEVER_RAN) -> Reads:
        return split_reads(
            HostProbe("a", HostPaths("", "", "", "", ""), {"cards": first, "cards.again": again}), "cards", cards, words
        )

    quick, careful = card_sections("cards", str(tool), cards, words, limit_s=1)
    assert careful.if_hung == quick.unit
    began = subprocess.run(["timeout", "1", *quick.argv], capture_output=True, text=True, check=False, timeout=20)
    assert began.returncode == 124
    first = Capture(stdout=began.stdout, timed_out=True)
    alone = split(first)
    assert {read: seen.exit_code for read, seen in alone.items()} == {
        (0, "link"): 0,
        (0, "lldp"): 0,
        (0, "ip"): 13,
        (3, "link"): None,
    }
    done = subprocess.run(careful.argv, capture_output=True, text=True, check=True, timeout=20)
    second = Capture(stdout=done.stdout, exit_code=0)
    found = split(first, second)
    assert found == split(Capture(exit_code=137), second)
    assert found[0, "link"] == Capture(stdout="said -link\n", exit_code=0)
    assert found[0, "lldp"] == Capture(exit_code=0)
    assert (found[0, "ip"].exit_code, found[0, "ip"].stdout) == (13, "no ip was preset there!\n")
    assert found[3, "link"] == Capture(timed_out=True)
    assert (3, "ip") not in found
    assert found[4, "lldp"].ok
    rejoined = join_reads("cards", found)
    assert split(rejoined["cards"], rejoined["cards.again"]) == found
    blocked = split(first, Capture(stdout="@@runbook read 0 link\nthe tool is busy\n\n@@runbook code 1\n", exit_code=0))
    assert blocked == {read: found[read] for read in ((0, "link"), (0, "lldp"), (0, "ip"))}
    cut = split(Capture(stdout=first.stdout[:40], timed_out=True))
    assert [(read, capture.timed_out) for read, capture in cut.items()] == [((0, "link"), True)]
    broken = split(Capture(stderr="sh: not found", exit_code=127))
    assert set(broken) == {(card, word) for card in cards for word in words}
    assert not any(each.ok for each in broken.values())


def grid(failing: set[tuple[Subject, Subject]]) -> dict[tuple[Subject, Subject], Verdict]:
    """Return a whole matrix of three hosts with two cards each, with some failing pairs."""
    cards = [Subject(host, card) for host in "abc" for card in (0, 1)]
    every = [(source, target) for source in cards for target in cards if source.host != target.host]
    return {cell: Verdict.FAIL if cell in failing else Verdict.OK for cell in every}


def test_a_dead_card_is_blamed_alone() -> None:
    """Everybody fails with it, it fails with everybody: nobody else is blamed."""
    dead = Subject("b", 1)
    found = blame(grid({cell for cell in grid(set()) if dead in cell}))
    assert set(found) == {dead}
    assert len(found[dead]) == 8


def test_two_dead_cards_and_a_one_way_loss() -> None:
    """Two dead cards are both found; a single loss is laid to its sender."""
    dead, loss = {Subject("a", 0), Subject("c", 1)}, (Subject("b", 0), Subject("a", 1))
    failing = {cell for cell in grid(set()) if dead & set(cell)} | {loss}
    assert set(blame(grid(failing))) == dead | {loss[0]}
    assert blame(grid({loss})) == {loss[0]: [loss]}
    assert blame(grid(set())) == {}


def test_both_ends_of_a_dead_cable_are_named() -> None:
    """With one pair of cards nobody can tell which end it is."""
    near, far = Subject("a", 0), Subject("b", 0)
    assert set(blame({(near, far): Verdict.FAIL, (far, near): Verdict.FAIL})) == {near, far}


def test_swapped_cables_are_found_by_asking_on(make: Callable[..., Scene]) -> None:
    """A failing pair makes its cards suspect; asking all their pairs shows whom the cables really lead to."""
    scene = make("network", "direct")
    first = {(0, "192.168.11.200"): 0, (1, "192.168.11.201"): 0}
    back = {(0, "192.168.11.100"): 0, (1, "192.168.11.101"): 0}
    scene.captures["node1"]["pings"] = scene.pings("node1", first)
    scene.captures["node2"]["pings"] = scene.pings("node2", back)
    facts, params = scene.facts(), scene.params
    paths = {host.name: HostPaths.of(params) for host in params.cluster.hosts}
    section = network.follow_up(facts, params, paths)["node1"].sections[0]
    assert section.key == "more_pings"
    assert len(section.argv[8:]) // 3 == 2 * 7 + 6 * 2
    answer = "ping {} {}\ndevice {} PING {}\n1 packets transmitted, 1 received, 0.00% packet loss\ncode 0\n"
    for name, pairs_seen in (
        ("node1", [(0, "192.168.11.201"), (1, "192.168.11.200")]),
        ("node2", [(0, "192.168.11.101"), (1, "192.168.11.100")]),
    ):
        text = "".join(answer.format(card, ip, card, ip) for card, ip in pairs_seen)
        scene.captures[name]["more_pings"] = Capture(stdout=text + "end\n", exit_code=0)
    found = {(each.code, str(each.subject)): each for each in scene.findings() if each.verdict is Verdict.FAIL}
    assert "node2 card 1 answers" in found["NET-CABLING", "node1 card 0"].seen
    assert "node1 card 0 answers" in found["NET-CABLING", "node2 card 1"].seen
    assert {code for code, _ in found} == {"NET-CABLING", "NET-PING"}


def test_a_cable_that_leads_to_one_card_is_no_fault(make: Callable[..., Scene]) -> None:
    """One pair fails, all other pairs of its cards are asked and fail too: only the cable's own ends are named."""
    scene = make("network", "direct")
    scene.captures["node1"]["pings"] = scene.pings("node1", {(0, "192.168.11.200"): 0})
    scene.captures["node2"]["pings"] = scene.pings("node2", {(0, "192.168.11.100"): 0})
    no = "ping {} {}\ndevice {} PING {}\n1 packets transmitted, 0 received, 100.00% packet loss\ncode 1\n"
    lost = [(0, f"192.168.11.{200 + card}") for card in range(1, 8)]
    lost += [(card, "192.168.11.200") for card in range(1, 8)]
    text = "".join(no.format(card, ip, card, ip) for card, ip in lost)
    scene.captures["node1"]["more_pings"] = Capture(stdout=text + "end\n", exit_code=0)
    found = {(each.code, str(each.subject)) for each in scene.findings() if each.verdict is Verdict.FAIL}
    assert found == {("NET-PING", "node1 card 0"), ("NET-PING", "node2 card 0")}


@pytest.mark.parametrize("cluster", ["switch", "direct"])
def test_nobody_is_blamed_for_a_host_that_was_lost_meanwhile(make: Callable[..., Scene], cluster: str) -> None:
    """It may have been down while the others pinged it; that is unknown, and no fault of theirs or of its cards."""
    scene = make("network", cluster)
    last = scene.params.cluster.hosts[-1]
    silent = {(card, far.ip): 0 for card in (0, 1) for far in last.cards if cluster == "switch" or far.id == card}
    for host in scene.params.cluster.hosts[:-1]:
        scene.captures[host.name]["pings"] = scene.pings(host.name, silent)
    assert {each.subject.host for each in scene.findings() if each.verdict is Verdict.FAIL} != set()
    scene.captures[last.name]["pings"] = Capture(stderr="runbook: no result: connection lost", lost=True)
    found = {each.subject: each for each in scene.findings() if each.code == "NET-PING"}
    assert not any(each.verdict is Verdict.FAIL for each in found.values())
    assert all(found[Subject(last.name, card.id)].verdict is Verdict.UNKNOWN for card in last.cards)
    first = found[Subject("node1", 0)]
    assert f"not judged: {last.name} was lost while it was read" in first.seen
    assert first.verdict is (Verdict.OK if cluster == "switch" else Verdict.UNKNOWN)
    paths = {host.name: HostPaths.of(scene.params) for host in scene.params.cluster.hosts}
    assert network.follow_up(scene.facts(), scene.params, paths) == {}


FLAPS = """[devid 0]current time        : Wed Aug  2 03:09:26 2022
[devid 0]link up count       : 3
[devid 0]link change records :
[devid 0]    Wed Aug  2 03:00:{second} 2022    LINK UP
[devid 0]    Wed Aug  2 03:00:00 2022    LINK DOWN
[devid 0]    Wed Aug  2 02:50:{second} 2022    LINK UP
[devid 0]    Wed Aug  2 02:50:00 2022    LINK DOWN
"""


@pytest.mark.parametrize(
    ("cards", "verdicts"),
    [((0,), {0: Verdict.FAIL}), (range(8), dict.fromkeys(range(8), Verdict.WARN)), ((0, 1, 2, 3), {0: Verdict.FAIL})],
)
def test_a_peer_that_restarts_is_no_flapping_cable(
    cards: Sequence[int], verdicts: dict[int, Verdict], make: Callable[..., Scene]
) -> None:
    """Changes of most cards together come from the other end; those of one card, or of half, from its cable."""
    scene = make("network", "direct")
    for card in cards:
        text = FLAPS.format(second=10 + card)
        scene.captures["node1"][f"link_stat.{card}"] = Capture(stdout=text, exit_code=0)
    found = {
        each.subject.card: each.verdict
        for each in scene.findings()
        if (each.code, each.subject.host) == ("NET-FLAP", "node1")
    }
    assert {card: found[card] for card in verdicts} == verdicts


def test_a_healthy_cluster_is_not_asked_again(make: Callable[..., Scene]) -> None:
    """No suspect, no second round trip."""
    scene = make("network", "switch")
    paths = {host.name: HostPaths.of(scene.params) for host in scene.params.cluster.hosts}
    assert network.follow_up(scene.facts(), scene.params, paths) == {}
    assert subject_of(scene.params)["10.20.3.17"] == Subject("node4", 7)
