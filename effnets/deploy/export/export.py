"""`export`: a classifier as a verified file, in the format that its suffix names."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from effnets.deploy.export.base import ExportReport
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.errors import ArgumentError

# Suffix → the function that writes it, imported when it is called.
FORMATS = {
    ".onnx": "effnets.deploy.export.onnx:export_onnx",
    ".xml": "effnets.deploy.export.openvino:export_openvino",
    ".tflite": "effnets.deploy.export.litert:export_litert",
    ".pte": "effnets.deploy.export.executorch:export_executorch",
    ".mlpackage": "effnets.deploy.export.coreml:export_coreml",
    ".pt2": "effnets.deploy.export.torch_package:export_package",
}
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

    Raises:
        ArgumentError: if the suffix is none of these, or the format does not have an option.
        VerificationError, ExportError, EngineError: as of `effnets.export_onnx`.
    """
    writer, given = writer_of(path), {"image_size": image_size, "optimize": optimize}
    given |= {"dynamic_size": dynamic_size, "preprocess": preprocess, "softmax": softmax, "topk": topk}
    suffix = Path(path).suffix.lower()
    defaults = inspect.signature(export).parameters
    options = {
        name: value
        for name, value in given.items()
        if value is not defaults[name].default and name not in _ALWAYS.get(suffix, ())
    }
    possible = inspect.signature(writer).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in possible.values())
    if unknown := [name for name in options if name not in possible and not takes_all]:
        raise ArgumentError(f"{unknown[0]} is not possible for {suffix} files; leave it out, or export to .onnx")
    return writer(model, path, **options)


def writer_of(path: str | os.PathLike[str]) -> Callable[..., ExportReport]:
    """Return the function that writes files of that suffix; raises ArgumentError if there is none."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ArgumentError(f"path is {os.fspath(path)!r}; give the file one of the suffixes {', '.join(FORMATS)}")
    module, _, name = FORMATS[suffix].partition(":")
    writer: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return writer
