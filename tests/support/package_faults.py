"""Faults to inject into a stored Core ML package, each by its name, with what verification says of it.

A fault changes the message ``Model`` and the file of weights in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fault = Callable[[Any, bytearray], None]
FAULTS: dict[str, tuple[Fault, str]] = {}

_HEADER = 64  # of a value in the file of weights


def fault(message: str) -> Callable[[Fault], Fault]:
    def note(function: Fault) -> Fault:
        FAULTS[function.__name__] = (function, message)
        return function

    return note


def block(spec: Any) -> Any:
    main = spec.mlProgram.functions["main"]
    return main.block_specializations[main.opset]


def operations(spec: Any, kind: str) -> list[Any]:
    return [one for one in block(spec).operations if one.type == kind]


def constant(spec: Any, operation: Any, key: str) -> Any:
    """Return the value of an input that is a constant."""
    binding = operation.inputs[key].arguments[0]
    if binding.WhichOneof("binding") == "value":
        return binding.value
    return next(one for one in operations(spec, "const") if one.outputs[0].name == binding.name).attributes["val"]


def numbers(spec: Any, operation: Any, key: str) -> Any:
    """Return the numbers of a small constant, to be changed in place."""
    tensor = constant(spec, operation, key).immediateValue.tensor
    return getattr(tensor, tensor.WhichOneof("value")).values


def weight_offset(spec: Any, operation: Any) -> int:
    return constant(spec, operation, "weight").blobFileValue.offset


def conv(spec: Any, **wanted: object) -> Any:
    """Return the first convolution whose small constants are as wanted."""
    for one in operations(spec, "conv"):
        if all(list(numbers(spec, one, key)) == value for key, value in wanted.items()):
            return one
    raise LookupError(wanted)


# What the package describes.


@fault("its description differs in input")
def another_size(spec, _):
    spec.description.input[0].type.imageType.width += 1


@fault("its description differs in input")
def blue_before_red(spec, _):
    spec.description.input[0].type.imageType.colorSpace = 30  # BGR


@fault("its description differs in output")
def probabilities_of_another_type(spec, _):
    spec.description.output[1].type.dictionaryType.int64KeyType.SetInParent()


@fault("its description differs in predictedProbabilitiesName")
def no_name_of_the_probabilities(spec, _):
    spec.description.predictedProbabilitiesName = ""


@fault("its description differs in metadata")
def another_crop(spec, _):
    properties = spec.description.metadata.userDefined
    properties["effnets.preprocess"] = properties["effnets.preprocess"].replace('"crop_pct": 0.875', '"crop_pct": 0.9')


@fault("its description differs in metadata")
def another_author(spec, _):
    spec.description.metadata.author = "somebody"


@fault("its version is 7, not 6, of iOS 15")
def a_later_version(spec, _):
    spec.specificationVersion = 7


# Classes.


def _classes(spec):
    return constant(spec, operations(spec, "classify")[0], "classes").immediateValue.list.values


@fault("its classes are not the labels, in their order")
def labels_in_another_order(spec, _):
    labels = _classes(spec)
    first, second = (labels[index].immediateValue.tensor.strings.values for index in (0, 1))
    first[0], second[0] = second[0], first[0]


@fault("its classes are not the labels, in their order")
def a_label_is_missing(spec, _):
    del _classes(spec)[3]


@fault("its program does not end in a softmax and a classifier")
def logits_for_probabilities(spec, _):
    softmax, classify = operations(spec, "softmax")[0], operations(spec, "classify")[0]
    classify.inputs["probabilities"].CopyFrom(softmax.inputs["x"])


@fault("MIL program: probabilities are not the softmax of the logits")
def softmax_across_images(spec, _):
    numbers(spec, operations(spec, "softmax")[0], "axis")[0] = 0


@fault("unlike its description")
def another_name_of_the_class(spec, _):
    operations(spec, "classify")[0].outputs[0].name = block(spec).outputs[0] = "label"


@fault("not what the classifier gives")
def one_result(spec, _):
    del block(spec).outputs[1]


@fault("unlike its description")
def an_input_of_another_size(spec, _):
    spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[2].constant.size += 1


# Weights.


@fault("the file does not contain the weight .*weight")
def a_weight_of_another_value(spec, weights):
    weights[weight_offset(spec, operations(spec, "linear")[0]) + _HEADER + 2] ^= 1


@fault("is damaged, or cut short, in the file of weights")
def weights_cut_short(_, weights):
    del weights[-64:]


@fault("is not float32, or not in the file of weights")
def no_weights(_, weights):
    weights.clear()


@fault("is damaged, or cut short, in the file of weights")
def a_mark_is_gone(spec, weights):
    weights[weight_offset(spec, operations(spec, "linear")[0])] ^= 1


@fault("logits of images .* are off by")
def the_weights_of_another_layer(spec, _):
    """All are there, and of the right shape."""
    groups: dict[int, list[Any]] = {}
    for one in operations(spec, "conv"):
        value = constant(spec, one, "weight")
        shape = tuple(dimension.constant.size for dimension in value.type.tensorType.dimensions)
        if value.WhichOneof("value") == "blobFileValue":
            groups.setdefault(shape, []).append(value.blobFileValue)
    first, second = next(values for values in groups.values() if len(values) > 1)[:2]
    first.offset, second.offset = second.offset, first.offset


@fault("the file does not contain the scale of pixels")
def another_std(spec, _):
    numbers(spec, operations(spec, "mul")[0], "y")[1] *= 1.001


@fault("the file does not contain the shift of pixels")
def another_mean(spec, _):
    numbers(spec, operations(spec, "add")[0], "y")[2] += 1e-4


@fault("logits of images .* are off by")
def pixels_in_0_to_1(spec, _):
    """Beside the right scale, which stays in the file."""
    block(spec).operations.add().CopyFrom(operations(spec, "mul")[0])
    copy = block(spec).operations[-1]
    del block(spec).operations[-1]
    right = copy.inputs["y"].arguments[0].name
    scale = next(one for one in operations(spec, "const") if one.outputs[0].name == right)
    wrong = type(scale)()
    wrong.CopyFrom(scale)
    wrong.outputs[0].name = "wrong"
    values = wrong.attributes["val"].immediateValue.tensor.floats.values
    values[:] = [value / 255 for value in values]
    block(spec).operations.insert(0, wrong)
    operations(spec, "mul")[0].inputs["y"].arguments[0].name = "wrong"


# Operators.


@fault("the operator .* gives .*, but states")
def another_stride(spec, _):
    numbers(spec, conv(spec, strides=[2, 2]), "strides")[0] = 1


@fault("logits of images .* are off by")
def padding_on_the_other_side(spec, _):
    values = numbers(spec, operations(spec, "pad")[0], "pad")
    values[4:] = [values[5], values[4], values[7], values[6]]


@fault("logits of images .* are off by")
def padding_of_a_convolution_on_one_side(spec, _):
    numbers(spec, conv(spec, pad=[1, 1, 1, 1]), "pad")[:2] = [2, 0]


@fault("the operator .* gives .*, but states")
def dilated(spec, _):
    numbers(spec, conv(spec, pad=[1, 1, 1, 1]), "dilations")[0] = 2


@fault(r"the operator conv \(.*\) cannot be executed")
def one_group(spec, _):
    numbers(spec, conv(spec, pad=[1, 1, 1, 1]), "groups")[0] = 1


@fault(r"the operator conv \(.*\) cannot be executed: pad_type is mirrored")
def unknown_padding(spec, _):
    numbers(spec, operations(spec, "conv")[0], "pad_type")[0] = "mirrored"


@fault(r"the operator conv \(.*\) cannot be executed: .*unexpected keyword argument 'offset'")
def an_unknown_parameter(spec, _):
    one = operations(spec, "conv")[0]
    one.inputs["offset"].CopyFrom(one.inputs["groups"])


@fault("logits of images .* are off by")
def without_a_bias(spec, _):
    one = operations(spec, "linear")[0]
    values = constant(spec, one, "bias")
    name = one.inputs["bias"].arguments[0].name
    zeros = next(one for one in operations(spec, "const") if one.outputs[0].name == name)
    copy = type(zeros)()
    copy.CopyFrom(zeros)
    copy.outputs[0].name = "zeros"
    copy.attributes["val"].ClearField("blobFileValue")
    copy.attributes["val"].immediateValue.tensor.floats.values[:] = [0.0] * values.type.tensorType.dimensions[
        0
    ].constant.size
    block(spec).operations.insert(0, copy)
    one.inputs["bias"].arguments[0].name = "zeros"


@fault("logits of images .* are off by")
def relu_for_silu(spec, _):
    operations(spec, "silu")[0].type = "relu"


@fault("logits of images .* are off by")
def relu5(spec, _):
    numbers(spec, operations(spec, "clip")[0], "beta")[0] = 5.0


@fault("logits of images .* are off by")
def a_flatter_hard_sigmoid(spec, _):
    numbers(spec, operations(spec, "sigmoid_hard")[0], "alpha")[0] = 0.2


@fault(r"its program has the operator tanh \(.*\), which is unknown here")
def an_unknown_operator(spec, _):
    operations(spec, "sigmoid")[0].type = "tanh"


@fault("logits of images .* are off by")
def a_gate_is_added(spec, _):
    operations(spec, "mul")[1].type = "add"


@fault("logits of images .* are off by")
def kernel_groups_in_another_order(spec, _):
    values = operations(spec, "concat")[0].inputs["values"].arguments
    first, second = values[0].name, values[1].name
    values[0].name, values[1].name = second, first


@fault(r"the operator concat \(.*\) cannot be executed: it interleaves")
def interleaved(spec, _):
    numbers(spec, operations(spec, "concat")[0], "interleave")[0] = True


@fault("the operator .* gives .*, but states")
def a_mean_of_channels(spec, _):
    numbers(spec, operations(spec, "reduce_mean")[0], "axes")[0] = 1


@fault(r"the constant .* has \d+ values for the shape")
def a_number_too_few(spec, _):
    del numbers(spec, operations(spec, "mul")[0], "y")[0]
