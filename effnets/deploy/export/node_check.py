"""Checks of each node of an ONNX graph by itself, against the exported program run in float64.

Nodes read random arrays instead of each other's outputs, so that no layer hides the faults of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from effnets.deploy.export.graph import LOGITS, NetworkGraph
from effnets.engines.base import load_onnx
from effnets.engines.metadata import ModelMetadata

# Called with the name and value of each tensor operator; later operators receive its result.
Watch = Callable[[str, Tensor], Tensor]

# float32 is off by some 1e-6 of a channel's values; real faults are larger.
_TOLERANCE = 3e-5
_DIVERGENCE = 1e-3  # of values in a whole network, where rounding adds up
_ENOUGH_PLACES = 16
_CUT = "/cut"
_NOISE_MEAN, _NOISE_SPREAD = 1.0, 3.0
_ANY_SIZE = (65, 97)  # odd, where paddings and roundings differ
_ERRORS_ONLY = 4


class Float64Interpreter(fx.Interpreter):
    """Runs an exported program in float64; `watch` sees, and may replace, the value of every operator."""

    def __init__(self, program: ExportedProgram, watch: Watch | None = None) -> None:
        super().__init__(program.graph_module)
        self._watch = watch
        self._state: list[Tensor] = []
        values: Mapping[str, Any] = {**program.state_dict, **program.constants}
        self._images = ""
        for spec in program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                self._images = spec.arg.name
            else:
                value = values[str(spec.target)].detach()
                self._state.append(value.double() if value.is_floating_point() else value)
        self.output_name = program.graph_signature.user_outputs[0]

    @property
    def input_name(self) -> str:
        """The program's name of its images."""
        return self._images

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits ``[N, C]`` in float64."""
        # The images are the last input, after all parameters and buffers.
        output: tuple[Tensor, ...] = self.run(*self._state, images.double())
        return output[0]

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator."""
        value = super().run_node(n)
        watched = n.op == "call_function" or n.name == self._images
        if self._watch and watched and isinstance(value, Tensor) and value.is_floating_point():
            return self._watch(n.name, value)
        return value


@dataclass(frozen=True, slots=True)
class NodeFault:
    """A node whose output is not what torch computes from the same inputs."""

    node: str
    operator: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node} ({self.operator}, output {self.value}): {self.reason}"


def find_faulty_node(graph: NetworkGraph, metadata: ModelMetadata, *, seed: int = 0) -> NodeFault | None:
    """Compare all nodes of the network itself; return the first that differs from torch, None if none does."""
    height, width = metadata.size or _ANY_SIZE
    replay = Float64Interpreter(graph.program)
    # The program has its own names for its input and output.
    names = {replay.input_name: graph.network_input, replay.output_name: LOGITS}
    order = {name: node for node in graph.model.graph.node for name in node.output}
    cut: dict[str, NDArray[np.float32]] = {}
    expected: dict[str, NDArray[np.float64]] = {}
    generator = np.random.default_rng(seed)

    def watch(name: str, value: Tensor) -> Tensor:
        name = names.get(name, name)
        if name not in order and name != graph.network_input:
            return value
        if name != graph.network_input:
            expected[name] = value.numpy()
        if name == LOGITS:
            return value
        noise = generator.standard_normal(tuple(value.shape), np.float32)
        cut[name] = noise * np.float32(_NOISE_SPREAD) + np.float32(_NOISE_MEAN)
        return torch.from_numpy(cut[name]).double()

    Float64Interpreter(graph.program, watch)(torch.zeros(1, metadata.channels, height, width))
    try:
        found = _run_cut(graph, cut, list(expected))
    except Exception as error:  # of a graph that does not run; the engine names the node
        return NodeFault("unknown", "-", "-", " ".join(str(error).split())[:300])
    for name, node in order.items():
        if name in expected and (reason := _difference(expected[name], found[name])):
            return NodeFault(node.name, node.op_type, name, reason)
    return None


def find_divergence(
    graph: NetworkGraph, engine: str, images: NDArray[Any], inputs: NDArray[np.float32], metadata: ModelMetadata
) -> str:
    """Say where an engine first differs from torch though every node by itself is right, for the error message.

    `inputs` are the images as the network receives them, after preprocessing in the graph if it has any.
    """
    expected: dict[str, NDArray[np.float64]] = {}

    def watch(name: str, value: Tensor) -> Tensor:
        expected[name] = value.numpy()
        return value

    Float64Interpreter(graph.program, watch)(torch.from_numpy(inputs))
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    order = {name: node for node in model.graph.node for name in node.output if name in expected}
    outputs = [name for name in order if name != LOGITS]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    found = load_onnx(model.SerializeToString(), metadata, engine).run(images)
    for name, node in order.items():
        if name in found and (reason := _difference(expected[name], found[name], _DIVERGENCE)):
            return f"first at {NodeFault(node.name, node.op_type, name, reason)}"
    return "every node by itself is right, so the engine's own fusing must be wrong"


def _run_cut(
    graph: NetworkGraph, cut: dict[str, NDArray[np.float32]], wanted: list[str]
) -> dict[str, NDArray[np.float32]]:
    """Return the `wanted` values of the graph, whose nodes read the arrays of `cut` instead of those values."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for node in model.graph.node:
        node.input[:] = [name + _CUT if name in cut else name for name in node.input]
    read = {name for node in model.graph.node for name in node.input}
    feeds = {name + _CUT: array for name, array in cut.items() if name + _CUT in read}
    del model.graph.output[:]
    kept = [entry for entry in model.graph.input if entry.name in read]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in feeds)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    for entry in kept:
        shape = [side.dim_value or 1 for side in entry.type.tensor_type.shape.dim]
        feeds[entry.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(wanted, feeds), strict=True))


def _difference(expected: NDArray[np.float64], found: NDArray[np.float32], tolerance: float = _TOLERANCE) -> str | None:
    """Say what is wrong with `found`; None if it is right."""
    if expected.shape != found.shape:
        return f"has shape {list(found.shape)}, where torch has {list(expected.shape)}"
    if not np.isfinite(found).all():
        return "is not finite"
    error, scale = np.abs(found - expected), np.abs(expected)
    if expected.ndim > 2 and expected[0, 0].size >= _ENOUGH_PLACES:
        places = (0, *range(2, expected.ndim))
        # Channels differ in scale; those of zeros alone are compared at a hundredth of the largest scale.
        error, scale = error.max(places), np.maximum(scale.max(places), 0.01 * scale.max())
    else:
        # A few values do not show their channel's scale: they may happen to be near zero.
        scale = scale.max()
    share = float(np.max(error / np.maximum(scale, np.finfo(np.float32).tiny)))
    return f"differs from torch by {share:.1e} of its scale" if share > tolerance else None
