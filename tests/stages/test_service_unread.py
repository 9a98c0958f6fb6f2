"""What could not be read is unknown, and nothing is changed for it; and cards whose numbers do not begin at 0."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.model import Capture, Verdict
from runbook_lib.params import HostPaths, Params, load_params
from runbook_lib.stages import service
from tests.stages import conftest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stages.conftest import Scene

UNREAD = {
    "lost": Capture(stderr="the connection broke", lost=True),
    "late": Capture(timed_out=True),
    "refused": Capture(stderr="Permission denied", exit_code=1),
}
LOOK_AGAIN = "runbook check params/twin-2x8-direct.yaml --stage service"


@pytest.mark.parametrize("how", UNREAD)
def test_one_read_that_fails_changes_nothing(make: Callable[..., Scene], how: str) -> None:
    """A healthy service goes on whichever read of whichever host fails; nothing is said to be bad."""
    whole = make("service")
    for host, captures in whole.captures.items():
        for key in captures:
            scene = make("service")
            scene.captures[host][key] = UNREAD[how]
            assert scene.changes() == [], (host, key)
            assert [each for each in scene.findings() if each.verdict is Verdict.FAIL] == [], (host, key)
            looks = {each.next_command for each in scene.findings() if each.verdict is Verdict.UNKNOWN}
            assert looks <= {LOOK_AGAIN} | {each for each in looks if each.startswith("curl ")}, (host, key)


@pytest.mark.parametrize("base", ["healthy", "bare"])
def test_a_connection_that_breaks_changes_nothing(make: Callable[..., Scene], base: str) -> None:
    """What came before is judged, the rest is unknown; nothing is planned but what a whole look plans."""
    whole = make("service", "direct", base)
    for host, captures in whole.captures.items():
        for number in range(len(captures)):
            scene = make("service", "direct", base)
            scene.captures[host] |= dict.fromkeys(list(captures)[number:], UNREAD["lost"])
            assert scene.changes() in ([], whole.changes()), (host, number)
            assert {(each.code, each.subject) for each in scene.findings() if each.verdict is Verdict.FAIL} <= {
                (each.code, each.subject) for each in whole.findings() if each.verdict is Verdict.FAIL
            }, (host, number)


@pytest.mark.parametrize("how", UNREAD)
def test_on_a_new_cluster_only_what_decides_holds_the_plan_back(make: Callable[..., Scene], how: str) -> None:
    """Files that may be there, daemons that may run, ports that may be taken; all else is planned as ever."""
    whole = make("service", "direct", "bare")
    held = set()
    for host, captures in whole.captures.items():
        for key in captures:
            scene = make("service", "direct", "bare")
            scene.captures[host][key] = UNREAD[how]
            changes = scene.changes()
            assert changes in ([], whole.changes()), (host, key)
            held |= {key.partition(".")[0]} if not changes else set()
    assert held == {"default", "file", "alive", "ip", "listening"}


def test_a_host_that_is_away_holds_all_changes_back(make: Callable[..., Scene]) -> None:
    """Without it there is no rank table; what the other hosts lack is still said."""
    scene = make("service", "direct", "bare")
    scene.errors = {"node2": "no route to host"}
    assert scene.changes() == []
    missing = [each for each in scene.findings() if each.code == "SVC-CONFIG"]
    assert [(each.seen, each.verdict, each.next_command) for each in missing] == [
        ("config.json missing", Verdict.FAIL, LOOK_AGAIN)
    ]


def test_tables_that_were_read_and_differ_differ(make: Callable[..., Scene]) -> None:
    """One unread table hides no difference between the others."""
    scene = make("service", "switch")
    key = f"file.{HostPaths.of(scene.params).rank_table}"
    scene.captures["node1"][key] = UNREAD["late"]
    before = scene.captures["node2"][key]
    scene.captures["node2"][key] = dataclasses.replace(before, stdout=before.stdout + " ")
    same = [each for each in scene.findings() if each.code == "SVC-FILES-SAME"]
    assert [each.verdict for each in same] == [Verdict.FAIL]


def test_certificates_that_could_not_be_looked_for_are_not_missing(make: Callable[..., Scene]) -> None:
    """With https they decide about the start: unknown, and nothing is started."""
    scene = make("service", "direct", "bare")
    scene.params = load_params("params/twin-2x8-direct.yaml", {"service.https": True})

    def rules(tls: Capture) -> set[tuple[str, Verdict]]:
        for captures in scene.captures.values():
            captures["tls"] = tls
        assert scene.changes() == []
        return {(each.subject.item, each.verdict) for each in scene.findings() if each.code == "SVC-CONFIG-RULE"}

    assert rules(UNREAD["late"]) == {("ServerConfig.httpsEnabled", Verdict.UNKNOWN)}
    assert rules(Capture(exit_code=0)) == {("ServerConfig.httpsEnabled", Verdict.FAIL)}


def test_an_error_in_the_log_weighs_no_more_while_the_daemon_is_not_seen(make: Callable[..., Scene]) -> None:
    """It failed the start only of a daemon that is known not to run."""
    scene = make("service")
    error = "2026-01-05 08:00:01 [ERROR] [a.cpp:1] : [MIE05E030000] out of range"
    scene.captures["node2"]["logs"] = Capture(stdout=f"==> daemon.log <==\n{error}\n", exit_code=0)
    for alive, verdict in ((UNREAD["lost"], Verdict.WARN), (Capture(stdout="dead\n", exit_code=0), Verdict.FAIL)):
        scene.captures["node2"]["alive"] = alive
        assert [each.verdict for each in scene.findings() if each.code == "SVC-DAEMON-ERROR"] == [verdict]


def _with_cards(cluster: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Scene:
    data = conftest.cluster_params(cluster).model_dump(mode="json")
    for host in data["cluster"]["hosts"]:
        host["cards"] = change(host["cards"])
    params = Params.model_validate(data)
    # as _answers of conftest does it, which knows the clusters of the params files only
    return conftest.Scene("service", params, conftest._service_answers(params, bare=False))


@pytest.mark.parametrize(
    ("cluster", "change", "numbers"),
    [
        ("direct", lambda cards: [{**card, "id": card["id"] + 8} for card in cards], range(8, 16)),
        ("switch", lambda cards: cards[4:], range(4, 8)),
        ("switch", lambda cards: cards[1::2], range(1, 8, 2)),
    ],
)
def test_cards_need_not_begin_at_0(
    cluster: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], numbers: range
) -> None:
    """Any cards of a host are a healthy cluster; another address is seen on the card that has it."""
    scene = _with_cards(cluster, change)
    assert scene.problems() == []
    assert scene.changes() == []
    host = scene.params.cluster.hosts[1]
    path = HostPaths.of(scene.params)
    facts = scene.facts()
    want = service.wanted_files(facts, scene.params, host)
    assert want is not None
    devices = json.loads(want[path.rank_table][0])["server_list"][1]["device"]
    assert [(int(each["device_id"]), each["device_ip"]) for each in devices] == [
        (card.id, card.ip) for card in host.cards
    ]
    assert [int(each["device_id"]) for each in devices] == list(numbers)
    assert json.loads(want[path.config_json][0])["BackendConfig"]["npuDeviceIds"] == [list(numbers)]
    key, last = f"file.{path.rank_table}", host.cards[-1]
    for captures in scene.captures.values():
        captures[key] = dataclasses.replace(
            captures[key], stdout=captures[key].stdout.replace(f'"{last.ip}"', '"10.9.9.9"')
        )
    live = [each for each in scene.findings() if each.code == "SVC-RANK-TABLE-LIVE"]
    assert [each.seen for each in live] == [
        f"server {host.service_ip} card {last.id}: the table says 10.9.9.9, the card has {last.ip}"
    ] * len(scene.captures)
