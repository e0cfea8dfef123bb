"""An exported program run again in float64, operator by operator: the values that an ONNX graph ought to have."""

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
from effnets.engines.metadata import Description

# Called with the name of each value that a tensor operator computed; its result is what later operators are given.
Watch = Callable[[str, Tensor], Tensor]


class Replay(fx.Interpreter):
    """Runs the program on float64 images; `watch` sees, and may replace, every tensor on its way to its readers."""

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
        """Logits ``[N, C]`` in float64."""
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


# float32 is off by some 1e-6 of what a channel holds; a fault worth the name is not.
_TOLERANCE = 3e-5
_DIVERGENCE = 1e-3  # of values in their context, where rounding has added up
_ENOUGH_PLACES = 16
_CUT = "/cut"
_NOISE_MEAN, _NOISE_SPREAD = 1.0, 3.0
_ANY_SIZE = (65, 97)  # odd, where paddings and roundings differ
_ERRORS_ONLY = 4


@dataclass(frozen=True, slots=True)
class NodeFault:
    """The first node, in the graph's order, whose output is not what torch computes from the same inputs."""

    node: str
    operator: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node} ({self.operator}, output {self.value}): {self.reason}"


def find_faulty_node(graph: NetworkGraph, description: Description, *, seed: int = 0) -> NodeFault | None:
    """Compare all nodes of the network proper; None if each computes what torch does."""
    height, width = description.size or _ANY_SIZE
    replay = Replay(graph.program)
    # The program has names of its own for what enters and leaves it.
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

    Replay(graph.program, watch)(torch.zeros(1, description.channels, height, width))
    try:
        found = _run_cut(graph, cut, list(expected))
    except Exception as error:  # a piece that does not even run; the engine names its node
        return NodeFault("unknown", "-", "-", " ".join(str(error).split())[:300])
    for name, node in order.items():
        if name in expected and (reason := _difference(expected[name], found[name])):
            return NodeFault(node.name, node.op_type, name, reason)
    return None


def find_divergence(
    graph: NetworkGraph, engine: str, images: NDArray[Any], inputs: NDArray[np.float32], description: Description
) -> str:
    """Where an engine, though every node is right by itself, first departs from torch: a sentence for the error.

    `inputs` is what preprocessing in the graph, if there is any, makes of `images`.
    """
    expected: dict[str, NDArray[np.float64]] = {}

    def watch(name: str, value: Tensor) -> Tensor:
        expected[name] = value.numpy()
        return value

    Replay(graph.program, watch)(torch.from_numpy(inputs))
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    order = {name: node for node in model.graph.node for name in node.output if name in expected}
    outputs = [name for name in order if name != LOGITS]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs)
    found = load_onnx(model.SerializeToString(), description, engine).run(images)
    for name, node in order.items():
        if name in found and (reason := _difference(expected[name], found[name], _DIVERGENCE)):
            return f"first at {NodeFault(node.name, node.op_type, name, reason)}"
    return "every node by itself is right, so the engine's own fusing must be wrong"


def _run_cut(
    graph: NetworkGraph, cut: dict[str, NDArray[np.float32]], wanted: list[str]
) -> dict[str, NDArray[np.float32]]:
    """The `wanted` values of the graph, in which whoever reads a value of `cut` reads the array given there."""
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
    """What is wrong with `found`; None if nothing."""
    if expected.shape != found.shape:
        return f"has shape {list(found.shape)}, where torch has {list(expected.shape)}"
    if not np.isfinite(found).all():
        return "is not finite"
    error, scale = np.abs(found - expected), np.abs(expected)
    if expected.ndim > 2 and expected[0, 0].size >= _ENOUGH_PLACES:
        places = (0, *range(2, expected.ndim))
        # Channels differ in scale; those of nothing but zeros are held to a hundredth of the others'.
        error, scale = error.max(places), np.maximum(scale.max(places), 0.01 * scale.max())
    else:
        # One value says nothing of its channel's scale: it may happen to be near zero.
        scale = scale.max()
    share = float(np.max(error / np.maximum(scale, np.finfo(np.float32).tiny)))
    return f"differs from torch by {share:.1e} of its scale" if share > tolerance else None
