"""A small ONNX model without an exporter: mean colors, times a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from effnets.engines.metadata import ModelMetadata
from effnets.spec.specs import PreprocessSpec

MATRIX = np.array([[1, 0, 0, -1], [0, 2, 0, 1], [0, 0, 3, 0.5]], np.float32)


def describe(**changes: Any) -> ModelMetadata:
    facts: dict[str, Any] = {"model": "mean", "family": "toy", "labels": ("red", "green", "blue", "other")}
    return ModelMetadata(**{**facts, "preprocess": PreprocessSpec(input_size=32), "size": (32, 32), **changes})


def write(path: Path, description: ModelMetadata | None = None) -> Path:
    """Write the file, without metadata if `description` is None."""
    sides: list[Any] = ["N", 3, *(description.size if description and description.size else ("H", "W"))]
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
        ],
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(MATRIX, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if description:
        helper.set_model_props(model, description.to_properties())
    path.write_bytes(model.SerializeToString())
    return path
