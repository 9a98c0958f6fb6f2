"""`runbook bench` from its command line: one object, exit codes, resuming, reading back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from runbook_lib.cli import app
from runbook_lib.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.load.conftest import Mock, Serve

_EASY = ("--max-lateness-ms", "1e6", "--input-tokens", "32", "--output-tokens", "3")


def _bench(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it; errors of ours pass through, as in `main`."""
    result = CliRunner().invoke(app, ["bench", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout) if "--json" in arguments else {"text": result.stdout}


def _target(mock: Mock) -> tuple[str, ...]:
    return ("--url", mock.url, "--model", "m")


def test_one_point_is_one_line(serve: Serve) -> None:
    """The contract of docs/json.md, with the same numbers flat."""
    mock = serve()
    result = CliRunner().invoke(
        app, ["bench", *_target(mock), "--concurrency", "2", "--requests", "3", *_EASY, "--json"]
    )
    assert result.stdout.count("\n") == 1
    value = json.loads(result.stdout)
    assert (result.exit_code, value["ok"], value["failures"]) == (0, True, [])
    (point,) = value["points"]
    assert (point["concurrency"], point["requests"], point["errors"]) == (2, 3, {})
    for name in ("ttft_ms", "itl_ms", "tpot_ms"):
        assert set(point[name]) >= {"mean", "p50", "p90", "p99"}
    assert len(mock.bodies) == 3, "no warm-up was asked for"


def test_a_service_that_fails_is_exit_one(serve: Serve, tmp_path: Path) -> None:
    """With every error counted by its class; the report of what was kept knows how to measure it again."""
    load = (*_target(serve(manner="http_500")), "--concurrency", "2", "--requests", "4", "--out", str(tmp_path))
    code, value = _bench(*load, *_EASY, "--json")
    assert (code, value["ok"], value["points"][0]["errors"]) == (1, False, {"http_500": 4})
    assert "4 x http_500" in value["failures"][0]["seen"]
    code, report = _bench("report", str(tmp_path), "--json")
    assert code == 1
    words = report["failures"][0]["next_command"].split()
    assert words[:2] == ["runbook", "bench"]
    assert set(load) <= set(words)


def test_a_sweep_is_resumed_and_read_back(serve: Serve, tmp_path: Path) -> None:
    """Points, answers, a page, a table for pandas."""
    mock = serve(ttft_s=0.01, max_running=2)
    out = ("--out", str(tmp_path / "out"))
    sweep = (*_target(mock), "--concurrency", "1,2,4", "--requests", "4", *_EASY, *out, "--json")
    _, first = _bench(*sweep)
    asked = len(mock.bodies)
    assert asked == (1 + 4) + (2 + 4) + (4 + 4)
    assert first["answers"]["sweeps"][0]["binds"]
    again = _bench(*sweep)[1]
    measured_again = [point["concurrency"] for point in first["points"] if not point["ok"]]
    assert again["reused"] == 3 - len(measured_again)
    page = tmp_path / "page.html"
    _, report = _bench("report", out[1], "--published", "--html", str(page), "--json")
    assert [point["concurrency"] for point in report["points"]] == [1, 2, 4]
    assert "field report" in report["answers"]["comparisons"][0]["name"]
    assert "<svg" in page.read_text(encoding="utf-8")
    table = tmp_path / "requests.csv"
    _bench("export", out[1], str(table))
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 12
    assert lines[0].startswith("point,concurrency,rate_per_s,")


def test_text_for_people(serve: Serve) -> None:
    """One row for each point."""
    code, value = _bench(*_target(serve()), "--concurrency", "1", "--requests", "1", *_EASY)
    assert code == 0
    assert "TTFT s" in value["text"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--concurrency", "x"), "right would be a number"),
        (("--concurrency", "1"), "--url and --model"),
        (("--concurrency", "4", "--url", "http://h", "--model", "m", "--requests", "2"), "cannot keep 4 in flight"),
        (("--concurrency", "4", "--url", "http://h", "--model", "m", "--extra", "[]"), "JSON object"),
        (("--concurrency", "4", "--url", "http://h", "--model", "m", "--find", "0.9"), "needs a bound"),
        (("--concurrency", "4", "--url", "http://h", "--model", "m", "--api-key-env", "NO_SUCH"), "not set"),
        (("--concurrency", "4", "--url", "http://h", "--model", "m", "--input-tokens", "zipf:1"), "no distribution"),
        (("report", "/no/such/folder"), "no measured point"),
    ],
)
def test_bad_usage(arguments: tuple[str, ...], words: str) -> None:
    """It is said before anything is sent."""
    with pytest.raises(UsageError, match=words):
        _bench(*arguments)


def test_the_load_generator_is_lean() -> None:
    """What is imported when the load begins is nothing heavy: memory and the first second belong to the load."""
    script = (
        "import sys\n"
        "from runbook_lib.cli import main\n"
        "from runbook_lib.load.client import Client\n"
        "heavy = ('numpy', 'pandas', 'matplotlib', 'pydantic', 'rich', 'fabric')\n"
        "def begin(*_, **__):\n"
        "    print([name for name in heavy if name in sys.modules])\n"
        "    sys.exit()\n"
        "Client.__init__ = begin\n"
        "sys.argv[1:] = 'bench --url http://127.0.0.1:1 --model m --concurrency 1 --json'.split()\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
