"""`export_package`: a classifier compiled ahead of time to an AOTInductor package (``.pt2``), verified."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from effnets.deploy.export.base import ExportReport, prepare
from effnets.deploy.optimize.rewrites import Rewrites
from effnets.engines.base import first_line
from effnets.engines.metadata import ModelMetadata
from effnets.engines.torch import PACKAGE_METADATA, PackageEngine
from effnets.errors import ExportError, VerificationError
from effnets.utils.quiet import EXPORTING

_TOLERANCE = 1e-4


def export_package(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    optimize: bool | Rewrites = True,
) -> ExportReport:
    """Compile a classifier ahead of time to a ``.pt2`` package, verified, for `effnets.load_engine`.

    It takes float32 images ``[N, channels, H, W]``, normalized, of any N. Compiling needs a C++ compiler.

    Raises:
        ArgumentError: if `model` is not a classifier with outputs, or an argument is out of range.
        ExportError: if torch cannot compile it, or the file cannot be written.
        VerificationError: if the package computes something else.
    """
    made = prepare(model, path, ".pt2", image_size=image_size, optimize=optimize, engine="aotinductor")
    metadata = made.metadata
    example = torch.randn(2, metadata.channels, *metadata.image_size, generator=torch.Generator().manual_seed(0))
    try:
        with tempfile.TemporaryDirectory() as folder:
            package = _compile(made.module, example, metadata, Path(folder) / "model.pt2")
            error = _compare(PackageEngine(package), made.original, example, metadata)
            data = package.read_bytes()
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None
    return made.write(data, {"aotinductor": error})


def _compile(module: nn.Module, example: Tensor, metadata: ModelMetadata, path: Path) -> Path:
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    configs = {"aot_inductor.metadata": {PACKAGE_METADATA: json.dumps(metadata.to_properties())}, "freezing": True}
    try:
        with EXPORTING:
            program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
        made = torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except Exception as error:  # of export, of Inductor, or the compiler's
        raise ExportError(f"{metadata.model}: torch cannot compile it: {first_line(error)}") from error
    return Path(str(made))


def _compare(engine: PackageEngine, original: nn.Module, images: Tensor, metadata: ModelMetadata) -> float:
    """Compare batches of one and of several images with the network in float64; return the largest error."""
    from effnets.deploy.export.verify import relative_error

    if engine.description.to_properties() != metadata.to_properties():
        raise VerificationError(f"{metadata.model}: not exported: its metadata differs when read back")
    errors = []
    for batch in (images[:1], images, images.repeat(2, 1, 1, 1)):
        with torch.inference_mode():
            expected = original(batch.double()).numpy()
        errors.append(relative_error(engine(batch.numpy()), expected))
        if not errors[-1] <= _TOLERANCE:
            raise VerificationError(f"{metadata.model}: not exported: the package is off by {errors[-1]:.1e}")
    return max(errors)
