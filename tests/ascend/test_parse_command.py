"""`runbook parse`: exit codes, the JSON form, and the words for people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runbook_lib.cli import app
from runbook_lib.errors import UsageError

MIXED = "root@n1:~# hccn_tool -i 3 -link -g\nlink status: DOWN\nroot@n1:~# \n"


def run(*argv: str, given: str | bytes = "") -> tuple[int, str]:
    done = CliRunner().invoke(app, ["parse", *argv], input=given)
    if isinstance(done.exception, UsageError):
        raise done.exception
    return done.exit_code, done.stdout


def test_json_form() -> None:
    code, out = run("mixed", "--json", given=MIXED)
    data = json.loads(out)
    assert (code, data["ok"], data["failures"], data["tool"]) == (0, True, [], "mixed")
    only = data["facts"]["answers"][0]
    assert (only["host"], only["card"], only["subcommand"], only["value"]) == ("n1", 3, "link", False)


def test_failures_name_line_and_words() -> None:
    code, out = run("hccn_tool", "mtu", "--json", given="mtu:15")
    data = json.loads(out)
    assert (code, data["ok"]) == (1, False)
    assert data["failures"] == [{"seen": "mtu:15", "line": 1, "reason": "cut", "next_command": ""}]


def test_words_for_people() -> None:
    code, out = run("mixed", given=MIXED)
    assert (code, out.split()) == (0, ["n1", "card", "3", "hccn_tool", "link", "false"])
    assert run("hccn.conf", given="address_0=10.0.0.1\n")[0] == 0


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030"])
def test_other_encodings(encoding: str) -> None:
    text = "提示 驱动包\nlink status: UP\n"
    assert run("hccn_tool", "link", given=text.encode(encoding))[0] == 0


def test_unknown_tool_is_bad_usage() -> None:
    with pytest.raises(UsageError):
        run("nvidia-smi")


def test_the_documented_example_has_the_printed_keys() -> None:
    doc = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    example = json.loads(doc.split("\n## parse\n")[1].split("```json\n")[1].split("```")[0])
    printed = json.loads(run("mixed", "--json", given=MIXED)[1])
    assert list(example) == list(printed)
    assert list(example["facts"]["answers"][0]) == list(printed["facts"]["answers"][0])
