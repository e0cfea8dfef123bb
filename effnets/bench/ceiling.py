"""The machine's ceiling, measured: a matrix product and a copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from effnets.bench.roofline import Ceiling

__all__ = ["measure_ceiling"]

_SIDE = 1024
_COPIED = 1 << 26  # bytes: more than caches hold


def measure_ceiling(*, repeats: int = 20, precision: str = "float32") -> Ceiling:
    """The best of `repeats` products of 1024×1024 matrices, and of copies of 64 MiB, on torch's threads.

    The product is taken as such and as a 1×1 convolution, since two libraries compute them, of which either may be
    the faster. The best, not the median: a ceiling is what the machine does when nothing disturbs it.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    matrix = torch.randn(_SIDE, _SIDE).to(dtype)
    pixels, weight = matrix.view(1, _SIDE, 32, _SIDE // 32), matrix.view(_SIDE, _SIDE, 1, 1)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    source = torch.zeros(_COPIED // 4)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product = min(_best(lambda: matrix @ matrix, repeats), _best(lambda: F.conv2d(pixels, weight), repeats))
        copied = _best(lambda: target.copy_(source), repeats)
    return Ceiling(gflops=2 * _SIDE**3 / product / 1e9, bandwidth=2 * _COPIED / copied / 1e9)


def _best(call: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(max(2, repeats)):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
