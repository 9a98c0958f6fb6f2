"""CloudMatrix384 as published: a second system that the step-time model is held against (arXiv 2506.12708).

R1 in INT8 on 910C (two dies an NPU); decode on 160 NPUs with experts over all 320 dies, one sequence per die and no
tensor parallelism, one drafted token of which 70 % are accepted; prefill on 16 NPUs with experts over 32 dies.
"""

from __future__ import annotations

from runbook_lib.capacity.constants import CLOUDMATRIX
from runbook_lib.capacity.hardware import HARDWARE
from runbook_lib.capacity.layout import Layout
from runbook_lib.capacity.step_time import PS, StepTimes

_DIES = 2  # per NPU
_DIE = HARDWARE["910c-die"]
# all dies of the pod reach each other at the same speed, so how many form a host does not matter
DECODE = StepTimes(_DIE, Layout(20, 16, dp=320, moe_ep=320), constants=CLOUDMATRIX, mtp=True)
PREFILL = StepTimes(_DIE, Layout(2, 16, dp=32, moe_ep=32), constants=CLOUDMATRIX)


def decode_point(input_tokens: int, output_tokens: int, batch: int) -> float:
    """Return the mean time per token in ms at `batch` sequences per NPU, halfway through their outputs."""
    own = batch // _DIES
    context = own * (input_tokens + output_tokens // 2)
    return (DECODE.decode_ps(own, own * DECODE.layout.dp) + DECODE.context_ps * context) / PS * 1e3


def prefill_point(input_tokens: int, tokens: int) -> float:
    """Return prefill tokens/s per NPU for batches of `tokens` per NPU."""
    own = tokens // _DIES
    squares = own // input_tokens * input_tokens**2
    return tokens * PS / PREFILL.prefill_ps(own, squares, own * PREFILL.layout.dp)
