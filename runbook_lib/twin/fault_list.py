"""What can be broken in the twin, as data: faults.yaml, whose head explains the keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

_FILE = Path(__file__).with_name("faults.yaml")
_SERVICE_FILE = Path(__file__).with_name("service_faults.yaml")
_ANY = "any"


@dataclass(frozen=True, slots=True)
class Expectation:
    """A finding: any of these codes (`NET-*` is every code that begins so), on each of these subjects."""

    codes: tuple[str, ...]
    on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `remedy` is run, command, hands or none; `expected` lists the codes of `reports`.

    skip: isolation level or topology -> why the fault cannot be shown there.
    """

    name: str
    what: str
    scope: str
    needs_card: bool
    moment: str
    remedy: str
    expected: tuple[str, ...]
    reports: tuple[Expectation, ...]
    masks: tuple[Expectation, ...]
    follows: tuple[Expectation, ...]
    unknown: bool
    skip: dict[str, str]
    hardware: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    setting: str = ""
    deed: str = ""


def _expectations(given: dict[str, list[str]]) -> tuple[Expectation, ...]:
    return tuple(Expectation(tuple(codes.split("/")), tuple(on)) for codes, on in given.items())


def _fault(name: str, given: dict[str, Any]) -> Fault:
    only = given.get("only", _ANY)
    skip = dict(given.get("skip", {}))
    if only != _ANY:
        skip["switch" if only == "direct" else "direct"] = given["why"]
    reports = _expectations(given["reports"])
    return Fault(
        name=name,
        what=given["what"],
        scope=given["scope"],
        needs_card=given["scope"] != "host",
        moment=given.get("moment", "at once"),
        remedy=given["remedy"],
        expected=tuple(code for each in reports for code in each.codes),
        reports=reports,
        masks=_expectations(given.get("masks", {})),
        follows=_expectations(given.get("follows", {})),
        unknown=bool(given.get("unknown")),
        skip=skip,
        hardware=dict(given.get("hardware", {})),
        machine=dict(given.get("machine", {})),
        setting=given.get("setting", ""),
        deed=given.get("deed", ""),
    )


FAULTS: dict[str, Fault] = {
    name: _fault(name, given) for name, given in YAML(typ="safe").load(_FILE.read_text(encoding="utf-8")).items()
}

# those of the service: a fault of a host, a deed of its own name, and mended by the runbook unless it says otherwise
FAULTS |= {
    name: _fault(name, {"scope": "host", "remedy": "run", "deed": name, "moment": "around the start", **given})
    for name, given in YAML(typ="safe").load(_SERVICE_FILE.read_text(encoding="utf-8")).items()
}
