"""Faults to inject into an exported graph, each by its name. A fault changes the graph in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

Fault = Callable[[onnx.GraphProto], None]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def nodes(graph: onnx.GraphProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == operator]


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    return next(entry for entry in node.attribute if entry.name == name)


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def initializer(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(entry for entry in graph.initializer if entry.name == name)


def edit(graph: onnx.GraphProto, name: str, change: Callable[[np.ndarray], object]) -> None:
    """Change an initializer's array, in place or to what `change` returns."""
    tensor = initializer(graph, name)
    array = numpy_helper.to_array(tensor).copy()
    changed = change(array)
    tensor.CopyFrom(numpy_helper.from_array(array if changed is None else np.asarray(changed, array.dtype), name))


def edit_apart(
    graph: onnx.GraphProto, node: onnx.NodeProto, index: int, change: Callable[[np.ndarray], object]
) -> None:
    """Change an input of one node alone; others may share the constant."""
    name = f"{node.input[index]}_apart"
    array = numpy_helper.to_array(initializer(graph, node.input[index])).copy()
    changed = change(array)
    graph.initializer.append(
        numpy_helper.from_array(array if changed is None else np.asarray(changed, array.dtype), name)
    )
    node.input[index] = name


def convolution(graph: onnx.GraphProto, kernel: int, number: int = 0) -> onnx.NodeProto:
    found = []
    for node in nodes(graph, "Conv"):
        if initializer(graph, node.input[1]).dims[-1] == kernel:
            found.append(node)
    return found[number]


def biased(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return convolutions with a bias that is not zero."""
    return [
        node
        for node in nodes(graph, "Conv")
        if len(node.input) == 3 and numpy_helper.to_array(initializer(graph, node.input[2])).any()
    ]


def scale(place: tuple[int, ...], factor: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array[place] *= factor

    return change


@fault
def one_weight_by_a_percent(graph):
    edit(
        graph,
        convolution(graph, 1, 2).input[1],
        lambda array: np.put(array, np.abs(array).argmax(), array.max() * 1.05),
    )


@fault
def one_channel_by_a_thousandth(graph):
    edit(graph, convolution(graph, 1, 1).input[1], scale((3,), 1.001))


@fault
def kernels_transposed(graph):
    edit(graph, convolution(graph, 5).input[1], lambda array: array.swapaxes(2, 3))


@fault
def kernels_flipped(graph):
    edit(graph, convolution(graph, 3, 1).input[1], lambda array: array[..., ::-1, ::-1])


@fault
def weights_in_half_precision(graph):
    edit(graph, convolution(graph, 3).input[1], lambda array: array.astype(np.float16))


@fault
def channels_swapped(graph):
    def change(array):
        array[[0, 1]] = array[[1, 0]]

    edit(graph, convolution(graph, 3, 1).input[1], change)


@fault
def bias_dropped(graph):
    node = biased(graph)[0]
    del node.input[2]


@fault
def one_bias_changed(graph):
    node = biased(graph)[-1]
    edit(graph, node.input[2], lambda array: np.put(array, 2, array[2] + 0.01 * np.abs(array).max()))


@fault
def padding_on_the_other_side(graph):
    node = nodes(graph, "Pad")[0]
    edit_apart(graph, node, 1, lambda array: np.roll(array, len(array) // 2))


@fault
def padding_with_ones(graph):
    node = nodes(graph, "Pad")[0]
    graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    del node.input[2:]
    node.input.append("one")


@fault
def padding_reflected(graph):
    node = nodes(graph, "Pad")[0]
    set_attribute(node, "mode", "reflect")
    del node.input[2:]


@fault
def pads_shifted(graph):
    node = next(node for node in nodes(graph, "Conv") if any(attribute(node, "pads").ints))
    top, left, bottom, right = attribute(node, "pads").ints
    set_attribute(node, "pads", [top + 1, left, bottom - 1, right])


@fault
def strides_swapped_for_dilations(graph):
    node = next(node for node in nodes(graph, "Conv") if attribute(node, "strides").ints[0] == 2)
    set_attribute(node, "strides", [1, 1])


@fault
def dilated(graph):
    node = next(node for node in nodes(graph, "Conv") if list(attribute(node, "pads").ints) == [1, 1, 1, 1])
    set_attribute(node, "dilations", [2, 2])
    set_attribute(node, "pads", [2, 2, 2, 2])


@fault
def clip_bound_moved(graph):
    edit_apart(graph, nodes(graph, "Clip")[-1], 2, lambda array: array + 0.001)


@fault
def clip_floor_moved(graph):
    edit_apart(graph, nodes(graph, "Clip")[0], 1, lambda array: array - 0.001)


@fault
def clip_ceiling_gone(graph):
    nodes(graph, "Clip")[1].op_type = "Relu"
    del nodes(graph, "Relu")[0].input[1:]


@fault
def relu_leaks(graph):
    node = nodes(graph, "Relu")[0]
    node.op_type = "LeakyRelu"
    set_attribute(node, "alpha", 0.001)


@fault
def sigmoid_made_hard(graph):
    nodes(graph, "Sigmoid")[0].op_type = "HardSigmoid"


@fault
def hard_swish_made_soft(graph):
    node = nodes(graph, "HardSwish")[0]
    node.op_type = "Sigmoid"


@fault
def addition_made_subtraction(graph):
    nodes(graph, "Add")[-1].op_type = "Sub"


@fault
def excitation_added(graph):
    nodes(graph, "Mul")[-1].op_type = "Add"


@fault
def concatenation_reversed(graph):
    node = [node for node in nodes(graph, "Concat") if attribute(node, "axis").i == 1][-1]
    node.input[:] = list(node.input)[::-1]


@fault
def mean_over_rows_alone(graph):
    node = nodes(graph, "GlobalAveragePool")[-1]
    node.op_type = "ReduceMean"
    graph.initializer.append(numpy_helper.from_array(np.array([2]), "rows"))
    node.input.append("rows")


@fault
def mean_made_maximum(graph):
    nodes(graph, "GlobalAveragePool")[0].op_type = "GlobalMaxPool"


@fault
def classifier_without_bias(graph):
    del nodes(graph, "Gemm")[0].input[2:]


@fault
def classifier_scaled(graph):
    set_attribute(nodes(graph, "Gemm")[0], "alpha", 1.001)


@fault
def two_classes_swapped(graph):
    def change(array):
        array[[4, 7]] = array[[7, 4]]

    edit(graph, nodes(graph, "Gemm")[0].input[1], change)


@fault
def epsilon_changed(graph):
    set_attribute(nodes(graph, "BatchNormalization")[0], "epsilon", 1e-3)


@fault
def mean_and_variance_swapped(graph):
    node = nodes(graph, "BatchNormalization")[0]
    node.input[3], node.input[4] = node.input[4], node.input[3]


@fault
def layer_skipped(graph):
    relu = nodes(graph, "Relu")[0]
    for node in graph.node:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]


@fault
def softmax_over_images(graph):
    set_attribute(nodes(graph, "Softmax")[0], "axis", 0)


@fault
def least_likely_first(graph):
    set_attribute(nodes(graph, "TopK")[0], "largest", 0)


@fault
def batch_fixed(graph):
    node = nodes(graph, "Flatten")[0]
    node.op_type = "Reshape"
    del node.attribute[:]
    graph.initializer.append(numpy_helper.from_array(np.array([1, 24]), "flat"))
    node.input.append("flat")


def preprocessing_constant(graph: onnx.GraphProto, shape: tuple[int, ...], value: float, number: int = 0) -> str:
    """Return the name of a constant of the preprocessing, by its first value."""
    found = [
        tensor.name
        for tensor in graph.initializer
        if tensor.name.startswith("preprocess")
        and tuple(tensor.dims) == shape
        and np.isclose(numpy_helper.to_array(tensor).ravel()[0], value)
    ]
    return found[number]


def exchange(graph: onnx.GraphProto, operator: str, other: str, number: int = 0) -> None:
    """Replace an operator of the preprocessing."""
    [node for node in nodes(graph, operator) if node.name.startswith("preprocess")][number].op_type = other


PREPROCESSING_FAULTS = {
    "mean of one channel": lambda graph: edit(
        graph, preprocessing_constant(graph, (1, 3, 1, 1), 0.485), scale((0, 1), 1.05)
    ),
    "std of one channel": lambda graph: edit(
        graph, preprocessing_constant(graph, (1, 3, 1, 1), 0.229), scale((0, 2), 1.05)
    ),
    "means reversed": lambda graph: edit(
        graph, preprocessing_constant(graph, (1, 3, 1, 1), 0.485), lambda array: array[:, ::-1]
    ),
    "divided by 256": lambda graph: edit(
        graph, preprocessing_constant(graph, (), 255.0, -1), lambda _: np.array(256.0)
    ),
    "another cubic": lambda graph: edit(graph, preprocessing_constant(graph, (), 1.5), lambda _: np.array(1.25)),
    "nothing rounded between passes": lambda graph: exchange(graph, "Floor", "Identity"),
    "never above 255": lambda graph: edit(graph, preprocessing_constant(graph, (), 255.0), lambda _: np.array(200.0)),
    "half a pixel off": lambda graph: edit(graph, preprocessing_constant(graph, (), 1, 3), lambda _: np.array(0)),
    "no antialias": lambda graph: exchange(graph, "Max", "Min"),
    "height for width": lambda graph: edit(graph, preprocessing_constant(graph, (), 1), lambda _: np.array(2)),
    "another crop": lambda graph: edit(graph, preprocessing_constant(graph, (), 56), lambda _: np.array(40)),
    "weights not normalized": lambda graph: exchange(graph, "ReduceSum", "ReduceMax"),
}
