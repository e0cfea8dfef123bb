"""An ONNX graph in int8: ONNX Runtime's quantiser, given ranges, layers to leave, and corrected biases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from effnets.deploy.quantize.onnx_values import Values, copy_of, layer_of
from effnets.deploy.quantize.ranges import Ranges, session_of

_QUANTISED = ("Conv", "Gemm", "Clip", "Relu", "Add", "Mul", "Sigmoid", "GlobalAveragePool", "Flatten", "HardSwish")
_WITH_WEIGHTS = ("Conv", "Gemm")


def layers_of(model: onnx.ModelProto) -> list[str]:
    """The layers that can be quantised, or left in float, each by itself, in the graph's order."""
    kinds = [kind for kind in _QUANTISED if kind not in ("Clip", "Relu", "Flatten")]
    return list(dict.fromkeys(layer_of(node) for node in model.graph.node if node.op_type in kinds))


def quantised(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    left: Collection[str] = (),
    biases: Mapping[str, NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """A copy in int8, as QuantizeLinear and DequantizeLinear around its operators.

    Weights are signed, symmetric and scaled for each output channel; activations are unsigned, with a scale and a zero
    point for all channels. The logits stay in float: in 256 levels their order would be lost.

    Args:
        model: in float32, as `onnx_values.prepare` leaves it.
        ranges: of every value.
        left: layers, of `layers_of`, that stay in float.
        biases: what to add to the bias of convolutions in int8, by name of the node.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    corrected = copy_of(model)
    values = Values(corrected)
    excluded = [node.name for node in corrected.graph.node if layer_of(node) in left]
    for node in corrected.graph.node:
        if biases and node.name in biases and node.name not in excluded:
            values.put(node.input[2], values.get(node.input[2]) + biases[node.name])
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    quantiser = QDQQuantizer(
        onnx.shape_inference.infer_shapes(corrected),
        True,  # a scale for each channel of the weights
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        excluded,
        list(_QUANTISED),
        {"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    result = quantiser.quantize_model()
    del result.graph.value_info[:]
    _pad_in_float(result)
    return result


def _pad_in_float(model: onnx.ModelProto) -> None:
    """Let each Pad read what was not rounded; what it gives is rounded by whoever reads that.

    OpenVINO (2026.4) moves a DequantizeLinear behind the Pad, which then puts 0 where the zero point belongs: ReXNet's
    partial shortcuts were spoilt.
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
    """What rounding adds to each channel of each convolution on average, negated (Nagel et al. 2019, section 4.2).

    Every layer is measured on its float inputs, rounded, so that its correction does not depend on which others are in
    int8. The means are over the calibration images (the paper derives them from batch normalisation).
    """
    rounded = _beside(model, quantised(model, ranges))
    names = [name for name, _ in rounded[1]]
    session = session_of(rounded[0], names)
    source, sums, count = model.graph.input[0].name, [0.0] * len(names), 0
    for images in batches:
        for index, value in enumerate(session.run(names, {source: images})):
            sums[index] = sums[index] + value.astype(np.float64).sum(0)
        count += len(images)
    return {
        node: np.asarray(-total / count, np.float32).reshape(-1)
        for (_, node), total in zip(rounded[1], sums, strict=True)
    }


def _beside(model: onnx.ModelProto, rounded: onnx.ModelProto) -> tuple[onnx.ModelProto, list[tuple[str, str]]]:
    """The float graph with, beside each convolution, one of rounded weights on rounded inputs.

    Also the names of the values that hold the differences ``[N, channels, …]``, each with its node's name.
    """
    graph, int8 = copy_of(model), Values(rounded)
    twins = {node.name: node for node in rounded.graph.node if node.op_type in _WITH_WEIGHTS}
    differences = []
    for node in list(graph.graph.node):
        twin = twins.get(node.name)
        if twin is None or len(node.input) < 3 or node.output[0] in Values(model).outputs:
            continue
        prefix = f"rounded/{node.name}"
        activation, weight = int8.writer.get(twin.input[0]), int8.writer.get(twin.input[1])
        if activation is None or weight is None or activation.op_type != "DequantizeLinear":
            continue
        scale, zero = (int8.get(name) for name in activation.input[1:3])
        for name, array in (("scale", scale), ("zero", zero), ("weight", _dequantised(weight, int8))):
            graph.graph.initializer.append(numpy_helper.from_array(array, f"{prefix}/{name}"))
        inputs = [node.input[0], f"{prefix}/scale", f"{prefix}/zero"]
        graph.graph.node.append(helper.make_node("QuantizeLinear", inputs, [f"{prefix}/q"]))
        inputs[0] = f"{prefix}/q"
        graph.graph.node.append(helper.make_node("DequantizeLinear", inputs, [f"{prefix}/dq"]))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name, copy.output[0] = prefix, f"{prefix}/out"
        copy.input[0], copy.input[1] = f"{prefix}/dq", f"{prefix}/weight"
        difference = f"{prefix}/difference"
        subtract = helper.make_node("Sub", [copy.output[0], node.output[0]], [f"{prefix}/sub"])
        pooling = "GlobalAveragePool" if node.op_type == "Conv" else "Identity"
        graph.graph.node.extend([copy, subtract, helper.make_node(pooling, [f"{prefix}/sub"], [difference])])
        differences.append((difference, node.name))
    return graph, differences


def _dequantised(node: onnx.NodeProto, values: Values) -> NDArray[np.float32]:
    weight, scale = values.get(node.input[0]).astype(np.float32), values.get(node.input[1])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    shape = [1] * weight.ndim
    if scale.ndim:
        shape[axis] = -1
    return np.asarray(weight * scale.reshape(shape), np.float32)
