"""An ONNX graph as quantisation reads it: who writes and reads a value, weights as arrays, layers by name."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_SQUEEZE_EXCITE = re.compile(r"(.*\.se)(\..*)?")


class Values:
    """The values of a graph by name. Weights that are set go into the graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.writer = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}

    def has(self, name: str) -> bool:
        """Whether it is a constant of the graph."""
        return name in self._tensors

    def get(self, name: str) -> NDArray[Any]:
        """A constant's array, a copy."""
        return np.array(numpy_helper.to_array(self._tensors[name]))

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Replace a constant, which keeps its type."""
        old = self._tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(old.data_type)
        old.CopyFrom(numpy_helper.from_array(array.astype(dtype), name))


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that can be changed without changing this one."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def layer_of(node: onnx.NodeProto) -> str:
    """The layer a node belongs to: ``stages.1.0.expand``; squeeze-and-excite is one layer, as are conv and ReLU."""
    name = node.name.split("/")[0]
    if match := _SQUEEZE_EXCITE.fullmatch(name):
        return match[1]
    return name.removesuffix("_act") if node.op_type in ("Clip", "Relu") else name


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that engines execute better in int8: padding inside of convolutions."""
    model = copy_of(model)
    values = Values(model)
    gone = []
    for node in model.graph.node:
        if node.op_type == "Pad" and _fold_padding(node, values):
            gone.append(node)
    for node in gone:
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


def _fold_padding(pad: onnx.NodeProto, values: Values) -> bool:
    """Zeros around the map, read by convolutions alone."""
    readers = values.readers.get(pad.output[0], [])
    constant = values.has(pad.input[1]) and (len(pad.input) < 3 or not pad.input[2] or values.has(pad.input[2]))
    if not constant or not readers or any(node.op_type != "Conv" for node in readers):
        return False
    amounts = values.get(pad.input[1]).tolist()
    filler = values.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    mode = next((attribute.s for attribute in pad.attribute if attribute.name == "mode"), b"constant")
    outside = [amounts[0], amounts[1], amounts[4], amounts[5]] if len(amounts) == 8 else [1]
    if any(outside) or filler.any() or mode != b"constant" or (len(pad.input) > 3 and pad.input[3]):
        return False
    around = [amounts[2], amounts[3], amounts[6], amounts[7]]
    for conv in readers:
        own = next((list(attribute.ints) for attribute in conv.attribute if attribute.name == "pads"), [0] * 4)
        for attribute in [attribute for attribute in conv.attribute if attribute.name in ("pads", "auto_pad")]:
            conv.attribute.remove(attribute)
        conv.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(own, around, strict=True)]))
        conv.input[0] = pad.input[0]
    return True
