"""Runs vidur 0.0.26 on one level of our load, with our step times; started by capacity_speed.py with vidur's Python.

Its execution-time predictors want profiling data of GPUs. A predictor of ours takes their place, so that what is
timed is the simulator itself: its events and its vLLM scheduler. Prints one JSON object.
"""

# mypy: ignore-errors
# ^ vidur is not installed where this is checked
from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import vidur.config as vidur_config
from vidur._native.entities import ExecutionTime
from vidur.execution_time_predictor.base_execution_time_predictor import BaseExecutionTimePredictor
from vidur.execution_time_predictor.execution_time_predictor_registry import ExecutionTimePredictorRegistry
from vidur.simulator import Simulator
from vidur.types import ExecutionTimePredictorType

FIXED_MS, SEQUENCE_MS, PREFILL_TOKENS_PER_MS = 61.0, 0.487, 9.2  # the field report's, see engine_model.md


class LinearTimes(BaseExecutionTimePredictor):
    """Step times of one line each."""

    def get_execution_time(self, batch: Any, pipeline_stage: int) -> Any:  # noqa: ANN401, ARG002 - vidur's own types
        """Return the step time of a batch."""
        tokens, sequences = sum(batch.num_q_tokens), len(batch.requests)
        decode = tokens == sequences
        total_ms = FIXED_MS + SEQUENCE_MS * sequences if decode else tokens / PREFILL_TOKENS_PER_MS
        layers = self._num_layers_per_pipeline_stage
        return ExecutionTime(layers, *([0.0] * 12), 0.0, total_ms)


def _not_asked(*_: Any) -> float:  # noqa: ANN401 - any call
    raise NotImplementedError


for _name in tuple(BaseExecutionTimePredictor.__abstractmethods__):
    setattr(LinearTimes, _name, _not_asked)
LinearTimes.__abstractmethods__ = frozenset()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=6000)
    options = parser.parse_args()
    ExecutionTimePredictorRegistry._registry[ExecutionTimePredictorType.RANDOM_FORREST] = LinearTimes  # noqa: SLF001
    sys.argv = [
        "vidur", "--log_level", "error",
        "--replica_config_tensor_parallel_size", "1", "--replica_config_num_pipeline_stages", "1",
        "--cache_config_block_size", "128", "--cache_config_num_blocks", str(options.blocks),
        "--replica_scheduler_config_type", "vllm",
        "--vllm_scheduler_config_batch_size_cap", str(options.batch),
        "--vllm_scheduler_config_max_tokens_in_batch", "32768",
        "--request_generator_config_type", "synthetic",
        "--length_generator_config_type", "fixed",
        "--fixed_request_length_generator_config_max_tokens", str(2 * options.tokens),
        "--fixed_request_length_generator_config_prefill_tokens", str(options.tokens),
        "--fixed_request_length_generator_config_decode_tokens", str(options.tokens),
        "--interval_generator_config_type", "static",
        "--synthetic_request_generator_config_num_requests", str(options.requests),
        "--execution_time_predictor_config_type", "random_forrest",
        "--no-random_forrest_execution_time_predictor_config_use_native_execution_time_predictor",
        "--no-metrics_config_write_metrics", "--no-metrics_config_write_json_trace",
        "--no-metrics_config_store_plots", "--no-metrics_config_enable_chrome_trace",
    ]  # fmt: skip
    simulator = Simulator(vidur_config.SimulationConfig.create_from_cli_args())
    began = time.process_time()
    simulator.run()
    print(json.dumps({"cpu_s": time.process_time() - began, "simulated_s": simulator._time}))  # noqa: SLF001


if __name__ == "__main__":
    main()
