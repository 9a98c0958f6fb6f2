"""The network stage where a rule is easily too kind or too strict: odd but legal clusters, half-read answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runbook_lib.model import Capture, Subject, Verdict
from runbook_lib.params import HostPaths, Params, load_params
from runbook_lib.stages import network
from runbook_lib.stages.network.pairs import pairs, suspect_pairs
from tests.stages.conftest import ROOT, cluster_params, ping_text, scene, scene_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runbook_lib.model import Finding
    from runbook_lib.stages.network.pairs import Pair
    from tests.stages.conftest import Scene

OK, WARN, FAIL, UNKNOWN = Verdict.OK, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN
BUSY = Capture(stdout="hccn_tool is busy, please try again.\n", exit_code=11)


def changed(params: Params, change: Callable[[dict[str, Any]], None]) -> Params:
    """Return params with a change of their plain form."""
    plain = params.model_dump(mode="json")
    change(plain)
    return Params.model_validate(plain)


def found(scene: Scene, code: str, subject: Subject) -> Finding:
    """Return the one finding of this code on this subject."""
    (only,) = [each for each in scene.findings() if (each.code, each.subject) == (code, subject)]
    return only


def read(text: str) -> Capture:
    """Return an answer."""
    return Capture(stdout=text, exit_code=0)


def swapped(params: Params) -> Scene:
    """Return a scene in which the first two cards of node1 have each other's address."""
    here = scene_of("network", params)
    first, second = params.master.cards[:2]
    for card, ip in ((first, second.ip), (second, first.ip)):
        here.captures["node1"][f"ip.{card.id}"] = read(f"ipaddr:{ip}\nnetmask:{card.netmask}\n")
    return here


def narrow(bits: int) -> Params:
    """Return the direct pair with a segment for every cable."""
    step = 1 << (32 - bits)

    def change(plain: dict[str, Any]) -> None:
        for number, host in enumerate(plain["cluster"]["hosts"]):
            for card in host["cards"]:
                card["ip"] = f"10.1.0.{64 + card['id'] * step + number + (bits < 31)}"
                card["netmask"] = f"255.255.255.{256 - step}"

    return changed(cluster_params("direct"), change)


def test_swapped_addresses_are_parked_on_a_free_address_of_a_segment_or_not_at_all() -> None:
    wide = [change.after for change in swapped(cluster_params("direct")).changes()]
    assert wide == ["192.168.11.254/255.255.255.0", "192.168.11.101/255.255.255.0", "192.168.11.100/255.255.255.0"]
    assert swapped(narrow(30)).changes() == []  # both addresses of every cable are taken, the others are no hosts'
    assert swapped(narrow(31)).changes() == []
    assert swapped(narrow(29)).changes()[0].after.partition("/")[0] == "10.1.0.70"
    assert found(swapped(narrow(31)), "NET-IP", Subject("node1", 0)).verdict is FAIL


def test_what_was_never_pinged_is_not_made_up_for_by_other_pairs() -> None:
    params = load_params(ROOT / "params/twin-16x8-switch.yaml")
    here, hosts = scene_of("network", params), params.cluster.hosts
    dead = {Subject(hosts[1].name, 3), Subject(hosts[2].name, 3)}

    def answers(asked: Iterable[Pair]) -> str:
        lost = {True: 0, False: 3}
        return "".join(ping_text(p.source.card, p.address, lost[bool({p.source, p.target} & dead)]) for p in asked)

    for host in hosts:
        first = [pair for pair in pairs(params, host) if pair.turn < 0]
        here.captures[host.name]["pings"] = read(answers(first[:-16] if host is hosts[0] else first) + "end\n")
    assert found(here, "NET-PING", Subject(hosts[0].name, 0)).verdict is WARN
    more = network.follow_up(here.facts(), params, {host.name: HostPaths.of(params) for host in hosts})
    for host in hosts:
        if host.name in more:
            here.captures[host.name]["more_pings"] = read(answers(suspect_pairs(params, host, dead)) + "end\n")
    again = found(here, "NET-PING", Subject(hosts[0].name, 0))
    assert (again.verdict, "2 untested" in again.seen) == (WARN, True)


def test_a_gateway_that_is_another_cards_address_is_no_duplicate() -> None:
    def change(plain: dict[str, Any]) -> None:
        one, two = (host["cards"] for host in plain["cluster"]["hosts"])
        for near, far in zip(one, two, strict=True):
            near["gateway"], far["gateway"] = far["ip"], near["ip"]

    assert not scene_of("network", changed(cluster_params("direct"), change)).problems()


def test_the_switchs_gateway_is_a_duplicate() -> None:
    here = scene("network", "switch")
    card = here.params.master.cards[3]
    here.captures["node1"]["ip.3"] = read(f"ipaddr:{here.params.gateway(card)}\nnetmask:{card.netmask}\n")
    assert "the switch's gateway" in found(here, "NET-IP-DUPLICATE", Subject("node1", 3)).seen


@pytest.mark.parametrize(("named", "verdict"), [("leaf-{}", OK), ("leaf", FAIL), (None, OK)])
def test_ports_of_the_same_name_on_switches_without_a_mac(named: str | None, verdict: Verdict) -> None:
    """Two switches may both have a 400GE1/1/1:1; one switch has it once."""

    def change(plain: dict[str, Any]) -> None:
        for number, host in enumerate(plain["cluster"]["hosts"]):
            for card in host["cards"]:
                card["switch"] = named and named.format(number)
                card["port"] = f"400GE1/1/{card['id']}:1"

    params = changed(cluster_params("switch"), change)
    here = scene_of("network", params)
    for host in params.cluster.hosts:
        for card in host.cards:
            name = f"System Name TLV\n\t{card.switch}\n" if card.switch else ""
            text = f"Chassis ID TLV\n\tLocal: x\nPort ID TLV\n\tIfname: {card.port}\n{name}End of LLDPDU TLV\n"
            here.captures[host.name][f"lldp.{card.id}"] = read(text)
    assert found(here, "NET-CABLING", Subject("node1", 0)).verdict is verdict


def test_neighbours_with_other_card_numbers_are_pinged() -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["network"]["ping_matrix"] = "neighbour"
        for number, host in enumerate(plain["cluster"]["hosts"]):
            host["cards"] = host["cards"][4:] if number % 2 else host["cards"][:4]

    params = changed(cluster_params("switch"), change)
    asked = [(pair.source, pair.target) for pair in pairs(params, params.master)]
    assert asked == [(Subject("node1", number), Subject("node2", number + 4)) for number in range(4)]
    assert not [each for each in scene_of("network", params).problems() if each.code == "NET-PING"]


def test_a_pair_is_asked_once_also_where_card_numbers_differ() -> None:
    def change(plain: dict[str, Any]) -> None:
        for card in plain["cluster"]["hosts"][1]["cards"]:
            card["id"] += 2

    params = changed(cluster_params("switch"), change)
    asked = [pair.target for pair in pairs(params, params.master) if pair.source.card == 0]
    assert sorted(each.card for each in asked if each.host == "node2") == list(range(2, 10))


def test_one_host_is_no_direct_pair() -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["cluster"]["hosts"] = plain["cluster"]["hosts"][:1]
        host = plain["cluster"]["hosts"][0]
        host["cards"] += [{**card, "id": card["id"] + 8, "ip": f"10.20.99.{card['id'] + 1}"} for card in host["cards"]]
        for card in host["cards"]:
            card["port"] = None

    here = scene_of("network", changed(cluster_params("switch"), change))
    for card in range(16):
        here.captures["node1"][f"lldp.{card}"] = read("")
    assert found(here, "NET-TOPOLOGY", Subject()).verdict is OK
    assert found(here, "NET-LLDP", Subject("node1", 0)).verdict is FAIL


# -- hccn.conf -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value", "shown"), [("mtu", 4200, "mtu:4200\n"), ("tls", 1, "tls switch[1]")])
def test_what_the_next_boot_would_take_away_is_set_again(key: str, value: int, shown: str) -> None:
    """A card starts with MTU 1500 and TLS off where the file names neither."""
    params = changed(cluster_params("direct"), lambda plain: plain["cluster"].update({key: value}))
    here = scene_of("network", params)
    for host in params.cluster.hosts:
        conf = here.captures[host.name]["conf"].stdout.splitlines()
        gone = [line for line in conf if not line.startswith(("mtu", "tls"))]
        here.captures[host.name]["conf"] = read("\n".join(gone) + "\n")
        for card in host.cards:
            here.captures[host.name][f"{key}.{card.id}"] = read(shown)
    assert found(here, "NET-CONF", Subject("node1", 0)).verdict is FAIL
    assert len(here.changes()) == 16
    assert {change.fixes for change in here.changes()} == {("NET-CONF",)}
    line = {"mtu": "mtu_{}=4200", "tls": "tls_enable_{}=1"}[key]
    for host in params.cluster.hosts:
        kept = here.captures[host.name]["conf"].stdout
        here.captures[host.name]["conf"] = read(kept + "".join(f"{line.format(card.id)}\n" for card in host.cards))
    assert here.changes() == []


def test_a_file_that_differs_from_what_could_not_be_read_is_not_ok() -> None:
    here = scene("network")
    conf = here.captures["node1"]["conf"].stdout
    here.captures["node1"]["mtu.0"] = BUSY
    here.captures["node1"]["conf"] = read(conf + "mtu_0=9000\n")
    first = found(here, "NET-CONF", Subject("node1", 0))
    assert (first.verdict, first.seen) == (UNKNOWN, "not judged: NET-MTU comes first")


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", "address_0=192.168.11.77"])
def test_lines_that_the_tool_may_refuse_are_told(line: str) -> None:
    here = scene("network")
    here.captures["node1"]["conf"] = read(f"{here.captures['node1']['conf'].stdout}{line}\n")
    told = found(here, "NET-CONF-FILE", Subject("node1"))
    assert (told.verdict, line.partition("=")[0] in told.seen) == (WARN, True)
    assert told.next_command.startswith("cat -n /etc/hccn.conf   # on node1; ")
    here.captures["node1"]["link.1"] = read("link status: DOWN\n")
    assert found(here, "NET-LINK", Subject("node1", 1)).next_command.startswith("cat -n /etc/hccn.conf   # on node1; ")


def test_a_switch_that_cannot_be_set_without_certificates_is_not_planned() -> None:
    params = changed(cluster_params("direct"), lambda plain: plain["cluster"].update({"tls": 1}))
    here = scene_of("network", params)
    for host in params.cluster.hosts:
        for card in host.cards:
            refused = Capture(stderr="No certificate found, please set certs firstly!\n", exit_code=1)
            here.captures[host.name][f"tls.{card.id}"] = refused
    assert here.changes() == []
    told = found(here, "NET-TLS", Subject("node2", 5))
    assert told.verdict is FAIL
    assert told.next_command == "hccn_tool -i 5 -tls -g   # on node2; then install its certificates, or want tls: 0"


# -- half-read answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "code", "old", "new", "verdict"),
    [
        ("link_stat.0", "NET-FLAP", "    Tue Aug  1", "    2022-08-01", UNKNOWN),
        (
            "link_stat.0",
            "NET-FLAP",
            "link change records",
            "link down count     : 40\n[devid 0]link change records",
            WARN,
        ),
        ("stat_after.0", "NET-ERRORS", "roce_new_pkt_rty_num:7\n", "", UNKNOWN),
        ("optical.0", "NET-OPTICS", "Rx Los Flag          : 0x0", "Rx LoL Flag          : 0xff", FAIL),
    ],
)
def test_half_an_answer_is_no_good_answer(key: str, code: str, old: str, new: str, verdict: Verdict) -> None:
    here = scene("network", "switch")
    text = here.captures["node1"][key].stdout
    assert old in text
    here.captures["node1"][key] = read(text.replace(old, new))
    assert found(here, code, Subject("node1", 0)).verdict is verdict


def test_a_module_that_is_not_there_on_a_link_that_could_not_be_read() -> None:
    here = scene("network", "switch")
    here.captures["node1"]["optical.0"] = read("optical info:\npresent              : not present\n")
    here.captures["node1"]["link.0"] = BUSY
    assert found(here, "NET-OPTICS", Subject("node1", 0)).verdict is UNKNOWN
    assert found(here, "NET-LINK", Subject("node1", 0)).next_command == (
        "runbook check params/twin-4x8-switch.yaml --stage network"
    )


def test_a_second_default_route_is_seen() -> None:
    here = scene("gateway", "switch")
    text = here.captures["node1"]["route.0"].stdout
    row = next(line for line in text.splitlines() if line.startswith("default"))
    gateway = here.params.gateway(here.params.master.cards[0])
    here.captures["node1"]["route.0"] = read(text.replace(row, f"{row}\n{row.replace(gateway, '10.9.9.9')}"))
    assert found(here, "NET-ROUTE", Subject("node1", 0)).verdict is FAIL


@pytest.mark.parametrize(("stage", "code"), [("network", "RUN-HOST"), ("preflight", "PRE-HOST-UNREACHABLE")])
def test_a_host_without_facts_is_reached_as_the_runbook_reaches_it(stage: str, code: str) -> None:
    here = scene(stage)
    here.errors["node2"] = "no SSH banner"
    ssh = here.params.cluster.ssh
    assert found(here, code, Subject("node2")).next_command == (
        f"ssh -i {ssh.key} -o UserKnownHostsFile={ssh.known_hosts} -p {ssh.port} root@127.77.1.2 true"
    )
