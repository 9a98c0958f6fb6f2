"""Rank tables: what we build holds, and every kind of damage is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import rank_table
from runbook_lib.ascend.rank_table import RankHost

if TYPE_CHECKING:
    from collections.abc import Callable

LIVE = {
    "10.0.0.1": {n: f"10.20.0.{n + 1}" for n in range(8)},
    "10.0.0.2": {n: f"10.20.0.{n + 101}" for n in range(8)},
}
HOSTS = [RankHost(server, tuple(addresses.values())) for server, addresses in LIVE.items()]


def damaged(change: Callable[[dict[str, Any]], object]) -> str:
    data: dict[str, Any] = json.loads(rank_table.build(HOSTS))
    change(data)
    return json.dumps(data)


def test_what_we_build_is_valid_and_stable() -> None:
    text = rank_table.build(HOSTS)
    assert rank_table.validate(text, LIVE) == []
    assert text == rank_table.build(list(HOSTS))
    table = rank_table.parse(text).value
    assert table is not None
    assert table.world_size == 16
    assert table.servers[0].server_id == "10.0.0.1"
    assert [device.rank_id for device in table.servers[1].devices] == list(range(8, 16))


def test_all_values_are_strings_and_the_first_host_is_master() -> None:
    data = json.loads(rank_table.build(list(reversed(HOSTS))))
    assert data["server_count"] == "2"
    assert data["server_list"][0]["server_id"] == "10.0.0.2"
    assert data["server_list"][0]["device"][0] == {"device_id": "0", "device_ip": "10.20.0.101", "rank_id": "0"}
    assert data["server_list"][0]["container_ip"] == "10.0.0.2"


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [RankHost("10.0.0.1", ())],
        [RankHost("10.0.0.1", ("10.1.0.1",)), RankHost("10.0.0.2", ("10.1.0.2", "10.1.0.3"))],
        [RankHost("10.0.0.1", ("-.-.-.-",))],
        [RankHost("host1", ("10.1.0.1",))],
        [RankHost("10.0.0.1", ("10.1.0.1",), device_ids=(0, 1))],
    ],
)
def test_what_would_only_fail_at_start_is_refused(hosts: list[RankHost]) -> None:
    with pytest.raises(ValueError, match=r"rank table|card|address"):
        rank_table.build(hosts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(server_count=2), "expected a string"),
        (lambda d: d.update(server_count="3"), "server_count is 3"),
        (lambda d: d.update(version="1.2"), "version"),
        (lambda d: d.update(status="initializing"), "status"),
        (lambda d: d["server_list"][0].pop("container_ip"), "container_ip is missing"),
        (lambda d: d["server_list"][0]["device"][0].update(device_ip="-.-.-.-"), "not an IP address"),
        (lambda d: d["server_list"][0]["device"][0].update(device_ip="fd00::1"), "mixes IPv4 and IPv6"),
        (lambda d: d["server_list"][0]["device"][0].update(device_id=0), "expected a string"),
        (lambda d: d["server_list"][0]["device"][0].update(device_id="64"), "outside [0, 63]"),
        (lambda d: d["server_list"][0]["device"][1].update(device_id="0"), "appears more than once"),
        (lambda d: d["server_list"][0]["device"][1].update(device_ip="10.20.0.1"), "appears more than once"),
        (lambda d: d["server_list"][0]["device"][1].update(rank_id="9"), "rank_id must run"),
        (lambda d: d["server_list"][0]["device"].pop(), "different numbers of cards"),
        (lambda d: d["server_list"].reverse(), "rank_id must run"),
        (lambda d: d["server_list"].pop(), "part of the cluster but not in the table"),
        (lambda d: d["server_list"][1].update(server_id="10.0.0.9"), "no live addresses"),
        (lambda d: d["server_list"][0]["device"][2].update(device_ip="10.20.0.77"), "the card has 10.20.0.3"),
        (lambda d: d.update(server_list={}), "expected a list of servers"),
    ],
)
def test_damage_is_named(change: Callable[[dict[str, Any]], object], words: str) -> None:
    assert any(words in problem for problem in rank_table.validate(damaged(change), LIVE))


def test_an_unknown_live_address_is_a_problem() -> None:
    live = {**LIVE, "10.0.0.2": LIVE["10.0.0.2"] | {0: ""}}
    assert any("not known" in problem for problem in rank_table.validate(rank_table.build(HOSTS), live))


@pytest.mark.parametrize("first", [4, 8])
def test_cards_need_not_begin_at_0(first: int) -> None:
    live = {server: {first + card: ip for card, ip in ips.items()} for server, ips in LIVE.items()}
    text = rank_table.build([RankHost(server, tuple(ips.values()), "", tuple(ips)) for server, ips in live.items()])
    devices = [device for server in json.loads(text)["server_list"] for device in server["device"]]
    assert [device["device_id"] for device in devices] == [str(card) for ips in live.values() for card in ips]
    assert [device["rank_id"] for device in devices] == [str(rank) for rank in range(16)]
    assert rank_table.validate(text, live) == []
    lost = {**live, "10.0.0.1": {card: ip for card, ip in live["10.0.0.1"].items() if card != first}}
    assert rank_table.validate(text, lost) == [
        f"server 10.0.0.1 card {first} is in the table but is no card of the cluster"
    ]
    more = {**live, "10.0.0.1": live["10.0.0.1"] | {3: "10.20.0.99"}}
    assert rank_table.validate(text, more) == ["server 10.0.0.1 card 3 is on the host but not in the table"]


@pytest.mark.parametrize("text", ["", "[]", '{"version": "1.0",}', '{"a": 1} // x', "[" * 5000])
def test_no_json_no_table(text: str) -> None:
    assert rank_table.parse(text).state == "unreadable"
    assert rank_table.validate(text, LIVE)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 900), junk=st.text(max_size=10))
def test_no_cut_raises_or_passes(cut: int, junk: str) -> None:
    text = rank_table.build(HOSTS)
    for odd in (text[:cut] + junk, junk):
        assert rank_table.validate(odd, LIVE)
