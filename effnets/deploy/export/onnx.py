"""`export_onnx`: a classifier as one ONNX file, complete and verified."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from torch import nn

from effnets.deploy.export.base import ExportReport, prepare, require_packages
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import FOR_ONNX
from effnets.errors import ArgumentError
from effnets.nn.classifier import require_classifier
from effnets.utils.arguments import check_integer


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    dynamic_size: bool = False,
    preprocess: bool = False,
    optimize: bool | Rewrites = True,
    softmax: bool = False,
    topk: int | None = None,
    embedding: bool = False,
    engine: str = "",
    engines: Sequence[str] | None = None,
) -> ExportReport:
    """Write a classifier as one self-contained ONNX file, after verifying that it computes the same.

    By default it takes ``images``, float32 ``[N, channels, S, S]``, normalized, any N, and returns ``logits``,
    ``[N, num_classes]``. Labels, preprocessing and provenance are in its metadata. `model` is not changed.

    Args:
        model: from `effnets.create_model`, also wrapped by torch.compile or DataParallel, on any device and in any
            dtype; exported in evaluation mode and in float32.
        path: of the file, ending in ``.onnx``; an existing file is replaced once the new one is verified.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        dynamic_size: take images of any size; `image_size` is then the usual one, to which `effnets.predict` resizes.
        preprocess: take uint8 images ``[N, H, W, channels]`` of any size, and resize, crop and normalize them in the
            graph, as `effnets.create_transform` does up to one level of 255 (rarely two). Images over twice as high as
            wide differ in more places from Pillow 13 or later, which resizes these down before across; the graph goes
            across first, as all earlier versions did, with which published weights were measured.
        optimize: rewrite the network first (`effnets.optimize`), by the preset of `engine`, or by a `Rewrites`.
        softmax: add the output ``probabilities`` ``[N, num_classes]``; of labels their sigmoid.
        topk: add the outputs ``top_probabilities`` and ``top_indices`` ``[N, topk]``; includes `softmax`.
        embedding: add the output ``embedding`` ``[N, D]``, for `effnets.embed`: the classifier's input, or of networks
            trained to embed (``classifier_activation`` l2) their output, of length 1.
        engine: ``onnxruntime`` or ``openvino``, for which the network is rewritten and which `effnets.load_engine`
            then prefers; either executes the file correctly. Empty: rewritten for ONNX Runtime, no preference stated.
        engines: on which the file is verified; None: on ONNX Runtime, and on OpenVINO if that is installed.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, or an argument is out of range.
        VerificationError: if the file would not compute what the model does; says where the first difference is.
        ExportError: if torch cannot export the model, or the file cannot be written.
        EngineError: if a package that exporting needs is missing.
    """
    if preprocess and dynamic_size:
        raise ArgumentError("preprocess=True brings images to one size, dynamic_size contradicts it; leave one out")
    engines = check_engines(engines)
    check_engine(engine)
    if topk is not None:
        classes = require_classifier(model).num_outputs
        if check_integer("topk", topk, 1, "it must be at least 1") > classes:
            raise ArgumentError(f"topk is {topk}, but the model has {classes} classes")
    made = prepare(
        model,
        path,
        ".onnx",
        image_size=image_size,
        dynamic_size=dynamic_size,
        input_kind="uint8" if preprocess else "normalised",
        optimize=optimize,
        engine=engine or "onnxruntime",
        preferred=engine,
        embedding=embedding,
        probabilities=softmax or topk is not None,
        checks_rewrites=False,
    )

    from onnx.helper import set_model_props

    from effnets.deploy.export.graph import export_graph
    from effnets.deploy.export.verify_onnx import verify

    graph = export_graph(made.rewritten, made.metadata, softmax=softmax, topk=topk)
    set_model_props(graph.model, made.metadata.to_properties())
    errors = verify(graph, made.original, made.rewritten, made.metadata, engines)
    return made.write(graph.model.SerializeToString(), errors)


def check_engine(engine: str) -> None:
    """Raise ArgumentError unless a file can be made for `engine`; empty is no preference."""
    if engine not in ("", "onnxruntime", "openvino"):
        raise ArgumentError(f"engine is {engine!r}; choose onnxruntime or openvino, or leave it out")


def check_engines(engines: Sequence[str] | None) -> Sequence[str]:
    """Return the engines to verify on; None: ONNX Runtime, and OpenVINO if it is installed.

    Raises EngineError without a package that exporting needs, ArgumentError for no engine or one that reads no ONNX.
    """
    require_packages(("onnx", "onnxscript", "onnxruntime"), "export")
    if engines is None:
        return ["onnxruntime", *(["openvino"] if find_spec("openvino") else [])]
    if not engines:
        raise ArgumentError("engines is empty; name at least one, onnxruntime or openvino")
    if unknown := [name for name in engines if name not in FOR_ONNX]:
        raise ArgumentError(f"engines has {unknown[0]!r}; choose from {', '.join(FOR_ONNX)}")
    return engines
