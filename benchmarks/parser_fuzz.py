"""Fuzz the parsers with damaged captures: nothing raises, no value is invented, a cut never changes a value.

The captures are those of tests/ascend/data. Every one is cut at every byte; then N mutations (lines dropped,
doubled and swapped, characters flipped, blanks added, two captures joined). Prints a table per tool and exits 1
when a rule is broken.

    python benchmarks/parser_fuzz.py --cases 20000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runbook_lib.ascend.captured import TOOLS, Parsed, parse_text
from runbook_lib.ascend.plain import DAMAGED
from runbook_lib.errors import RunbookError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).resolve().parents[1] / "tests" / "ascend" / "data"
# made by us from what was read: counts, stamps in one form, our own words
_OURS = frozenset({"lines", "error_count", "line", "at", "signatures", "level", "module", "times_ms", "kind"})
_GROWING = frozenset({"lines", "error_count", "first_error", "warnings"})  # these tell of the text as a whole
_KNOWN = frozenset({"set", "unset"})
_ALPHABET = "0123456789abcxyzAZ|:.,=[]{}()\"'/-+* \t\r\x1b\n#$@_%"


@dataclass(frozen=True, slots=True)
class Case:
    """One capture and how it is asked for."""

    name: str
    tool: str
    subcommand: str
    text: str


def load_cases() -> list[Case]:
    """Return the captures; the file name says tool and subcommand."""
    cases = []
    for path in sorted(DATA.glob("*.txt")):
        tool = next(tool for tool in TOOLS if path.name.startswith(f"{tool}."))
        subcommand = path.name[len(tool) + 1 :].split(".")[0]
        cases.append(Case(path.stem, tool, subcommand, path.read_bytes().decode()))
    return cases


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:  # noqa: ANN401 - JSON
    """Yield every number and text in a JSON value with the way to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from leaves(inner, (*path, position))
    elif value is not None:
        yield path, value


def values_of(parsed: Parsed) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the values of all answers; in a terminal capture only of those whose card is certain."""
    if "answers" not in parsed.facts:
        yield from leaves(parsed.facts)
        return
    for answer in parsed.facts["answers"]:
        owner = (answer["host"], answer["tool"], answer["subcommand"], answer["card"], answer["command"])
        if parsed.tool == "mixed" and not answer["command"]:
            continue
        if answer["state"] in _KNOWN:
            yield (*owner, "state"), answer["state"]
        yield from leaves(answer["value"], owner)


def invented(text: str, parsed: Parsed) -> list[str]:
    """Return the values that stand in no line of the text."""
    lines = [" ".join(line.split()).lower() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    numbers = {float(token) for token in re.findall(r"\d+(?:\.\d+)?", text)}
    found = []
    answers = parsed.facts.get("answers")
    values = [answer["value"] for answer in answers] if answers is not None else [parsed.facts]
    for path, value in leaves(values):
        if isinstance(value, bool) or _OURS & {key for key in path if isinstance(key, str)}:
            continue
        if isinstance(value, int | float):
            if float(abs(value)) not in numbers:
                found.append(f"{path}: {value}")
            continue
        if DAMAGED in value:  # of a log line: the lost character is shown as one
            continue
        words = " ".join(value.split()).lower()
        if not any(words in line for line in lines) and not _respelled(words, lines):
            found.append(f"{path}: {value}")
        elif (key := _own_key(path)) and not any(key in line and words in line for line in lines):
            found.append(f"{path}: {value} stands in another line than its key")
    return found


def _own_key(path: tuple[Any, ...]) -> str:
    """Return the tool's own key of a value, "" where the keys are ours."""
    for keyed, after in pairwise(path):
        if keyed in {"fields", "sections", "values"} or (keyed == "cards" and isinstance(after, str)):
            return next(
                part for part in reversed(path) if isinstance(part, str) and part not in {"number", "unit"}
            ).lower()
    return ""


def _respelled(words: str, lines: list[str]) -> bool:
    """Whether the words are docker's state for a status, an address in another spelling, or JSON with escapes."""
    states = {"running": "up", "exited": "exited", "created": "created", "restarting": "restarting", "dead": "dead"}
    start = states.get(words, "")
    if start and any(start in line for line in lines):
        return True
    bare = re.sub(r"[^a-z0-9]", "", words)
    return (":" in words or "\\" in "".join(lines)) and any(bare in re.sub(r"[^a-z0-9]", "", line) for line in lines)


def changed(full: Parsed, part: Parsed) -> list[str]:
    """Return the values of a cut capture that are not those of the whole."""
    known: dict[tuple[Any, ...], list[Any]] = {}
    for path, value in values_of(full):
        known.setdefault(path, []).append(value)
    return [
        f"{path}: {value}, in the whole {known.get(path)}"
        for path, value in values_of(part)
        if value not in known.get(path, []) and not _GROWING & {key for key in path if isinstance(key, str)}
    ]


def cuts(case: Case, step: int = 1) -> Iterator[str]:
    """Return what is wrong with a capture cut at every `step`th character."""
    full = parse_text(case.tool, case.text, case.subcommand)
    for end in range(0, len(case.text), step):
        text = case.text[:end]
        try:
            part = parse_text(case.tool, text, case.subcommand)
        except RunbookError as error:
            yield f"{case.name}[:{end}]: raised {error!r}"
            continue
        yield from (f"{case.name}[:{end}]: {words}" for words in changed(full, part))
        yield from (f"{case.name}[:{end}]: invented {words}" for words in invented(text, part))


def mutate(rng: random.Random, text: str, other: str) -> str:
    """Return a damaged text: one to three of drop, double, swap, flip, blanks, join, cut."""
    for _ in range(rng.randint(1, 3)):
        lines = text.splitlines(keepends=True) or [""]
        place, second = rng.randrange(len(lines)), rng.randrange(len(lines))
        what = rng.randrange(7)
        if what == 0:
            del lines[place]
        elif what == 1:
            lines.insert(second, lines[place])
        elif what == 2:  # noqa: PLR2004 - one of the seven
            lines[place], lines[second] = lines[second], lines[place]
        elif what == 3 and text:  # noqa: PLR2004 - one of the seven
            at = rng.randrange(len(text))
            lines = [text[:at] + rng.choice(_ALPHABET) + text[at + 1 :]]
        elif what == 4:  # noqa: PLR2004 - one of the seven
            lines[place] = rng.choice([" ", "\t", "  \t"]) + re.sub(" ", rng.choice([" ", "  "]), lines[place])
        elif what == 5:  # noqa: PLR2004 - one of the seven
            lines.append(other)
        else:
            lines = [text[: rng.randrange(len(text) + 1)]]
        text = "".join(lines)
    return text


def mutations(cases: list[Case], number: int, seed: int) -> Iterator[tuple[Case, str]]:
    """Yield the case and what is wrong with a mutation of it; "" for one that is fine."""
    rng = random.Random(seed)  # noqa: S311 - reproducible damage, no secret
    for _ in range(number):
        case, other = rng.choice(cases), rng.choice(cases)
        text = mutate(rng, case.text, other.text)
        subcommand = case.subcommand if rng.random() < 0.5 else ""  # noqa: PLR2004 - one half
        tool = case.tool if rng.random() < 0.8 else "mixed"  # noqa: PLR2004 - mostly its own
        try:
            parsed = parse_text(tool, text, subcommand)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            yield case, f"{tool} {subcommand}: raised {error!r} on {text!r}"
            continue
        wrong = invented(text, parsed)
        yield case, f"{tool} {subcommand}: invented {wrong[0]} from {text!r}" if wrong else ""


def main() -> int:
    """Run the campaign and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=20_000, help="number of mutations")
    options.add_argument("--step", type=int, default=1, help="cut at every STEPth character")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    begin = time.monotonic()
    cases = load_cases()
    done: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    examples: list[str] = []
    for case in cases:
        done[f"{case.tool} cut"] += len(range(0, len(case.text), given.step))
        wrong = list(cuts(case, given.step))
        bad[f"{case.tool} cut"] += len(wrong)
        examples += wrong[:1]
    for case, words in mutations(cases, given.cases, given.seed):
        done[f"{case.tool} mutated"] += 1
        if words:
            bad[f"{case.tool} mutated"] += 1
            examples.append(words)
    print(f"{'captures':<22}{'cases':>8}{'broken rules':>14}")
    for name in sorted(done):
        print(f"{name:<22}{done[name]:>8}{bad[name]:>14}")
    print(f"{sum(done.values())} cases of {len(cases)} captures in {time.monotonic() - begin:.0f} s")
    for example in examples[:10]:
        print(example[:600])
    return 1 if sum(bad.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
