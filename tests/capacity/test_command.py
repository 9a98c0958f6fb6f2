"""`runbook capacity` as a user meets it, and the way from params to its inputs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runbook_lib.capacity.rules import Generation
from runbook_lib.cli import app
from runbook_lib.errors import UsageError
from runbook_lib.params import load_params
from runbook_lib.runs import plan_capacity
from runbook_lib.runs.capacity import planned, points_of, setup_of
from runbook_lib.views.html import page

PARAMS = Path(__file__).parents[2] / "params"
FOUR = str(PARAMS / "example-4x8-switch.yaml")


def call(*words: str) -> tuple[int, Any]:
    """Run `runbook capacity ... --json`; return exit code and the object."""
    result = CliRunner().invoke(app, ["capacity", *words, "--json"])
    if isinstance(result.exception, UsageError):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def test_simulate_prints_a_row_per_level() -> None:
    """Rows hold what is promised, and the published run comes out of the shipped file."""
    code, answer = call(
        "simulate", FOUR, "--concurrency", "100,400", "--requests", "1000", "--input-tokens", "512",
        "--output-tokens", "512",
    )  # fmt: skip
    assert code == 0
    assert answer["ok"]
    low, high = answer["points"]
    assert (low["concurrency"], high["concurrency"]) == (100, 400)
    assert low["requests_per_s"] == pytest.approx(1.616, rel=0.02)
    assert high["output_tokens_per_s"] == pytest.approx(1269, rel=0.02)
    assert high["ttft_mean_s"] == pytest.approx(12.75, rel=0.06)
    assert high["ttft_p50_s"] <= high["ttft_p99_s"]
    assert high["decode_mean_ms"] == pytest.approx(255, rel=0.02)
    assert high["preemptions"] > 0
    assert high["mean_in_flight"] == pytest.approx(355, rel=0.02)
    assert high["simulated_requests_per_wall_s"] > 0
    assert low["steady_tokens_per_s"] > low["output_tokens_per_s"] * 0.9


def test_params_decide() -> None:
    """Memory fraction, layout, weights and scheduling come from the file and its overrides."""
    setup = setup_of(load_params(FOUR, {"service.npu_memory_fraction": 0.95}))
    assert setup.memory.blocks > 1.3 * setup_of(load_params(FOUR)).memory.blocks
    assert setup.rules.generation is Generation.OLD
    wide = setup_of(load_params(FOUR, {"service.parallel": {"dp": 4, "moe_ep": 32}, "capacity.generation": "new"}))
    assert (wide.layout.dp, wide.layout.tp, wide.layout.moe_ep) == (4, 8, 32)
    assert wide.rules.generation is Generation.NEW
    assert setup_of(load_params(FOUR, {"service.npu_mem_size": 10})).memory.kv_gib == 10
    assert setup_of(load_params(FOUR, {"capacity.constants": {"host_ms": 25.0}})).constants.host_ms == 25.0
    with pytest.raises(UsageError, match=r"capacity\.constants: speed unknown"):
        setup_of(load_params(FOUR, {"capacity.constants": {"speed": 1.0}}))
    with pytest.raises(UsageError, match="dp x tp = 32"):
        load_params(FOUR, {"service.parallel": {"dp": 3}})


def test_a_dead_end_is_not_ok() -> None:
    """The exit code is 1, the failure names the level and the way out."""
    code, answer = call(
        "simulate", FOUR, "--concurrency", "600", "--requests", "700", "--output-tokens", "3000",
        "--input-tokens", "512",
        "--set", "service.max_prefill_tokens=600", "--set", "service.max_input_token_len=600",
    )  # fmt: skip
    assert code == 1
    assert not answer["ok"]
    assert "recompute dead end" in answer["failures"][0]["seen"]
    assert answer["failures"][0]["next_command"].endswith("service.max_prefill_tokens=32768")
    assert answer["points"][0]["stalled"] > 0


@pytest.mark.parametrize(
    "words", [("simulate", FOUR, "--concurrency", "0"), ("simulate", FOUR, "--input-tokens", "40000")]
)
def test_bad_usage(words: tuple[str, ...]) -> None:
    """Levels and lengths that cannot be are bad usage."""
    with pytest.raises(UsageError):
        call(*words)


def test_plan_is_the_default_command(tmp_path: Path) -> None:
    """`capacity PARAMS` plans: ranking, current deployment, fragment that a params file takes."""
    html = tmp_path / "plan.html"
    code, answer = call(FOUR, "--concurrency", "100,400,500,600", "--html", str(html))
    assert code == 0
    assert answer["current"]["settings"] == "params"
    assert answer["current"]["recommended"] == 500
    assert answer["best"]["usable"]
    assert set(answer["by_instances"]) == {"1", "2"}
    assert answer["what_if"][0]["change"] == "npu_memory_fraction 0.95"
    assert sum(answer["current"]["memory_gib"].values()) == pytest.approx(64, abs=0.01)
    text = html.read_text(encoding="utf-8")
    assert text.count("<svg") == 3
    assert "does not fit" in text
    merged = tmp_path / "merged.yaml"
    merged.write_text(f"extends: {FOUR}\n{answer['best']['params']}", encoding="utf-8")
    assert load_params(merged).service.max_batch_size == setup_of(load_params(merged)).rules.max_batch_size


def test_nothing_fits() -> None:
    """Hosts that cannot hold the weights: not ok, with the reason."""
    code, answer = call(FOUR, "--concurrency", "100", "--set", "service.npu_memory_fraction=0.51", "--set",
                        'model.format="bf16"')  # fmt: skip
    assert code == 1
    assert "no deployment of these hosts can be used" in answer["failures"][0]["seen"]
    assert answer["best"] is None


def test_calibrate_reads_a_benchmark(tmp_path: Path) -> None:
    """A result of `runbook bench --json` is fitted; the constants are what params take."""
    points = [
        {
            "concurrency": level,
            "requests": 1000,
            "output_tokens_per_s": rate,
            "ttft_ms": {"mean": ttft_s * 1e3},
            "tpot_ms": {"mean": decode_ms},
            "ok": True,
        }
        for level, rate, ttft_s, decode_ms in (
            (100, 828, 4.30, 112.6),
            (300, 1181, 9.39, 211.2),
            (600, 1212, 32.9, 364),
        )
    ]
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"points": [*points, {"ok": False}]}), encoding="utf-8")
    code, answer = call("calibrate", FOUR, str(file))
    assert code == 0
    assert answer["mean_error"]["throughput"] < 0.02
    setup_of(load_params(FOUR, {"capacity.constants": answer["constants"]}))
    with pytest.raises(UsageError, match="no result of"):
        points_of({"points": [{"concurrency": 1}]})


def test_notebook_objects_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the notebook shows has HTML, text and JSON; the plan is made once."""
    monkeypatch.setattr(plan_capacity, "planned", partial(planned, levels=(100, 400)))
    view = plan_capacity.open_capacity(FOUR, {"benchmark.requests_per_level": 1000})
    assert "4x8 dp1 tp32" in repr(view.context())
    assert "<svg" in view.memory().html
    assert "KV cache" in repr(view.memory())
    plan = view.plan()
    assert view.result is view.result
    assert plan.data["ok"]
    assert "measured layout" in page("x", plan.html)
    assert "npu_memory_fraction: 0.8" in repr(view.settings())
    assert "runbook params validate" in repr(view.next_step())
