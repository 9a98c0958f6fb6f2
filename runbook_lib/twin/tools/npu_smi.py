"""npu-smi 24.1.0: the table of `info`, and its `-t`, `-l`, `-m` forms, as in reference/npu_smi.md.

Failures print an English line on stdout and give a non-zero code.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from runbook_lib.twin import hardware
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from runbook_lib.twin.fabric import Fabric
    from runbook_lib.twin.world import ToolCall

CALL_S = 0.2  # emulated; the real tool takes a few hundred milliseconds on eight cards
_FRAME = "+" + "-" * 96 + "+"
_COLUMNS = "+---------------------------+---------------+----------------------------------------------------+"
_ROWS = "+===========================+===============+====================================================+"
_USAGE = "Usage: npu-smi info <watch|proc|-h|-m|-l|-t type> [Options...]\n"
_HIGH_CODE = 250  # low byte of a DCMI code


async def npu_smi(call: ToolCall) -> Reply:
    """Answer one call."""
    await call.world.sleep(CALL_S)
    arguments = call.argv[1:]
    condition = call.world.machine(call.node.name).get("npu_smi")
    if condition == "hangs":
        await asyncio.Event().wait()  # until the caller gives up
    if condition == "dcmi":
        return Reply(_HIGH_CODE, "dcmi module initialize failed. ret is -8005\n")
    if not arguments or arguments in (["-h"], ["--help"], ["info", "-h"]):
        return Reply(0, _USAGE)
    if arguments in (["-v"], ["--version"]):
        return Reply(0, f"npu-smi version: {hardware.versions(call.world.machine(call.node.name))[0]}\n")
    if arguments[:3] == ["set", "-t", "reset"]:
        return _reset(call, arguments[3:])
    reply = _info(call, arguments)
    if condition == "garbage" and isinstance(reply.out, str):
        return Reply(reply.code, reply.out[: len(reply.out) * 2 // 5])
    return reply


def _reset(call: ToolCall, arguments: list[str]) -> Reply:
    """Reset a card, unless a process holds it. The wording is inferred: no capture of this answer was found."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    card = options.get("-i", "")
    if set(options) - {"-i", "-c", "-m"} or not card.isdigit() or len(arguments) % 2:
        return Reply(1, f"Error parameter of -i\n{_USAGE}")
    if int(card) not in call.world.fabric.present(call.node.name):
        return Reply(_HIGH_CODE, "Invalid card id.\n")
    if call.world.hbm.get((call.node.name, int(card))):
        return Reply(_HIGH_CODE, _rows({"Status": "FAIL", "Message": "The device is in use"}))
    call.world.fabric.reset(call.node.name, int(card))
    call.world.save()
    return Reply(0, _rows({"Status": "OK", "Message": f"Reset card {card} successfully"}))


def _info(call: ToolCall, words: list[str]) -> Reply:
    if words[0] != "info":
        return Reply(1, f"Error parameter of {words[0]}\n{_USAGE}")
    arguments = words[1:]
    fabric, node = call.world.fabric, call.node.name
    present = fabric.present(node)
    if not present:
        return Reply(_HIGH_CODE, "There is no NPU card on this server.\n")
    if not arguments:
        return Reply(0, _table(call, present))
    if arguments == ["-l"]:
        cards = "\n".join(_rows({"NPU ID": str(card), "Chip Count": "1"}) for card in present)
        return Reply(0, f"\tTotal Count                    : {len(present)}\n\n{cards}")
    if arguments == ["-m"]:
        return Reply(0, _mapping(present))
    return _form(fabric, node, present, arguments)


def _form(fabric: Fabric, node: str, present: list[int], arguments: list[str]) -> Reply:
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) % 2 or set(options) - {"-t", "-i", "-c"} or "-t" not in options:
        return Reply(1, f"Error parameter of {arguments[0]}\n{_USAGE}")
    if options["-t"] == "topo":
        return Reply(0, _topo(present))
    form = _FORMS.get(options["-t"])
    if form is None:
        return Reply(1, f"Error parameter of -t\n{_USAGE}")
    card = options.get("-i", "")
    if not card.isdigit():
        return Reply(1, f"Error parameter of -i\n{_USAGE}")
    if int(card) not in present:
        return Reply(_HIGH_CODE, "Invalid card id.\n")
    return Reply(0, form(fabric, node, int(card)))


def _load(fabric: Fabric, node: str, card: int) -> tuple[float, int, int]:
    """Return power in W, temperature in C and AICore use in % of a card, idle or held by a process."""
    held = bool(fabric.world.hbm.get((node, card)))
    power = 92.0 + (card * 37 % 120) / 10 + (28.4 if held else 0.0)
    return power, 40 + card % 5 + (4 if held else 0), 0


def _table(call: ToolCall, present: list[int]) -> str:
    fabric, node = call.world.fabric, call.node.name
    driver, _ = hardware.versions(call.world.machine(node))
    title = f"npu-smi {driver}"
    lines = [
        _FRAME,
        f"| {title:<32} {f'Version: {driver}':<61} |",
        _COLUMNS,
        "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|",
        "| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |",
        _ROWS,
    ]
    for card in present:
        power, temperature, busy = _load(fabric, node, card)
        health = str(fabric.hardware(node, card).get("health", "OK"))
        chip = fabric.hardware(node, card).get("chip", hardware.CHIP)
        used = f"{fabric.hbm_used(node, card):<5}/ {_total(fabric, node, card)}"
        lines += [
            f"| {card:<5} {chip:<19} | {health:<13} | {power:<11.1f} {temperature:<17} {'0    / 0':<21}|",
            f"| {0:<25} | {_bus(card):<13} | {busy:<11} {'0    / 0':<17} {used:<21}|",
            _ROWS,
        ]
    lines += [
        _COLUMNS,
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |",
    ]
    lines.append(_ROWS)
    for card in present:
        holders = call.world.hbm.get((node, card), {})
        for pid, megabytes in sorted(holders.items()):
            lines.append(f"| {card:<7} {0:<17} | {pid:<13} | {'':<24} | {megabytes:<23} |")
        if not holders:
            lines.append(f"| {f'No running processes found in NPU {card}':<94} |")
        lines.append(_ROWS)
    return "\n".join(lines) + "\n"


def _total(fabric: Fabric, node: str, card: int) -> int:
    return int(fabric.hardware(node, card).get("hbm_total_mb", hardware.HBM_TOTAL_MB))


def _bus(card: int) -> str:
    return f"0000:{hardware.BUS_IDS[card % len(hardware.BUS_IDS)]}:00.0"


def _rows(rows: dict[str, str]) -> str:
    return "".join(f"\t{key:<30} : {value}\n" for key, value in rows.items())


def _mapping(present: list[int]) -> str:
    def line(*cells: object) -> str:
        return "\t" + "".join(f"{cell!s:<31}" for cell in cells).rstrip() + "\n"

    text = line("NPU ID", "Chip ID", "Chip Logic ID", "Chip Name")
    for logic, card in enumerate(present):
        text += line(card, 0, logic, f"Ascend {hardware.CHIP}") + line(card, 1, "-", "Mcu")
    return text


def _topo(present: list[int]) -> str:
    text = "\t" + "".join(f"{f'NPU{card}':<11}" for card in present) + "CPU Affinity\n"
    per_node = hardware.CPUS // hardware.NUMA_NODES
    for row in present:
        cells = "".join(f"{'X' if row == column else 'HCCS':<11}" for column in present)
        first = (row % hardware.NUMA_NODES) * per_node
        text += f"NPU{row}\t{cells}{first}-{first + per_node - 1}\n"
    return (
        f"{text}\nLegend:\n\n  X    = Self\n"
        "  SYS  = Path traversing PCIe and NUMA nodes. Nodes are connected through SMP, such as QPI, UPI.\n"
        "  PHB  = Path traversing PCIe and the PCIe host bridge of a CPU.\n"
        "  PIX  = Path traversing a single PCIe switch\n  PXB  = Path traversing multiple PCIe switches\n"
        "  HCCS = Connection traversing HCCS.\n  NA   = Unknown relationship.\n"
    )


def _health(fabric: Fabric, node: str, card: int) -> str:
    condition = fabric.hardware(node, card)
    return _rows(
        {
            "Health Status": str(condition.get("health", "OK")),
            "Error Code": str(condition.get("error_code", "NA")),
            "Error Information": str(condition.get("error_text", "NA")),
        }
    )


def _board(fabric: Fabric, node: str, card: int) -> str:
    driver, firmware = hardware.versions(fabric.world.machine(node))
    return _rows(
        {
            "NPU ID": str(card),
            "Software Version": driver,
            "Firmware Version": firmware,
            "Compatibility": "OK",
            "Board ID": "0x65",
            "PCB ID": "A",
            "BOM ID": "1",
            "PCIe Bus Info": _bus(card),
            "Slot ID": "0",
            "Class ID": "NA",
            "PCI Vendor ID": "0x19e5",
            "PCI Device ID": "0xD802",
            "Subsystem Vendor ID": "0x19e5",
            "Subsystem Device ID": "0x3003",
            "Chip Count": "1",
        }
    )


def _common(fabric: Fabric, node: str, card: int) -> str:
    power, temperature, busy = _load(fabric, node, card)
    rate = 100 * fabric.hbm_used(node, card) // _total(fabric, node, card)
    chip = {
        "Chip ID": "0",
        "Memory Usage Rate(%)": "0",
        "HBM Usage Rate(%)": str(rate),
        "Aicore Usage Rate(%)": str(busy),
        "Aicore Freq(MHZ)": "1800",
        "Aicore curFreq(MHZ)": "1800" if busy else "800",
        "Aicore Count": "20",
        "Temperature(C)": str(temperature),
        "NPU Real-time Power(W)": f"{power:.1f}",
    }
    head = _rows({"NPU ID": str(card), "Chip Count": "1"})
    return f"{head}\n{_rows(chip)}\n{_rows({'Chip Name': 'mcu', 'Temperature(C)': '38'})}"


def _usages(fabric: Fabric, node: str, card: int) -> str:
    rate = 100 * fabric.hbm_used(node, card) // _total(fabric, node, card)
    chip = {
        "DDR Capacity(MB)": "0",
        "DDR Usage Rate(%)": "0",
        "DDR Hugepages Total(page)": "0",
        "DDR Hugepages Usage Rate(%)": "0",
        "HBM Capacity(MB)": str(_total(fabric, node, card)),
        "HBM Usage Rate(%)": str(rate),
        "Aicore Usage Rate(%)": "0",
        "Aicpu Usage Rate(%)": "0",
        "Ctrlcpu Usage Rate(%)": "1",
        "DDR Bandwidth Usage Rate(%)": "0",
        "HBM Bandwidth Usage Rate(%)": "0",
        "Chip ID": "0",
    }
    return f"{_rows({'NPU ID': str(card), 'Chip Count': '1'})}\n{_rows(chip)}"


def _power(fabric: Fabric, node: str, card: int) -> str:
    power = _load(fabric, node, card)[0]
    return _rows({"NPU ID": str(card), "Chip Count": "1"}) + "\n" + _rows({"NPU Real-time Power(W)": f"{power:.1f}"})


def _ecc(fabric: Fabric, node: str, card: int) -> str:
    del fabric, node
    counts = {
        f"{memory} {kind}": "0"
        for memory in ("DDR", "HBM")
        for kind in (
            "Single Bit Error Count",
            "Double Bit Error Count",
            "Single Bit Aggregate Total Err Cnt",
            "Double Bit Aggregate Total Err Cnt",
            "Single Bit Isolated Pages Count",
            "Double Bit Isolated Pages Count",
        )
    }
    rows = {"NPU ID": str(card), "Chip Count": "1", "": "", **counts, "Chip ID": "0"}
    return "".join(f"{key:<40} : {value}\n" if key else "\n" for key, value in rows.items())


_FORMS: dict[str, Callable[[Fabric, str, int], str]] = {
    "board": _board,
    "common": _common,
    "ecc": _ecc,
    "health": _health,
    "power": _power,
    "usages": _usages,
}
