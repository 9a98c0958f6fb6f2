"""hccn_tool of the 910B: grammar, words, streams and exit codes of reference/hccn_tool.md.

The real main() returns a 16-bit code; the shell sees its low byte, which is what Failure carries.
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runbook_lib.twin.tools.hccn_get import GETS
from runbook_lib.twin.tools.hccn_roce import roce_test
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.fabric import Fabric
    from runbook_lib.twin.hccn_conf import HccnConf
    from runbook_lib.twin.world import ToolCall

CALL_S = 0.1  # emulated; the real tool takes tens of milliseconds, during which it holds its lock
BUSY = "hccn_tool is busy, please try again.\n"
GARBAGE = "\x1b[2Jlink st\udcff\udc9c\x00\x7f ipadd\udcf0:10.\udc80 %s %d tls sw[\n\udcfe\udcfe0x8b31\n"
DONE = "Cmd executed successfully!\n"
_PING_PACKETS = 3
_PING_TIMEOUT_S = 1.0
_PING_HEADERS = 28  # IP and ICMP
_MAX_CARD = 15
_MAX_PAYLOAD = 65507
_busy: set[str] = set()

HELP = """Usage: hccn_tool {-i <phy_id> | -a} -<subcmd> {-g | -s} [key value] ...
  -i <phy_id>          one device
  -a                   all devices
Sub commands:
  -ip -gateway -netdetect -net_health -link -link_stat -lldp -tls -ping -speed -duplex -mtu -fec -optical
  -mac -stat -route -arp -version -vnic -udp -pci -shaping -bandwidth -hw_stats -status -roce_test -cfg
"""

USAGE = {
    "-ip": ("-g\n-s address <ip> netmask <mask>", ("address", "netmask")),
    "-gateway": ("-g\n-s gateway <ip>", ("gateway",)),
    "-netdetect": ("-g\n-s address <ip>", ("address",)),
    "-tls": ("-g\n-s enable <0|1>", ("enable",)),
    "-mtu": ("-g\n-s size <68~9702>", ("size",)),
    "-fec": ("-g\n-s encoding <rs|no|auto>", ("encoding",)),
}
_FEC = {"rs": "rs", "no": "no", "off": "no", "auto": "auto"}


class Failure(Exception):  # noqa: N818 - how the tool's own code leaves early; it never reaches a user
    """The tool refuses: the words of stderr and the low byte of the code."""

    def __init__(self, code: int, words: str, out: str = "") -> None:
        super().__init__(words)
        self.code = code
        self.words = words
        self.out = out


@dataclass(frozen=True, slots=True)
class Port:
    """One card of the host on which the tool was called."""

    call: ToolCall
    card: int

    @property
    def fabric(self) -> Fabric:
        """The model that holds the card."""
        return self.call.world.fabric


async def hccn_tool(call: ToolCall) -> Reply:
    """Answer one call; a second one on the same host meanwhile is refused."""
    node, condition = call.node.name, call.world.machine(call.node.name)
    if condition.get("hccn_tool") == "denied":
        return Reply(12, err="permission denied: pls check this cmd run permission.\n")
    if condition.pop("reboot_at_call", 0) and call.world.reboot is not None:
        call.world.reboot(node)
        await asyncio.Event().wait()  # the power goes off meanwhile
    if condition.get("hccn_busy_calls", 0) > 0:
        condition["hccn_busy_calls"] -= 1
        return Reply(11, BUSY)
    if node in _busy or condition.get("hccn_tool") == "busy":
        return Reply(11, BUSY)
    _busy.add(node)
    try:
        await call.world.sleep(CALL_S)
        if call.argv[3:4] == ["-roce_test"]:
            _busy.discard(node)  # a server waits for its client, maybe on the same host
            return await _roce(call)
        return await _run(call)
    finally:
        _busy.discard(node)


async def _run(call: ToolCall) -> Reply:
    arguments = call.argv[1:]
    if arguments in (["-h"], ["--help"]):
        return Reply(0, HELP)
    out = ""
    try:
        cards, rest = _devices(call, arguments)
        for card in cards:
            garbage = call.world.fabric.hardware(call.node.name, card).get("garbage")
            out += GARBAGE if garbage else await _one(Port(call, card), rest)
    except Failure as failure:
        return Reply(failure.code, out + failure.out, failure.words + "\n")
    return Reply(0, out)


async def _roce(call: ToolCall) -> Reply:
    try:
        [card], rest = _devices(call, call.argv[1:])
    except Failure as failure:
        return Reply(failure.code, failure.out, failure.words + "\n")
    return await roce_test(call, card, rest[1:])


def _devices(call: ToolCall, arguments: list[str]) -> tuple[list[int], list[str]]:
    if not arguments or arguments[0] not in {"-i", "-a"}:
        raise Failure(
            1,
            'Get invalid major cmd type. The valid major cmd type should be "-a" or "-i".\n'
            "Enter [ hccn_tool -h ] for more details.",
        )
    if arguments[0] == "-a":
        return call.world.fabric.present(call.node.name), arguments[1:]
    if len(arguments) < 3:  # noqa: PLR2004 - -i, id, subcommand
        raise Failure(2, "Get invalid major cmd number. Please check your input.")
    if not arguments[1].isdigit() or int(arguments[1]) > _MAX_CARD:
        raise Failure(4, "Get invalid device id.")
    card = int(arguments[1])
    if card not in call.world.fabric.present(call.node.name):
        raise Failure(4, "The device is not exist!")
    return [card], arguments[2:]


async def _one(port: Port, rest: list[str]) -> str:
    if port.fabric.hardware(port.call.node.name, port.card).get("hangs"):
        await asyncio.Event().wait()  # until the caller gives up: the shim's connection ends and cancels this
    if len(rest) < 2:  # noqa: PLR2004 - subcommand, verb
        raise Failure(2, "Get invalid major cmd number. Please check your input.")
    word, verb, *values = rest
    if word == "-cfg":
        return _cfg(port, verb)
    if word == "-ping" and verb == "-g":
        return await _ping(port, values)
    if verb == "-g" and word in GETS:
        if values:
            raise _wrong(4, "The total count of input parameters is wrong!", word)
        return _get(port, word)
    if verb == "-s" and word == "-link":
        return _set_link(port, values)
    if verb == "-s" and word in USAGE:
        _set(port, word, values)
        return DONE
    if word in GETS or word == "-ping":
        raise Failure(1, "Get unknown option!")
    raise Failure(3, "Get invalid major cmd.")


def _get(port: Port, word: str) -> str:
    text = GETS[word](port.fabric, port.call.node.name, port.card)
    if isinstance(text, str):
        return text
    raise Failure(*text)


def _wrong(code: int, words: str, word: str) -> Failure:
    needs = USAGE[word][0] if word in USAGE else "-g"
    return Failure(code, f"{words}\n[ hccn_tool -i devid {word} ] needs the following parameters:\n{needs}")


def _set(port: Port, word: str, values: list[str]) -> None:
    keys = USAGE[word][1]
    if len(values) != 2 * len(keys):
        raise _wrong(4, "The total count of input parameters is wrong!", word)
    given = dict(zip(values[::2], values[1::2], strict=True))
    if set(given) != set(keys):
        raise _wrong(1, "Get invalid parameters!", word)
    try:
        conf = port.fabric.conf(port.call.node.name)
    except (OSError, UnicodeDecodeError):
        raise Failure(5, "Read file failed, cmd execute failed! pls check cmd run permission.") from None
    _SETS[word](port, given, conf)
    try:
        conf.write()
    except OSError:
        raise Failure(
            3,
            "Write configurations to config file failed. User configurations cannot be persisted! "
            "pls check cmd run permission.",
        ) from None


def _address(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise Failure(6, "The ip address you configured is invalid!") from None


def _set_ip(port: Port, given: dict[str, str], conf: HccnConf) -> None:
    node, card, fabric = port.call.node.name, port.card, port.fabric
    address = _address(given["address"])
    try:
        interface = ipaddress.IPv4Interface(f"{address}/{given['netmask']}")
    except ValueError:
        raise Failure(6, "The ip address you configured is invalid!") from None
    if address.is_multicast or address.is_loopback or address.is_unspecified or "." not in given["netmask"]:
        raise Failure(6, "The ip address you configured is invalid!")
    if any(owner[0] == node and owner[1] != card for owner in fabric.owners(str(address))):
        raise Failure(7, "The ip address configured is conflicted!")
    fabric.set_ip(node, card, str(address), str(interface.netmask))
    conf.set("address", card, str(address))
    conf.set("netmask", card, str(interface.netmask))
    if not fabric.cards[node][card].gateway:
        conf.set("gateway", card, "")


def _set_gateway(port: Port, given: dict[str, str], conf: HccnConf) -> None:
    state = port.fabric.cards[port.call.node.name][port.card]
    address = _address(given["gateway"])
    if state.segment is None:
        raise Failure(26, "Unable to configure gateway, because ip is not configured!")
    if address not in state.segment:
        raise Failure(8, "The segment of configured gateway doesn't match that of the configured ip adress!")
    state.gateway = str(address)
    conf.set("gateway", port.card, str(address))


def _set_netdetect(port: Port, given: dict[str, str], conf: HccnConf) -> None:
    address = str(_address(given["address"]))
    port.fabric.set_netdetect(port.call.node.name, port.card, address)
    conf.set("netdetect", port.card, address)


def _set_tls(port: Port, given: dict[str, str], conf: HccnConf) -> None:
    if given["enable"] not in {"0", "1"}:
        raise _wrong(1, "Get invalid parameters!", "-tls")
    port.fabric.cards[port.call.node.name][port.card].tls = int(given["enable"])
    conf.set("tls_enable", port.card, given["enable"])


def _set_mtu(port: Port, given: dict[str, str], conf: HccnConf) -> None:
    size = given["size"]
    if not size.isdigit() or not 68 <= int(size) <= 9702:  # noqa: PLR2004 - the tool's documented range
        raise _wrong(1, "Get invalid parameters!", "-mtu")
    port.fabric.cards[port.call.node.name][port.card].mtu = int(size)
    conf.set("mtu", port.card, size)


def _set_fec(port: Port, given: dict[str, str], conf: HccnConf) -> None:
    del conf  # the file has no key for it
    if given["encoding"] not in _FEC:
        raise _wrong(1, "Get invalid parameters!", "-fec")
    port.fabric.cards[port.call.node.name][port.card].fec = _FEC[given["encoding"]]


_SETS: dict[str, Callable[[Port, dict[str, str], HccnConf], None]] = {
    "-ip": _set_ip,
    "-gateway": _set_gateway,
    "-netdetect": _set_netdetect,
    "-tls": _set_tls,
    "-mtu": _set_mtu,
    "-fec": _set_fec,
}


def _set_link(port: Port, values: list[str]) -> str:
    if values not in (["up"], ["down"]):
        raise Failure(1, "Get invalid parameters!")
    before = port.fabric.links()
    port.fabric.cards[port.call.node.name][port.card].admin_up = values == ["up"]
    port.fabric.note_links(before)
    return DONE


def _cfg(port: Port, verb: str) -> str:
    if verb not in {"recovery", "status"}:
        raise Failure(1, "Get unknown option!")
    if verb == "status":
        return f"dev:{port.card} recovery success\n"
    before = port.fabric.links()
    recovered = port.fabric.recover(port.call.node.name, port.card)
    port.fabric.note_links(before)
    if recovered:
        return f"dev:{port.card} recovery success\n"
    raise Failure(
        1,
        "Recovery failed. Check '/var/log/hccn_tool/hccn_config.log' for details.",
        f"dev:{port.card} recovery fail\n",
    )


async def _ping(port: Port, values: list[str]) -> str:
    given = dict(zip(values[::2], values[1::2], strict=False))
    if len(values) % 2 or not values:
        raise _wrong(4, "The total count of input parameters is wrong!", "-ping")
    size = given.get("pkt", "56")
    if set(given) - {"address", "pkt"} or "address" not in given:
        raise _wrong(1, "Get invalid parameters!", "-ping")
    if not size.isdigit() or int(size) > _MAX_PAYLOAD:
        raise _wrong(1, "Get invalid parameters!", "-ping")
    target = str(_address(given["address"]))
    node, card = port.call.node.name, port.card
    if not port.fabric.link_up(node, card):
        raise Failure(1, "Execute failed: Link status is down.")
    if not port.fabric.cards[node][card].ip:
        raise Failure(13, "Get ipconf failed, because no ip was preset there!")
    if int(size) + _PING_HEADERS > port.fabric.cards[node][card].mtu:
        raise Failure(1, "Cmd execute failed!", f"device {card} PING {target}\nMessage too long\n")
    answered = port.fabric.answers(node, card, target)
    answered = answered and int(size) + _PING_HEADERS <= port.fabric.path_mtu(node, card, target)
    first_lost = port.fabric.lossy(node, card, target)
    lines, received = [f"device {card} PING {target}"], 0
    for number, time_ms in enumerate((1.418, 0.034, 0.040)[:_PING_PACKETS]):
        if answered and not (number == 0 and first_lost):
            received += 1
            lines.append(f"recv seq={number},time={time_ms:f}ms")
        else:
            await port.call.world.sleep(_PING_TIMEOUT_S)
            lines.append(f"recv time out seq={number}")
    lost = 100 * (_PING_PACKETS - received) / _PING_PACKETS
    lines.append(f"{_PING_PACKETS} packets transmitted, {received} received, {lost:.2f}% packet loss\n")
    if received < _PING_PACKETS:
        raise Failure(1, "Cmd execute failed!", "\n".join(lines))
    return "\n".join(lines)
