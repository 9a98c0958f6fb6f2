"""Every finding code that the program can say is explained in the catalogue."""

import ast
import re
from pathlib import Path

from runbook_lib.ascend.catalogue import codes, explain
from runbook_lib.twin.fault_list import FAULTS

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"[A-Z]{3}(?:-[A-Z][A-Z0-9]*)+")


def said_in(source: str) -> set[str]:
    """Return every text constant of a program that has the form of a finding code."""
    constants = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and CODE.fullmatch(value)}


def said_by_program() -> dict[str, set[str]]:
    """Return the codes of each module of the two rooms that make findings."""
    library = ROOT / "runbook_lib"
    modules = sorted([*library.glob("stages/**/*.py"), *library.glob("runs/**/*.py")])
    return {str(path.relative_to(library)): said_in(path.read_text(encoding="utf-8")) for path in modules}


def test_every_code_is_in_the_catalogue() -> None:
    """No stage and no part of a run says a code that `runbook explain` does not know."""
    known = set(codes())
    unknown = {module: sorted(said - known) for module, said in said_by_program().items() if said - known}

    assert unknown == {}


def test_codes_are_seen() -> None:
    """The search itself finds what there is: codes in every stage, and no other text in capitals."""
    said = said_by_program()

    assert "NET-GATEWAY-MISSING" in said["stages/gateway/check.py"]
    for name in ("preflight", "network", "weights", "container", "service"):
        assert any(codes_in for module, codes_in in said.items() if module.startswith(f"stages/{name}")), name
    assert said_in('x = "NET-NO-SUCH"; y = "UTF-8"; z = "see NET-IP"') == {"NET-NO-SUCH"}


def test_every_fault_expects_a_known_code() -> None:
    """What the twin's faults say must be reported is in the catalogue too."""
    known = set(codes())
    unknown = {fault.name: sorted(set(fault.expected) - known) for fault in FAULTS.values()}

    assert {name: missing for name, missing in unknown.items() if missing} == {}


def test_every_entry_has_its_texts_in_both_languages() -> None:
    """An entry without a remedy, a source, or one of the languages is no explanation."""
    texts = {code: (entry.title, entry.why, entry.remedy, entry.source) for code in codes() if (entry := explain(code))}

    assert [
        code for code, words in texts.items() if not all(word.en.strip() and word.zh.strip() for word in words)
    ] == []
