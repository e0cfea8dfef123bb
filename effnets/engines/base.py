"""One interface for every engine that executes an exported model, and `load_file`. Free of torch."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from effnets.engines.metadata import ModelMetadata
from effnets.errors import ArgumentError, EngineError, MissingFileError, WeightsError
from effnets.utils.arguments import check_integer

Precision = Literal["float32", "bfloat16"]

# Engine → the package that provides it.
ENGINES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-cuda": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
    "openvino": "openvino",
    "litert": "ai_edge_litert",
    "executorch": "executorch",
    "aotinductor": "torch",
    "torch": "torch",
    "torch-compile": "torch",
    "torch-cuda": "torch",
}
FOR_ONNX = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino")
# The suffix of an exported file → what it is, and the engines that execute it. A model in memory is torch's.
EXPORTED: dict[str, tuple[str, tuple[str, ...]]] = {
    ".onnx": ("an ONNX file", FOR_ONNX),
    ".xml": ("an OpenVINO file", ("openvino",)),
    ".tflite": ("a LiteRT file", ("litert",)),
    ".pte": ("an ExecuTorch program", ("executorch",)),
    ".pt2": ("a .pt2 package", ("aotinductor",)),
    ".mlpackage": ("a Core ML package", ()),
}
# The suffix of the file that each engine is given a network in; torch's engines take it from memory.
FILE_OF = {**dict.fromkeys(FOR_ONNX, ".onnx"), "litert": ".tflite", "executorch": ".pte"}
_EXTRAS = {"litert": "litert", "executorch": "executorch"}  # of effnets, that install an engine; else export


class Engine(ABC):
    """Executes a model: `engine(images)` returns the logits, float32 ``[N, C]``.

    Images are float32 ``[N, channels, H, W]``, normalized; or, for files that contain the preprocessing or a part of
    it (``description.input_kind``), uint8 ``[N, H, W, channels]``.

    Attributes:
        name: one of `ENGINES`.
        description: labels, preprocessing and provenance of the model.
        precision, threads: as requested; threads None is the engine's own choice.
        concurrent: whether several threads that call it at a time, within `shared_by`, gain by it.
        on_gpu: whether it computes on a GPU.
    """

    concurrent: bool = False
    on_gpu: bool = False

    def __init__(self, name: str, description: ModelMetadata, precision: Precision, threads: int | None) -> None:
        self.name = name
        self.description = description
        self.precision = precision
        self.threads = threads

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits ``[N, C]``.

        Raises:
            ArgumentError: if the images have another shape or type than the model takes, or it is a detector.
            EngineError: if the engine fails.
        """
        if self.description.detector:
            raise ArgumentError(
                f"{self.description.model}: is a detector ({self.description.detector}), with boxes, labels and scores "
                "instead of logits; get them with run(images)"
            )
        return self.run(images)["logits"]

    def run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every output by name: ``logits``, and those that the file was exported with. Raises as a call does."""
        check_input(images, self.description)
        return self._run(np.ascontiguousarray(images))

    def shared_by(self, threads: int) -> AbstractContextManager[None]:  # noqa: ARG002 (for engines that are concurrent)
        """Divide the cores among so many threads that call the engine at a time."""
        return nullcontext()

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
    raw = metadata.input_kind != "normalised"
    channels, size = metadata.channels, None if metadata.input_kind == "uint8" else metadata.size
    height, width = size or ("H", "W")
    expected = f"[N, {height}, {width}, {channels}]" if raw else f"[N, {channels}, {height}, {width}]"
    dtype = "uint8" if raw else "float32"
    hint = f"this model takes {dtype} of shape {expected}"
    if not isinstance(images, np.ndarray):
        raise ArgumentError(f"images is a {type(images).__name__}; give a NumPy array: {hint}")
    fits = images.dtype == dtype and images.ndim == 4 and 0 not in images.shape
    sides = images.shape[1:3] if raw else images.shape[2:]
    if not (fits and images.shape[3 if raw else 1] == channels and size in (None, sides)):
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
    """Load an exported file, of `EXPORTED`; arguments and errors as of `effnets.load_engine`."""
    path = Path(path)
    kind, possible = EXPORTED.get(path.suffix.lower(), EXPORTED[".onnx"])
    if not possible:
        raise EngineError(f"{path}: {kind} is executed by Core ML, in programs of Apple's systems, not here")
    threads = check_options(engine, possible, f"{path}: {kind}", threads=threads, precision=precision)
    if possible is FOR_ONNX:
        return load_onnx(path, ModelMetadata.from_file(path), engine, threads=threads, precision=precision)
    return load_exported(path, possible[0], threads=threads, precision=precision)


def load_exported(
    model: Path | bytes, engine: str, *, threads: int | None = None, precision: Precision = "float32"
) -> Engine:
    """Load a file that only one engine executes, or its content; errors as of `effnets.load_engine`."""
    _require(engine)
    if engine == "openvino":
        from effnets.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(model, precision=precision, threads=threads)
    if engine == "litert":
        from effnets.engines.litert import LiteRTEngine

        return LiteRTEngine(model, precision=precision, threads=threads)
    if engine == "executorch":
        from effnets.engines.executorch import ExecuTorchEngine

        return ExecuTorchEngine(model, precision=precision, threads=threads)
    from effnets.engines.torch import PackageEngine

    return PackageEngine(Path(os.fsdecode(model)), precision=precision, threads=threads)


def read_exported(model: Path | bytes, precision: Precision) -> tuple[bytes, str]:
    """Return the content of an exported file, and what errors call it.

    Raises:
        MissingFileError: if the file does not exist.
        ArgumentError: if the precision is not float32: such files compute in the precision they were made for.
        WeightsError: if the file cannot be read.
    """
    name = "the model" if isinstance(model, bytes) else str(model)
    if precision != "float32":
        raise ArgumentError(f"{name}: computes in the precision it was made for; leave precision out")
    try:
        return (model if isinstance(model, bytes) else model.read_bytes()), name
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{name}: no such exported model") from None
    except OSError as error:
        raise WeightsError(f"{name}: cannot be read ({error.strerror or error})") from None


def _require(engine: str) -> None:
    if not find_spec(ENGINES[engine]):
        raise EngineError(
            f"{engine} is not installed; install it with: pip install 'effnets[{_EXTRAS.get(engine, 'export')}]'"
        )


def load_bytes(
    model: bytes,
    metadata: ModelMetadata,
    engine: str,
    *,
    threads: int | None = None,
    precision: Precision = "float32",
) -> Engine:
    """Load the content of a file for `engine`; errors as of `effnets.load_engine`."""
    if engine in FOR_ONNX:
        return load_onnx(model, metadata, engine, threads=threads, precision=precision)
    return load_exported(model, engine, threads=threads, precision=precision)


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
    _require(engine)
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
