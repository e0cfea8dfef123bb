"""Engines of torch's own: the network itself, compiled or not, and AOTInductor's packages, ``.pt2``."""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from effnets.deploy.export.metadata import describe
from effnets.deploy.export.output import check_place
from effnets.deploy.optimize.optimize import optimize as rewrite
from effnets.deploy.optimize.rewrites import Rewrites, preset
from effnets.engines.base import Engine, Precision
from effnets.engines.metadata import Description
from effnets.errors import ArgumentError, EngineError, ExportError, MissingFileError, VerificationError, WeightsError
from effnets.nn.classifier import require_classifier
from effnets.utils.arguments import check_size
from effnets.utils.atomic_file import write_whole

_METADATA = "effnets"
_TOLERANCE = 1e-4


class TorchEngine(Engine):
    """A classifier in memory, rewritten for torch, perhaps with torch.compile, which takes minutes at the first call.

    The network is copied: what happens to `model` later has no effect. `threads` is torch's, for the whole process.
    With bfloat16 it computes under autocast.

    Raises:
        ArgumentError: `model` is no classifier with outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        compiled: bool = False,
        precision: Precision = "float32",
        threads: int | None = None,
        rewrites: Rewrites | None = None,
    ) -> None:
        network = require_classifier(model)
        name = "torch-compile" if compiled else "torch"
        rewrites = preset(name) if rewrites is None else rewrites
        description = describe(network, size=None, input_kind="normalised", rewrites=rewrites)
        super().__init__(name, description, precision, threads)
        rewritten = rewrite(copy.deepcopy(network).cpu().float().eval(), rewrites)
        self._forward: Callable[..., Any] = rewritten
        if compiled:
            # Weights are constants of an engine.
            self._forward = torch.compile(rewritten, options={"freezing": True})

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        _use_threads(self.threads)
        bfloat16 = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), engine_errors(self.name):
            return {"logits": self._forward(torch.from_numpy(images)).float().numpy()}


class PackageEngine(Engine):
    """A package that `export_package` wrote. It holds machine code, so it runs on machines like the one that made it.

    Raises:
        MissingFileError, WeightsError: no such file, or it is no package of effnets.
        EngineError: torch cannot load it.
    """

    def __init__(self, path: Path, *, precision: Precision = "float32", threads: int | None = None) -> None:
        if not path.is_file():
            raise MissingFileError(f"{path}: no such exported model")
        if precision != "float32":
            raise ArgumentError(f"{path}: a package computes in the precision it was made for, float32")
        try:
            self._package = torch._inductor.aoti_load_package(str(path))
            properties = json.loads(self._package.get_metadata().get(_METADATA, "{}"))
        except Exception as error:  # of a zip reader, a dynamic loader, or C++
            raise EngineError(f"{path}: torch cannot load it: {str(error).strip().splitlines()[0][:300]}") from None
        if not isinstance(properties, dict):
            raise WeightsError(f"{path}: its metadata is damaged; export the model again")
        super().__init__("aotinductor", Description.from_properties(properties, str(path)), precision, threads)

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        _use_threads(self.threads)
        with torch.inference_mode(), engine_errors(self.name):
            return {"logits": self._package(torch.from_numpy(images)).numpy()}


def export_package(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    optimize: bool | Rewrites = True,
) -> Path:
    """Compile a classifier ahead of time to a ``.pt2`` package, verified, for `effnets.load_engine`.

    It takes float32 images ``[N, channels, H, W]``, normalised, of any N. A C++ compiler is needed.

    Raises:
        ArgumentError: `model` is no classifier with outputs, or an argument has a value it cannot take.
        ExportError: torch cannot compile it, or the file cannot be written.
        VerificationError: the package computes something else.
    """
    path = Path(path)
    if path.suffix.lower() != ".pt2":
        raise ArgumentError(f"path is {str(path)!r}; give the file the suffix .pt2")
    check_place(path)
    network = require_classifier(model)
    height, width = check_size(network.spec.input_size if image_size is None else image_size, "image_size")
    rewrites = optimize if isinstance(optimize, Rewrites) else preset("aotinductor") if optimize else None
    description = describe(network, size=(height, width), input_kind="normalised", rewrites=rewrites)
    original = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    module = rewrite(original, rewrites) if rewrites else original
    example = torch.randn(2, network.in_chans, height, width, generator=torch.Generator().manual_seed(0))
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = _compile(module, example, description, Path(folder) / "model.pt2")
            _compare(PackageEngine(made), original, example)
            write_whole(path, made.read_bytes())
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


def _compile(module: nn.Module, example: Tensor, description: Description, path: Path) -> Path:
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    configs = {
        "aot_inductor.metadata": {_METADATA: json.dumps(description.to_properties())},
        "freezing": True,
    }
    try:
        program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
        made = torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except Exception as error:  # of export, of Inductor, or the compiler's
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise ExportError(f"{description.model}: torch cannot compile it: {reason}") from error
    return Path(str(made))


def _compare(engine: Engine, original: nn.Module, images: Tensor) -> None:
    """Batches of one and of several against the network in float64."""
    reference = copy.deepcopy(original).double()
    for batch in (images[:1], images, images.repeat(2, 1, 1, 1)):
        with torch.inference_mode():
            expected = reference(batch.double()).numpy()
        error = float(np.abs(engine(batch.numpy()) - expected).max() / np.abs(expected).max())
        if not error <= _TOLERANCE:
            raise VerificationError(f"{engine.description.model}: not exported: the package is off by {error:.1e}")


@contextmanager
def engine_errors(name: str) -> Iterator[None]:
    """Turn what torch raises into an EngineError of one line; compilers and kernels have classes of their own."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(f"{name} failed: {lines[0][:300]}") from None


def _use_threads(threads: int | None) -> None:
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
