"""Matrix products at full speed on a CPU.

torch multiplies fp32 matrices on a CPU through a library that is slow on some processors; the precision `medium` sends
them to another one. By its documentation that may round to bf16 on the way, so it is used only where a probe on this
machine finds the digits of fp32.
"""

import os
from functools import cache

import torch

PROBE_ERROR = 1e-5  # relative; bf16 would give about 4e-3
SMALL = 8_000_000  # weights; below, a second thread gains little, and beside other work it waits more than it computes


@cache
def use_fast_matmul() -> bool:
    """Turns the faster product on if it is exact here; returns whether it is."""
    if torch.cuda.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 384, generator=draw, dtype=torch.float64) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    error = ((a.float() @ b.float().t()).double() - a @ b.t()).norm() / (a @ b.t()).norm()
    exact = bool(error < PROBE_ERROR)
    if not exact:
        torch.set_float32_matmul_precision(before)
    return exact


def choose_threads(n_weights: int) -> None:
    """One thread for a small model on a CPU, which also makes its bytes the same on any number of cores. Whoever sets
    OMP_NUM_THREADS has chosen."""
    if n_weights < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_in(dtype: str, where: torch.device) -> str:
    """The precision that `dtype` gets on this device. A CPU without bf16 instructions multiplies it at a fiftieth of
    float32's speed or less, so there float32 is both finer and faster."""
    if dtype == "bfloat16" and where.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    return dtype
