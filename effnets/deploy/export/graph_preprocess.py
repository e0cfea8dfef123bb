"""Preprocessing as ONNX nodes: what `effnets.inference.pixels` does with Pillow, as arithmetic that every engine has.

ONNX has Resize, but OpenVINO ignores its `antialias`, and no engine rounds between the two directions as Pillow does.
A resize is two matrix products, so here the matrices are computed in the graph, from the image's own size, and only for
the places that the centre crop keeps. Positions are integers up to the last division, so that float32 is enough.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from effnets.engines.metadata import Description
from effnets.inference.pixels import cover_size
from effnets.utils.arguments import check_size

_BICUBIC_A = -0.5  # Pillow's


def prepend_preprocessing(graph: onnx.GraphProto, images: str, normalised: str, description: Description) -> None:
    """Let the graph take uint8 images ``[N, H, W, channels]`` of any size instead of its own normalised input."""
    for node in graph.node:
        node.input[:] = [normalised if name == images else name for name in node.input]
    nodes = _Nodes()
    _preprocess(nodes, images, normalised, description)
    network = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes.nodes, *network])
    graph.initializer.extend(nodes.constants)
    graph.input.append(helper.make_tensor_value_info(images, TensorProto.UINT8, ["N", "H", "W", description.channels]))


class _Nodes:
    """Nodes and constants in the making; every method gives the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str | int | float, output: str = "", **attributes: Any) -> str:
        """A node; numbers among its inputs become constants, int64 or float32."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        output = output or f"preprocess_{len(self.nodes)}"
        name = f"preprocess/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name, **attributes))
        return output

    def constant(self, value: int | float | list[int] | np.ndarray) -> str:
        """A constant: Python's integers are int64, its floats float32."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"preprocess_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name


def _preprocess(nodes: _Nodes, images: str, normalised: str, description: Description) -> None:
    preprocess, channels = description.preprocess, description.channels
    height, width = check_size(description.image_size)
    shape = nodes.add("Shape", images)
    old_height = nodes.add("Gather", shape, 1)
    old_width = nodes.add("Gather", shape, 2)
    new_height, new_width = _covering(nodes, old_height, old_width, *cover_size(height, width, preprocess))
    rows = _resize_matrix(nodes, old_height, new_height, height, preprocess.interpolation)
    columns = _resize_matrix(nodes, old_width, new_width, width, preprocess.interpolation)
    pixels = nodes.add("Transpose", nodes.add("Cast", images, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    # In Pillow's order, and to whole pixel values after each direction, as there.
    pixels = _to_levels(nodes, nodes.add("MatMul", pixels, nodes.add("Transpose", columns, perm=[1, 0])))
    pixels = _to_levels(nodes, nodes.add("MatMul", rows, pixels))
    mean, std = (_per_channel(nodes, values, channels) for values in (preprocess.mean, preprocess.std))
    centred = nodes.add("Sub", nodes.add("Div", pixels, 255.0), mean)
    nodes.add("Div", centred, std, output=normalised)


def _covering(nodes: _Nodes, height: str, width: str, cover_height: int, cover_width: int) -> tuple[str, str]:
    """The size to resize to, as `runtime.pixels` has it: one that just covers, its aspect ratio kept."""
    if cover_height == cover_width:
        shorter = nodes.add("Min", height, width)
        sides = (nodes.add("Div", nodes.add("Mul", side, cover_width), shorter) for side in (height, width))
        return next(sides), next(sides)
    by_width = nodes.add("LessOrEqual", nodes.add("Mul", width, cover_height), nodes.add("Mul", height, cover_width))
    new_height = nodes.add("Where", by_width, _rounded_share(nodes, height, cover_width, width), cover_height)
    new_width = nodes.add("Where", by_width, cover_width, _rounded_share(nodes, width, cover_height, height))
    return new_height, new_width


def _rounded_share(nodes: _Nodes, side: str, factor: int, divisor: str) -> str:
    """side · factor / divisor, to the nearest integer; halves to even."""
    doubled = nodes.add("Add", nodes.add("Mul", side, 2 * factor), divisor)
    twice = nodes.add("Mul", divisor, 2)
    up = nodes.add("Div", doubled, twice)
    rest = nodes.add("Sub", doubled, nodes.add("Mul", up, twice))
    is_half = nodes.add("Cast", nodes.add("Equal", rest, 0), to=TensorProto.INT64)
    return nodes.add("Sub", up, nodes.add("Mul", is_half, _last_bit(nodes, up)))


def _resize_matrix(nodes: _Nodes, old: str, new: str, kept: int, interpolation: str) -> str:
    """``[kept, old]``: the weight of each old pixel in each of the `kept` middle ones of `new`.

    Place i of the new pixels lies at (i + 1/2) · old / new; the filter is stretched where the image shrinks.
    """
    first = _half_to_even(nodes, nodes.add("Sub", new, kept))
    places = nodes.add("Add", first, nodes.constant(np.arange(kept).reshape(-1, 1)))
    pixels = nodes.add("Range", 0, old, 1)
    # (pixel + 1/2 - centre) / stretch over the common denominator 2 · max(old, new).
    here = nodes.add("Mul", nodes.add("Add", nodes.add("Mul", pixels, 2), 1), new)
    centre = nodes.add("Mul", nodes.add("Add", nodes.add("Mul", places, 2), 1), old)
    numerator = nodes.add("Cast", nodes.add("Sub", here, centre), to=TensorProto.FLOAT)
    denominator = nodes.add("Cast", nodes.add("Mul", nodes.add("Max", old, new), 2), to=TensorProto.FLOAT)
    distance = nodes.add("Abs", nodes.add("Div", numerator, denominator))
    weights = _bilinear(nodes, distance) if interpolation == "bilinear" else _bicubic(nodes, distance)
    total = nodes.add("ReduceSum", weights, nodes.constant([1]), keepdims=1)
    return nodes.add("Div", weights, total)


def _bilinear(nodes: _Nodes, distance: str) -> str:
    return nodes.add("Relu", nodes.add("Sub", 1.0, distance))


def _bicubic(nodes: _Nodes, distance: str) -> str:
    a = _BICUBIC_A
    near = nodes.add("Sub", nodes.add("Mul", distance, a + 2), a + 3)
    near = nodes.add("Add", nodes.add("Mul", nodes.add("Mul", near, distance), distance), 1.0)
    far = nodes.add("Add", nodes.add("Mul", nodes.add("Sub", distance, 5.0), distance), 8.0)
    far = nodes.add("Mul", nodes.add("Sub", nodes.add("Mul", far, distance), 4.0), a)
    beyond = nodes.add("Where", nodes.add("Less", distance, 2.0), far, 0.0)
    return nodes.add("Where", nodes.add("Less", distance, 1.0), near, beyond)


def _half_to_even(nodes: _Nodes, number: str) -> str:
    """round(number / 2) as Python rounds, halves to even; `number` is not negative."""
    up = nodes.add("Div", nodes.add("Add", number, 1), 2)
    is_half, is_odd = (_last_bit(nodes, value) for value in (number, up))
    return nodes.add("Sub", up, nodes.add("Mul", is_half, is_odd))


def _last_bit(nodes: _Nodes, number: str) -> str:
    return nodes.add("Sub", number, nodes.add("Mul", nodes.add("Div", number, 2), 2))


def _to_levels(nodes: _Nodes, pixels: str) -> str:
    """To 0, 1, … 255, halves upwards."""
    return nodes.add("Clip", nodes.add("Floor", nodes.add("Add", pixels, 0.5)), 0.0, 255.0)


def _per_channel(nodes: _Nodes, values: tuple[float, ...], channels: int) -> str:
    """``[1, C, 1, 1]``; a grey image takes the average, as in `runtime.pixels`."""
    if channels == 1:
        values = (fmean(values),)
    return nodes.constant(np.array(values, np.float32).reshape(1, -1, 1, 1))
