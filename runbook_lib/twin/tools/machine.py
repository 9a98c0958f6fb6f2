"""The facts of the emulated server itself, as the usual programs print them: none is the development machine's."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runbook_lib.twin import hardware
from runbook_lib.twin.world import Reply

if TYPE_CHECKING:
    from runbook_lib.twin.world import ToolCall

_UNAME_ORDER = "snrvmpio"
_MIB, _GIB = 1024, 1024 * 1024


async def uname(call: ToolCall) -> Reply:
    """Print system information; -a and single letters, alone or joined."""
    values = {
        "s": "Linux",
        "n": call.node.name,
        "r": hardware.KERNEL,
        "v": hardware.KERNEL_BUILD,
        "m": hardware.ARCH,
        "p": hardware.ARCH,
        "i": hardware.ARCH,
        "o": "GNU/Linux",
    }
    letters = set()
    for argument in call.argv[1:]:
        word = {"--all": "a", "--machine": "m", "--kernel-release": "r", "--nodename": "n", "--kernel-name": "s"}.get(
            argument, argument.removeprefix("-")
        )
        if not argument.startswith("-") or set(word) - set(_UNAME_ORDER) - {"a"}:
            return Reply(1, err=f"uname: extra operand '{argument}'\nTry 'uname --help' for more information.\n")
        letters |= set(_UNAME_ORDER if "a" in word else word)
    wanted = [letter for letter in _UNAME_ORDER if letter in (letters or {"s"})]
    return Reply(0, " ".join(values[letter] for letter in wanted) + "\n")


async def arch(call: ToolCall) -> Reply:
    """Print the machine's architecture."""
    del call
    return Reply(0, f"{hardware.ARCH}\n")


async def hostname(call: ToolCall) -> Reply:
    """Print the host's name, or its address with -I or -i; set the name of the caller's own namespace."""
    words = call.argv[1:]
    if words in (["-I"], ["-i"], ["--all-ip-addresses"]):
        return Reply(0, f"{call.node.address} \n")
    setting = len(words) == 1 and not words[0].startswith("-")
    if call.node.level != "L0" and (setting or call.container):
        return Reply(exec_argv=["/usr/bin/hostname", *words])  # the kernel's name: a container has its own
    if words in ([], ["-s"], ["-f"], ["--short"], ["--fqdn"]):
        return Reply(0, f"{call.node.name}\n")
    return Reply(1, err="hostname: you must be root to change the host name\n")


async def nproc(call: ToolCall) -> Reply:
    """Print the number of cores."""
    del call
    return Reply(0, f"{hardware.CPUS}\n")


async def lscpu(call: ToolCall) -> Reply:
    """Print the CPU's description."""
    del call
    per_node = hardware.CPUS // hardware.NUMA_NODES
    rows = {
        "Architecture": hardware.ARCH,
        "CPU op-mode(s)": "64-bit",
        "Byte Order": "Little Endian",
        "CPU(s)": str(hardware.CPUS),
        "On-line CPU(s) list": f"0-{hardware.CPUS - 1}",
        "Vendor ID": "HiSilicon",
        "Model name": hardware.CPU_MODEL,
        "Model": "0",
        "Thread(s) per core": "1",
        "Core(s) per socket": str(hardware.CORES_PER_SOCKET),
        "Socket(s)": str(hardware.SOCKETS),
        "Stepping": "0x1",
        "CPU max MHz": "2600.0000",
        "CPU min MHz": "200.0000",
        "NUMA node(s)": str(hardware.NUMA_NODES),
        **{
            f"NUMA node{number} CPU(s)": f"{number * per_node}-{(number + 1) * per_node - 1}"
            for number in range(hardware.NUMA_NODES)
        },
    }
    return Reply(0, "".join(f"{key + ':':<33}{value}\n" for key, value in rows.items()))


async def free(call: ToolCall) -> Reply:
    """Print the memory: -k (default), -b, -m, -g, -h."""
    units = {"-b": 1 / 1024, "-k": 1, "-m": _MIB, "-g": _GIB, "-w": 1, "-t": 1}
    asked = call.argv[1:]
    human = "-h" in asked
    if any(word not in units and word != "-h" for word in asked):
        return Reply(1, err=f"free: invalid option -- '{asked[0].lstrip('-')}'\n")
    unit = next((units[word] for word in asked if word in {"-b", "-m", "-g"}), 1)

    def show(kilobytes: int) -> str:
        if human:
            return f"{kilobytes / _GIB / 1024:.1f}Ti" if kilobytes >= _GIB * 1024 else f"{kilobytes // _GIB}Gi"
        return str(int(kilobytes / unit))

    used, cache = hardware.MEM_USED_KB, hardware.MEM_CACHE_KB
    total = int(call.world.machine(call.node.name).get("mem_total_kb", hardware.MEM_TOTAL_KB))
    memory = (total, used, total - used - cache, 102_400, cache, total - used)
    swap = (hardware.SWAP_TOTAL_KB, 0, hardware.SWAP_TOTAL_KB)
    names = ("total", "used", "free", "shared", "buff/cache", "available")
    rows = [("", names), ("Mem:", map(show, memory)), ("Swap:", map(show, swap))]
    lines = [f"{label:<8}" + "".join(f" {value:>11}" for value in values) for label, values in rows]
    return Reply(0, "\n".join(lines) + "\n")


async def date(call: ToolCall) -> Reply:
    """Print the host's clock, UTC; +FORMAT, -u, -R, -Is. It cannot be set."""
    now = call.world.emulated_now(call.node.name)
    form = "%a %b %e %H:%M:%S UTC %Y"
    for argument in call.argv[1:]:
        if argument.startswith("+"):
            form = argument[1:]
        elif argument in {"-R", "--rfc-email"}:
            form = "%a, %d %b %Y %H:%M:%S +0000"
        elif argument.startswith(("-I", "--iso-8601")):
            form = "%Y-%m-%dT%H:%M:%S+00:00" if argument[-1:] == "s" else "%Y-%m-%d"
        elif argument not in {"-u", "--utc", "--universal"}:
            return Reply(1, err=f"date: invalid date '{argument}'\n")
    micro = now.microsecond
    for code, value in (
        ("%s", str(int(now.timestamp()))),
        ("%3N", f"{micro // 1000:03d}"),
        ("%6N", f"{micro:06d}"),
        ("%N", f"{micro * 1000:09d}"),
        ("%Z", "UTC"),
        ("%:z", "+00:00"),
    ):
        form = form.replace(code, value)
    return Reply(0, now.strftime(form) + "\n")


async def uptime(call: ToolCall) -> Reply:
    """Print how long the host runs; nobody else is logged in and nothing loads it."""
    now = call.world.emulated_now(call.node.name)
    minutes = int((call.world.monotonic() - call.node.booted_at) // 60)
    days, rest = divmod(minutes, 24 * 60)
    since = f"{days} days, " * bool(days) + (f"{rest // 60}:{rest % 60:02d}" if rest >= 60 else f"{rest} min")  # noqa: PLR2004
    return Reply(0, f" {now:%H:%M:%S} up {since},  0 users,  load average: 0.31, 0.27, 0.24\n")


async def lsblk(call: ToolCall) -> Reply:
    """Print the two disks."""
    big = "/" + PurePosixPath(call.world.params.model.weights.directory).parts[1]
    rows = (
        ("sda", "8:0", "0", "446.6G", "0", "disk", ""),
        ("`-openeuler-root", "253:0", "0", "100G", "0", "lvm", "/"),
        ("nvme0n1", "259:0", "0", "7T", "0", "disk", big),
    )
    head = ("NAME", "MAJ:MIN", "RM", "SIZE", "RO", "TYPE", "MOUNTPOINTS")
    lines = [
        f"{name:<18}{number:>7} {removable:>2} {size:>6} {read_only:>2} {kind:<4} {target}".rstrip()
        for name, number, removable, size, read_only, kind, target in (head, *rows)
    ]
    return Reply(0, "\n".join(lines) + "\n")


async def hostnamectl(call: ToolCall) -> Reply:
    """Print who the host is."""
    rows = {
        "Static hostname": call.node.name,
        "Icon name": "computer-server",
        "Chassis": "server",
        "Boot ID": call.node.boot_id.replace("-", ""),
        "Operating System": "openEuler 22.03 (LTS-SP4)",
        "Kernel": f"Linux {hardware.KERNEL}",
        "Architecture": "arm64",
        "Hardware Vendor": "Huawei",
        "Hardware Model": hardware.PRODUCT,
    }
    return Reply(0, "".join(f"{key:>16}: {value}\n" for key, value in rows.items()))


async def lspci(call: ToolCall) -> Reply:
    """List the accelerators and the NIC."""
    present = call.world.fabric.present(call.node.name)
    cards = [
        f"{hardware.BUS_IDS[card % len(hardware.BUS_IDS)].lower()}:00.0 Processing accelerators: "
        "Huawei Technologies Co., Ltd. Device d802 (rev 20)"
        for card in present
    ]
    nic = "bd:00.0 Ethernet controller: Huawei Technologies Co., Ltd. HNS GE/10GE/25GE RDMA Network Controller (rev 21)"
    return Reply(0, "\n".join(sorted([*cards, nic])) + "\n")


async def dmesg(call: ToolCall) -> Reply:
    """Print the kernel's lines about the cards."""
    lines = [
        "[    0.000000] Booting Linux on physical CPU 0x0000080000 [0x481fd010]",
        f"[    0.000000] {hardware.version().rstrip()}",
    ]
    lines += [
        f"[   {41 + card}.{card}53112] [ascend] [devdrv] device {card} probe success, bus 0000:"
        f"{hardware.BUS_IDS[card % len(hardware.BUS_IDS)].lower()}:00.0"
        for card in call.world.fabric.present(call.node.name)
    ]
    return Reply(0, "\n".join(lines) + "\n")
