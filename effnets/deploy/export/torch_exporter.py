"""Any module as an ONNX graph, by torch's own exporter."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from effnets.deploy.export.onnx_writer import INPUT, LOGITS
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ExportError
from effnets.utils.quiet import quiet_exporters

_SCOPES = "pkg.torch.onnx.name_scopes"
# Any size that torch.export does not treat specially, unlike 0, 1 and equal sides.
_TRACED_BATCH, _TRACED_SIZE = 2, (224, 256)


def translate_classifier(network: nn.Module, metadata: ModelMetadata) -> tuple[onnx.ModelProto, ExportedProgram]:
    """Return a float32 classifier as `translate` does, for any number of images, and any size if metadata say so."""
    dynamic = metadata.size is None
    height, width = metadata.size or _TRACED_SIZE
    example = torch.zeros(_TRACED_BATCH, metadata.channels, height, width)
    dims = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if dynamic else {0: Dim.DYNAMIC}
    model, program = translate(network, example, dims, [LOGITS], metadata.model)
    for index, name in ((0, "N"), (2, "H"), (3, "W")) if dynamic else ((0, "N"),):
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_param = name
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return model, program


def translate(
    network: nn.Module,
    example: Tensor,
    dims: Mapping[int, Any],
    outputs: Sequence[str],
    name: str,
    *,
    flattens: bool = True,
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> tuple[onnx.ModelProto, ExportedProgram]:
    """Return a module of one input as an ONNX model, and the program in torch's own operators that it was made from.

    Args:
        example: an input.
        dims: its dynamic dimensions.
        outputs: names of the module's outputs.
        name: of the graph, and in messages.
        flattens: whether what is reshaped to two dimensions is flattened to [N, C], as in classifiers.
        translations: operators of our own, and what writes them in ONNX's.

    Raises:
        ExportError: if torch's exporter fails.
    """
    try:
        with quiet_exporters():
            # torch.export excludes sizes whose final maps have one pixel, because broadcasting could depend on them;
            # they are right in the ONNX graph, and the verification tries them.
            exported = torch.export.export(network, (example,), dynamic_shapes=(dims,), strict=False)
            program = torch.onnx.export(
                exported,
                (),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(outputs),
                optimize=False,
                verbose=False,
                custom_translation_table=dict(translations or {}),
            )
            assert program is not None
            _tidy(program, flattens)
    except Exception as error:  # torch and onnxscript raise all kinds
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ExportError(f"{name}: torch cannot export it: {reason}") from error
    model = onnx_ir.to_proto(program.model)
    _rename_nodes(model.graph)
    _drop_traces(model)
    model.producer_name, model.graph.name = "effnets", name
    assert program.exported_program is not None
    return model, program.exported_program


def _tidy(program: torch.onnx.ONNXProgram, flattens: bool) -> None:
    """Fold constants and drop unused nodes.

    The exporter's own optimization does more, but `effnets.optimize` has fused those patterns already, and the search
    for them takes as long as the export.
    """
    model = program.model
    passes.InlinePass()(model)
    onnxscript.optimizer.fold_constants(model)
    for node in model.graph:
        # Flattening to [N, C], which a dynamic N turned into arithmetic on shapes.
        if flattens and node.op_type == "Reshape" and len(node.outputs[0].shape or ()) == 2:
            node.op_type = "Flatten"
        elif node.op_type == "ReduceMean" and _is_pooling(node):
            # ONNX Runtime computes this operator in the blocked layout of convolutions.
            node.op_type = "GlobalAveragePool"
        else:
            continue
        node.resize_inputs(1)
        node.attributes.clear()
    passes.RemoveUnusedNodesPass()(model)
    onnxscript.optimizer.fold_constants(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.CommonSubexpressionEliminationPass()(model)


def _is_pooling(node: onnx_ir.Node) -> bool:
    """Return whether a mean reduces height and width, and keeps them as dimensions of 1."""
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
    keeps = node.attributes.get_int("keepdims", 1)
    return bool(keeps) and axes is not None and sorted(axis % 4 for axis in axes.numpy().tolist()) == [2, 3]


def _rename_nodes(graph: onnx.GraphProto) -> None:
    """Name each node after its module: ``stages.1.0.expand.bn/Conv``."""
    taken: dict[str, int] = {}
    scopes: list[str]
    for node in graph.node:
        # Python's spelling of a list: ['', 'stages', 'stages.1', …, 'aten.conv2d'].
        scopes = next((ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == _SCOPES), [])
        module = scopes[-2] if len(scopes) > 1 else ""
        name = f"{module}/{node.op_type}"
        count = taken[name] = taken.get(name, 0) + 1
        node.name = name if count == 1 else f"{name}_{count}"


def _drop_traces(model: onnx.ModelProto) -> None:
    """Drop stack traces, which contain paths of the exporting machine."""
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del graph.value_info[:]
