"""hccn_tool's answers, good, bad and cut off. Nothing may raise, and nothing unread may look like a value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook_lib.ascend import hccn
from runbook_lib.model import Capture

NO_IP = "Get ipconf failed, because no ip was preset there!\n"
NO_GATEWAY = "Get gateway failed, because no gateway was preset there!\n"

LLDP = """Chassis ID TLV
\tMAC: AA:BB:cc:00:11:22
Port ID TLV
\tIfname: 400GE1/1/7:1
System Description TLV
\tMade-up Routing Platform
Version 9

Maximum Frame Size TLV
\t9216
End of LLDPDU TLV
"""
PING_GOOD = """device 2 PING 10.20.0.9
recv seq=0,time=1.250000ms
recv seq=1,time=0.040000ms
2 packets transmitted, 2 received, 0.00% packet loss
"""
PING_LOSS = """device 2 PING 10.20.0.9
recv time out seq=0
recv seq=1,time=0.090000ms
recv seq=2,time=0.070000ms
3 packets transmitted, 2 received, 33.33% packet loss
"""
LINK_STAT = """[{word} 3]current time        : Sat Jan  3 01:02:03 2026
[{word} 3]link up count       : 2
[{word} 3]link change records :
[{word} 3]    Sat Jan  3 01:00:00 2026    LINK UP
[{word} 3]    Sat Jan  3 00:59:58 2026    LINK DOWN
[{word} 3]    Sat Jan  3 00:59:00 2026    LINK UP
"""
ROUTE = """Routing table:
Destination     Gateway         Genmask         Flags Metric Ref    Use Iface
default         10.20.0.1       0.0.0.0         UG    0      0        0 eth3
10.20.0.0       *               255.255.255.0   U     0      0        0 eth3
"""
OPTICAL = """optical info:
present              : present
Vendor Name          : MADEUP
Tx Power             : 1.0100 mW
Rx Los Flag          : 0x0
"""


def good(stdout: str) -> Capture:
    return Capture(stdout=stdout, exit_code=0)


def failed(stderr: str, code: int = 1, stdout: str = "") -> Capture:
    return Capture(stdout=stdout, stderr=stderr, exit_code=code)


@pytest.mark.parametrize(("text", "value"), [("link status: UP\n", True), ("link status: DOWN\n", False)])
def test_link(text: str, value: bool) -> None:  # noqa: FBT001 - the expected value of a table
    reading = hccn.parse_link(good(text))
    assert (reading.state, reading.value) == ("set", value)


@pytest.mark.parametrize(
    ("capture", "state", "reason"),
    [
        (Capture(stdout="link status: UP\n", timed_out=True), "unreadable", "timeout"),
        (Capture(), "unreadable", "not-run"),
        (good(""), "unreadable", "empty"),
        (good("link status: U"), "unreadable", "text"),
        (good("link status: UP\nlink status: DOWN\n"), "unreadable", "text"),
        (failed("", 11, "hccn_tool is busy, please try again.\n"), "error", "busy"),
        (failed("permission denied: pls check this cmd run permission.\n", 12), "error", "permission"),
        (failed("The device is not exist!\n", 4), "error", "no-device"),
        (failed("bash: hccn_tool: command not found\n", 127), "error", "not-installed"),
        (failed("sudo: hccn_tool: command not found\n", 1), "error", "not-installed"),
        (failed("The command is not supported on this product.\n", 13), "error", "unsupported"),
        (failed("", 1, "link status: UP\n"), "error", "failed"),
    ],
)
def test_what_is_not_known_says_why(capture: Capture, state: str, reason: str) -> None:
    reading = hccn.parse_link(capture)
    assert (reading.value, reading.state, reading.reason) == (None, state, reason)
    assert not reading.known


def test_ip_tells_not_set_from_unreadable() -> None:
    assert hccn.parse_ip(good("ipaddr:10.20.0.1\nnetmask:255.255.255.0\n")).value == hccn.IpConfig(
        "10.20.0.1", "255.255.255.0"
    )
    unset = hccn.parse_ip(failed(NO_IP, 13))
    assert (unset.state, unset.known, unset.message) == ("unset", True, NO_IP.strip())
    assert hccn.parse_ip(good("ipaddr:10.20.0.1\n")).state == "unreadable"
    assert hccn.parse_ip(good("ipaddr:10.20.0.999\nnetmask:255.255.255.0\n")).state == "unreadable"
    assert hccn.parse_ip(failed("Command execute failed!\n")).state == "error"


def test_gateway_with_and_without_interface() -> None:
    assert hccn.parse_gateway(good("default gateway:10.20.0.1, Iface:eth5\n")).value == hccn.Gateway(
        "10.20.0.1", "eth5"
    )
    assert hccn.parse_gateway(good("default gateway:10.20.0.1\n")).value == hccn.Gateway("10.20.0.1")
    assert hccn.parse_gateway(failed(NO_GATEWAY, 2)).state == "unset"
    assert hccn.parse_gateway(good("default gateway:10.20.\n")).state == "unreadable"


@pytest.mark.parametrize("word", ["addr", "address"])
def test_netdetect_in_both_wordings(word: str) -> None:
    assert hccn.parse_netdetect(good(f"netdetect {word}: 10.20.0.1\n")).value == "10.20.0.1"
    assert hccn.parse_netdetect(good(f"netdetect {word}: 0.0.0.0\n")).state == "unset"


@pytest.mark.parametrize("status", list(hccn.NetHealth))
def test_net_health_knows_its_ten_words(status: hccn.NetHealth) -> None:
    assert hccn.parse_net_health(good(f"net health status: {status.value}\n")).value is status
    assert hccn.parse_net_health(good(f"net health status: {status.value}x\n")).state == "unreadable"


def test_only_two_health_words_are_transient() -> None:
    assert len(hccn.NetHealth) == 10
    assert {s for s in hccn.NetHealth if s.transient} == {hccn.NetHealth.INIT, hccn.NetHealth.DETECT_IP_SET}


def test_lldp_silence_is_not_unreadable() -> None:
    lldp = hccn.parse_lldp(good(LLDP)).value
    assert lldp == hccn.Lldp("400GE1/1/7:1", "aa:bb:cc:00:11:22", "Made-up Routing Platform")
    assert hccn.parse_lldp(good("\tIfname: 400GE1/1/7:1\n")).value == hccn.Lldp("400GE1/1/7:1")
    assert hccn.parse_lldp(good("")).state == "unset"
    assert hccn.parse_lldp(failed("", 1)).state == "error"
    assert hccn.parse_lldp(good("Chassis ID TLV\n")).state == "unreadable"


@pytest.mark.parametrize("switch", [0, 1])
def test_tls(switch: int) -> None:
    text = f"dev_id:0, tls switch[{switch}](0:disable, 1:enable), tls preconfigured[1](0:non-preset, 1:preset)\n"
    assert hccn.parse_tls(good(text)).value == switch
    assert hccn.parse_tls(good(text.replace(f"switch[{switch}]", "switch[2]"))).state == "unreadable"


def test_tls_without_certificates_is_off() -> None:
    reading = hccn.parse_tls(failed("No certificate found, please set certs firstly!\n"))
    assert (reading.value, reading.state) == (0, "set")


def test_ping() -> None:
    result = hccn.parse_ping(good(PING_GOOD)).value
    assert result == hccn.PingResult(2, 2, 0.0, (1.25, 0.04), "10.20.0.9")
    lossy = hccn.parse_ping(failed("", 1, PING_LOSS)).value
    assert lossy is not None
    assert (lossy.sent, lossy.received, lossy.loss_percent, len(lossy.times_ms)) == (3, 2, 33.33, 2)
    assert hccn.parse_ping(failed("Execute failed: Link status is down.\n")).reason == "link-down"


@pytest.mark.parametrize(
    "summary",
    ["0 packets transmitted, 0 received, 0.00% packet loss", "3 packets transmitted, 2 received, 0.00% packet loss",
     "2 packets transmitted, 3 received, 0.00% packet loss", "3 packets transmitted, 3 rec"],
)  # fmt: skip
def test_ping_that_contradicts_itself_is_not_believed(summary: str) -> None:
    assert hccn.parse_ping(good(f"{summary}\n")).value is None


def test_ping_of_a3_in_microseconds() -> None:
    answer = "recv seq 0, time = 250.000us, L1 plane check result = 0x0\n"
    result = hccn.parse_ping(good(f"{answer}1 packets transmitted, 1 received, 0.00% packets loss\n")).value
    assert result is not None
    assert result.times_ms == (0.25,)


def test_single_values() -> None:
    assert hccn.parse_speed(good("Speed: 200000 Mb/s\n")).value == 200000
    assert hccn.parse_speed(good("Speed: Unknown!\n")).state == "error"
    assert hccn.parse_mtu(good("mtu:1500\n")).value == 1500
    assert hccn.parse_fec(good("fec mode: rs FEC mode\n")).value == "rs"
    assert hccn.parse_fec(good("fec mode: no FEC mode\n")).value == "no"
    assert hccn.parse_mac(good("mac addr: AA:bb:cc:00:11:22\n")).value == "aa:bb:cc:00:11:22"
    assert hccn.parse_mac(good("mac addr: AA:bb:cc:00:11\n")).state == "unreadable"


def test_optical() -> None:
    optical = hccn.parse_optical(good(OPTICAL)).value
    assert optical is not None
    assert optical.present
    assert optical.values["Tx Power"] == "1.0100 mW"
    absent = hccn.parse_optical(failed("Optical module is not present.\n")).value
    assert absent == hccn.Optical(present=False)
    assert hccn.parse_optical(good(OPTICAL.replace("present              : present", ""))).state == "unreadable"


@pytest.mark.parametrize("word", ["devid", "device"])
def test_link_stat_in_both_wordings(word: str) -> None:
    stat = hccn.parse_link_stat(good(LINK_STAT.format(word=word))).value
    assert stat is not None
    assert (stat.up_count, stat.down_count, [record.up for record in stat.records]) == (2, None, [True, False, True])
    newer = LINK_STAT.format(word=word) + f"[{word} 3]link down count     : 1\n"
    assert getattr(hccn.parse_link_stat(good(newer)).value, "down_count", None) == 1


def test_counters_and_routes() -> None:
    counters = hccn.parse_stat(good("packet statistics:\nroce_rx_err_pkt_num:0\nnic_tx_all_pkg_num:12\n")).value
    assert counters == {"roce_rx_err_pkt_num": 0, "nic_tx_all_pkg_num": 12}
    assert hccn.parse_stat(good("packet statistics:\nroce_rx_err_pkt_num:xx\n")).state == "unreadable"
    routes = hccn.parse_route(good(ROUTE)).value
    assert routes is not None
    assert routes[0] == hccn.Route("default", "10.20.0.1", "0.0.0.0", "UG", "eth3")
    assert hccn.parse_route(good(ROUTE + "10.20\n")).state == "unreadable"


def test_conf_file() -> None:
    conf = hccn.parse_conf(
        "# c\naddress_0=10.20.0.1\nnetmask_0=255.255.255.0\naddress_7=10.20.0.8\nudhcpc_enable=0\n"
        "route_address_10.1.0.0_netmask_255=x\ngarbage\naddress_0=10.20.0.2\n"
    )
    assert conf.cards == {0: {"netmask": "255.255.255.0"}, 7: {"address": "10.20.0.8"}}  # address_0 is said twice
    assert "udhcpc_enable" in conf.other
    assert conf.bad_lines == ("garbage", "address_0=10.20.0.2")


def test_windows_line_ends_change_nothing() -> None:
    assert hccn.parse_link(good("link status: UP\r\n")).value is True
    assert hccn.parse_stat(good("packet statistics:\r\nroce_rx_err_pkt_num:3\r\n")).value == {"roce_rx_err_pkt_num": 3}
    assert hccn.parse_gateway(good("default gateway:10.20.0.1, Iface:eth0\r\n")).value == hccn.Gateway(
        "10.20.0.1", "eth0"
    )


def test_dispatch_by_the_tools_own_word() -> None:
    assert hccn.parse("-link", good("link status: UP\n")).value is True
    assert hccn.parse("no_such", good("x")).state == "unreadable"


ANY = [LLDP, PING_GOOD, PING_LOSS, ROUTE, OPTICAL, LINK_STAT, NO_IP, NO_GATEWAY, "link status: UP\n", "mtu:1500\n"]
texts = st.one_of(
    st.text(max_size=300),
    st.builds(
        lambda text, cut, junk: text[:cut] + junk, st.sampled_from(ANY), st.integers(0, 200), st.text(max_size=9)
    ),
)


@settings(max_examples=60, deadline=None)
@given(stdout=texts, stderr=texts, code=st.one_of(st.none(), st.integers(0, 255)), timed_out=st.booleans())
def test_no_input_raises_and_a_value_needs_the_state_set(
    stdout: str,
    stderr: str,
    code: int | None,
    timed_out: bool,  # noqa: FBT001 - drawn by hypothesis
) -> None:
    capture = Capture(stdout, stderr, code, timed_out)
    for parser in hccn.PARSERS.values():
        reading = parser(capture)
        assert (reading.value is not None) == (reading.state == "set")
        if timed_out or code is None:
            assert reading.state == "unreadable"
    hccn.parse_conf(stdout)


@pytest.mark.parametrize("cut", range(len("ipaddr:10.20.0.1\nnetmask:255.255.255.0\n") - 14))
def test_a_cut_ip_answer_is_never_a_value(cut: int) -> None:
    assert hccn.parse_ip(good("ipaddr:10.20.0.1\nnetmask:255.255.255.0\n"[:cut])).value is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("Get invalid major cmd.", "refused"),
        ("Get unknown option!", "refused"),
        ("The ip address you configured is invalid!", "refused"),
        ("The ip address configured is conflicted!", "refused"),
        ("The total count of input parameters is wrong!", "refused"),
        ("The segment of configured gateway doesn't match that of the configured ip adress!", "refused"),
        ("Unable to configure gateway, because ip is not configured!", "refused"),
        ("Route already exist in routing table!", "refused"),
        ("Get invalid device id.", "no-device"),
        ("Invalid card id.", "no-device"),
        ("Control link unreachable.", "unreachable"),
        ("Get device health status failed!", "failed"),
        ("Command execute failed!", "failed"),
        ("Failed to execute npu-smi info. ret is -1.", "failed"),
        ("Roce perftest is doing, please try later.", "failed"),
        ("Recovery failed. Check '/var/log/hccn_tool/hccn_config.log' for details.", "failed"),
        ("The hccn.conf has no enough space to save user configurations.", "failed"),
        ("Parsing configurations from config file failed, pls check the config file.", "failed"),
        (
            "The hccn.conf can't access, cmd execute failed! pls check the conf file or cmd run permission.",
            "permission",
        ),
        ("sudo: a password is required", "permission"),
        ("-bash: /usr/local/Ascend/driver/tools/hccn_tool: No such file or directory", "not-installed"),
        ("Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", "daemon-down"),
    ],
)
def test_refusals_are_known_by_their_words(words: str, reason: str) -> None:
    reading = hccn.parse_mtu(good(f"{words}\n"))
    assert (reading.state, reading.reason, reading.message) == ("error", reason, words)
