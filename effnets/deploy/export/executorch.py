"""`export_executorch`: a classifier as an ExecuTorch program (``.pte``) for XNNPACK, verified."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from effnets.deploy.export.base import ExportReport, prepare, require_packages
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata, label_lines
from effnets.errors import ExportError
from effnets.utils.quiet import quiet_exporters, quiet_native


def export_executorch(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    preprocess: bool = False,
    optimize: bool | Rewrites = True,
    softmax: bool = False,
    embedding: bool = False,
) -> ExportReport:
    """Write a classifier as an ExecuTorch program, for Android, iOS and small boxes, after verifying it.

    Its method ``forward`` takes one image, float32 ``[1, channels, H, W]``, normalized, and returns logits
    ``[1, num_classes]``, computed by XNNPACK. The method ``labels`` returns the names of the classes, one a line, and
    ``metadata`` effnets' own, in JSON.

    Args:
        model: as of `effnets.export_onnx`.
        path: of the file, ending in ``.pte``; an existing file is replaced once the new one is verified.
        image_size: side of the input in pixels, or (height, width); None takes that of the weights.
        preprocess: take uint8 images ``[1, H, W, channels]``, resized and cropped already, and normalize them.
        optimize: rewrite the network first, by the preset of ExecuTorch, or by a `Rewrites`.
        softmax: return probabilities ``[1, num_classes]`` after the logits.
        embedding: return the classifier's input ``[1, D]`` after the logits, before probabilities.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, or an argument is out of range.
        VerificationError: if the file would not compute what the model does.
        ExportError: if the model cannot be converted, or the file cannot be written.
        EngineError: if a package that exporting needs is missing.
    """
    require_packages(("executorch",), "executorch")
    made = prepare(
        model,
        path,
        ".pte",
        image_size=image_size,
        input_kind="pixels" if preprocess else "normalised",
        optimize=optimize,
        engine="executorch",
        preferred="executorch",
        embedding=embedding,
        probabilities=softmax,
    )
    from effnets.deploy.export.verify import Reference, verify_file
    from effnets.engines.executorch import ExecuTorchEngine

    data = convert(made.module, made.metadata, softmax=softmax)
    required = {"the labels": label_lines(made.metadata).encode()}
    error = verify_file(ExecuTorchEngine(data), data, Reference.of(made), made.metadata, required, softmax=softmax)
    return made.write(data, {"executorch": error})


def convert(network: nn.Module, metadata: ModelMetadata, *, softmax: bool = False) -> bytes:
    """Return a float32 network as an ExecuTorch program; raises ExportError if it cannot be converted."""
    from effnets.deploy.export.image_input import ImageInput

    module = ImageInput(network, metadata, channels_last=False, softmax=softmax).eval()
    return lower(module, module.example(metadata), metadata)


def lower(module: nn.Module, example: Tensor, metadata: ModelMetadata) -> bytes:
    """Return a module that takes images like `example` as a program with metadata; raises as `convert`."""
    from effnets.engines.executorch import LABELS, METADATA

    methods = {METADATA: metadata.to_json(), LABELS: label_lines(metadata)}
    try:
        with quiet_exporters(), quiet_native():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(module, (example,), strict=False)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=methods)
            return bytes(lowered.to_executorch().buffer)
    except Exception as error:  # of torch or the converter
        raise ExportError(f"{metadata.model}: executorch cannot convert it: {first_line(error)}") from error
