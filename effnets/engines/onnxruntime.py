"""ONNX Runtime, on the CPU or with its CUDA and TensorRT providers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from effnets.engines.base import Engine, Precision
from effnets.engines.metadata import Description
from effnets.errors import ArgumentError, EngineError

_ERRORS_ONLY = 3

# TF32 rounds inputs to 10 bits of mantissa, which nobody who asks for float32 expects.
_PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "onnxruntime": [],
    "onnxruntime-cuda": [("CUDAExecutionProvider", {"use_tf32": "0"})],
    "onnxruntime-tensorrt": [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {"use_tf32": "0"})],
}


def has_gpu() -> bool:
    """Whether this build of ONNX Runtime has CUDA and finds a device."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and Path("/dev/nvidiactl").exists()


class OnnxRuntimeEngine(Engine):
    """An ONNX model in ONNX Runtime.

    Raises:
        ArgumentError: a precision that it does not have.
        EngineError: it refuses the model, or has no such provider.
    """

    def __init__(
        self,
        model: Path | bytes,
        description: Description,
        *,
        name: str = "onnxruntime",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        super().__init__(name, description, precision, threads)
        if precision != "float32":
            raise ArgumentError(f"{name} has no {precision}; use the engine openvino, or float32")
        wanted = _PROVIDERS[name]
        if missing := [provider for provider, _ in wanted if provider not in onnxruntime.get_available_providers()]:
            raise EngineError(f"{name}: this onnxruntime has no {missing[0]}; install onnxruntime-gpu instead of it")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if threads is not None:
            options.intra_op_num_threads = threads
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, [*wanted, ("CPUExecutionProvider", {})])
        except Exception as error:  # every failure is of a class of its own, below pybind's
            raise EngineError(f"{_name(model)}: onnxruntime cannot load it: {_first_line(error)}") from None
        used = self._session.get_providers()
        if wanted and used[0] != wanted[0][0]:
            raise EngineError(f"{name}: onnxruntime could not start {wanted[0][0]}; see that CUDA and cuDNN are found")
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def _run(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        try:
            values: list[NDArray[np.float32]] = self._session.run(self._outputs, {self._input: images})
        except Exception as error:
            raise EngineError(f"{self.name} failed: {_first_line(error)}") from None
        return dict(zip(self._outputs, values, strict=True))


def _name(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else str(model)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
