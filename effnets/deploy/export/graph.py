"""A network as an ONNX graph, on request with the preprocessing of `effnets.inference.image` in front of it.

ONNX has Resize, but OpenVINO ignores its `antialias`, and no engine rounds between the two directions as Pillow does.
A resize is two matrix products, so here the graph computes the matrices from the image's own size, only for the rows
and columns that the center crop keeps. Positions are integers up to the last division, so float32 is accurate enough.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from effnets.deploy.export.onnx_writer import INPUT, LOGITS, write_onnx
from effnets.deploy.export.program import Program, UntraceableError, trace_network
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError
from effnets.inference.image import cover_size
from effnets.nn.classifier import Classifier
from effnets.utils.arguments import check_size

NORMALIZED, EMBEDDING = "normalised", "embedding"
PROBABILITIES, TOP_PROBABILITIES, TOP_INDICES = "probabilities", "top_probabilities", "top_indices"

_BICUBIC_A = -0.5  # Pillow's
_LEAST_LENGTH = 1e-12  # that a vector is divided by, as in torch


@dataclass(frozen=True, slots=True)
class NetworkGraph:
    """An ONNX model, and the program in torch's own operators that it was made from.

    Values that both have share their names. `network_input` is the value that enters the network itself: the graph's
    input, or the output of the preprocessing.
    """

    model: onnx.ModelProto
    program: Program
    network_input: str


def export_graph(
    network: nn.Module, metadata: ModelMetadata, *, softmax: bool = False, topk: int | None = None
) -> NetworkGraph:
    """Export a network on the CPU in evaluation mode, in float32 or float64; the graph is in float32.

    Raises ExportError if torch's exporter, which is asked for what `onnx_writer` does not know, fails.
    """
    program: Program
    height, width = metadata.size or ("H", "W")
    try:
        if not isinstance(network, Classifier):
            raise UntraceableError(f"{type(network).__name__} is none of our networks")
        program = trace_network(network)
        classes = getattr(network.classifier, "out_features", network.num_outputs)
        model = write_onnx(program, ["N", metadata.channels, height, width], classes, metadata.model)
    except UntraceableError:  # torch's exporter may know it
        from effnets.deploy.export.torch_exporter import translate_classifier

        model, program = translate_classifier(copy.deepcopy(network).float(), metadata)
    if softmax or topk:
        _append_probabilities(model.graph, topk, metadata)
    if metadata.embedding:
        _append_embedding(model.graph, program, metadata)
    network_input = INPUT
    if metadata.input_kind == "uint8":
        network_input = NORMALIZED
        prepend_preprocessing(model.graph, INPUT, NORMALIZED, metadata)
    return NetworkGraph(model, program, network_input)


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of a model with further outputs: the float32 values of these names."""
    model = copy.deepcopy(model)
    present = {output.name for output in model.graph.output}
    values = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in present)
    model.graph.output.extend(values)
    return model


def _append_embedding(graph: onnx.GraphProto, program: Program, metadata: ModelMetadata) -> None:
    """Return the classifier's input as well, or, where the outputs are an embedding, these divided by their length.

    It has a name of its own, as the program's names stay for verification. Raises ArgumentError if it is not found.
    """
    if metadata.classifier_activation == "l2":
        graph.initializer.append(helper.make_tensor("embedding_axes", TensorProto.INT64, [1], [1]))
        graph.initializer.append(helper.make_tensor("embedding_least", TensorProto.FLOAT, [], [_LEAST_LENGTH]))
        graph.node.extend([
            helper.make_node("ReduceL2", [LOGITS, "embedding_axes"], ["embedding_length"], "embedding/ReduceL2"),
            helper.make_node("Max", ["embedding_length", "embedding_least"], ["embedding_divisor"], "embedding/Max"),
            helper.make_node("Div", [LOGITS, "embedding_divisor"], [EMBEDDING], "embedding/Div"),
        ])  # fmt: skip
    else:
        stacks = {node: node.meta.get("nn_module_stack") or {} for node in program.graph.nodes}
        inside = [node for node, stack in stacks.items() if "classifier" in dict(stack.values())]
        entering = {source.name for node in inside for source in node.all_input_nodes if source not in inside}
        found = entering.intersection(name for node in graph.node for name in node.output)  # no weights
        if len(found) != 1:
            raise ArgumentError("embedding=True needs a classifier of one input; use reset_classifier or leave it out")
        graph.node.append(helper.make_node("Identity", [*found], [EMBEDDING], "embedding/Identity"))
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", metadata.embedding]))


def _append_probabilities(graph: onnx.GraphProto, topk: int | None, metadata: ModelMetadata) -> None:
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if metadata.classifier_activation == "sigmoid":
        graph.node.append(helper.make_node("Sigmoid", [LOGITS], [PROBABILITIES], "probabilities/Sigmoid"))
    else:
        graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], "probabilities/Softmax", axis=1))
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", classes]))
    if topk:
        graph.initializer.append(helper.make_tensor("topk", TensorProto.INT64, [1], [topk]))
        outputs = [TOP_PROBABILITIES, TOP_INDICES]
        graph.node.append(helper.make_node("TopK", [PROBABILITIES, "topk"], outputs, "top/TopK", axis=1))
        for name, kind in zip(outputs, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
            graph.output.append(helper.make_tensor_value_info(name, kind, ["N", topk]))


def prepend_preprocessing(graph: onnx.GraphProto, images: str, normalized: str, metadata: ModelMetadata) -> None:
    """Let the graph take uint8 images ``[N, H, W, channels]`` of any size instead of its own normalized input."""
    for node in graph.node:
        node.input[:] = [normalized if name == images else name for name in node.input]
    nodes = _Nodes()
    _preprocess(nodes, images, normalized, metadata)
    network = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes.nodes, *network])
    graph.initializer.extend(nodes.constants)
    graph.input.append(helper.make_tensor_value_info(images, TensorProto.UINT8, ["N", "H", "W", metadata.channels]))


class _Nodes:
    """Collects nodes and constants; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | int | float, output: str = "", **attributes: Any) -> str:
        """Add a node; numbers among its inputs become constants, int64 or float32."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = output or f"preprocess_{len(self.nodes)}"
        name = f"preprocess/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name, **attributes))
        return output

    def constant(self, value: int | float | list[int] | np.ndarray) -> str:
        """Add a constant: Python's integers become int64, its floats float32."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"preprocess_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def _preprocess(nodes: _Nodes, images: str, normalized: str, metadata: ModelMetadata) -> None:
    preprocess = metadata.preprocess.for_channels(metadata.channels)
    height, width = check_size(metadata.image_size)
    shape = nodes.add("Shape", images)
    old_height = nodes.add("Gather", shape, 1)
    old_width = nodes.add("Gather", shape, 2)
    new_height, new_width = _covering(nodes, old_height, old_width, *cover_size(height, width, preprocess))
    rows = _resize_matrix(nodes, old_height, new_height, height, preprocess.interpolation)
    columns = _resize_matrix(nodes, old_width, new_width, width, preprocess.interpolation)
    pixels = nodes.add("Transpose", nodes.add("Cast", images, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    # In Pillow's order, rounded to whole pixel values after each direction, as Pillow does.
    pixels = _to_levels(nodes, nodes.add("MatMul", pixels, nodes.add("Transpose", columns, perm=[1, 0])))
    pixels = _to_levels(nodes, nodes.add("MatMul", rows, pixels))
    mean, std = (nodes.constant(np.reshape(values, (1, -1, 1, 1))) for values in (preprocess.mean, preprocess.std))
    centered = nodes.add("Sub", nodes.add("Div", pixels, 255.0), mean)
    nodes.add("Div", centered, std, output=normalized)


def _covering(nodes: _Nodes, height: str, width: str, cover_height: int, cover_width: int) -> tuple[str, str]:
    """Return the size to resize to, as `inference.pixels`: the smallest that covers, with the aspect ratio kept."""
    if cover_height == cover_width:
        shorter = nodes.add("Min", height, width)
        sides = (nodes.add("Div", nodes.add("Mul", side, cover_width), shorter) for side in (height, width))
        return next(sides), next(sides)
    by_width = nodes.add("LessOrEqual", nodes.add("Mul", width, cover_height), nodes.add("Mul", height, cover_width))
    new_height = nodes.add("Where", by_width, _rounded_share(nodes, height, cover_width, width), cover_height)
    new_width = nodes.add("Where", by_width, cover_width, _rounded_share(nodes, width, cover_height, height))
    return new_height, new_width


def _rounded_share(nodes: _Nodes, side: str, factor: int, divisor: str) -> str:
    """Return side · factor / divisor to the nearest integer, halves to even."""
    doubled = nodes.add("Add", nodes.add("Mul", side, 2 * factor), divisor)
    twice = nodes.add("Mul", divisor, 2)
    up = nodes.add("Div", doubled, twice)
    rest = nodes.add("Sub", doubled, nodes.add("Mul", up, twice))
    is_half = nodes.add("Cast", nodes.add("Equal", rest, 0), to=TensorProto.INT64)
    return nodes.add("Sub", up, nodes.add("Mul", is_half, _last_bit(nodes, up)))


def _resize_matrix(nodes: _Nodes, old: str, new: str, kept: int, interpolation: str) -> str:
    """Return ``[kept, old]``: the weight of each old pixel in each of the `kept` middle ones of `new`.

    The new pixel i is at (i + 1/2) · old / new; the filter is stretched where the image shrinks.
    """
    first = _half_to_even(nodes, nodes.add("Sub", new, kept))
    places = nodes.add("Add", first, nodes.constant(np.arange(kept).reshape(-1, 1)))
    pixels = nodes.add("Range", 0, old, 1)
    # (pixel + 1/2 - center) / stretch over the common denominator 2 · max(old, new).
    here = nodes.add("Mul", nodes.add("Add", nodes.add("Mul", pixels, 2), 1), new)
    center = nodes.add("Mul", nodes.add("Add", nodes.add("Mul", places, 2), 1), old)
    numerator = nodes.add("Cast", nodes.add("Sub", here, center), to=TensorProto.FLOAT)
    denominator = nodes.add("Cast", nodes.add("Mul", nodes.add("Max", old, new), 2), to=TensorProto.FLOAT)
    distance = nodes.add("Abs", nodes.add("Div", numerator, denominator))
    bilinear = interpolation == "bilinear"
    weights = nodes.add("Relu", nodes.add("Sub", 1.0, distance)) if bilinear else _bicubic(nodes, distance)
    total = nodes.add("ReduceSum", weights, nodes.constant([1]), keepdims=1)
    return nodes.add("Div", weights, total)


def _bicubic(nodes: _Nodes, distance: str) -> str:
    a = _BICUBIC_A
    near = nodes.add("Sub", nodes.add("Mul", distance, a + 2), a + 3)
    near = nodes.add("Add", nodes.add("Mul", nodes.add("Mul", near, distance), distance), 1.0)
    far = nodes.add("Add", nodes.add("Mul", nodes.add("Sub", distance, 5.0), distance), 8.0)
    far = nodes.add("Mul", nodes.add("Sub", nodes.add("Mul", far, distance), 4.0), a)
    beyond = nodes.add("Where", nodes.add("Less", distance, 2.0), far, 0.0)
    return nodes.add("Where", nodes.add("Less", distance, 1.0), near, beyond)


def _half_to_even(nodes: _Nodes, number: str) -> str:
    """Return round(number / 2), halves to even as in Python; `number` is not negative."""
    up = nodes.add("Div", nodes.add("Add", number, 1), 2)
    is_half, is_odd = (_last_bit(nodes, value) for value in (number, up))
    return nodes.add("Sub", up, nodes.add("Mul", is_half, is_odd))


def _last_bit(nodes: _Nodes, number: str) -> str:
    return nodes.add("Sub", number, nodes.add("Mul", nodes.add("Div", number, 2), 2))


def _to_levels(nodes: _Nodes, pixels: str) -> str:
    """Round to 0, 1, … 255, halves upwards."""
    return nodes.add("Clip", nodes.add("Floor", nodes.add("Add", pixels, 0.5)), 0.0, 255.0)
