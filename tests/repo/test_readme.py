"""README and its Chinese twin: two commands to begin with, nothing that is not there, and both say the same."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from runbook_lib.cli import app

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh-CN.md")
START = ["make demo", "make test"]
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    """Return the text of one README."""
    return (ROOT / name).read_text(encoding="utf-8")


def levels(text: str) -> list[int]:
    """Return the levels of all headings outside of code, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE)]


def blocks(text: str) -> list[list[str]]:
    """Return the lines of each code block."""
    return [block.splitlines() for block in FENCE.findall(text)]


def commands(text: str) -> list[str]:
    """Return every `runbook ...` that stands in code, in order."""
    code = [line for block in blocks(text) for line in block]
    code += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [line for line in code if line.startswith("runbook ")]


def misuse(line: str) -> str:
    """Return why the command line would be refused, "" when each of its words and options is known."""
    words = line.split()[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        if name not in command.commands:
            return f"{line}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = [word for word in words if word.startswith("--") and word not in known]
    return f"{line}: no option {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("name", READMES)
def test_two_commands_to_begin_with(name: str) -> None:
    """The first block of code is the two commands and nothing else; the Makefile knows them."""
    assert blocks(text_of(name))[0] == START
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {command.split()[1] for command in START} <= set(targets)


def test_same_headings() -> None:
    """Both have the same number of headings, of the same levels, in the same order."""
    english, chinese = (levels(text_of(name)) for name in READMES)

    assert len(english) > 5
    assert english == chinese


def test_same_code() -> None:
    """Both show the same blocks of code, and speak of the same commands and make targets."""
    english, chinese = (text_of(name) for name in READMES)

    assert blocks(english) == blocks(chinese)
    assert commands(english) == commands(chinese)
    assert re.findall(r"`(make [^`]*)`", english) == re.findall(r"`(make [^`]*)`", chinese)


@pytest.mark.parametrize("name", READMES)
def test_commands_are_there(name: str) -> None:
    """Every command that is shown exists, with its options."""
    shown = commands(text_of(name))

    assert len(shown) > 10
    assert [problem for line in shown if (problem := misuse(line))] == []


@pytest.mark.parametrize("line", ["runbook rollforward x", "runbook twin feet x", "runbook run x --never"])
def test_wrong_command_is_noticed(line: str) -> None:
    """A command or an option that is not there would be noticed."""
    assert misuse(line).startswith(line)


@pytest.mark.parametrize("name", READMES)
def test_targets_of_make_are_there(name: str) -> None:
    """Every make target that is named exists."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = {
        word
        for command in re.findall(r"`(make [^`]*)`", text_of(name))
        for word in command.split()[1:]
        if "=" not in word
    }

    assert named <= set(targets)


@pytest.mark.parametrize("name", READMES)
def test_files_are_there(name: str) -> None:
    """Every relative link and every params or notebook file in the code leads somewhere."""
    text = text_of(name)
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    files = re.findall(r"(?:params|notebooks)/[\w./-]+\.(?:yaml|ipynb)", text)
    to_be_made = {"params/mycluster.yaml"}

    assert links
    assert files
    assert [path for path in {*links, *files} - to_be_made if not (ROOT / path).exists()] == []
