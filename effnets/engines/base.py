"""One interface for every engine that executes an exported model, and `load_file`. Free of torch."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError
from effnets.utils.arguments import check_integer

Precision = Literal["float32", "bfloat16"]

# Engine → the package that provides it. AOTInductor reads .pt2, torch takes a model in memory, the others read .onnx.
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


class Engine(ABC):
    """Executes a model: `engine(images)` returns the logits, float32 ``[N, C]``.

    Images are float32 ``[N, channels, H, W]``, normalized; or, for files that contain the preprocessing
    (``description.input_kind``), uint8 ``[N, H, W, channels]`` of any size.

    Attributes:
        name: one of `ENGINES`.
        description: labels, preprocessing and provenance of the model.
        precision, threads: as requested; threads None is the engine's own choice.
    """

    def __init__(self, name: str, description: ModelMetadata, precision: Precision, threads: int | None) -> None:
        self.name = name
        self.description = description
        self.precision = precision
        self.threads = threads

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits ``[N, C]``.

        Raises:
            ArgumentError: if the images have another shape or type than the model takes.
            EngineError: if the engine fails.
        """
        return self.run(images)["logits"]

    def run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every output by name: ``logits``, and those that the file was exported with. Raises as a call does."""
        check_input(images, self.description)
        return self._run(np.ascontiguousarray(images))

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each output."""
        return self.description.labels

    @abstractmethod
    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every output by name, for checked and contiguous images."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.description.model}, {self.precision})"


def check_input(images: NDArray[Any], metadata: ModelMetadata) -> None:
    """Raise ArgumentError for images of another type or shape than the model takes, before an engine refuses them."""
    raw = metadata.input_kind == "uint8"
    channels, size = metadata.channels, None if raw else metadata.size
    height, width = size or ("H", "W")
    expected = f"[N, H, W, {channels}]" if raw else f"[N, {channels}, {height}, {width}]"
    dtype = "uint8" if raw else "float32"
    hint = f"this model takes {dtype} of shape {expected}"
    if not isinstance(images, np.ndarray):
        raise ArgumentError(f"images is a {type(images).__name__}; give a NumPy array: {hint}")
    fits = images.dtype == dtype and images.ndim == 4 and 0 not in images.shape
    if not (fits and images.shape[3 if raw else 1] == channels and (size is None or images.shape[2:] == size)):
        raise ArgumentError(f"images is a {images.dtype} array of shape {list(images.shape)}; {hint}")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none; engines write pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def available_engines() -> list[str]:
    """Return the installed engines without loading any; which GPU engines work depends on ONNX Runtime's build."""
    return [name for name, package in ENGINES.items() if "-" not in name and find_spec(package)]


def check_options(
    engine: str, possible: Sequence[str], what: str, *, threads: int | None, precision: Precision
) -> int | None:
    """Check arguments of `effnets.load_engine` for `what`, which the `possible` engines execute; return `threads`."""
    if engine != "auto" and engine not in ENGINES:
        raise ArgumentError(f"engine is {engine!r}; choose auto or one of {', '.join(ENGINES)}")
    if precision not in get_args(Precision):
        raise ArgumentError(f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}")
    if engine != "auto" and engine not in possible:
        raise ArgumentError(f"{what} is executed by {' or '.join(possible)}, not by {engine}")
    return None if threads is None else check_integer("threads", threads, 1, "it must be at least 1")


def load_file(
    path: str | os.PathLike[str], engine: str = "auto", *, threads: int | None = None, precision: Precision = "float32"
) -> Engine:
    """Load an exported file, ``.onnx`` or ``.pt2``; arguments and errors as of `effnets.load_engine`."""
    path = Path(path)
    is_package = path.suffix.lower() == ".pt2"
    kind, possible = ("a .pt2 package", ("aotinductor",)) if is_package else ("an ONNX file", FOR_ONNX)
    threads = check_options(engine, possible, f"{path}: {kind}", threads=threads, precision=precision)
    if is_package:
        from effnets.engines.torch import PackageEngine

        return PackageEngine(path, precision=precision, threads=threads)
    return load_onnx(path, ModelMetadata.from_file(path), engine, threads=threads, precision=precision)


def load_onnx(
    model: Path | bytes,
    metadata: ModelMetadata,
    engine: str = "auto",
    *,
    threads: int | None = None,
    precision: Precision = "float32",
) -> Engine:
    """Load an ONNX model from a file or from memory; arguments and errors as of `effnets.load_engine`."""
    auto = engine == "auto"
    if auto:
        openvino_first = precision == "bfloat16" or metadata.engine == "openvino"
        first, second = ("openvino", "onnxruntime") if openvino_first else ("onnxruntime", "openvino")
        engine = first if find_spec(ENGINES[first]) or not find_spec(ENGINES[second]) else second
    if not find_spec(ENGINES[engine]):
        raise EngineError(f"{engine} is not installed; install it with: pip install 'effnets[export]'")
    if engine == "openvino":
        from effnets.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(model, metadata, precision=precision, threads=threads)
    from effnets.engines.onnxruntime import OnnxRuntimeEngine, has_gpu

    load = partial(OnnxRuntimeEngine, model, metadata, precision=precision, threads=threads)
    if auto and has_gpu():
        try:
            return load(name="onnxruntime-cuda")
        except EngineError as error:
            warnings.warn(f"the GPU is not used: {error}", RuntimeWarning, stacklevel=4)
    return load(name=engine)
