"""A classifier as an ONNX graph: traced by torch.fx, and written operator by operator.

torch's own exporter knows every operator; importing them, and decomposing the network, takes it seconds. The networks
of this library have some twenty. Those that are not here are left to that exporter (`torch_exporter`).
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from effnets.deploy.export.program import UntraceableError, output_of

INPUT, LOGITS = "images", "logits"

_OPSET, _IR_VERSION = 20, 10  # as torch's exporter, for engines of 2024 and later


def write_onnx(program: fx.GraphModule, shape: Sequence[int | str], classes: int, name: str) -> onnx.ModelProto:
    """Return a traced network as an ONNX model `name`, which returns logits ``[N, classes]``.

    Weights are rounded to float32. Values have the names of the program's nodes, but for ``images`` and ``logits``.

    Args:
        shape: of the images, ``[N, C, H, W]``; a name stands for any number. Arithmetic on sizes is part of the graph
            where they may be any.

    Raises UntraceableError for a network with an operator that is not written here.
    """
    writer = _Writer(program)
    sides = [side for side in shape[1:] if isinstance(side, int)]
    if len(sides) == 3 and any(node.target is getattr for node in program.graph.nodes):
        sizes = _Sizes(copy.deepcopy(program).float())
        with torch.inference_mode():
            sizes.run(torch.zeros(1, *sides))
        writer.sizes = sizes.found
    for node in program.graph.nodes:
        writer.write(node)
    graph = helper.make_graph(
        writer.nodes,
        name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [shape[0], classes])],
        list(writer.constants.values()),
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="effnets")


class _Sizes(fx.Interpreter):
    """Runs a program, and notes its numbers by node that follow from the image's size, not from the batch's."""

    def __init__(self, program: fx.GraphModule) -> None:
        super().__init__(program)
        self.found: dict[str, int | float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator."""
        value = super().run_node(n)
        fixed = all(source.target is getattr or source.name in self.found for source in n.all_input_nodes)
        is_batch = n.target is operator.getitem and n.args[1] == 0
        if isinstance(value, int | float) and fixed and not is_batch:
            self.found[n.name] = value
        return value


class _Writer:
    """Writes the nodes of a program one after another.

    Attributes:
        nodes, constants: of the ONNX graph; constants by name.
        sizes: the program's numbers that are known, by node.
        integers: its other nodes that are integers, each ``[1]`` in ONNX.
    """

    def __init__(self, program: fx.GraphModule) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.sizes: dict[str, int | float] = {}
        self.integers: set[fx.Node] = set()
        self._program, self._output = program, output_of(program)
        self._state = {
            **dict(program.named_parameters(remove_duplicate=False)),
            **dict(program.named_buffers(remove_duplicate=False)),
        }
        self._taken: dict[str, int] = {}

    def write(self, node: fx.Node) -> None:
        """Write one node of the program."""
        if node.op in ("placeholder", "get_attr", "output") or node.name in self.sizes:
            return
        key: Any = node.target
        known: Any = fx.node.map_arg((node.args, node.kwargs), lambda one: self.sizes.get(one.name, one))
        arguments, options = known
        if node.op == "call_module":
            module = self._program.get_submodule(str(node.target))
            key, arguments = type(module), (module, *arguments)
        if key not in _OPERATORS:
            raise UntraceableError(str(key))
        try:
            bound = inspect.signature(_OPERATORS[key]).bind(self, node, *arguments, **options)
        except TypeError as error:  # an argument that is unknown here
            raise UntraceableError(f"{key}: {error}") from None
        _OPERATORS[key](*bound.args, **bound.kwargs)

    def add(self, node: fx.Node, kind: str, *inputs: Any, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add an ONNX node for the program's `node`, whose value it returns unless it names other outputs."""
        outputs = outputs or [self.name(node)]
        scope = str(node.target)
        if node.op != "call_module":
            stack = node.meta.get("nn_module_stack")
            scope = next(reversed(stack.values()))[0] if stack else ""
        name = f"{scope}/{kind}"
        count = self._taken[name] = self._taken.get(name, 0) + 1
        shown = name if count == 1 else f"{name}_{count}"
        self.nodes.append(helper.make_node(kind, [self.name(value) for value in inputs], outputs, shown, **attributes))
        return outputs[0]

    def name(self, value: Any) -> str:
        """Return the name of a value: of a node, of a weight, or of a number, which becomes a constant."""
        if isinstance(value, str):
            return value
        if not isinstance(value, fx.Node):
            array = np.asarray(value)
            return self._number(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))
        if value.op == "placeholder":
            return INPUT
        if value.op == "get_attr":
            return self.weight(str(value.target))
        return LOGITS if value is self._output else value.name

    def weight(self, name: str) -> str:
        """Return the name of a parameter or buffer, which becomes a constant of float32."""
        if name not in self.constants:
            array = self._state[name].detach().float().contiguous().numpy()
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def weights(self, node: fx.Node, *names: str) -> list[str]:
        """Return the names of those weights of a module that it has."""
        full = [f"{node.target}.{name}" for name in names]
        return [self.weight(name) for name in full if name in self._state]

    def _number(self, array: NDArray[Any]) -> str:
        name = f"{array.dtype}_{'_'.join(map(str, array.ravel().tolist()))}{'' if array.ndim else '_scalar'}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name


def _conv(writer: _Writer, node: fx.Node, x: fx.Node, weight: Any, bias: Any, *fixed: Any) -> None:
    if len(fixed) != 4 or isinstance(fixed[1], str):
        raise UntraceableError(f"convolution with {fixed}")
    strides, padding, dilations = map(_pair, fixed[:3])
    inputs = [x, weight] if bias is None else [x, weight, bias]
    writer.add(node, "Conv", *inputs, strides=strides, pads=padding * 2, dilations=dilations, group=fixed[3])


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _conv_module(writer: _Writer, node: fx.Node, conv: nn.Conv2d, x: fx.Node) -> None:
    if conv.padding_mode != "zeros":
        raise UntraceableError(f"padding {conv.padding_mode}")
    weight, *bias = writer.weights(node, "weight", "bias")
    fixed = conv.stride, conv.padding, conv.dilation, conv.groups
    _conv(writer, node, x, weight, bias[0] if bias else None, *fixed)


def _batch_norm(writer: _Writer, node: fx.Node, bn: nn.BatchNorm2d, x: fx.Node) -> None:
    weights = writer.weights(node, "weight", "bias", "running_mean", "running_var")
    if len(weights) != 4:
        raise UntraceableError("batch normalization without weights or statistics")
    writer.add(node, "BatchNormalization", x, *weights, epsilon=bn.eps)


def _clip(writer: _Writer, node: fx.Node, act: nn.Hardtanh, x: fx.Node) -> None:
    writer.add(node, "Clip", x, float(act.min_val), float(act.max_val))


def _silu(writer: _Writer, node: fx.Node, _: nn.SiLU, x: fx.Node) -> None:
    gate = writer.add(node, "Sigmoid", x, outputs=[f"{node.name}_sigmoid"])
    writer.add(node, "Mul", x, gate)


def _activation(kind: str) -> Callable[..., None]:
    def write(writer: _Writer, node: fx.Node, *module_and_x: Any) -> None:
        writer.add(node, kind, module_and_x[-1])

    return write


def _linear(writer: _Writer, node: fx.Node, x: fx.Node, weight: Any, bias: Any = None) -> None:
    writer.add(node, "Gemm", x, weight, *([] if bias is None else [bias]), transB=1)


def _linear_module(writer: _Writer, node: fx.Node, _: nn.Linear, x: fx.Node) -> None:
    _linear(writer, node, x, *writer.weights(node, "weight", "bias"))


def _mean(writer: _Writer, node: fx.Node, x: fx.Node, dims: Any, keepdim: bool = False) -> None:
    if not keepdim or dims not in ((2, 3), [2, 3]):
        raise UntraceableError(f"mean over {dims}")
    # ONNX Runtime computes this operator in the blocked layout of convolutions.
    writer.add(node, "GlobalAveragePool", x)


def _largest(writer: _Writer, node: fx.Node, x: fx.Node, dims: Any, keepdim: bool = False) -> None:
    if dims not in ((2, 3), [2, 3]):
        raise UntraceableError(f"largest over {dims}")
    writer.add(node, "ReduceMax", x, list(dims), keepdims=int(keepdim))


def _flatten(writer: _Writer, node: fx.Node, x: fx.Node, start_dim: int = 0) -> None:
    if start_dim != 1:
        raise UntraceableError(f"flatten from {start_dim}")
    writer.add(node, "Flatten", x)


def _split(writer: _Writer, node: fx.Node, x: fx.Node, sizes: Any, dim: int = 0) -> None:
    if not isinstance(sizes, list | tuple) or not all(isinstance(size, int) for size in sizes):
        raise UntraceableError("split into equal parts, or unknown ones")
    parts = {user.args[1]: writer.name(user) for user in node.users if user.target is operator.getitem}
    # A part that is taken twice, or counted from the end, would have two names.
    if len(parts) != len(node.users) or not parts.keys() <= set(range(len(sizes))):
        raise UntraceableError("split in other ways than into single parts")
    outputs = [parts.get(index, f"{node.name}_{index}") for index in range(len(sizes))]
    writer.add(node, "Split", x, list(sizes), outputs=outputs, axis=dim)


def _cat(writer: _Writer, node: fx.Node, parts: Sequence[fx.Node], dim: int = 0) -> None:
    writer.add(node, "Concat", *parts, axis=dim)


def _pad(
    writer: _Writer, node: fx.Node, x: fx.Node, widths: Sequence[Any], mode: str = "constant", value: Any = None
) -> None:
    # Two or fewer may be for vectors; feature maps, of four dimensions, have their height and width padded.
    if mode != "constant" or value or len(widths) not in (4, 6, 8):
        raise UntraceableError(f"padding {widths} {mode} {value}")
    # For the last dimensions first, in pairs; ONNX has all the beginnings first, in order.
    before, after = ([0] * (4 - len(widths) // 2) + list(widths[start::2][::-1]) for start in (0, 1))
    pads: Any = [*before, *after]
    if any(isinstance(width, fx.Node) for width in pads):
        sides = [width if isinstance(width, fx.Node) else [width] for width in pads]
        pads = writer.add(node, "Concat", *sides, outputs=[f"{node.name}_pads"], axis=0)
    writer.add(node, "Pad", x, pads)


def _getattr(_: _Writer, __: fx.Node, x: fx.Node, name: str) -> None:
    if name != "shape":
        raise UntraceableError(f"{name} of {x}")


def _getitem(writer: _Writer, node: fx.Node, source: fx.Node, index: Any) -> None:
    if source.target is torch.split:
        return  # an output of that node
    if source.target is not getattr or not isinstance(index, int):
        raise UntraceableError(f"index {index}")
    shape = writer.add(node, "Shape", source.args[0], outputs=[f"{node.name}_shape"])
    writer.integers.add(node)
    writer.add(node, "Gather", shape, [index])


def _arithmetic(kind: str) -> Callable[..., None]:
    def write(writer: _Writer, node: fx.Node, *values: Any) -> None:
        whole = any(value in writer.integers for value in values if isinstance(value, fx.Node))
        fits = [value in writer.integers if isinstance(value, fx.Node) else isinstance(value, int) for value in values]
        if not all(fits) if whole else kind == "Div":
            raise UntraceableError(f"{kind} of {values}")
        if whole:
            writer.integers.add(node)
        numbers = [value if isinstance(value, fx.Node) else [value] if whole else float(value) for value in values]
        writer.add(node, kind, *numbers)

    return write


# Modules, functions and methods, each with what writes it; keyword arguments have PyTorch's names.
_OPERATORS: dict[Any, Callable[..., None]] = {
    nn.Conv2d: _conv_module,
    nn.Linear: _linear_module,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _activation("Relu"),
    nn.ReLU6: _clip,
    nn.Hardtanh: _clip,
    nn.SiLU: _silu,
    nn.Hardswish: _activation("HardSwish"),
    nn.Sigmoid: _activation("Sigmoid"),
    F.conv2d: _conv,
    F.linear: _linear,
    F.pad: _pad,
    torch.split: _split,
    torch.cat: _cat,
    getattr: _getattr,
    operator.getitem: _getitem,
    operator.add: _arithmetic("Add"),
    operator.sub: _arithmetic("Sub"),
    operator.mul: _arithmetic("Mul"),
    operator.floordiv: _arithmetic("Div"),
    "mean": _mean,
    "amax": _largest,
    "sigmoid": _activation("Sigmoid"),
    "flatten": _flatten,
}
