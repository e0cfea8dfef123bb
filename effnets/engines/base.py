"""One interface over everything that executes an exported model, and `load_engine`. Free of torch."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from effnets.engines.metadata import Description
from effnets.errors import ArgumentError, EngineError
from effnets.utils.arguments import check_integer

if TYPE_CHECKING:
    from torch import nn


Precision = Literal["float32", "bfloat16"]

# Engine → the package that has it. The first three and OpenVINO read .onnx, AOTInductor .pt2, torch a module.
ENGINES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "openvino": "openvino",
    "aotinductor": "torch",
    "torch": "torch",
    "torch-compile": "torch",
}
FOR_ONNX = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino")
_FOR_MODULES = ("torch", "torch-compile")


class Engine(ABC):
    """Executes a model: `engine(images)` gives the logits, float32 ``[N, C]``.

    Images are float32 ``[N, channels, H, W]``, normalised; or, where the file preprocesses by itself
    (``description.input_kind``), uint8 ``[N, H, W, channels]`` of any size.

    Attributes:
        name: of `ENGINES`. precision, threads: as asked for; threads None is the engine's own choice.
        description: labels, preprocessing and provenance of the model.
    """

    def __init__(self, name: str, description: Description, precision: Precision, threads: int | None) -> None:
        self.name = name
        self.description = description
        self.precision = precision
        self.threads = threads

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Logits ``[N, C]``. Raises ArgumentError if the images have another shape or type than the class says."""
        return self.run(images)["logits"]

    def run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output by name: ``logits``, and what else the file was exported with. Errors as of a call."""
        check_input(images, self.description)
        return self._run(np.ascontiguousarray(images))

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each output."""
        return self.description.labels

    @abstractmethod
    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output by name, for an input that has been checked."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.description.model}, {self.precision})"


def check_input(images: NDArray[Any], description: Description) -> None:
    """Refuse what the model does not take, before an engine says so in its own words.

    Raises:
        ArgumentError: another type or shape.
    """
    raw = description.input_kind == "uint8"
    channels, size = description.channels, None if raw else description.size
    height, width = size or ("H", "W")
    wanted = f"[N, H, W, {channels}]" if raw else f"[N, {channels}, {height}, {width}]"
    dtype = "uint8" if raw else "float32"
    hint = f"this model takes {dtype} of shape {wanted}"
    if not isinstance(images, np.ndarray):
        raise ArgumentError(f"images is a {type(images).__name__}; give a NumPy array: {hint}")
    found = f"images is a {images.dtype} array of shape {list(images.shape)}; {hint}"
    if images.dtype != dtype or images.ndim != 4 or 0 in images.shape:
        raise ArgumentError(found)
    if images.shape[3 if raw else 1] != channels or (size is not None and images.shape[2:] != size):
        raise ArgumentError(found)


def available_engines() -> list[str]:
    """The engines that this installation has, without loading any; of ONNX Runtime's GPU engines its build decides."""
    return [name for name, package in ENGINES.items() if "-" not in name and find_spec(package)]


def load_engine(
    path: str | os.PathLike[str] | nn.Module,
    engine: str = "auto",
    *,
    threads: int | None = None,
    precision: Precision = "float32",
) -> Engine:
    """Load an exported model for execution. For ONNX files neither torch nor timm is needed.

    Args:
        path: an ``.onnx`` file that `effnets.export_onnx` wrote, or a ``.pt2`` of `effnets.deploy.export.torch_engines`; or a
            model from `effnets.create_model`, for the engines torch and torch-compile.
        engine: of `ENGINES`. ``auto``: for ONNX files the engine that the file was made for, if it is installed; else
            ONNX Runtime, on a GPU where its build has CUDA (on the CPU with a warning, if CUDA fails), else OpenVINO.
            OpenVINO first for bfloat16, which ONNX Runtime has not on CPUs.
        threads: how many to use; None leaves it to the engine, which takes all cores.
        precision: ``bfloat16`` computes with 8 bits of mantissa where the CPU has instructions for it.

    Raises:
        MissingFileError, WeightsError: no such file, a foreign or a damaged one.
        ArgumentError: an unknown engine, one that cannot execute this file, or a precision that it does not have.
        EngineError: the engine is not installed, or fails to load the file.
    """
    if engine != "auto" and engine not in ENGINES:
        raise ArgumentError(f"engine is {engine!r}; choose auto or one of {', '.join(ENGINES)}")
    if precision not in get_args(Precision):
        raise ArgumentError(f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}")
    if threads is not None:
        threads = check_integer("threads", threads, 1, "it must be at least 1")
    if not isinstance(path, str | os.PathLike):
        _require(engine, _FOR_MODULES, "a model in memory")
        from effnets.deploy.export.torch_engines import TorchEngine

        return TorchEngine(path, compiled=engine == "torch-compile", precision=precision, threads=threads)
    path = Path(path)
    if path.suffix.lower() == ".pt2":
        _require(engine, ("aotinductor",), f"{path}: a .pt2 package")
        from effnets.deploy.export.torch_engines import PackageEngine

        return PackageEngine(path, precision=precision, threads=threads)
    description = Description.from_file(path)
    _require(engine, FOR_ONNX, f"{path}: an ONNX file")
    return load_onnx(path, description, engine, threads=threads, precision=precision)


def load_onnx(
    model: Path | bytes,
    description: Description,
    engine: str = "auto",
    *,
    threads: int | None = None,
    precision: Precision = "float32",
) -> Engine:
    """An engine of an ONNX model in a file or in memory; arguments and errors as of `load_engine`."""
    if engine == "auto":
        openvino_first = precision == "bfloat16" or description.engine == "openvino"
        first, second = ("openvino", "onnxruntime") if openvino_first else ("onnxruntime", "openvino")
        engine = first if find_spec(ENGINES[first]) or not find_spec(ENGINES[second]) else second
        if engine == "onnxruntime" and (on_gpu := _load_on_gpu(model, description, precision, threads)):
            return on_gpu
    if not find_spec(ENGINES[engine]):
        raise EngineError(f"{engine} is not installed; install it with: pip install 'effnets[export]'")
    if engine == "openvino":
        from effnets.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(model, description, precision=precision, threads=threads)
    from effnets.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model, description, name=engine, precision=precision, threads=threads)


def _load_on_gpu(
    model: Path | bytes, description: Description, precision: Precision, threads: int | None
) -> Engine | None:
    """On ONNX Runtime's CUDA where there is a GPU; None where there is none, or, with a warning, where CUDA fails."""
    from effnets.engines.onnxruntime import OnnxRuntimeEngine, has_gpu

    if not has_gpu():
        return None
    try:
        return OnnxRuntimeEngine(model, description, name="onnxruntime-cuda", precision=precision, threads=threads)
    except EngineError as error:
        warnings.warn(f"the GPU is left out: {error}", RuntimeWarning, stacklevel=3)
        return None


def _require(engine: str, possible: tuple[str, ...], what: str) -> None:
    if engine != "auto" and engine not in possible:
        raise ArgumentError(f"{what} is executed by {' or '.join(possible)}, not by {engine}")
