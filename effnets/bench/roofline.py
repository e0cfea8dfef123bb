"""The time that a network's arithmetic and memory traffic take at least: the roofline model, layer by layer.

Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F

from effnets.spec.plan import BlockPlan, ConvGroups, NetworkPlan
from effnets.utils.arguments import check_size

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a machine can do at best: `gflops`, 10⁹ floating-point operations/s, two for each multiply-add; `bandwidth`,
    10⁹ bytes/s read and written.
    """

    gflops: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's work for one image: multiply-adds, values read and written, and weights, read once for a batch.

    Batch normalization and activations count nothing: engines do them on the way.
    """

    name: str
    madds: int
    values: int
    weights: int

    def milliseconds(self, ceiling: Ceiling, batch: int = 1, bytes_each: int = 4) -> float:
        """At least, for one image of `batch`: what takes longer, arithmetic or traffic."""
        traffic = (self.values + self.weights / batch) * bytes_each
        return max(2 * self.madds / ceiling.gflops, traffic / ceiling.bandwidth) / 1e6


def bound(layers: list[Layer], ceiling: Ceiling, batch: int = 1, bytes_each: int = 4) -> float:
    """Milliseconds for one image of `batch` below which no engine that runs layer by layer comes."""
    return sum(layer.milliseconds(ceiling, batch, bytes_each) for layer in layers)


def layers_of(plan: NetworkPlan, input_size: int | Size) -> list[Layer]:
    """Every layer of a network, in the order in which they run.

    Raises:
        ArgumentError: `input_size` is no side and no (height, width).
    """
    size = check_size(input_size, "input_size")
    layers = [_convolution("stem", (plan.stem,), size)]
    size = _strided(size, plan.stem.stride)
    for stage_index, blocks in enumerate(plan.stages):
        for index, block in enumerate(blocks):
            layers += _block(f"stages.{stage_index}.{index}", block, size)
            size = _strided(size, block.stride)
    if plan.head:
        layers.append(_convolution("head", (plan.head,), size))
    channels = plan.num_features
    layers.append(Layer("pool", 0, channels * size[0] * size[1] + channels, 0))
    if plan.hidden_channels:
        layers.append(_linear("hidden", channels, plan.hidden_channels))
    if plan.num_classes:
        layers.append(_linear("classifier", plan.pre_logits_channels, plan.num_classes))
    return layers


def _block(name: str, block: BlockPlan, size: Size) -> Iterator[Layer]:
    out_size = _strided(size, block.stride)
    if block.expand:
        yield _convolution(f"{name}.expand", block.expand, size)
    yield _convolution(f"{name}.{'convolution' if block.type == 'cn' else 'depthwise'}", block.convolution, size)
    if squeeze := block.squeeze_channels:
        # The map is read to be averaged, and read and written to be scaled.
        work = 2 * block.expanded_channels * squeeze
        yield Layer(f"{name}.se", work, 3 * block.expanded_channels * out_size[0] * out_size[1], work)
    if block.project:
        yield _convolution(f"{name}.project", block.project, out_size)
    if block.shortcut:
        yield Layer(f"{name}.shortcut", 0, block.in_channels * size[0] * size[1], 0)


def _convolution(name: str, convs: ConvGroups, size: Size) -> Layer:
    """Convolutions side by side on an input of `size`."""
    height, width = _strided(size, convs[0].stride)
    weights = sum(conv.weights for conv in convs)
    read = sum(conv.in_channels for conv in convs) * size[0] * size[1]
    written = sum(conv.out_channels for conv in convs) * height * width
    return Layer(name, weights * height * width, read + written, weights)


def _linear(name: str, inputs: int, outputs: int) -> Layer:
    return Layer(name, inputs * outputs, inputs + outputs, inputs * outputs + outputs)


def _strided(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


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
    return min(timeit.repeat(call, number=1, repeat=max(2, repeats)))
