"""Core ML's intermediate language (MIL): a stored program is read and executed with PyTorch, operator by operator.

Core ML itself is on Apple's systems alone. This reads what it would read, by the definitions of coremltools'
``MIL.proto`` and of the file of weights, and shares no code with the converter.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from effnets.engines.base import Engine
from effnets.engines.metadata import ModelMetadata
from effnets.errors import VerificationError

# Of a value in the file of weights, in front of its data: a mark, its type, and size and offset of the data in bytes.
_BLOB, _BLOB_MARK = struct.Struct("<IIQQ"), 0xDEADBEEF
_BLOB_FLOAT32 = 2
_FLOAT32 = 11  # of MIL.proto's DataType


class _Operation(NamedTuple):
    """An operator: inputs by name, a name of a value or several; outputs with the shapes that the program states."""

    kind: str
    inputs: dict[str, str | list[str]]
    outputs: list[tuple[str, list[int]]]


class MILProgram(Engine):
    """Executes the program of a Core ML classifier in float64, image by image.

    Args:
        model: the message ``Model`` of a Core ML file, with a program ``main`` that ends in a classifier.
        weights: content of its file of weights.

    Attributes:
        classes: the labels, in the order of the probabilities.
        input: name and shape of the image.
        results: names of the class and of the probabilities.

    Raises:
        WeightsError: if the metadata are not effnets', or damaged.
        VerificationError: if the program cannot be read, or, when it is executed, has an operator or a parameter that
            is unknown here, or a shape that it does not state.
    """

    def __init__(self, model: Any, weights: bytes) -> None:
        description = ModelMetadata.from_properties(model.description.metadata.userDefined, "the package")
        super().__init__("MIL program", description, "float32", None)
        main = model.mlProgram.functions["main"]
        block = main.block_specializations[main.opset]
        if len(main.inputs) != 1 or not block.operations:
            raise VerificationError("its program has not one input and operators")
        self.input = main.inputs[0].name, _shape_of(main.inputs[0].type)
        self.results = tuple(block.outputs)
        self._weights = weights
        self._constants: dict[str, Any] = {}
        self._operations: list[_Operation] = []
        for operation in block.operations:
            self._read(operation)
        classifier = self._operations.pop()
        source = next(
            (one for one in self._operations if classifier.inputs.get("probabilities") == one.outputs[0][0]), None
        )
        if classifier.kind != "classify" or source is None or source.kind != "softmax":
            raise VerificationError("its program does not end in a softmax and a classifier")
        if tuple(name for name, _ in classifier.outputs) != self.results:
            raise VerificationError(f"its program returns {', '.join(self.results)}, not what the classifier gives")
        self.classes: list[str] = self._constants[str(classifier.inputs["classes"])]
        self._logits, self._probabilities = str(source.inputs["x"]), source.outputs[0][0]

    def _read(self, operation: Any) -> None:
        outputs = [(output.name, _shape_of(output.type)) for output in operation.outputs]
        if operation.type == "const":
            self._constants[outputs[0][0]] = self._decode(operation.attributes["val"], outputs[0][0])
            return
        inputs: dict[str, str | list[str]] = {}
        for key, argument in operation.inputs.items():
            names = []
            for number, binding in enumerate(argument.arguments):
                name = binding.name
                if binding.WhichOneof("binding") == "value":  # written in place
                    name = f"{outputs[0][0]}.{key}.{number}"
                    self._constants[name] = self._decode(binding.value, name)
                names.append(name)
            inputs[key] = names if key == "values" else names[0]
        self._operations.append(_Operation(operation.type, inputs, outputs))

    def _decode(self, value: Any, name: str) -> Any:
        """Return a constant: a float64 tensor, a number, a text, or a list of such."""
        if value.WhichOneof("value") == "blobFileValue":
            return self._decode_blob(value, name)
        immediate = value.immediateValue
        if immediate.WhichOneof("value") == "list":
            return [self._decode(one, name) for one in immediate.list.values]
        tensor, shape = immediate.tensor, _shape_of(value.type)
        field = tensor.WhichOneof("value")
        if field not in ("floats", "ints", "bools", "strings"):
            raise VerificationError(f"the constant {name} is of the type {field}, which is unknown here")
        values = list(getattr(tensor, field).values)
        if len(values) != int(np.prod(shape)):
            raise VerificationError(f"the constant {name} has {len(values)} values for the shape {shape}")
        if not shape:
            return values[0]
        return torch.tensor(values, dtype=torch.float64).reshape(shape) if field == "floats" else values

    def _decode_blob(self, value: Any, name: str) -> Tensor:
        shape, begin = _shape_of(value.type), value.blobFileValue.offset
        wanted = 4 * int(np.prod(shape))
        if value.type.tensorType.dataType != _FLOAT32 or begin + _BLOB.size > len(self._weights):
            raise VerificationError(f"the weight {name} is not float32, or not in the file of weights")
        mark, kind, size, offset = _BLOB.unpack_from(self._weights, begin)
        if (mark, kind, size) != (_BLOB_MARK, _BLOB_FLOAT32, wanted) or offset + size > len(self._weights):
            raise VerificationError(f"the weight {name} is damaged, or cut short, in the file of weights")
        values = np.frombuffer(self._weights, "<f4", wanted // 4, offset)
        return torch.from_numpy(values.astype(np.float64)).reshape(shape)

    @torch.inference_mode()
    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        results = [self._execute(torch.from_numpy(image).permute(2, 0, 1)[None].double()) for image in images]
        logits, probabilities = (torch.cat(values).numpy() for values in zip(*results, strict=True))
        return {"logits": logits, "probabilities": probabilities}

    def _execute(self, image: Tensor) -> tuple[Tensor, Tensor]:
        name, shape = self.input
        if list(image.shape) != shape:
            raise VerificationError(f"its program takes {shape}, not {list(image.shape)}")
        values: dict[str, Any] = {**self._constants, name: image}
        for operation in self._operations:
            found = _apply(operation, values)
            for (output, stated), value in zip(operation.outputs, found, strict=True):
                if list(value.shape) != stated:
                    raise VerificationError(f"the operator {output} gives {list(value.shape)}, but states {stated}")
                values[output] = value
        return values[self._logits], values[self._probabilities]


def _shape_of(kind: Any) -> list[int]:
    return [one.constant.size for one in kind.tensorType.dimensions]


def _apply(operation: _Operation, values: Mapping[str, Any]) -> Sequence[Tensor]:
    """Return the outputs of an operator; raises VerificationError if it, or one of its inputs, is unknown."""
    kind, name = operation.kind, operation.outputs[0][0]
    if kind not in _OPERATORS:
        raise VerificationError(f"its program has the operator {kind} ({name}), which is unknown here")
    try:
        inputs = {
            key: [values[one] for one in given] if isinstance(given, list) else values[given]
            for key, given in operation.inputs.items()
        }
        found = _OPERATORS[kind](**inputs)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise VerificationError(f"the operator {kind} ({name}) cannot be executed: {error}") from None
    return found if isinstance(found, tuple) else (found,)


def _conv(
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int],
    pad_type: str,
    pad: list[int],
    dilations: list[int],
    groups: int,
) -> Tensor:
    if pad_type not in ("valid", "custom", "same", "same_lower"):
        raise ValueError(f"pad_type is {pad_type}")
    sides = []
    for axis in (0, 1):
        before, after = pad[2 * axis : 2 * axis + 2] if pad_type == "custom" else (0, 0)
        if pad_type.startswith("same"):
            size, reach = x.shape[2 + axis], dilations[axis] * (weight.shape[2 + axis] - 1) + 1
            total = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + reach - size)
            before, after = total // 2, total - total // 2
            if pad_type == "same_lower":
                before, after = after, before
        sides.append((before, after))
    padded = F.pad(x, (*sides[1], *sides[0]))
    return F.conv2d(padded, weight, bias, tuple(strides), 0, tuple(dilations), groups)


def _pad(*, x: Tensor, pad: list[int], mode: str, constant_val: float) -> Tensor:
    if mode != "constant" or len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"the mode is {mode}, of {len(pad)} values")
    # For the last dimensions, in their order; PyTorch begins with the last one.
    pairs = [pad[place : place + 2] for place in range(0, len(pad), 2)]
    return F.pad(x, [value for pair in reversed(pairs) for value in pair], value=constant_val)


def _split(*, x: Tensor, split_sizes: list[int], axis: int) -> tuple[Tensor, ...]:
    return torch.split(x, split_sizes, axis)


def _concat(*, values: list[Tensor], axis: int, interleave: bool) -> Tensor:
    if interleave:
        raise ValueError("it interleaves")
    return torch.cat(values, axis)


def _slice(*, x: Tensor, begin: list[int], end: list[int], end_mask: list[bool]) -> Tensor:
    for axis, (first, last, to_the_end) in enumerate(zip(begin, end, end_mask, strict=True)):
        x = x.narrow(axis, first, (x.shape[axis] if to_the_end else last) - first)
    return x


def _expand_dims(*, x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _batch_norm(*, x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    return F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


# By the definitions of coremltools' reference of MIL operators; a parameter that is not here is an error.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": lambda *, x, y: x + y,
    "batch_norm": _batch_norm,
    "clip": lambda *, x, alpha, beta: x.clamp(alpha, beta),
    "concat": _concat,
    "conv": _conv,
    "expand_dims": _expand_dims,
    "linear": lambda *, x, weight, bias: F.linear(x, weight, bias),
    "mul": lambda *, x, y: x * y,
    "pad": _pad,
    "reduce_max": lambda *, x, axes, keep_dims: x.amax(axes, keepdim=keep_dims),
    "reduce_mean": lambda *, x, axes, keep_dims: x.mean(axes, keepdim=keep_dims),
    "relu": lambda *, x: x.relu(),
    "reshape": lambda *, x, shape: x.reshape(shape),
    "sigmoid": lambda *, x: x.sigmoid(),
    "sigmoid_hard": lambda *, x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "silu": lambda *, x: F.silu(x),
    "slice_by_index": _slice,
    "softmax": lambda *, x, axis: x.softmax(axis),
    "split": _split,
    "thresholded_relu": lambda *, x, alpha: torch.where(x >= alpha, x, 0.0),
}
