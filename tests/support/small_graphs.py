"""A small graph of convolutions, with every path that equalization has to respect."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_graph(seed: int = 0, *, spread: float = 1.0, classes: int = 10) -> onnx.ModelProto:
    """ReLU6, depthwise, a linear bottleneck with a shortcut, ReLU; channels differ by up to 10^spread.

    Takes images ``[N, 3, 16, 16]``, gives ``logits``.
    """
    generator = np.random.default_rng(seed)
    nodes, weights = [], []

    def constant(name, array):
        weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def conv(name, source, outputs, inputs, kernel, group=1):
        weight = generator.normal(
            0, (2 / (inputs // group * kernel**2)) ** 0.5, (outputs, inputs // group, kernel, kernel)
        )
        weight *= 10 ** generator.uniform(-spread, spread, (outputs, 1, 1, 1))
        names = [source, constant(f"{name}.w", weight), constant(f"{name}.b", generator.normal(0, 0.5, outputs))]
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", names, [name], f"{name}/Conv", pads=pads, group=group))
        return name

    def clip(name):
        nodes.append(helper.make_node("Clip", [name, "zero", "six"], [f"{name}_c"], f"{name}_act/Clip"))
        return f"{name}_c"

    constant("zero", 0)
    constant("six", 6)
    x = clip(conv("stem", "images", 8, 3, 3))
    x = clip(conv("depthwise", x, 8, 8, 3, group=8))
    x = conv("project", x, 12, 8, 1)
    y = clip(conv("expand", x, 24, 12, 1))
    y = conv("narrow", y, 12, 24, 1)
    nodes.append(helper.make_node("Add", [x, y], ["sum"], "block/Add"))
    z = conv("head", "sum", 16, 12, 1)
    nodes.append(helper.make_node("Relu", [z], ["head_r"], "head_act/Relu"))
    z = conv("last", "head_r", 16, 16, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [z], ["pooled"], "pool/GlobalAveragePool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "/Flatten"))
    names = ["flat", constant("c.w", generator.normal(size=(classes, 16))), constant("c.b", np.zeros(classes))]
    nodes.append(helper.make_node("Gemm", names, ["logits"], "classifier/Gemm", transB=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
