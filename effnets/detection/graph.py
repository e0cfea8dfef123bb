"""A detector as an ONNX graph."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import opset18
from torch.export import Dim

from effnets.deploy.export.torch_exporter import translate
from effnets.detection.static import DROPPED, Static

BOXES, LABELS, SCORES = "boxes", "labels", "scores"
_ALL = "all_"
_NMS = "NonMaxSuppression"
_op: Any = opset18  # typed more narrowly than it is
_TRACED_BATCH, _TRACED_SIZE = 2, (224, 256)  # any that torch.export does not treat specially


def export_graph(module: Static, name: str) -> onnx.ModelProto:
    """Return the graph: ``boxes`` ``[n, 4]``, ``labels`` ``[n]`` and ``scores`` ``[n]`` of one image, best first.

    Without suppression: ``boxes`` ``[N, A, 4]`` and ``scores`` ``[N, A, C]`` of any number of images. Raises
    ExportError if torch's exporter fails.
    """
    height, width = _TRACED_SIZE if module.resizes else module.size
    example = torch.zeros(1 if module.suppresses else _TRACED_BATCH, 3, height, width)
    dims: dict[int, Any] = {} if module.suppresses else {0: Dim.DYNAMIC}
    if module.resizes:
        dims |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    names = [_ALL + BOXES, _ALL + LABELS, _ALL + SCORES] if module.suppresses else [BOXES, SCORES]
    model, _ = translate(
        module, example, dims, names, name, flattens=False, translations={torch.ops.effnets.suppress.default: _suppress}
    )
    for index in dims:
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_param = "NCHW"[index]
    if module.suppresses:
        _cut(model.graph)
    else:
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def with_threshold(model: onnx.ModelProto, before: float, threshold: float) -> onnx.ModelProto:
    """Return a copy of a model that keeps boxes above the score `threshold` instead of `before`."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    model.graph.initializer.append(helper.make_tensor("lower_threshold", TensorProto.FLOAT, [1], [threshold]))
    for node in model.graph.node:
        if node.op_type == _NMS and abs(float(constants[node.input[4]].item()) - before) < 1e-6:
            node.input[4] = "lower_threshold"
    return model


def _suppress(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
    """Write `effnets.detection.static.suppress` in ONNX's operators."""
    most = _op.Gather(_op.Shape(scores), _op.Constant(value_ints=[2]))
    places = _op.NonMaxSuppression(
        boxes,
        scores,
        most,
        _op.Constant(value_floats=[iou_threshold]),
        _op.Constant(value_floats=[score_threshold]),
    )
    dropped = _op.Expand(_op.Constant(value_float=DROPPED), _op.Shape(scores))
    return _op.ScatterND(dropped, places, _op.GatherND(scores, places))


def _cut(graph: onnx.GraphProto) -> None:
    """End the outputs where there are no more boxes."""
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("dropped", TensorProto.FLOAT, [], [0.0]),
    ]
    graph.initializer.extend(constants)
    nodes = [
        helper.make_node("Greater", [_ALL + SCORES, "dropped"], ["is_box"], "cut/Greater"),
        helper.make_node("Cast", ["is_box"], ["one_a_box"], "cut/Cast", to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["one_a_box"], ["count"], "cut/ReduceSum", keepdims=1),
    ]
    del graph.output[:]
    outputs: tuple[tuple[str, int, list[str | int | None]], ...] = (
        (BOXES, TensorProto.FLOAT, ["n", 4]),
        (LABELS, TensorProto.INT64, ["n"]),
        (SCORES, TensorProto.FLOAT, ["n"]),
    )
    for name, kind, sides in outputs:
        nodes.append(helper.make_node("Slice", [_ALL + name, "first", "count"], [name], f"cut/Slice_{name}"))
        graph.output.append(helper.make_tensor_value_info(name, kind, sides))
    graph.node.extend(nodes)
