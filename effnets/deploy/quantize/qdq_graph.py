"""An ONNX graph in int8, written as QDQ nodes by ONNX Runtime's quantizer; and access to a graph's values."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from effnets.deploy.export.verify_onnx import session_of

Ranges = dict[str, tuple[float, float]]

_QUANTIZED = ("Conv", "Gemm", "Clip", "Relu", "Add", "Mul", "Sigmoid", "GlobalAveragePool", "Flatten", "HardSwish")
_WITH_WEIGHTS = ("Conv", "Gemm")
_SQUEEZE_EXCITE = re.compile(r"(.*\.se)(\..*)?")


class Values:
    """Access to the values of a graph by name; `constants` names those that `get` and `put` read and change."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.writer = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}
        self.constants = self._tensors.keys()

    def get(self, name: str) -> NDArray[Any]:
        """Return a copy of a constant's array."""
        return np.array(numpy_helper.to_array(self._tensors[name]))

    def put(self, name: str, array: NDArray[Any]) -> None:
        """Replace a constant, keeping its type."""
        old = self._tensors[name]
        dtype = helper.tensor_dtype_to_np_dtype(old.data_type)
        old.CopyFrom(numpy_helper.from_array(array.astype(dtype), name))


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return a node's attribute, or `default` without it."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def layer_of(node: onnx.NodeProto) -> str:
    """Return the layer of a node: ``stages.1.0.expand``; squeeze-and-excite is one layer, so are conv and ReLU."""
    name = node.name.split("/")[0]
    if match := _SQUEEZE_EXCITE.fullmatch(name):
        return match[1]
    return name.removesuffix("_act") if node.op_type in ("Clip", "Relu") else name


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose convolutions pad by themselves, which engines execute better in int8."""
    model = copy.deepcopy(model)
    values = Values(model)
    for node in list(model.graph.node):
        if node.op_type == "Pad" and _fold_padding(node, values):
            model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    return model


def _fold_padding(pad: onnx.NodeProto, values: Values) -> bool:
    """Move padding into the convolutions that read it; False unless it is zeros around a map for convolutions alone."""
    readers = values.readers.get(pad.output[0], [])
    constant = all(name in values.constants for name in pad.input[1:3] if name)
    if not constant or not readers or any(node.op_type != "Conv" for node in readers):
        return False
    amounts = values.get(pad.input[1])
    filler = values.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    if len(amounts) != 8 or amounts[[0, 1, 4, 5]].any() or filler.any() or (len(pad.input) > 3 and pad.input[3]):
        return False
    if attribute_of(pad, "mode", b"constant") != b"constant":
        return False
    for conv in readers:
        pads = amounts[[2, 3, 6, 7]] + attribute_of(conv, "pads", [0] * 4)
        for attribute in [attribute for attribute in conv.attribute if attribute.name in ("pads", "auto_pad")]:
            conv.attribute.remove(attribute)
        conv.attribute.append(helper.make_attribute("pads", pads.tolist()))
        conv.input[0] = pad.input[0]
    return True


def layers_of(model: onnx.ModelProto) -> list[str]:
    """Return the layers that can be quantized or left in float, in the graph's order."""
    kinds = [kind for kind in _QUANTIZED if kind not in ("Clip", "Relu", "Flatten")]
    return list(dict.fromkeys(layer_of(node) for node in model.graph.node if node.op_type in kinds))


def quantize_graph(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    float_layers: Collection[str] = (),
    biases: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """Return a copy in int8, with QuantizeLinear and DequantizeLinear around its operators.

    Weights are signed, symmetric and scaled for each output channel; activations are unsigned, with a scale and a zero
    point for all channels. The logits stay in float: 256 levels would lose their order. The `model` is in float32, from
    `prepare`; `float_layers`, of `layers_of`, stay in float; `biases` are added to those of the named convolutions.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    corrected = copy.deepcopy(model)
    values = Values(corrected)
    excluded = [node.name for node in corrected.graph.node if layer_of(node) in float_layers]
    for node in corrected.graph.node:
        if biases and node.name in biases and node.name not in excluded:
            values.put(node.input[2], values.get(node.input[2]) + biases[node.name])
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        onnx.shape_inference.infer_shapes(corrected),
        True,  # a scale for each channel of the weights
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        excluded,
        list(_QUANTIZED),
        {"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    result = quantizer.quantize_model()
    del result.graph.value_info[:]
    _pad_in_float(result)
    return result


def _pad_in_float(model: onnx.ModelProto) -> None:
    """Let each Pad read unrounded values; the readers of its output round that.

    OpenVINO (2026.4) moves a DequantizeLinear behind the Pad, which then pads with 0 instead of the zero point and
    breaks ReXNet's partial shortcuts.
    """
    values = Values(model)
    for node in model.graph.node:
        after = values.writer.get(node.input[0]) if node.op_type == "Pad" else None
        before = values.writer.get(after.input[0]) if after and after.op_type == "DequantizeLinear" else None
        if before and before.op_type == "QuantizeLinear":
            node.input[0] = before.input[0]


def bias_errors(
    model: onnx.ModelProto, ranges: Ranges, batches: Iterable[NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Return minus the mean error by rounding of each channel of each convolution (Nagel et al. 2019, section 4.2).

    Every layer is measured on its rounded float inputs, so that its correction does not depend on which others are in
    int8. The means are over the calibration images (the paper derives them from batch normalization).
    """
    graph, differences = _beside(model, quantize_graph(model, ranges))
    names = list(differences.values())
    session = session_of(graph, names)
    source, sums, count = model.graph.input[0].name, [0.0] * len(names), 0
    for images in batches:
        for index, value in enumerate(session.run(names, {source: images})):
            sums[index] = sums[index] + value.astype(np.float64).sum(0)
        count += len(images)
    means = (np.asarray(-total / count, np.float32).reshape(-1) for total in sums)
    return dict(zip(differences, means, strict=True))


def _beside(model: onnx.ModelProto, rounded: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the float graph with, beside each convolution, one of rounded weights on rounded inputs.

    Also return the names of the values that hold the differences ``[N, channels, …]``, by the node's name.
    """
    graph, int8 = copy.deepcopy(model), Values(rounded)
    twins = {node.name: node for node in rounded.graph.node if node.op_type in _WITH_WEIGHTS}
    differences = {}
    for node in list(graph.graph.node):
        twin = twins.get(node.name)
        if twin is None or len(node.input) < 3 or node.output[0] in Values(model).outputs:
            continue
        prefix = f"rounded/{node.name}"
        activation, weight = int8.writer.get(twin.input[0]), int8.writer.get(twin.input[1])
        if activation is None or weight is None or activation.op_type != "DequantizeLinear":
            continue
        scale, zero = (int8.get(name) for name in activation.input[1:3])
        for name, array in (("scale", scale), ("zero", zero), ("weight", _dequantize_graph(weight, int8))):
            graph.graph.initializer.append(numpy_helper.from_array(array, f"{prefix}/{name}"))
        inputs = [node.input[0], f"{prefix}/scale", f"{prefix}/zero"]
        graph.graph.node.append(helper.make_node("QuantizeLinear", inputs, [f"{prefix}/q"]))
        inputs[0] = f"{prefix}/q"
        graph.graph.node.append(helper.make_node("DequantizeLinear", inputs, [f"{prefix}/dq"]))
        beside = copy.deepcopy(node)
        beside.name, beside.output[0] = prefix, f"{prefix}/out"
        beside.input[0], beside.input[1] = f"{prefix}/dq", f"{prefix}/weight"
        difference = f"{prefix}/difference"
        subtract = helper.make_node("Sub", [beside.output[0], node.output[0]], [f"{prefix}/sub"])
        pooling = "GlobalAveragePool" if node.op_type == "Conv" else "Identity"
        graph.graph.node.extend([beside, subtract, helper.make_node(pooling, [f"{prefix}/sub"], [difference])])
        differences[node.name] = difference
    return graph, differences


def _dequantize_graph(node: onnx.NodeProto, values: Values) -> NDArray[np.float32]:
    weight, scale = values.get(node.input[0]).astype(np.float32), values.get(node.input[1])
    shape = [1] * weight.ndim
    if scale.ndim:
        shape[attribute_of(node, "axis", 0)] = -1
    return np.asarray(weight * scale.reshape(shape), np.float32)
