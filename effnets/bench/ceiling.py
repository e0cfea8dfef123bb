"""The machine's ceiling, measured: a matrix product and a copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from effnets.bench.roofline import Ceiling

__all__ = ["measure_ceiling"]

_SIDE = 1024
_COPIED = 1 << 26  # bytes: more than caches hold


def measure_ceiling(*, repeats: int = 20, precision: str = "float32") -> Ceiling:
    """The best of `repeats` products of 1024×1024 matrices, and of copies of 64 MiB, on torch's threads.

    The product is taken as torch's, as a 1×1 convolution, which another library computes, and as ONNX Runtime's where
    that is installed: a library may leave half of a machine unused. The best, not the median: a ceiling is what the
    machine does when nothing disturbs it.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    matrix = torch.randn(_SIDE, _SIDE).to(dtype)
    pixels, weight = matrix.view(1, _SIDE, 32, _SIDE // 32), matrix.view(_SIDE, _SIDE, 1, 1)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    source = torch.zeros(_COPIED // 4)
    target = torch.empty_like(source)
    with torch.inference_mode():
        product = min(_best(lambda: matrix @ matrix, repeats), _best(lambda: F.conv2d(pixels, weight), repeats))
        if dtype == torch.float32 and find_spec("onnxruntime") and find_spec("onnx"):
            product = min(product, _best(_onnxruntime_product(torch.get_num_threads()), repeats))
        copied = _best(lambda: target.copy_(source), repeats)
    return Ceiling(gflops=2 * _SIDE**3 / product / 1e9, bandwidth=2 * _COPIED / copied / 1e9)


def _onnxruntime_product(threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.ones((_SIDE, _SIDE), np.float32)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [_SIDE, _SIDE]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "product", values[:1], values[1:], [numpy_helper.from_array(matrix, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": matrix})


def _best(call: Callable[[], object], repeats: int) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(max(2, repeats)):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
