"""Exporters without their prints, logs and warnings."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.export import Dim, ExportedProgram

from effnets.deploy.export.graph_preprocess import prepend_preprocessing
from effnets.engines.metadata import Description
from effnets.errors import ExportError


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep from the user what exporters print, log and warn of: the verification is what counts."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


INPUT, NORMALISED, LOGITS = "images", "normalised", "logits"
PROBABILITIES, TOP_PROBABILITIES, TOP_INDICES = "probabilities", "top_probabilities", "top_indices"

_SCOPES = "pkg.torch.onnx.name_scopes"
# Any size would do, but one that torch.export need not think special: 0 and 1 are, and so are equal sides.
_TRACED_BATCH, _TRACED_SIZE = 2, (224, 256)


@dataclass(frozen=True, slots=True)
class NetworkGraph:
    """An ONNX model, and the program in torch's own operators that it was made from.

    Values of the graph have the names of the program's, as far as both have them. `network_input` is the value that
    enters the network proper: the graph's input, or what preprocessing makes of it.
    """

    model: onnx.ModelProto
    program: ExportedProgram
    network_input: str


def export_graph(
    network: nn.Module, description: Description, *, softmax: bool = False, topk: int | None = None
) -> NetworkGraph:
    """Export a float32 network on the CPU in evaluation mode, with the input and the outputs that are asked for.

    Raises:
        ExportError: torch's exporter fails.
    """
    dynamic = description.size is None
    height, width = description.size or _TRACED_SIZE
    example = torch.zeros(_TRACED_BATCH, description.channels, height, width)
    dims = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if dynamic else {0: Dim.DYNAMIC}
    try:
        with silence():
            # The sizes that torch.export thinks too small for this program (final maps of one place, on which
            # broadcasting could hinge) are right in the ONNX graph; the verification tries them.
            exported = torch.export.export(network, (example,), dynamic_shapes=(dims,), strict=False)
            program = torch.onnx.export(
                exported, (), dynamo=True, input_names=[INPUT], output_names=[LOGITS], optimize=False, verbose=False
            )
            assert program is not None
            _tidy(program)
    except Exception as error:  # whatever torch and onnxscript stumble over
        first = str(error).strip().split("\n", 1)[0][:300]
        raise ExportError(f"{description.model}: torch cannot export it: {type(error).__name__}: {first}") from error
    model = onnx_ir.to_proto(program.model)
    _rename_nodes(model.graph)
    _forget_the_making(model)
    model.producer_name, model.graph.name = "effnets", description.model
    _state_dimensions(model.graph, dynamic)
    if softmax or topk:
        _append_probabilities(model.graph, topk)
    network_input = INPUT
    if description.input_kind == "uint8":
        network_input = NORMALISED
        prepend_preprocessing(model.graph, INPUT, NORMALISED, description)
    assert program.exported_program is not None
    return NetworkGraph(model, program.exported_program, network_input)


def _tidy(program: torch.onnx.ONNXProgram) -> None:
    """Fold constants and drop what nobody reads.

    Not all that the exporter's own optimisation does: what it fuses `effnets.optimize` has fused before, and its search
    for patterns takes as long as the export.
    """
    model = program.model
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model)
    for node in model.graph:
        # Flattening to [N, C], which a dynamic N has turned into arithmetic on shapes.
        if node.op_type == "Reshape" and _rank(node.outputs[0]) == 2:
            node.op_type = "Flatten"
            node.resize_inputs(1)
            node.attributes.clear()
        elif node.op_type == "ReduceMean" and _is_pooling(node):
            # ONNX Runtime computes it in the blocked layout that convolutions leave maps in.
            node.op_type = "GlobalAveragePool"
            node.resize_inputs(1)
            node.attributes.clear()
    passes.RemoveUnusedNodesPass()(model)
    onnxscript.optimizer.fold_constants(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.CommonSubexpressionEliminationPass()(model)


def _rank(value: onnx_ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _is_pooling(node: onnx_ir.Node) -> bool:
    """Whether a mean goes over height and width, and leaves them as ones."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    keeps = node.attributes.get_int("keepdims", 1)
    return bool(keeps) and axes is not None and sorted(axis % 4 for axis in axes.numpy().tolist()) == [2, 3]


def _rename_nodes(graph: onnx.GraphProto) -> None:
    """Call each node after the module it belongs to: ``stages.1.0.expand.bn/Conv``."""
    taken: dict[str, int] = {}
    for node in graph.node:
        scopes = next((json_list(entry.value) for entry in node.metadata_props if entry.key == _SCOPES), [])
        module = scopes[-2] if len(scopes) > 1 else ""
        name = f"{module}/{node.op_type}"
        count = taken[name] = taken.get(name, 0) + 1
        node.name = name if count == 1 else f"{name}_{count}"


def json_list(text: str) -> list[str]:
    """A list that Python printed, ``['', 'stem']``, which JSON would write with other quotes."""
    try:
        return list(json.loads(text.replace("'", '"')))
    except ValueError:
        return []


def _forget_the_making(model: onnx.ModelProto) -> None:
    """Drop stack traces, and with them the paths of the machine that exported."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del graph.value_info[:]


def _state_dimensions(graph: onnx.GraphProto, dynamic: bool) -> None:
    sides = zip(graph.input[0].type.tensor_type.shape.dim, ("N", "", "H", "W"), strict=True)
    for index, (dimension, name) in enumerate(sides):
        if index == 0 or (dynamic and name):
            dimension.dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"


def _append_probabilities(graph: onnx.GraphProto, topk: int | None) -> None:
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], "probabilities/Softmax", axis=1))
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", classes]))
    if topk:
        graph.initializer.append(helper.make_tensor("topk", TensorProto.INT64, [1], [topk]))
        outputs = [TOP_PROBABILITIES, TOP_INDICES]
        graph.node.append(helper.make_node("TopK", [PROBABILITIES, "topk"], outputs, "top/TopK", axis=1))
        for name, kind in zip(outputs, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
            graph.output.append(helper.make_tensor_value_info(name, kind, ["N", topk]))
