"""Breaking and mending: carries out the faults of faults.yaml.

A fault is over as soon as what it broke is right again, by whatever means. `clear` makes all as it was; `hands` is the
technician, who mends only what needs hands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runbook_lib.errors import TwinError
from runbook_lib.twin import fault_settings
from runbook_lib.twin.fault_base import At, Power
from runbook_lib.twin.fault_deeds import DEEDS
from runbook_lib.twin.fault_list import FAULTS, Fault

if TYPE_CHECKING:
    from runbook_lib.twin.node import Node
    from runbook_lib.twin.world import World

Entry = dict[str, Any]


def node_of(world: World, host: str | None) -> Node:
    """Return a node. Raises TwinError for a name that the twin has not."""
    if host is None or host not in world.nodes:
        raise TwinError(f"the twin has no host {host!r}; it has {', '.join(world.nodes)}")
    return world.nodes[host]


def fault_of(name: str) -> Fault:
    """Return a fault. Raises TwinError for a name that is not in the list."""
    fault = FAULTS.get(name)
    if fault is None:
        raise TwinError(f"no fault {name!r}; there are {', '.join(FAULTS)}", next_command="runbook twin faults")
    return fault


def active(power: Power) -> list[Entry]:
    """Return the faults that are there now; those that were repaired are dropped from the list."""
    world = power.world
    known: list[Entry] = world.state.get("faults", [])
    left = [entry for entry in known if _still(power, entry)]
    if left != known:
        world.state["faults"] = left
        world.save()
    return [shown(world, entry) for entry in left]


def shown(world: World, entry: Entry) -> Entry:
    """Return what is said about an injected fault: where it is, and what it touches."""
    fault, host, card = FAULTS[entry["fault"]], entry["host"], entry["card"]
    where: dict[str, list[Any]] = {}
    if card is not None:
        if fault.scope == "pair":
            where["partner"] = [host, world.fabric.neighbour(host, card)]
        if fault.setting == "ip_duplicate":
            where["holder"] = list(fault_settings.holder(world, host, card))
    return {
        **{key: entry[key] for key in ("fault", "host", "card")},
        "what": fault.what,
        "expected": list(fault.expected),
        "remedy": fault.remedy,
        **where,
    }


def down(world: World, host: str) -> bool:
    """Whether a host is switched off by a fault."""
    return any(entry["fault"] == "host-down" and entry["host"] == host for entry in world.state.get("faults", []))


async def inject(power: Power, name: str, host: str, card: int | None, level: str) -> str:
    """Break something once; a fault that is already there stays as it is. Returns why it was skipped, "" if it was not.

    Raises TwinError for an unknown fault, host or card, and when the state of the twin has no place for the fault.
    """
    world = power.world
    fault = fault_of(name)
    node = node_of(world, host)
    card = _card(world, fault, node, card)
    if reason := fault.skip.get(level) or fault.skip.get(str(world.fabric.topology)):
        return reason
    entry: Entry = {"fault": name, "host": host, "card": card}
    active(power)
    if any({key: old[key] for key in entry} == entry for old in world.state.get("faults", [])):
        return ""
    before = world.fabric.links()
    await _do(power, fault, entry)
    world.fabric.note_links(before)
    world.state.setdefault("faults", []).append(entry)
    world.save()
    return ""


async def clear(power: Power, name: str | None, host: str | None, card: int | None) -> list[Entry]:
    """Undo every fault that matches, as if it had never been. Returns them."""
    world = power.world
    active(power)
    matching = [entry for entry in world.state.get("faults", []) if _matches(entry, name, host, card)]
    mended = await _mend(power, matching)
    if not world.state.get("faults"):
        world.fabric.forget_changes()
    return mended


async def hands(power: Power, name: str | None, host: str | None, card: int | None) -> list[Entry]:
    """Send the technician: mends of the faults that match those that need hands. Returns them.

    Raises TwinError when a fault is named that is not there, or that is no work for hands.
    """
    world = power.world
    if name is not None and fault_of(name).remedy != "hands":
        how = {"run": "runbook run PARAMS --mode apply", "command": "runbook check PARAMS shows the command"}
        raise TwinError(
            f"{name} is no work for a technician", next_command=how.get(fault_of(name).remedy, "wait: it passes")
        )
    active(power)
    matching = [
        entry
        for entry in world.state.get("faults", [])
        if _matches(entry, name, host, card) and FAULTS[entry["fault"]].remedy == "hands"
    ]
    if name is not None and not matching:
        raise TwinError(f"no fault {name} is there", next_command="runbook twin status PARAMS")
    flapping = any(entry["fault"] == "link-flapping" for entry in matching)
    mended = await _mend(power, matching)
    if flapping:
        world.fabric.forget_changes()  # a new cable, and a port that was reset
    return mended


def _matches(entry: Entry, name: str | None, host: str | None, card: int | None) -> bool:
    return name in {None, entry["fault"]} and host in {None, entry["host"]} and card in {None, entry["card"]}


async def _mend(power: Power, entries: list[Entry]) -> list[Entry]:
    world = power.world
    before = world.fabric.links()
    # the newest first: what it found is what the one before it had left; hosts first, since the rest needs their disks
    newest = list(reversed(entries))
    ordered = sorted(newest, key=lambda entry: entry["fault"] != "host-down")
    said = [shown(world, entry) for entry in entries]
    for entry in ordered:
        await _undo(power, FAULTS[entry["fault"]], entry)
        world.state["faults"].remove(entry)
    world.fabric.note_links(before)
    world.save()
    return said


def _card(world: World, fault: Fault, node: Node, card: int | None) -> int | None:
    if not fault.needs_card:
        return None
    cards = world.fabric.cards[node.name]
    if card is None or card not in cards:
        raise TwinError(f"{fault.name} needs a card of {node.name}: one of {', '.join(map(str, cards))}")
    return card


def _at(power: Power, entry: Entry) -> At:
    card = -1 if entry["card"] is None else entry["card"]
    return At(power, power.world.nodes[entry["host"]], card, entry.setdefault("kept", {}))


async def _do(power: Power, fault: Fault, entry: Entry) -> None:
    world, host, card = power.world, entry["host"], entry["card"]
    for part, change in (("hardware", fault.hardware), ("machine", fault.machine)):
        if change:
            condition = _condition(world, part, host, card)
            entry[f"{part}_before"] = {key: condition.get(key) for key in change}
            condition.update(change)
    if fault.setting:
        after = fault_settings.SETTINGS[fault.setting](world, host, card)
        entry["before"], entry["after"] = fault_settings.before(world, host, card, after), after
        entry["lines"] = fault_settings.apply(world, host, card, after)
    if fault.deed:
        await DEEDS[fault.deed].do(_at(power, entry))
    if fault.hardware.get("flapping"):
        world.fabric.start_flapping(host, card)


async def _undo(power: Power, fault: Fault, entry: Entry) -> None:
    world, host, card = power.world, entry["host"], entry["card"]
    if fault.deed:
        await DEEDS[fault.deed].undo(_at(power, entry))
    if "after" in entry:
        fault_settings.apply(world, host, card, entry["before"], entry["lines"])
    for part in ("machine", "hardware"):
        for key, value in entry.get(f"{part}_before", {}).items():
            condition = _condition(world, part, host, card)
            if value is None:
                condition.pop(key, None)
            else:
                condition[key] = value


def _condition(world: World, part: str, host: str, card: int | None) -> dict[str, Any]:
    return world.machine(host) if part == "machine" or card is None else world.fabric.hardware(host, card)


def _still(power: Power, entry: Entry) -> bool:
    world, host, card = power.world, entry["host"], entry["card"]
    fault = FAULTS[entry["fault"]]
    if "after" in entry and not fault_settings.there(world, host, card, entry["after"]):
        return False
    if fault.deed and not DEEDS[fault.deed].there(_at(power, entry)):
        return False
    for part, change in (("hardware", fault.hardware), ("machine", fault.machine)):
        condition = _condition(world, part, host, card)
        # a count goes down by itself and is over at 0
        if any(not condition.get(key) or (type(v) is not int and condition[key] != v) for key, v in change.items()):
            return False
    return True
