"""`export`: a classifier as a verified file, in the format that its suffix names."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from effnets.deploy.export.base import ExportReport
from effnets.deploy.export.metadata import describe
from effnets.deploy.optimize.optimize import optimize as rewrite
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import FOR_ONNX
from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError
from effnets.nn.classifier import Classifier
from effnets.utils.arguments import check_size

# Suffix → the function that writes it, imported when it is called.
FORMATS = {
    ".onnx": "effnets.deploy.export.onnx:export_onnx",
    ".xml": "effnets.deploy.export.openvino:export_openvino",
    ".tflite": "effnets.deploy.export.litert:export_litert",
    ".pte": "effnets.deploy.export.executorch:export_executorch",
    ".mlpackage": "effnets.deploy.export.coreml:export_coreml",
    ".pt2": "effnets.deploy.export.torch_package:export_package",
}
_EXTRAS = {".tflite": "litert", ".pte": "executorch", ".mlpackage": "coreml"}  # of effnets; else export
# What a format does, whether asked to or not.
_ALWAYS = {".mlpackage": ("preprocess", "softmax")}


def export(
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
) -> ExportReport:
    """Write a classifier as a verified file for the place that the suffix of `path` names.

    ``.onnx`` for servers and browsers (`effnets.export_onnx`), ``.xml`` for OpenVINO, ``.tflite`` for LiteRT, ``.pte``
    for ExecuTorch, ``.pt2`` for PyTorch's AOTInductor; `effnets.load_engine` executes them all. ``.mlpackage`` is for
    Core ML, on Apple's systems alone.

    Args:
        model: from `effnets.create_model`; it is not changed.
        path: of the file; an existing file is replaced once the new one is verified.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        dynamic_size: take images of any size; for ``.onnx`` and ``.xml``.
        preprocess: take uint8 images. ``.onnx`` and ``.xml`` resize, crop and normalize them; ``.tflite`` and ``.pte``
            take them resized and cropped, and normalize them, as ``.mlpackage`` does in any case.
        optimize: rewrite the network first, by the preset of the engine, or by a `Rewrites`.
        softmax: add the output ``probabilities``; not for ``.pt2``; ``.mlpackage`` returns them in any case.
        topk: add the outputs ``top_probabilities`` and ``top_indices``; for ``.onnx`` and ``.xml``.
        embedding: add the output ``embedding``, the classifier's input, for `effnets.embed`; not for ``.pt2`` and
            ``.mlpackage``.
        engine: for which an ``.onnx`` file is rewritten, as of `effnets.export_onnx`.

    Raises:
        ArgumentError: if the suffix is none of these, or the format does not have an option.
        VerificationError, ExportError, EngineError: as of `effnets.export_onnx`.
    """
    writer, suffix = writer_of(path), Path(path).suffix.lower()
    given: dict[str, Any] = {"image_size": image_size, "dynamic_size": dynamic_size, "preprocess": preprocess}
    given |= {"optimize": optimize, "softmax": softmax, "topk": topk, "embedding": embedding, "engine": engine}
    defaults, always = inspect.signature(export).parameters, _ALWAYS.get(suffix, ())
    options = {name: value for name, value in given.items() if value != defaults[name].default and name not in always}
    possible = inspect.signature(writer).parameters
    if unknown := [name for name in options if name not in possible]:
        raise ArgumentError(f"{unknown[0]} is not possible for {suffix} files; leave it out, or export to .onnx")
    return writer(model, path, **options)


def writer_of(path: str | os.PathLike[str]) -> Callable[..., ExportReport]:
    """Return the function that writes files of that suffix.

    Raises ArgumentError if no format has it, EngineError if its packages are missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ArgumentError(f"path is {os.fspath(path)!r}; give the file one of the suffixes {', '.join(FORMATS)}")
    module, _, name = FORMATS[suffix].partition(":")
    try:
        writer: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(suffix, "export")
        raise EngineError(f"{suffix} files need {error.name}; install with: pip install 'effnets[{extra}]'") from None
    return writer


def export_bytes(
    network: Classifier,
    rewrites: Rewrites | None,
    image_size: int | tuple[int, int] | None = None,
    engine: str = "onnxruntime",
) -> tuple[bytes, ModelMetadata]:
    """Return what `export` would write for `engine` with `rewrites` (None for no rewrites), and its metadata.

    It is not verified. It takes normalized images of `image_size`, None for the network's own; `load_bytes` loads it.
    Raises ExportError if the network cannot be exported.
    """
    size = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    metadata = describe(network, size=size, input_kind="normalised", rewrites=rewrites)
    # In float64, as `export` rewrites, so that folding rounds once.
    original = copy.deepcopy(network).cpu().double().eval().requires_grad_(False)
    module = rewrite(original, rewrites) if rewrites else original
    return convert(module.float(), metadata, engine), metadata


def convert(module: nn.Module, metadata: ModelMetadata, engine: str) -> bytes:
    """Return the file of any classifier in float32 for `engine`, not verified; raises ExportError if that fails."""
    if engine in FOR_ONNX:
        from effnets.deploy.export.graph import export_graph

        return bytes(export_graph(module, metadata).model.SerializeToString())
    made = importlib.import_module(f"effnets.deploy.export.{engine}").convert(module, metadata)
    return bytes(made)
