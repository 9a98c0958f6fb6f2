"""What `hccn_tool -i N -<word> -g` prints: the text, or (code, words of stderr) when there is nothing to print."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from runbook_lib.params import Topology
from runbook_lib.twin import hardware

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from runbook_lib.twin.fabric import Fabric

Got = str | tuple[int, str]
SPEED_MBPS = 200_000
_STATS = (
    "mac_tx_mac_pause_num",
    "mac_rx_mac_pause_num",
    "mac_tx_pfc_pkt_num",
    "mac_rx_pfc_pkt_num",
    "mac_tx_bad_pkt_num",
    "mac_rx_bad_pkt_num",
    "mac_tx_bad_oct_num",
    "mac_rx_bad_oct_num",
    "mac_rx_fcs_err_pkt_num",
    "roce_rx_rc_pkt_num",
    "roce_rx_all_pkt_num",
    "roce_rx_err_pkt_num",
    "roce_tx_rc_pkt_num",
    "roce_tx_all_pkt_num",
    "roce_tx_err_pkt_num",
    "roce_cqe_num",
    "roce_rx_cnp_pkt_num",
    "roce_tx_cnp_pkt_num",
    "roce_unexpected_ack_num",
    "roce_out_of_order_num",
    "roce_verification_err_num",
    "roce_qp_status_err_num",
    "roce_new_pkt_rty_num",
    "nic_tx_all_pkg_num",
    "nic_tx_all_oct_num",
    "nic_rx_all_pkg_num",
    "nic_rx_all_oct_num",
)


def _ip(fabric: Fabric, node: str, card: int) -> Got:
    state = fabric.card(node, card)
    if not state.ip:
        return 13, "Get ipconf failed, because no ip was preset there!"
    return f"ipaddr:{state.ip}\nnetmask:{state.netmask}\n"


def _gateway(fabric: Fabric, node: str, card: int) -> Got:
    gateway = fabric.card(node, card).gateway
    if not gateway:
        return 2, "Get gateway failed, because no gateway was preset there!"
    return f"default gateway:{gateway}, Iface:eth{card}\n"


def _netdetect(fabric: Fabric, node: str, card: int) -> Got:
    return f"netdetect address: {fabric.card(node, card).netdetect or '0.0.0.0'}\n"


def _net_health(fabric: Fabric, node: str, card: int) -> Got:
    return f"net health status: {fabric.health(node, card)}\n"


def _link(fabric: Fabric, node: str, card: int) -> Got:
    return f"link status: {'UP' if fabric.link_up(node, card) else 'DOWN'}\n"


def _lldp(fabric: Fabric, node: str, card: int) -> Got:
    port = fabric.lldp(node, card)
    if port is None:
        return ""
    return (
        f"Chassis ID TLV\n\tMAC: {port.chassis}\nPort ID TLV\n"
        f"\tIfname: {port.ifname}\n"
        "System Description TLV\n\tVersatile Routing Platform Software\n"
        "VRP (R) software, Version 8.211 (DX511 V200R021C10SPC600)\n\nHuarong DX511\n\n"
        "System Capabilities TLV\n\tEnabled capabilities: Bridge, Router\n"
        f"Management Address TLV\n\tIPv4: {port.management}\n"
        "Maximum Frame Size TLV\n\t9216\nEnd of LLDPDU TLV\n"
    )


def _tls(fabric: Fabric, node: str, card: int) -> Got:
    return (
        f"dev_id:{card}, tls switch[{fabric.card(node, card).tls}](0:disable, 1:enable), "
        "tls preconfigured[1](0:non-preset, 1:preset), tls alarm time threshold[60]days\n"
        f"dev_id:{card}, [pub cert] info:\n"
        "\t issuer[/CN=Huawei NPU device CA]\n"
        "\t start_time[Nov 10 08:00:00 2023 GMT]\n"
        "\t end_time[Nov 10 08:00:00 2043 GMT]\n"
        "\t tls expiration status[0](0:normal, 1:near expiration, 2:has expired)\n"
    )


def _mac(fabric: Fabric, node: str, card: int) -> Got:
    return f"mac addr: {fabric.mac(node, card)}\n"


def _speed(fabric: Fabric, node: str, card: int) -> Got:
    if not fabric.link_up(node, card):
        return "Speed: Unknown!\n"
    ends = [(node, card)] + ([peer] if (peer := fabric.peer(node, card)) else [])
    speed = min(int(fabric.hardware(*end).get("speed", SPEED_MBPS)) for end in ends)  # what both ends can do
    return f"Speed: {speed} Mb/s\n"


def _duplex(fabric: Fabric, node: str, card: int) -> Got:
    return "Duplex: Full\n" if fabric.link_up(node, card) else "Duplex: Unknown!\n"


def _mtu(fabric: Fabric, node: str, card: int) -> Got:
    return f"mtu:{fabric.card(node, card).mtu}\n"


def _fec(fabric: Fabric, node: str, card: int) -> Got:
    return f"fec mode: {fabric.card(node, card).fec} FEC mode\n"


def _optical(fabric: Fabric, node: str, card: int) -> Got:
    if fabric.topology is Topology.DIRECT:
        return "optical info:\npresent              : not present\n"  # a copper cable has no module
    module = fabric.hardware(node, card).get("optics")
    if module == "absent":
        return "optical info:\npresent              : not present\n"
    lit = fabric.link_up(node, card)
    received = 0.09 if module == "weak" else 0.94
    rows = {
        "present": "present",
        "temperature": f"{41 + card % 4} C",
        "high power enable reg": "0x04",
        "vendor name": "HUAWEI",
        "vendor part number": "02314KNP",
        "vendor serial number": f"2102314KNP{list(fabric.cards).index(node):02d}{card:02d}",
        "xsfp identifier": "QSFP56",
        "wave length": "850.00 nm",
        "manufact date code": "230914",
        "Vcc": "3301.40 mV",
        **{f"Tx Power{lane}": f"{1.02 + lane / 100 if lit else 0.0:.4f} mW" for lane in range(4)},
        **{f"Rx Power{lane}": f"{received + lane / 100 if lit else 0.0:.4f} mW" for lane in range(4)},
        **{f"Tx Bias{lane}": "7.9360 mA" for lane in range(4)},
        "Tx Los Flag": "0x0",
        "Rx Los Flag": "0x0" if lit else "0xf",
        "Tx LoL Flag": "0x0",
        "Rx LoL Flag": "0x0" if lit else "0xf",
        "Vcc High Thres": "3465.00 mV",
        "Vcc Low Thres": "3135.00 mV",
        "Temp High Thres": "70 C",
        "Temp Low Thres": "0 C",
        "TxPower High Thres": "3.5481 mW",
        "TxPower Low Thres": "0.2818 mW",
        "RxPower High Thres": "3.5481 mW",
        "RxPower Low Thres": "0.1445 mW",
    }
    return "optical info:\n" + "".join(f"{key:<21}: {value}\n" for key, value in rows.items())


def _stamp(moment: datetime) -> str:
    return moment.strftime("%a %b %e %H:%M:%S %Y")


def _link_stat(fabric: Fabric, node: str, card: int) -> Got:
    if fabric.flaps(node, card):
        fabric.flap(node, card)
    changes = fabric.cards[node][card].changes
    head = f"[devid {card}]"
    ups = sum(1 for _, what in changes if what == "LINK UP")
    lines = [
        f"{head}current time        : {_stamp(fabric.world.emulated_now(node))}",
        f"{head}link up count       : {ups}",
        f"{head}link down count     : {len(changes) - ups}",
        f"{head}link change records :" + ("" if changes else " NA"),
        *(f"{head}    {_stamp(moment)}    {what}" for moment, what in changes[:10]),
    ]
    return "\n".join(lines) + "\n"


def _stat(fabric: Fabric, node: str, card: int) -> Got:
    counted = fabric.count(node, card)
    return "packet statistics:\n" + "".join(f"{name}:{counted.get(name, 0)}\n" for name in _STATS)


def _route(fabric: Fabric, node: str, card: int) -> Got:
    state = fabric.card(node, card)
    rows = []
    if state.gateway:
        rows.append(("default", state.gateway, "0.0.0.0", "UG", f"eth{card}"))
    if state.segment is not None:
        rows.append((str(state.segment.network_address), "*", state.netmask, "U", f"eth{card}"))
    rows += [
        ("127.0.0.1", "*", "255.255.255.255", "UH", "lo"),
        ("192.168.1.0", "*", "255.255.255.0", "U", f"end{card}v0"),
        ("192.168.2.0", "*", "255.255.255.0", "U", f"end{card}v0"),
    ]
    lines = [f"{to:<16}{via:<16}{mask:<16}{flags:<6}0      0        0 {face}" for to, via, mask, flags, face in rows]
    head = "Destination     Gateway         Genmask         Flags Metric Ref    Use Iface"
    return "\n".join(["Routing table:", head, *lines]) + "\n"


def _arp(fabric: Fabric, node: str, card: int) -> Got:
    state = fabric.card(node, card)
    known = "arp table:\n"
    if state.netdetect and fabric.answers(node, card, state.netdetect):
        found = fabric.find_ip(state.netdetect)
        mac = fabric.mac(*found) if found else "10:24:07:6a:00:01"
        known += f"({ipaddress.IPv4Address(state.netdetect)}) at {mac} [ether]  on eth{card}\n"
    return known


def _version(fabric: Fabric, node: str, _card: int) -> Got:
    driver, firmware = hardware.versions(fabric.world.machine(node))
    return f"Network Driver Version: {driver}\nNetwork Firmware Version: {firmware}\n"


def _vnic(_fabric: Fabric, _node: str, card: int) -> Got:
    return f"vnic link status: UP\nvnic ipaddr: 192.168.1.{199 - card}\nvnic netmask: 255.255.255.0\n"


def _udp(_fabric: Fabric, _node: str, _card: int) -> Got:
    return "udp_port:0\nstatus:auto\n"


def _pci(_fabric: Fabric, _node: str, card: int) -> Got:
    return f"pci:0000:{hardware.BUS_IDS[card % len(hardware.BUS_IDS)]}:00.0\n"


def _shaping(_fabric: Fabric, _node: str, _card: int) -> Got:
    return f"bw_limit[{SPEED_MBPS} Mbps], bw_max[{SPEED_MBPS} Mbps]\n"


def _bandwidth(_fabric: Fabric, _node: str, _card: int) -> Got:
    return f"Bandwidth TX: {0:5d}.{0:02d} MB/sec\nBandwidth RX: {0:5d}.{0:02d} MB/sec\n"


def _hw_stats(_fabric: Fabric, _node: str, card: int) -> Got:
    names = ("pd_alloc", "pd_dealloc", "mr_alloc", "mr_dealloc", "cq_alloc", "cq_dealloc", "qp_alloc", "qp_dealloc")
    return "".join(f"[devid {card}] {name}: 1\n" for name in names)


def _status(fabric: Fabric, node: str, card: int) -> Got:
    up = fabric.link_up(node, card)
    rows = ("Duplex: " + ("Full" if up else "Unknown!"), "Port: FIBRE", f"Link detected: {'yes' if up else 'no'}")
    speed = str(_speed(fabric, node, card)).replace(" Mb/s", "Mb/s").rstrip()
    return f"Netdev status:Settings for eth{card}:\n" + "".join(f"\t{row}\n" for row in (speed, *rows))


GETS: dict[str, Callable[[Fabric, str, int], Got]] = {
    "-ip": _ip,
    "-gateway": _gateway,
    "-netdetect": _netdetect,
    "-net_health": _net_health,
    "-link": _link,
    "-lldp": _lldp,
    "-tls": _tls,
    "-mac": _mac,
    "-speed": _speed,
    "-duplex": _duplex,
    "-mtu": _mtu,
    "-fec": _fec,
    "-optical": _optical,
    "-link_stat": _link_stat,
    "-stat": _stat,
    "-route": _route,
    "-arp": _arp,
    "-version": _version,
    "-vnic": _vnic,
    "-udp": _udp,
    "-pci": _pci,
    "-shaping": _shaping,
    "-bandwidth": _bandwidth,
    "-hw_stats": _hw_stats,
    "-status": _status,
}
